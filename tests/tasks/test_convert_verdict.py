"""What a trained conversion says of itself, beside its control, on numbers worked out by hand."""

import math

import pytest

from sinkctl.result.convert import CheckpointLine, ConvertDetail, StreamedLine, Training, TrainingCurve
from sinkctl.tasks.convert.outcome import measurements_of, verdict_of

# Perplexities with one token kept, four, and bare.
ORIGINAL, START, CONVERTED, CONTROL = (30.0, 29.9, 40.0), (None, 31.9, 32.0), (None, 24.95, 25.0), (None, 27.9, 28.0)
FALLING = [4.0] * 5 + [3.5] * 90 + [3.0] * 5  # 100 steps: the first and the last 5 %


def streams(front: str = "BOS", **checkpoints) -> list[StreamedLine]:
    """Lines as a conversion gives them: a token stands in front where a perplexity with one kept is known."""
    found = []
    for checkpoint, (one, four, bare) in checkpoints.items():
        first = front if one is not None else "the text's first tokens"
        lines = [("1+255", first, one), ("4+252", first, four), ("0+256", "nothing", bare)]
        found += [
            StreamedLine(checkpoint=checkpoint, policy=policy, first=first, perplexity=perplexity)
            for policy, first, perplexity in lines
            if perplexity is not None
        ]
    return found


def samples(**checkpoints) -> list[CheckpointLine]:
    """(perplexity, KL, Sink₁) by checkpoint."""
    return [
        CheckpointLine(checkpoint=name.removesuffix("_bare"), first="nothing", perplexity=p, kl=kl, sink_percent=sinks)
        for name, (p, kl, sinks) in checkpoints.items()
    ]


def training(control: bool = True, **changes) -> Training:
    losses = {"converted": FALLING} | ({"control": [loss + 0.1 for loss in FALLING]} if control else {})
    curves = [TrainingCurve(checkpoint=c, loss=x, objective=x, gradient=x, seconds=10.0) for c, x in losses.items()]
    settings = dict(
        steps=100, batch=4, length=64, window=255, trained="all", trained_parameters=100, text="book.txt",
        text_tokens=25600, epochs=1.0, optimizer="adamw", lr=3e-4, precision="float32", processes=1,
        attention="eager: CPU", tokens_per_second=2560.0, curves=curves,
    )  # fmt: skip
    return Training(**(settings | changes))


def detail(**changes) -> ConvertDetail:
    """A sink logit that took the BOS token's place, trained, and its control."""
    lines = streams(original=ORIGINAL, start=START, converted=CONVERTED, control=CONTROL)
    settings = dict(
        mechanism="sink_logit", settings={}, model_type="granite_swa", stored="stock", own_code=False,
        attention=["eager"], dtype="float32", sink_dtype="float32", parameters=8, files={}, bos="nothing",
        calibration=None, window=256, held_out=4096, scored=2032, streams=lines, checkpoints=[], training=training(),
    )  # fmt: skip
    return ConvertDetail(**(settings | changes))


def beside(converted: float, control: float, start: float = 32.0, **changes) -> str:
    """The verdict on streams without kept tokens."""
    lines = streams(original=ORIGINAL, start=(None, None, start), converted=(None, None, converted),
                    control=(None, None, control))  # fmt: skip
    return " ".join(verdict_of(detail(streams=lines, **changes)))


def test_a_trained_conversion_says_what_it_was_what_it_is_and_what_the_original_was():
    assert verdict_of(detail())[0] == (
        "sink_logit, trained for 100 steps: perplexity 25.00 without kept tokens (0+256) over 4,096 held-out tokens; "
        "32.00 before training; the original 30.00 with its first token kept, 40.00 without."
    )
    scratch = detail(
        from_scratch=True, mechanism="none", streams=streams(start=(None, None, 4000.0), converted=(None, None, 25.0))
    )
    assert verdict_of(scratch)[0] == (
        "no mechanism, trained for 100 steps from random weights: perplexity 25.00 without kept tokens (0+256) over "
        "4,096 held-out tokens."
    )


@pytest.mark.parametrize("control", [25.0, 25.12, 24.88])  # 25 / 1.005 = 24.876, 25 / 0.995 = 25.126
def test_a_control_that_does_as_well_takes_the_credit(control):
    assert f"does as well ({control:.2f} at 0+256): the training, not the mechanism, made the difference." in (
        beside(25.0, control)
    )
    assert "does as well (25.00 at 0+256): training alone gets there too." in beside(25.0, 25.0, start=25.0)
    said = beside(25.0, 25.0, from_scratch=True)
    assert "does as well (25.00 at 0+256): the mechanism makes no difference to perplexity." in said


def test_a_control_that_does_better_or_worse_says_by_how_much():
    assert (
        "The control, trained just so without the mechanism, does worse (25.00 at 0+256): perplexity is 2.0 % lower "
        "with the mechanism."
    ) in beside(24.5, 25.0)
    assert "does better (25.00 at 0+256): the mechanism costs 2.0 %." in beside(25.5, 25.0)
    for control, said in ((25.13, "does worse"), (24.87, "does better")):  # just beyond half a percent
        assert said in beside(25.0, control)


