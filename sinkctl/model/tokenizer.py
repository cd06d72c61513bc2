"""The tokenizer of a checkpoint: what its tokenizer.json says, which AutoTokenizer does not always load.

For some model types AutoTokenizer builds a tokenizer from a class of transformers that takes the vocabulary from
tokenizer.json and has a pre-tokenizer, a normalizer and special tokens of its own (transformers 5, issue 45920).
"""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TokenizersBackend
from transformers.utils import cached_file

from sinkctl.errors import ModelError
from sinkctl.model.settings import ModelSettings

STAGES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
NO_MODEL = {"type": "BPE", "vocab": {}, "merges": []}
VOCABULARY = re.compile(r'"vocab"\s*:')
INSIDE = ("normalizers", "pretokenizers", "processors", "decoders")  # what a stage of type Sequence holds
OPTIONS = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
           "ignore_merges")  # fmt: skip
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
# Read by both tokenizers where their stages differ: what patterns of different models split differently, and prose.
SAMPLES = (
    "12345", "3.14", "  two  spaces", "a\n\n b\t", "\r\n", "don't I'LL", "a_b-c/d", "x==y!?...", " “naïve” café",
    "e\u0301", "東京は首都です。", "Привет мир", "😀👍", "<tag> {x: [1]}", "Hello, World! HELLO",
)  # fmt: skip
PROSE = Path(__file__).parent / "demo" / "text.txt"
PROSE_LINES, SHOWN = 40, 5


