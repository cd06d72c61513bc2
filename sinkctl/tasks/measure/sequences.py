"""What an encoder-decoder is shown, in three parts: its encoder, its decoder, and what the one attends to of the other.

The decoder reads what the model itself writes about what its encoder read: greedy, by its generation config. T tokens
written, S outputs of the encoder, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import groupby

import torch
from torch import Tensor
from transformers import GenerationMixin, modeling_outputs

from sinkctl.errors import ModelError, UsageError
from sinkctl.metrics.maps import check_short
from sinkctl.metrics.observe import biased
from sinkctl.model.kinds import hears
from sinkctl.model.load import LoadedModel
from sinkctl.model.undocumented import whisper_prompt
from sinkctl.recipe.schema import InputSettings, MeasureRecipe
from sinkctl.tasks.measure.input_set import InputSet, reading, token_reader
from sinkctl.tasks.measure.run import check_fits
from sinkctl.tasks.measure.sound import clips, rate_of, seconds_of

Told = Callable[[str, float], None]  # what is under way, and the share of it that is done
HEARD = ("sound", "padding")  # kinds of frames
BATCH = 8
PROMPTS = 3  # said in a note


def check_length(recipe: MeasureRecipe, loaded: LoadedModel) -> None:
    """Raise ModelError for a length that a part cannot take, before anything is encoded or written."""
    tokens = recipe.input.length
    for part in ("decoder",) if hears(loaded.model.config) else ("encoder", "decoder"):
        check_fits(loaded, tokens, recipe, part)
    if "attention" in recipe.parts and biased(loaded.model):
        check_short(loaded.model.config.model_type, tokens)


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
    ids, prompts_NP = written(states, length, loaded, told)
    given = [
        {"input_ids": ids_T[None], "encoder_hidden_states": state_SC[None]}
        for ids_T, state_SC in zip(ids, states, strict=True)
    ]
    sizes = " to ".join(map(str, sorted({min(map(len, ids)), max(map(len, ids))})))
    note = f"the decoder reads what the model writes, {sizes} tokens" + _prompted(prompts_NP, loaded)
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
        with _in_a_line(f"{loaded.name}: its encoder cannot read these samples"):
            found += list(encoder(**inputs).last_hidden_state.cpu())
        told("encoding", len(found) / len(given))
    return found


@torch.no_grad()
def written(states: list[Tensor], length: int, loaded: LoadedModel, told: Told) -> tuple[list[Tensor], Tensor]:
    """Token ids that the decoder writes after its prompt, up to `length` with it; and every sample's prompt, [N, P]."""
    model, found, prompts = loaded.model, [], []
    config = deepcopy(model.generation_config)
    if config.decoder_start_token_id is None:
        config.decoder_start_token_id = model.config.decoder_start_token_id
    if config.decoder_start_token_id is None:
        raise ModelError(f"{loaded.name}: neither config.json nor generation_config.json has a decoder_start_token_id")
    config.return_timestamps = False
    for rows in _alike(states, lambda state_SC: state_SC.shape):
        read = modeling_outputs.BaseModelOutput(last_hidden_state=torch.stack(rows).to(loaded.device))
        with _in_a_line(f"{loaded.name} cannot write what its decoder is to read"):
            prompt_NP = whisper_prompt(model, config, read)
            if prompt_NP is None:
                prompt_NP = torch.full((len(rows), 1), config.decoder_start_token_id, device=loaded.device)
            if length <= prompt_NP.shape[1]:
                raise UsageError(f"length {length}: the prompt of {loaded.name} leaves no room; take more")
            ids_NT = GenerationMixin.generate(
                model, encoder_outputs=read, max_new_tokens=length - prompt_NP.shape[1], decoder_input_ids=prompt_NP,
                do_sample=False, num_beams=1, num_return_sequences=1, return_dict_in_generate=False,
                use_cache=False,  # T5's is made for as many layers as the encoder has
            )  # fmt: skip
        prompts.append(prompt_NP.cpu())
        found += [_ended(ids_T, prompt_NP.shape[1], config.eos_token_id) for ids_T in ids_NT.cpu()]
        told("writing what the decoder reads", len(found) / len(states))
    return found, torch.cat(prompts)


@contextmanager
def _in_a_line(what: str) -> Iterator[None]:
    """Inside, what the model raises is said in one line."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"{what} ({type(error).__name__}: {said})") from error


def _prompted(prompts_NP: Tensor, loaded: LoadedModel) -> str:
    """What more than a start token it goes on from, for the note; of several languages the ones that most have."""
    if prompts_NP.shape[1] == 1:
        return ""
    text_of, (kinds, counts) = token_reader(loaded.tokenizer), prompts_NP.unique(dim=0, return_counts=True)
    said = [" ".join(map(text_of, kinds[n].tolist())) for n in counts.argsort(descending=True).tolist()]
    others = f" and {len(said) - PROMPTS} others" if len(said) > PROMPTS else ""
    return f", prompted with {', '.join(said[:PROMPTS])}{others}"


def _ended(ids_T: Tensor, prompt: int, eos: int | list[int] | None) -> Tensor:
    """Without what pads it behind its end."""
    ends = torch.isin(ids_T[prompt:], torch.tensor([] if eos is None else eos)).nonzero()
    return ids_T[: prompt + int(ends[0]) + 1] if len(ends) else ids_T


def _alike(items: list, shape: Callable) -> list[list]:
    """Runs of items of one shape, in their order, of at most BATCH."""
    runs = [list(run) for _, run in groupby(items, key=shape)]
    return [run[first : first + BATCH] for run in runs for first in range(0, len(run), BATCH)]