def test_a_control_without_anything_to_train_is_not_said_to_be_trained():
    said = beside(25.0, 25.0, training=training(trained="new"))
    assert (
        "The control, which has nothing to train without the mechanism, does as well (25.00 at 0+256): the mechanism "
        "makes no difference to perplexity."
    ) in said
    assert "does worse (40.00 at 0+256): perplexity is 37.5 % lower" in beside(
        25.0, 40.0, training=training(trained="new")
    )


def test_without_a_control_nothing_is_proven():
    alone = streams(original=ORIGINAL, start=START, converted=CONVERTED)
    without = " ".join(verdict_of(detail(streams=alone, training=training(control=False))))
    assert "No control was trained: without one, this does not show that the mechanism made a difference." in without
    none = " ".join(verdict_of(detail(mechanism="none", streams=alone, training=training(control=False))))
    assert "it is a control itself" in none
    assert "No control" not in none


def test_where_nothing_streams_samples_are_compared_and_where_nothing_is_measured_that_is_said():
    tried = [StreamedLine(checkpoint=c, policy="0+256", first="nothing", perplexity=None) for c in ("start", "control")]
    lines = samples(start=(22.0, 0.2, 1.0), converted=(18.0, 0.1, 1.0), control=(20.0, 0.1, 1.0))
    said = verdict_of(detail(streams=tried, checkpoints=lines))
    assert said[0] == (
        "sink_logit, trained for 100 steps: training loss 4 in the first steps, 3 in the last; the control ended at "
        "3.1."
    )
    assert "does worse (20.00 on samples): perplexity is 10.0 % lower with the mechanism." in said[1]
    unmeasured = verdict_of(detail(streams=[], checkpoints=[]))
    assert unmeasured[1:] == [
        "Nothing was measured on held-out text, so the mechanism is not compared with the control."
    ]
    broken = verdict_of(detail(streams=streams(converted=CONVERTED) + tried[1:]))
    assert "cannot be compared with the control" in broken[1]


def test_training_that_harms_or_breaks_down_is_said_to():
    assert (
        "Training made it worse: perplexity is 4.0 % above 25.00, the start's at 0+256, although its loss fell from 4 "
        "to 3."
    ) in beside(26.0, 30.0, start=25.0)
    rising = training(curves=[TrainingCurve(checkpoint="converted", loss=FALLING[::-1], objective=[], gradient=[],
                                            seconds=1.0)])  # fmt: skip
    assert "above 25.00, the start's at 0+256." in beside(26.0, 30.0, start=25.0, training=rising)
    assert "made it worse" not in beside(25.1, 30.0, start=25.0)
    lost = [3.0, math.nan, math.nan]
    curves = [TrainingCurve(checkpoint=c, loss=x, objective=x, gradient=x, seconds=1.0)
              for c, x in (("converted", lost), ("control", [3.0, 3.0, math.inf]))]  # fmt: skip
    down = detail(training=training(curves=curves))
    assert "Training broke down: the loss is not a number at step 2 (converted), step 3 (control)." in verdict_of(down)
    names = {measurement.name for measurement in measurements_of(down, 1.0)}
    assert not names & {"loss", "control.loss"}


def test_kept_tokens_buy_nothing_more_where_a_window_alone_does_as_well():
    assert "Kept tokens buy it nothing more (4+252: 24.95): it streams without them by design." not in " ".join(
        verdict_of(detail())
    ), "the control does so too"
    assert "Kept tokens buy it nothing more (4+252: 24.95), nor the control." in verdict_of(detail())
    for control in ((None, 26.0, 28.0), (None, None, 28.0)):
        lines = streams(original=ORIGINAL, converted=CONVERTED, control=control)
        said = verdict_of(detail(streams=lines))
        assert "Kept tokens buy it nothing more (4+252: 24.95): it streams without them by design." in said
        assert not any("by design" in line for line in verdict_of(detail(streams=lines, mechanism="none")))
    better = streams(original=ORIGINAL, converted=(None, 24.0, 25.0))
    assert "Tokens kept in front still buy it 4.0 % (4+252: 24.00)." in verdict_of(detail(streams=better))


@pytest.mark.parametrize(
    ("perplexities", "said"),
    [
        (
            (25.0, 24.95, 30.0),
            "is to be kept in a stream: without it perplexity is 30.00; more kept tokens buy it nothing",
        ),
        ((25.0, 24.0, 30.0), "without it perplexity is 30.00; more kept tokens buy it 4.0 % (4+252: 24.00)."),
        ((25.0, None, 25.1), "need not be kept in a stream: without it perplexity is 25.10."),
        ((25.0, None, None), "is to be kept in a stream (1+W)."),
    ],
)
def test_a_token_in_front_is_kept_where_that_matters(perplexities, said):
    lines = streams("sink token", converted=perplexities, control=(26.0, 26.0, 30.0))
    verdict = verdict_of(detail(mechanism="sink_token", streams=lines))
    assert "perplexity 25.00 with its sink token (1+255)" in verdict[0]
    assert "does worse (26.00 at 1+255): perplexity is 3.8 % lower" in verdict[1]
    assert verdict[2].startswith("Its sink token ")
    assert said in verdict[2]


