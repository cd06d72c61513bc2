"""How a run ends on the command line."""

from rich.console import Console


def conclude(result, recipe, words: Console) -> None:
    """Hold the result against the recipe's thresholds: ThresholdError, or a word for each that holds."""
    from sinkctl.result.compare import check, parse

    check(result, [parse(text) for text in recipe.fail_on])
    for text in recipe.fail_on:
        measurement = result.measurement(parse(text).metric)
        now = "" if measurement is None else f" ({measurement.value:.6g})"
        words.print(f"holds: {text}{now}", highlight=False, markup=False)
