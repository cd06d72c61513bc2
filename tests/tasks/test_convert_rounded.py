"""What a conversion says of keys and values in few bits: costs against the rule token by token, and their words."""

import math

import pytest
import torch
from families import STREAMED, tiny
from reference import TokenByToken, token_by_token_nll
from rounded import RoundedTokenByToken
from test_convert_verdict import detail, streams

from sinkctl.cache.policies import SinkWindow
from sinkctl.cache.precision.settings import Precision
from sinkctl.errors import UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import ConvertRecipe, EvaluationSettings
from sinkctl.result.convert import CONVERTED, ORIGINAL, START, RoundedLine
from sinkctl.sinks import SINKS
from sinkctl.tasks.convert.evaluate import Judge
from sinkctl.tasks.convert.outcome import measurements_of, verdict_of
from sinkctl.tasks.convert.rounded import ways
from sinkctl.tasks.convert.settle import settle

WINDOW = 12  # heads of 8 channels: groups of 8
SETTINGS = EvaluationSettings(samples=2, length=16, kv_bits=(4, 2))
TEXT_T = torch.randint(3, 64, (65,), generator=torch.Generator().manual_seed(1))


def llama(seed: int = 0) -> LoadedModel:
    torch.manual_seed(seed)
    return LoadedModel(tiny(*STREAMED["llama"], dtype=torch.float64), None, "tiny", "in memory")


def expected(loaded: LoadedModel, policy: SinkWindow, precision: Precision | None) -> torch.Tensor:
    """NLL of the tokens from the third window on."""
    facts = loaded.layers(WINDOW)
    keeps = [policy.keep(f.window) for f in facts]
    rule = TokenByToken(facts, keeps) if precision is None else RoundedTokenByToken(facts, keeps, precision)
    return token_by_token_nll(loaded.model, facts, keeps, TEXT_T, rule)[2 * WINDOW - 1 :]


def test_every_stream_is_rounded_as_the_rule_says_token_by_token():
    loaded = llama()
    judge = Judge(SINKS["sink_logit"](), None, TEXT_T, WINDOW, SETTINGS, lambda: False)
    for label in (ORIGINAL, START):
        judge(label, loaded, lambda what, share: None)
    found = judge.found.ordered()
    assert {line.policy for line in found.streams} == {"1+11", "4+8", "0+12"}
    assert [(line.checkpoint, line.policy, line.keep, line.bits, line.group) for line in found.rounded] == [
        (ORIGINAL, policy, keep, bits, 8)
        for policy, keeps in (("1+11", ("none", "first:1")), ("0+12", ("none",))) for bits in (4, 2) for keep in keeps
    ]  # fmt: skip
    policies = {f"{kept}+{WINDOW - kept}": SinkWindow(sinks=kept, window=WINDOW - kept) for kept in (0, 1)}
    full = {name: expected(loaded, policy, None) for name, policy in policies.items()}
    for line in found.rounded:
        precision = Precision(bits=line.bits, keep=line.keep, recent=0, group=8)
        change = (expected(loaded, policies[line.policy], precision) - full[line.policy]).mean()
        assert line.cost == pytest.approx(math.expm1(change), abs=1e-6)
        assert abs(line.cost) > 1e-4
        assert line.error > 0


def test_groups_are_as_large_as_the_heads_allow():
    policy = SinkWindow(sinks=1, window=63)
    (way,) = ways(LoadedModel(tiny("llama", dict(head_dim=48)), None, "tiny", ""), policy, [4])[:1]
    assert way.precision.group == 16
    assert ways(LoadedModel(tiny("llama", dict(head_dim=12)), None, "tiny", ""), policy, [4]) == []
    assert ways(llama(), policy, []) == []


def test_what_cannot_be_rounded_is_noted():
    narrow = LoadedModel(tiny("llama", dict(head_dim=12), dtype=torch.float64), None, "tiny", "in memory")
    judge = Judge(SINKS["sink_logit"](), None, TEXT_T, WINDOW, SETTINGS, lambda: False)
    judge(CONVERTED, narrow, lambda what, share: None)
    assert judge.found.rounded == []
    assert judge.found.notes == ["Keys and values of the converted were not rounded: no group divides its heads."]


def rounded(**costs) -> list[RoundedLine]:
    """Costs and errors in percent by bits; of the original with nothing kept, then with its first token."""
    found = []
    for checkpoint, by_bits in costs.items():
        for bits, each in by_bits.items():
            for keep, (cost, error) in zip(("none", "first:1"), each, strict=False):
                policy = "1+255" if checkpoint == ORIGINAL else "0+256"
                own = dict(checkpoint=checkpoint, policy=policy, bits=bits, keep=keep, group=32)
                found.append(RoundedLine(**own, cost=cost / 100, error=error / 100))
    return found


def test_the_verdict_compares_at_the_fewest_bits_and_only_what_is_apart():
    def said(ours, *original, **more) -> str:
        lines = rounded(original={"fp8": [(0.1, 0.1)], 2: original}, converted={"fp8": [(0.1, 0.1)], 2: [ours]}, **more)
        return next(words for words in verdict_of(detail(rounded=lines)) if "Keys and values" in words)

    assert said((40.0, 2.0), (80.0, 4.0), (60.0, 3.0), control={2: [(45.0, 2.0)]}) == (
        "Keys and values in 2 bits cost it +40.0 % ± 2.0 of perplexity, the original +80.0 % ± 4.0, with its first "
        "token in full +60.0 % ± 3.0, the control +45.0 % ± 2.0: its cache is easier to round than the original's, "
        "either way."
    )
    assert said((58.0, 2.0), (80.0, 4.0), (60.0, 3.0)).endswith(
        "its cache is easier to round than the original's, and no easier and no harder to round than that with its "
        "first token kept."
    )
    assert said((90.0, 2.0), (80.0, 1.0), (60.0, 3.0)).endswith("harder to round than the original's, either way.")
    only = rounded(converted={"fp8": [(1.5, 0.1)]}, control={"fp8": [(2.5, 0.1)]})
    lines = detail(rounded=only, streams=streams(converted=(None, None, 25.0), control=(None, None, 26.0)))
    assert "Keys and values in fp8 cost it +1.5 % ± 0.10 of perplexity, the control +2.5 % ± 0.10." in verdict_of(lines)
    assert not any("Keys and values" in words for words in verdict_of(detail()))


def test_every_cost_has_a_name():
    lines = rounded(original={4: [(0.7, 0.1), (0.6, 0.1)]}, converted={4: [(0.5, 0.1)]}, control={4: [(0.4, 0.1)]})
    found = {m.name: m.value for m in measurements_of(detail(rounded=lines), 1.0) if "kv_" in m.name}
    assert found == pytest.approx({"kv_4bit.cost": 0.5, "original.kv_4bit.cost": 0.7, "control.kv_4bit.cost": 0.4})


def test_a_window_that_turns_out_too_short_is_refused_before_any_work(demo):
    short = LoadedModel(tiny("llama", dict(max_position_embeddings=48)), demo.tokenizer, "tiny", "in memory")
    with pytest.raises(UsageError, match="--eval-kv 4bit: a cache of 24 tokens holds no 32 keys"):
        settle(ConvertRecipe(evaluation={"kv_bits": (4,)}), short)
