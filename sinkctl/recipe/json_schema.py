"""The JSON Schema of recipes, for editors; the committed copy is checked by a test."""

import json

from pydantic import TypeAdapter

from sinkctl.recipe.schema import Recipe


def json_schema() -> str:
    """JSON Schema 2020-12 of every recipe."""
    schema = TypeAdapter(Recipe).json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1) + "\n"
