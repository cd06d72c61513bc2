"""What workers measured → rows, held against the floors of the same run, and the Result made of them."""

from collections.abc import Iterable
from typing import Any

from sinkctl.recipe.schema import BenchRecipe
from sinkctl.recipe.sizes import way_of
from sinkctl.result.bench import OURS, BenchDetail, Machine, Rate, Refused, Row, Work
from sinkctl.result.fit import fits
from sinkctl.result.interval import median_interval
from sinkctl.result.schema import Measurement
from sinkctl.tasks.bench.driver import Collected, Key
from sinkctl.tasks.bench.way import METRICS


def detail_of(recipe: BenchRecipe, suite: str, collected: Collected, lane: str) -> BenchDetail:
    """Everything one lane measured, in the order of the recipe."""
    facts, seed = collected.facts[lane], recipe.timing.seed
    rates = _rates(facts)
    rows = [
        row
        for key, found in sorted(collected.found[lane].items(), key=lambda item: item[0].case)
        for row in rows_of(recipe, key, found.opened, found.seconds, rates)
    ]
    return BenchDetail(
        suite=suite,
        machine=Machine(**facts[0]["machine"]),
        rates=rates,
        rows=rows,
        refused=_refused(recipe, collected, lane),
        fits=fits(rows, seed),
        settings=recipe.timing.model_dump(mode="json"),
        cases={case.label: case.model_dump(mode="json", exclude={"name", "peers"}) for case in recipe.cases},
        environment=facts[-1]["environment"],
    )


def _refused(recipe: BenchRecipe, collected: Collected, lane: str) -> list[Refused]:
    told = []
    for key, found in sorted(collected.found[lane].items(), key=lambda item: item[0].case):
        if found.refusal:
            case, size = recipe.cases[key.case], found.opened["size"]
            way = way_of(case, size)
            label, why = key.label.removesuffix(f",{way}"), found.refusal["why"]
            told.append(Refused(case=case.label, label=label, size=size, way=way, why=why))
    return told


def rows_of(
    recipe: BenchRecipe, key: Key, opened: dict[str, Any], seconds: dict[str, list[list[float]]], rates: list[Rate]
) -> list[Row]:
    """The rows of one case at one size: its ways, then its readings."""
    common = {"case": recipe.cases[key.case].label, "label": key.label, "size": opened["size"]}
    metric, rows = METRICS[opened["metric"]], []
    for way, of_process in seconds.items():
        work = Work(**opened["ways"][way])
        samples = [[metric.of(sample, work.count) for sample in of_round] for of_round in of_process]
        low, high = median_interval(samples, recipe.timing.seed)
        floor, floor_of = floor_seconds(work, rates)
        rows.append(
            Row(
                **common,
                way=way,
                metric=opened["metric"],
                unit=metric.unit,
                better=metric.better,
                samples=samples,
                low=low,
                high=high,
                yardstick=opened["yardstick"] if way == OURS else None,
                work=work,
                floor=None if floor is None else metric.of(floor, work.count),
                floor_of=floor_of,
                added_bytes=opened["added"][way],
                detail={} if opened["other"][way] is None else {"other": opened["other"][way]},
            )
        )
    for reading in opened["readings"]:
        named = {**common, "label": key.label.removesuffix(f",{reading['way']}")}
        reading, value = {**reading}, reading["value"]
        samples = [value if isinstance(value, list) else [value]]
        if len(samples[0]) > 1:
            reading["low"], reading["high"] = median_interval(samples, recipe.timing.seed)
        del reading["value"]
        rows.append(Row(**named, samples=samples, **reading))
    return rows


def floor_seconds(work: Work, rates: Iterable[Rate]) -> tuple[float | None, str | None]:
    """(seconds a call at the hardware's limit, which limit): products at the matrix rate, bytes at a memory rate."""
    amounts = {"matmul": work.flops, "copy": work.bytes, "read": work.read}
    limits = {rate.name: amounts[rate.name] / rate.value for rate in rates if amounts[rate.name]}
    if not limits:
        return None, None
    slowest = max(limits, key=lambda name: limits[name])
    return limits[slowest], slowest


def measurements(rows: Iterable[Row]) -> list[Measurement]:
    """Every row as a measurement, and the memory of a call where it was timed."""
    found = []
    for row in rows:
        samples = [sample for process in row.samples for sample in process]
        found.append(Measurement(name=row.name, samples=samples, unit=row.unit, better=row.better))
        if row.added_bytes is not None:
            name = f"{row.name.removesuffix(row.metric)}added_memory"
            found.append(Measurement(name=name, samples=[float(row.added_bytes)], unit="bytes", better="lower"))
    return found


def _rates(facts: list[dict[str, Any]]) -> list[Rate]:
    samples: dict[str, list[float]] = {}
    for of_process in facts:
        for rate in of_process["rates"]:
            samples.setdefault(rate["name"], []).extend(rate["samples"])
    return [Rate(name=name, samples=found) for name, found in samples.items()]
