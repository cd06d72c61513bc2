"""What every member of the policy union keeps to."""

from typing import get_args

import pytest
from pydantic import TypeAdapter

from sinkctl.cache.policies import (
    AnyPolicy,
    Bounded,
    Dense,
    HeavyHitter,
    Keep,
    PerHead,
    PerLayer,
    RandomKept,
    Recompute,
    SinkWindow,
    SlidingWindow,
    Snap,
)
from sinkctl.errors import UsageError
from sinkctl.recipe.shorthand import policy

MEMBERS = get_args(get_args(AnyPolicy)[0])
LEAST = {PerLayer: {"whole": (0,)}, PerHead: {"whole": ((0, 1),)}}


@pytest.mark.parametrize("member", MEMBERS)
def test_a_policy_settles_survives_json_and_has_a_shorthand(member):
    least = LEAST.get(member, {})
    settled, reason = member(**least).resolve(512)
    assert reason
    assert "auto" not in settled.model_dump().values()
    assert TypeAdapter(AnyPolicy).validate_json(settled.model_dump_json()) == settled
    if member not in LEAST:  # which have to be told their layers or heads
        assert TypeAdapter(AnyPolicy).validate_python(policy(settled.kind)) == member()
    if isinstance(settled, Bounded):
        assert settled.reach == 511  # the query stands at the last position the model was trained on
        assert settled.label in (
            settled.kind,
            f"{settled.sinks}+{settled.window}",
            f"{settled.kind} {settled.sinks}+{settled.window}",
        )


@pytest.mark.parametrize("member", MEMBERS)
def test_a_policy_explains_itself(member):
    assert member.__doc__
    assert all(info.description for name, info in member.model_fields.items() if name != "kind")


def test_layers_with_a_window_of_their_own_keep_the_smaller_one():
    for own, kept in ((None, Keep(4, 12)), (100, Keep(4, 12)), (13, Keep(4, 12)), (12, Keep(0, 12)), (8, Keep(0, 8))):
        assert SinkWindow(sinks=4, window=12).keep(own) == kept
    assert SlidingWindow(window=12).keep(100) == Keep(0, 12)
    assert (Dense().keep(None), Dense().keep(8)) == (Keep(0, None), Keep(0, 8))


def test_sinks_that_fill_the_context_leave_no_window():
    with pytest.raises(UsageError, match="leave no window"):
        Recompute(sinks=511).resolve(512)


def test_labels_tell_policies_of_one_size_apart():
    asked = [{}, {"recent": 9}, {"recent": 10}, {"every": 4}, {"recent": 3, "every": 2}]
    labels = [HeavyHitter(window=20, **settings).label for settings in asked]
    assert labels == [
        "heavy_hitter 4+20",
        "heavy_hitter 4+20, recent 9",
        "heavy_hitter 4+20",
        "heavy_hitter 4+20, every 4",
        "heavy_hitter 4+20, recent 3, every 2",
    ]
    assert RandomKept(window=20, seed=3).label == "random 4+20, seed 3"
    assert RandomKept(window=20, every=5).reach == 28
    with pytest.raises(ValueError, match="recent: 21 are more than the window of 20"):
        HeavyHitter(window=20, recent=21)
    snaps = [Snap(window=20), Snap(window=20, observe=10), Snap(window=20, observe=4, pool=1), Snap(window=99)]
    assert [each.label for each in snaps] == ["snap 4+20", "snap 4+20", "snap 4+20, observe 4, pool 1", "snap 4+99"]
    assert [each.last for each in snaps] == [10, 10, 4, 32]
    with pytest.raises(ValueError, match="observe: 21 are more than the window of 20"):
        Snap(window=20, observe=21)
    with pytest.raises(ValueError, match="pool: 4 has no middle; give an odd number"):
        Snap(pool=4)


def test_whole_layers_keep_what_they_were_trained_on_and_others_a_window():
    found = PerLayer(whole=(2,), window=12)
    assert (found.keep(None, 2), found.keep(9, 2)) == (Keep(0, None), Keep(0, 9))
    assert (found.keep(None, 1), found.keep(9, 1)) == (Keep(4, 12), Keep(0, 9))
    assert found.label == "4+12, layers 2 whole"
