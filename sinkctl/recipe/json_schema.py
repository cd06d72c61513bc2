"""The JSON Schema of recipes, for editors; the committed copy is checked by a test."""

import json

from pydantic import TypeAdapter

from sinkctl.recipe.load import BASE
from sinkctl.recipe.schema import RECIPES, Recipe


def json_schema() -> str:
    """JSON Schema 2020-12 of every recipe."""
    schema = TypeAdapter(Recipe).json_schema()
    said = {"type": "string", "description": "A recipe, by name or file, that this one changes, mapping by mapping."}
    for recipe in RECIPES.values():
        schema["$defs"][recipe.__name__]["properties"][BASE] = said
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1) + "\n"
