"""`--dry-run`: the resolved recipe on standard output, and what it would do on standard error."""

import json
import sys

import yaml
from rich.console import Console

from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.report.units import memory
from sinkctl.tasks.stream import StreamRun


def show_plan(recipe: StreamRecipe, loaded: LoadedModel, as_json: bool) -> None:
    """Settle every automatic choice, and print it all."""
    run = StreamRun(recipe, loaded)
    settled = run.recipe.model_dump(mode="json")
    if as_json:
        print(json.dumps(settled, indent=1))
    else:
        yaml.safe_dump(settled, sys.stdout, sort_keys=False, allow_unicode=True)
    words = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for what, choice in run.choices.items():
        words.print(f"{what}: {choice}")
    words.print(run.settled.bos)
    for label, scorer in run.scorers.items():
        held = getattr(scorer, "bytes_a_token", None)
        size = getattr(scorer.policy, "reach", None)
        if held and size:
            words.print(f"{label}: cache of {size} tokens, {memory(held * size)}")
        for line in [*scorer.layers, *(f"{what}: {choice}" for what, choice in scorer.choices.items())]:
            words.print(f"{label}: {line}")
