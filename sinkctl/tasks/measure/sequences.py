"""What an encoder-decoder is shown, in three parts: its encoder, its decoder, and what the one attends to of the other.

The decoder reads what the model itself writes about what its encoder read: greedy, by its generation config. T tokens
written, S outputs of the encoder, C channels.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor
from transformers import GenerationMixin, modeling_outputs

from sinkctl.errors import ModelError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import InputSettings
from sinkctl.tasks.measure.input_set import InputSet, reading, token_reader
from sinkctl.tasks.measure.sound import clips, rate_of, seconds_of

Told = Callable[[str, float], None]  # what is under way, and the share of it that is done
HEARD = ("sound", "padding")  # kinds of frames
BATCH = 8


def of_sound(settings: InputSettings, kinds: Sequence[str], loaded: LoadedModel, told: Told) -> list[InputSet]:
    """Sound, or noise, through a speech model."""
    if "repeat" in kinds:
        raise UsageError(f"repeat: {loaded.name} hears sound, which is natural or random")
    found = []
    for kind in kinds:
        if kind == "natural":
            heard, note = clips(settings, loaded)
        else:
            draw, size = torch.Generator().manual_seed(settings.seed), round(seconds_of(loaded) * rate_of(loaded))
            heard, note = [0.1 * torch.randn(size, generator=draw) for _ in range(settings.samples)], "white noise"
        name = "sound" if kind == "natural" else "random sound"
        found += _of_clips(name, heard, note, settings.length, loaded, told)
    return found


def _of_clips(
    name: str, heard: list[Tensor], note: str | None, length: int, loaded: LoadedModel, told: Told
) -> list[InputSet]:
    rate, padded = rate_of(loaded), getattr(loaded.processor, "chunk_length", None)
    given = []
    for clip in heard:
        features = loaded.processor(clip.numpy(), sampling_rate=rate, return_tensors="pt")
        given.append(
            {key: features[key] for key in (loaded.model.main_input_name, "attention_mask") if key in features}
        )
    states = encoded(given, loaded, told)
    keys = [len(state_SC) for state_SC in states]
    seconds = [len(clip) / rate for clip in heard]
    frame = [(padded or own) / count for own, count in zip(seconds, keys, strict=True)]  # seconds of one
    of_keys = [
        (torch.arange(count) * each >= own).long() for count, each, own in zip(keys, frame, seconds, strict=True)
    ]

    def text(sample: int, index: int) -> str:
        return f"{index * frame[sample]:.2f} s" + (", padding" if of_keys[sample][index] else "")

    samples = [next(iter(each.values()))[0] for each in given]
    silent = any(bool(each.any()) for each in of_keys)
    whole = InputSet(
        f"{name}: encoder", name, None, samples, text, note, given=given, lengths=keys, part="encoder",
        groups=HEARD if silent else (), of_keys=of_keys if silent else None,
    )  # fmt: skip
    return in_parts(whole, name, states, length, loaded, told)


def of_text(read: InputSet, length: int, loaded: LoadedModel, told: Told) -> list[InputSet]:
    """Text, of at most `length` tokens written too."""
    given = [{"input_ids": ids_T[None]} for ids_T in read.samples]
    whole = InputSet(
        f"{read.name}: encoder", read.kind, read.bos, read.samples, read.token_text, read.note, given=given,
        lengths=[len(ids_T) for ids_T in read.samples], part="encoder",
    )  # fmt: skip
    return in_parts(whole, read.name, encoded(given, loaded, told), length, loaded, told)


def in_parts(
    whole: InputSet, name: str, states: list[Tensor], length: int, loaded: LoadedModel, told: Told
) -> list[InputSet]:
    """The encoder's input, with the decoder's and that of its cross-attention."""
    ids = written(states, length, loaded, told)
    given = [
        {"input_ids": ids_T[None], "encoder_hidden_states": state_SC[None]}
        for ids_T, state_SC in zip(ids, states, strict=True)
    ]
    sizes = " to ".join(map(str, sorted({min(map(len, ids)), max(map(len, ids))})))
    note = f"the decoder reads what the model writes, {sizes} tokens"
    decoder = InputSet(
        f"{name}: decoder", whole.kind, whole.bos, ids, reading(ids, token_reader(loaded.tokenizer)), note,
        given=given, lengths=[len(ids_T) for ids_T in ids], part="decoder",
    )  # fmt: skip
    cross = InputSet(
        f"{name}: cross-attention", whole.kind, whole.bos, states, whole.token_text, given=given,
        lengths=whole.lengths, part="cross-attention", groups=whole.groups, of_keys=whole.of_keys,
    )  # fmt: skip
    return [whole, decoder, cross]


@torch.no_grad()
def encoded(given: list[dict[str, Tensor]], loaded: LoadedModel, told: Told) -> list[Tensor]:
    """What the encoder makes of every sample, [S, C], on the CPU."""
    encoder, found = loaded.model.get_encoder(), []
    for rows in _alike(given, lambda each: [x.shape for x in each.values()]):
        inputs = {key: torch.cat([each[key] for each in rows]) for key in rows[0]}
        inputs = {
            key: x.to(loaded.device, loaded.dtype if x.is_floating_point() else x.dtype) for key, x in inputs.items()
        }
        try:
            found += list(encoder(**inputs).last_hidden_state.cpu())
        except (ValueError, RuntimeError, IndexError) as error:
            said = " ".join(str(error).split())[:200]
            raise ModelError(f"{loaded.name}: its encoder cannot read these samples ({said})") from error
        told("encoding", len(found) / len(given))
    return found


@torch.no_grad()
def written(states: list[Tensor], length: int, loaded: LoadedModel, told: Told) -> list[Tensor]:
    """Token ids that the decoder writes after its start token, up to `length` with it."""
    model, found = loaded.model, []
    start = model.generation_config.decoder_start_token_id
    start = model.config.decoder_start_token_id if start is None else start
    if start is None:
        raise ModelError(f"{loaded.name}: neither config.json nor generation_config.json has a decoder_start_token_id")
    for rows in _alike(states, lambda state_SC: state_SC.shape):
        read = modeling_outputs.BaseModelOutput(last_hidden_state=torch.stack(rows).to(loaded.device))
        ids_NT = GenerationMixin.generate(
            model, encoder_outputs=read, max_new_tokens=length - 1,
            decoder_input_ids=torch.full((len(rows), 1), start, device=loaded.device), do_sample=False, num_beams=1,
            use_cache=False,  # T5's is made for as many layers as the encoder has
        )  # fmt: skip
        found += [_ended(ids_T, model.generation_config.eos_token_id) for ids_T in ids_NT.cpu()]
        told("writing what the decoder reads", len(found) / len(states))
    return found


def _ended(ids_T: Tensor, eos: int | list[int] | None) -> Tensor:
    """Without what pads it behind its end."""
    ends = torch.isin(ids_T[1:], torch.tensor([] if eos is None else eos)).nonzero()
    return ids_T[: int(ends[0]) + 2] if len(ends) else ids_T


def _alike(items: list, shape: Callable) -> list[list]:
    """Runs of items of one shape, in their order, of at most BATCH."""
    runs = [list(run) for _, run in groupby(items, key=shape)]
    return [run[first : first + BATCH] for run in runs for first in range(0, len(run), BATCH)]