def test_sinks_and_samples_name_the_control_and_the_verdict_is_six_sentences_at_most():
    lines = samples(original=(20.0, None, 76.5), original_bare=(21.0, 0.2, 0.06), start=(24.0, 0.3, 0.5),
                    converted=(22.0, 0.07, 0.0), control=(21.5, 0.05, 0.2))  # fmt: skip
    worse = streams(original=ORIGINAL, start=(None, 24.0, 24.0), converted=CONVERTED, control=CONTROL)
    said = verdict_of(detail(streams=worse, checkpoints=lines))
    assert said[-2:] == [
        "Heads that sink on the first token: 76.5 % before, 0.0 % after (0.06 % of the original too, once nothing "
        "stands in front), 0.20 % in the control.",
        "On samples: perplexity 22.00 (+10.0 % beside 20.00), 0.07 nats a token from the original; the control 21.50, "
        "0.05 nats.",
    ]
    assert len(said) == 6
    scratch = samples(start=(4000.0, None, 0.0), converted=(22.0, None, 40.0), control=(21.5, None, 41.0))
    said = verdict_of(detail(from_scratch=True, streams=streams(converted=CONVERTED), checkpoints=scratch))
    assert said[-2:] == [
        "Heads that sink on the first token: 0.0 % before, 40.0 % after, 41.0 % in the control.",
        "On samples: perplexity 22.00; the control 21.50.",
    ]


def test_without_training_the_verdict_is_of_the_start_and_four_kept_tokens_change_nothing():
    plain = streams(original=ORIGINAL, converted=(None, None, 31.0))
    assert verdict_of(detail(streams=plain, training=None)) == [
        "sink_logit: perplexity 31.00 without kept tokens (0+256), streamed over 4,096 held-out tokens; the original "
        "30.00 with its first token kept, 40.00 without.",
        "That makes good 90.0 % of what the first token's absence costs.",
    ]
    assert verdict_of(detail(streams=streams(converted=(None, None, 31.0)), training=None)) == []


def test_a_start_that_is_worse_than_nothing_says_so_and_what_is_not():
    def said(mechanism: str, perplexity: float) -> str:
        lines = streams(original=ORIGINAL, converted=(None, None, perplexity))
        return verdict_of(detail(mechanism=mechanism, streams=lines, training=None))[1]

    assert said("value_bias", 41.0) == (
        "That is worse than nothing in the first token's place: do not use it untrained; --start zero leaves the "
        "model as it was, and --steps trains it."
    )
    assert said("none", 40.0) == "That is no better than taking the first token away with nothing in its place."
    assert said("sigmoid", 4e9) == (
        "This start destroys the model: do not use it untrained; --start zero --set sink.mix=0 leaves the model as it "
        "was, and --steps trains it."
    )


def test_every_number_has_a_name():
    lines = samples(original=(20.0, None, 76.5), converted=(22.0, 0.07, 0.0), control=(21.5, 0.05, 0.2))
    lines = [line.model_copy(update={"kurtosis": 10.0 * place}) for place, line in enumerate(lines, 1)]
    lines[1] = lines[1].model_copy(update={"mechanism_mass": 0.4, "massive": 8.0, "massive_largest": 9.0})
    found = {m.name: m.value for m in measurements_of(detail(checkpoints=lines), 60.0)}
    assert found == {
        "perplexity": 25.0, "original.kept": 30.0, "original.bare": 40.0, "gap_closed": 150.0,
        "start.perplexity": 32.0, "control.perplexity": 28.0, "beside_control": pytest.approx(-100 * 3 / 28),
        "kl": 0.07, "control.kl": 0.05, "samples.perplexity": 22.0, "original.samples.perplexity": 20.0,
        "control.samples.perplexity": 21.5, "sink_rate": 0.0, "original.sink_rate": 76.5, "control.sink_rate": 0.2,
        "mechanism_mass": 0.4, "massive_max": 9.0, "original.kurtosis": 10.0, "kurtosis": 20.0,
        "control.kurtosis": 30.0, "loss": pytest.approx(3.0), "control.loss": pytest.approx(3.1),
        "train.tokens_per_s": 2560.0, "convert.seconds": 60.0,
    }  # fmt: skip
    better = {m.name: m.better for m in measurements_of(detail(checkpoints=lines), 60.0)}
    assert better["train.tokens_per_s"] == "higher"
    assert better["beside_control"] == better["loss"] == better["kurtosis"] == "lower"
    none = samples(converted=(math.nan, math.nan, None))
    assert {m.name for m in measurements_of(detail(streams=[], checkpoints=none, training=None), 1.0)} == {
        "convert.seconds"
    }
