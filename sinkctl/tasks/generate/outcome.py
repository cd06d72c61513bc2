"""A finished generation → its Result."""

from sinkctl import __version__
from sinkctl.cache.policies import Bounded
from sinkctl.model.generation_config import shown
from sinkctl.recipe.schema import SamplingSettings
from sinkctl.result.generate import GenerateDetail, GeneratedRow, Pace
from sinkctl.result.schema import Measurement, Result
from sinkctl.tasks.generate.generation import GenerateRun
from sinkctl.tasks.generate.sampling import processor_fields
from sinkctl.tasks.stream.outcome import model_report

FIRST = {"do_sample", "temperature"}


def result_of(run: GenerateRun) -> Result:
    """Everything the run found."""
    policy, recipe = run.recipe.policy, run.recipe
    rows = [
        GeneratedRow(
            prompt_tokens=len(prompt),
            tokens=int(tokens),
            ended="end of sequence" if not alive else "enough tokens" if tokens == run.limit else "stopped",
            text=tail,
        )
        for prompt, tokens, alive, tail in zip(run.settled.prompts, run.tokens, run.alive, run.tails, strict=True)
    ]
    cache_tokens = policy.reach if isinstance(policy, Bounded) else None
    return Result(
        task="generate",
        sinkctl_version=__version__,
        recipe=recipe.model_dump(mode="json"),
        model=model_report(run.loaded, run.decoder.layers),
        choices=run.choices | run.decoder.choices,
        seconds=run.prompt_seconds + run.seconds,
        complete=True,
        measurements=_measurements(run),
        verdict=_verdict(run),
        notes=_notes(run),
        generate=GenerateDetail(
            policy=policy.label,
            cache_tokens=cache_tokens,
            cache_bytes=run.decoder.bytes_held(),
            sampling=_sampling(recipe.sampling),
            bos=run.settled.bos,
            prompt_seconds=run.prompt_seconds,
            rows=rows,
            pace=[Pace(tokens=tokens, seconds=seconds) for tokens, seconds in run.pace.items],
            memory=run.memory.items,
        ),
    )


def tenths(pace: list[list[float]]) -> tuple[float, float] | None:
    """Milliseconds a step over the first and the last tenth; None for too few."""
    if len(pace) < 20:
        return None
    (first, began), (end, ended), edge = pace[0], pace[-1], max(1, len(pace) // 10)
    (early, early_s), (late, late_s) = pace[edge], pace[-1 - edge]
    return 1e3 * (early_s - began) / (early - first), 1e3 * (ended - late_s) / (end - late)


def _measurements(run: GenerateRun) -> list[Measurement]:
    found = []
    steps = run.steps - 1  # the first token is the prompts'
    if steps > 0:
        speed = (int(run.tokens.sum()) - run.rows) / max(run.seconds, 1e-9)
        found.append(Measurement(name="generate.tokens_per_s", samples=[speed], unit="tok/s", better="higher"))
        pace = 1e3 * run.seconds / steps
        found.append(Measurement(name="generate.ms_per_token", samples=[pace], unit="ms", better="lower"))
    edges = tenths(run.pace.items)
    if edges is not None:
        for name, value in zip(("first_ms", "last_ms"), edges, strict=True):
            found.append(Measurement(name=f"generate.{name}", samples=[value], unit="ms", better="lower"))
    found.append(Measurement(name="generate.peak_memory", samples=[run.peak_bytes], unit="bytes", better="lower"))
    return found


def _sampling(sampling: SamplingSettings) -> str:
    drawn = sampling.temperature != 0
    parts = [f"temperature {sampling.temperature:g}"] if drawn else ["greedy"]
    fields = {name: value for name, value in processor_fields(sampling).items() if name not in FIRST}
    parts += [f"{name.replace('_', '-')} {shown(value)}" for name, value in fields.items()]
    return ", ".join([*parts, f"seed {sampling.seed}"] if drawn else parts)


def _notes(run: GenerateRun) -> list[str]:
    notes = [*run.loaded.notes, run.settled.bos[0].upper() + run.settled.bos[1:] + ".", *run.settled.notes]
    policy, context = run.recipe.policy, run.loaded.context
    if context is not None and isinstance(policy, Bounded) and policy.reach + 1 > context:
        notes.append(f"{policy.label} reaches position {policy.reach}, past the model's context of {context}.")
    longest = 0
    if policy.grows:
        longest = run.longest + run.steps
    elif policy.needs_prompts:
        longest = max(run.longest, min(run.longest, policy.sinks + policy.window) + run.steps)
    if context is not None and longest > context:
        notes.append(f"{policy.label} extrapolates past the model's context of {context}.")
    return notes + run.decoder.notes


def _verdict(run: GenerateRun) -> list[str]:
    said = f"{run.steps:,} tokens" if run.rows == 1 else f"{int(run.tokens.sum()):,} tokens in {run.rows} rows"
    context, reached = run.loaded.context, max(map(len, run.settled.prompts)) + run.steps
    if context is not None and reached > context:
        said += f"; with its prompt the longest is {reached / context:,.1f} times the model's context of {context}"
    return [said + "."]