def load_tokenizer(
    source: str, settings: ModelSettings, choices: dict[str, str], notes: list[str], **common: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer as `settings` ask for it; where file and class differ, `choices` and `notes` are told.

    `common`: keywords of `from_pretrained`. Without a tokenizer.json, what AutoTokenizer makes of other files.
    """
    found = AutoTokenizer.from_pretrained(source, **common)
    path = _file(source, found, common)
    if path is not None and _stages(found) != _stages_of_file(path, found):
        found = _chosen(found, _of_file(source, found, common), settings, choices, notes)
    if settings.special_tokens == "text":
        found.split_special_tokens = True  # of this object: it is not saved
    return found


def check_rows(tokenizer: PreTrainedTokenizerBase, rows: int, name: str) -> str | None:
    """A note on added tokens that the embedding of `rows` rows has no place for; texts with one are refused later.

    ModelError where it is the vocabulary itself that reaches past it, or what stands in front of every text.
    """
    if len(tokenizer) <= rows:
        return None
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not beyond:
        return None
    what = f"{name}: the tokenizer has {len(tokenizer):,} tokens, the embedding {rows:,} rows"
    if set(beyond) - set(tokenizer.added_tokens_decoder):
        raise ModelError(f"{what}; the tokenizer is another model's: put the right files beside the weights")
    around = next((number for number in tokenizer("a").input_ids if number in beyond), None)
    if around is not None:
        raise ModelError(
            f"{what}, and {beyond[around]} ({around}) stands around every text; take the tokenizer that the "
            "weights were trained with, or resize the embedding (model.resize_token_embeddings)"
        )
    shown = [token for _, token in sorted(beyond.items())]
    shown = shown if len(shown) <= 4 else [*shown[:3], f"{len(shown) - 3} more"]
    special = all(tokenizer.added_tokens_decoder[number].special for number in beyond)
    return (
        f"The tokenizer has {len(tokenizer):,} tokens, the embedding {rows:,} rows: a text that holds "
        f"{' or '.join(shown)} is refused{', unless --special-tokens text reads it letter by letter' * special}."
    )


def without_text(tokenizer: PreTrainedTokenizerBase, rows: int) -> list[int]:
    """The ids below `rows` that are no token of the tokenizer: rows that pad an embedding."""
    known = set(tokenizer.get_vocab().values())
    return [] if len(known) == rows == max(known, default=-1) + 1 else sorted(set(range(rows)) - known)


def _file(source: str, found: PreTrainedTokenizerBase, common: dict[str, Any]) -> Path | None:
    """The tokenizer.json that `found` may differ from: it is of a class of transformers, not of code of its own."""
    rebuilt = isinstance(found, TokenizersBackend) and type(found) is not TokenizersBackend
    if not rebuilt or not type(found).__module__.startswith("transformers.") or common.get("gguf_file") is not None:
        return None
    options = dict(revision=common.get("revision"), _raise_exceptions_for_missing_entries=False)
    path = cached_file(source, "tokenizer.json", **options)
    return None if path is None else Path(path)


def _stages(tokenizer: TokenizersBackend) -> dict[str, Any]:
    backend = tokenizer.backend_tokenizer
    model = {name: getattr(backend.model, name, None) for name in OPTIONS}
    added = [(number, _token(token.__getstate__())) for number, token in tokenizer.added_tokens_decoder.items()]
    return _described(backend, model, added)


def _stages_of_file(path: Path, tokenizer: TokenizersBackend) -> dict[str, Any]:
    """The same of a tokenizer.json, without reading its vocabulary where that comes last, as it does."""
    text = path.read_text(encoding="utf-8")
    head, start = None, VOCABULARY.search(text, max(0, text.find('"model"')))
    with suppress(ValueError):  # in another order
        head = json.loads(text[: start.start()].rstrip().rstrip(",") + "}}") if start else None
    spec = head if head is not None and set(STAGES) <= set(head) else json.loads(text)
    backend = Tokenizer.from_str(json.dumps(spec | {"added_tokens": [], "model": NO_MODEL}))
    added = [(token["id"], _token(token)) for token in spec.get("added_tokens") or []]
    told = {k: v for k, v in spec["model"].items() if hasattr(tokenizer.backend_tokenizer.model, k)}
    return _described(backend, told, added)


def _described(backend: Tokenizer, model: dict[str, Any], added: list[tuple[int, dict]]) -> dict[str, Any]:
    stages = {name: _flat(getattr(backend, name)) for name in STAGES}
    # Models leave out what they do not say: None, "" and False are one.
    return stages | {"model": {k: v for k, v in model.items() if k in OPTIONS and v}, "added": dict(added)}


def _flat(stage: Any) -> list[dict[str, Any]]:
    """The parts of a stage; where offsets are trimmed is left out, as no id depends on it."""
    if stage is None:
        return []
    waiting, parts = [json.loads(stage.__getstate__())], []
    while waiting:
        part = waiting.pop(0)
        inner = [each for key in INSIDE for each in part.get(key, [])]
        if part["type"] == "Sequence":
            waiting[:0] = inner
        else:
            parts.append({key: value for key, value in part.items() if key != "trim_offsets"})
    return parts


def _token(said: dict[str, Any]) -> dict[str, Any]:
    return {name: said[name] for name in ("content", "special", "lstrip", "rstrip", "normalized", "single_word")}


def _of_file(source: str, by_class: TokenizersBackend, common: dict[str, Any]) -> TokenizersBackend:
    """tokenizer.json as it stands; which of its tokens is BOS and so on, tokenizer_config.json or the class says."""
    found = TokenizersBackend.from_pretrained(source, **common)
    for name in NAMED:
        token = getattr(by_class, name)
        if (
            getattr(found, name) is None
            and token is not None
            and found.backend_tokenizer.token_to_id(token) is not None
        ):
            setattr(found, name, token)
    return found


def _chosen(
    by_class: TokenizersBackend, by_file: TokenizersBackend, settings: ModelSettings, choices: dict[str, str],
    notes: list[str],
) -> TokenizersBackend:  # fmt: skip
    found = by_class if settings.tokenizer == "class" else by_file
    name, example = type(by_class).__name__, _difference(by_file, by_class)
    if example is None:
        choices["tokenizer class"] = f"{type(found).__name__}: {name} and tokenizer.json read the sample texts alike"
        return found
    if found is by_file:
        choices["tokenizer"] = f"file: tokenizer.json is what the checkpoint's author wrote; {name} reads {example}"
        notes.append(
            f"The tokenizer is that of tokenizer.json, as the checkpoint's author wrote it. AutoTokenizer loads {name} "
            f"of transformers in its place, which reads {example}; --tokenizer class takes that one."
        )
    else:
        choices["tokenizer"] = f"class: asked for; {name} reads {example}"
        notes.append(
            f"The tokenizer is {name} of transformers, which AutoTokenizer loads in place of tokenizer.json; it reads "
            f"{example}; --tokenizer file takes tokenizer.json as it stands."
        )
    return found


def _difference(by_file: TokenizersBackend, by_class: TokenizersBackend) -> str | None:
    """The first of the sample texts that the two read or spell differently, and how, in words; None where none is."""
    lines = PROSE.read_text(encoding="utf-8").splitlines()[:PROSE_LINES]
    for text in (*lines, *SAMPLES, "\n".join(lines)):
        theirs, own = by_class(text).input_ids, by_file(text).input_ids
        if theirs != own:
            at = next((i for i, pair in enumerate(zip(theirs, own, strict=False)) if len(set(pair)) > 1), 0)
            spelt = [_spelt(one, ids[at : at + SHOWN]) for one, ids in ((by_class, theirs), (by_file, own))]
            return f"{_cut(text)!r} as {spelt[0]} where tokenizer.json reads {spelt[1]}"
        told = by_class.decode(theirs), by_file.decode(own)
        if told[0] != told[1]:
            return f"{_cut(text)!r} back as {_cut(told[0])!r} where tokenizer.json gives {_cut(told[1])!r}"
    return None


def _spelt(tokenizer: TokenizersBackend, ids: list[int]) -> str:
    return f"{' '.join(tokenizer.convert_ids_to_tokens(ids))} ({' '.join(map(str, ids))})"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
