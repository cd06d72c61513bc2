"""What every member of the policy union keeps to."""

from typing import get_args

import pytest
from pydantic import TypeAdapter

from sinkctl.cache.policies import AnyPolicy, Bounded, Dense, Keep, Recompute, SinkWindow, SlidingWindow
from sinkctl.errors import UsageError
from sinkctl.recipe.shorthand import policy

MEMBERS = get_args(get_args(AnyPolicy)[0])


@pytest.mark.parametrize("member", MEMBERS)
def test_a_policy_settles_survives_json_and_has_a_shorthand(member):
    settled, reason = member().resolve(512)
    assert reason
    assert "auto" not in settled.model_dump().values()
    assert TypeAdapter(AnyPolicy).validate_json(settled.model_dump_json()) == settled
    assert TypeAdapter(AnyPolicy).validate_python(policy(settled.kind)) == member()
    if isinstance(settled, Bounded):
        assert settled.reach == 511  # the query stands at the last position the model was trained on
        assert settled.label in (
            settled.kind,
            f"{settled.sinks}+{settled.window}",
            f"recompute {settled.sinks}+{settled.window}",
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
