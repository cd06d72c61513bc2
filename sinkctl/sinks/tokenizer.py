"""What a tokenizer puts in front of every text: no BOS token, or a sink token.

A template is a TemplateProcessing post-processor as tokenizer.json states it: pieces in order, each one of two texts
(Sequence A, B) or a special token. Where a pair has a BOS token in front of either text, both go, or change.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from sinkctl.errors import ModelError
from sinkctl.model.undocumented import keep_post_processor

TEXTS = ("a", " Hello, World 12\n")
CHATS = (("user",), ("system", "user"), ("user", "assistant", "user"))
A, B = ({"Sequence": {"id": name, "type_id": type_id}} for type_id, name in enumerate("AB"))
PLAIN = {"type": "TemplateProcessing", "single": [A], "pair": [A, B], "special_tokens": {}}
# The newline is the one that a chat template's `trim_blocks` takes away.
CHAT_WITHOUT_BOS = "{%- set bos_token = '' %}\n"


class PlacedToken(NamedTuple):
    """The token that stands in front of every text."""

    id: int
    spare: bool  # whether the embedding matrix has a row for it already


def without_bos(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Keep the BOS token from the front of texts and chats, in place and in what `save_pretrained` writes.

    Returns what was done, None where nothing stood in front. `bos_token` stays defined: generation without a prompt
    begins with it. ModelError where it cannot be taken away.
    """
    bos, name = tokenizer.bos_token, type(tokenizer).__name__
    if bos is None:
        return None
    texts, bos_id = [tokenizer(text).input_ids for text in TEXTS], tokenizer.bos_token_id
    in_texts = any(ids[:1] == [bos_id] for ids in texts)
    in_chats = _change_chats(tokenizer, CHAT_WITHOUT_BOS, lambda chat: chat.lstrip().startswith(bos))
    if not (in_texts or in_chats):
        return None
    if in_texts:
        _change_front(tokenizer, bos_id, None)
        _settle(tokenizer, [_after_bos(ids, bos_id) for ids in texts])
    chats = [chat for template in _templates(tokenizer).values() for chat in _chats(tokenizer, template)]
    if any(chat.lstrip().startswith(bos) for chat in chats):
        raise ModelError(f"the chat template of this {name} writes {bos} out; take it from chat_template.jinja first")
    where = " and ".join(["texts"] * in_texts + ["chats"] * in_chats)
    renamed = type(tokenizer).__name__ != name
    saved = f"; saved as {type(tokenizer).__name__}, since {name} puts it back when it is loaded" if renamed else ""
    return f"{bos} no longer in front of {where}{saved}"


def with_sink_token(tokenizer: PreTrainedTokenizerBase, rows: int, text: str = "<|sink|>") -> PlacedToken:
    """Add the token and put it in front of every text and chat, as BOS and in the place of the one there, in place.

    `rows`: of the model's embedding matrix. A rendered chat has it once, in front: where its template repeats
    `bos_token` between turns, nothing stands there. As with any BOS token, a rendered chat is to be tokenized with
    `add_special_tokens=False`, else it is there twice; and a BOS token that a template writes out stays, behind it.
    ModelError where the token is in the vocabulary already or cannot be put there.
    """
    name, vocabulary = type(tokenizer).__name__, tokenizer.get_vocab()
    if text in vocabulary:
        raise ModelError(f"the tokenizer holds a sink token already ({text}); convert the original")
    texts, bos_id = [tokenizer(text).input_ids for text in TEXTS], tokenizer.bos_token_id
    _backend(tokenizer)
    tokenizer.add_special_tokens({"bos_token": text})
    sink = tokenizer.bos_token_id
    if sink in vocabulary.values():
        raise ModelError(f"the vocabulary of this {name} has gaps, so {text} got the id of another token, {sink}")
    _change_front(tokenizer, bos_id, text)
    _settle(tokenizer, [[sink, *_after_bos(ids, bos_id)] for ids in texts])
    once = "{{- bos_token }}" + CHAT_WITHOUT_BOS
    _change_chats(tokenizer, once, lambda chat: not chat.startswith(text) or chat.count(text) > 1)
    return PlacedToken(sink, spare=sink < rows)


def _after_bos(ids: list[int], bos_id: int | None) -> list[int]:
    return ids[1:] if ids[:1] == [bos_id] else ids


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(tokenizer, TokenizersBackend) and isinstance(backend, Tokenizer):
        return backend
    raise ModelError(
        f"{type(tokenizer).__name__} has no fast implementation, so what it puts in front of a text is fixed;"
        " use a checkpoint with a tokenizer.json"
    )


def _change_front(tokenizer: PreTrainedTokenizerBase, bos_id: int | None, token: str | None) -> None:
    """Put `token`, by now the BOS token, or nothing where the template has the old one; `token` always in front."""
    backend = _backend(tokenizer)
    state = None if backend.post_processor is None else json.loads(backend.post_processor.__getstate__())
    parts = [] if state is None else state["processors"] if state["type"] == "Sequence" else [state]
    if not any(part["type"] == "TemplateProcessing" for part in parts):
        parts.append(deepcopy(PLAIN))
    template = next(part for part in reversed(parts) if part["type"] == "TemplateProcessing")
    new = {token: {"id": token, "ids": [tokenizer.bos_token_id], "tokens": [token]}} if token else {}
    tokens = template["special_tokens"] | new

    def is_bos(piece: dict[str, Any]) -> bool:
        return "SpecialToken" in piece and tokens[piece["SpecialToken"]["id"]]["ids"] == [bos_id]

    def put(pieces: list[dict], at: int, type_id: int, instead: bool) -> None:
        pieces[at : at + instead] = [{"SpecialToken": {"id": token, "type_id": type_id}}] if token else []

    single, pair = template["single"], template["pair"]
    closing = len(single) - 1 - _place(single, "A")
    first, second = _place(pair, "A"), _place(pair, "B")
    # What closes the first text may be the same token: a BOS in front of the second one comes on top.
    if second - first - 1 > closing and is_bos(pair[second - 1]):
        put(pair, second - 1, pair[second - 1]["SpecialToken"]["type_id"], instead=True)
    for pieces in (single, pair):
        put(pieces, 0, 0, instead=is_bos(pieces[0]))
    used = {piece["SpecialToken"]["id"] for piece in (*single, *pair) if "SpecialToken" in piece}
    template["special_tokens"] = {name: tokens[name] for name in sorted(used)}
    blank = json.loads(Tokenizer(models.BPE()).to_str())
    blank["post_processor"] = parts[0] if len(parts) == 1 else {"type": "Sequence", "processors": parts}
    backend.post_processor = Tokenizer.from_str(json.dumps(blank)).post_processor


def _place(pieces: list[dict[str, Any]], text: str) -> int:
    return next(place for place, piece in enumerate(pieces) if piece.get("Sequence", {}).get("id") == text)


def _settle(tokenizer: PreTrainedTokenizerBase, expected: list[list[int]]) -> None:
    """See that the ids of TEXTS are those expected, also once saved and loaded; ModelError where they are not.

    Some classes build a post-processor of their own when loaded (CodeLlamaTokenizer; GPTNeoXTokenizer in the later
    versions of transformers); as a TokenizersBackend, the same tokenizer is what its tokenizer.json says.
    """
    own = type(tokenizer)
    keep_post_processor(tokenizer, adds_bos=expected[0][:1] == [tokenizer.bos_token_id])
    ids = _ids(tokenizer)
    kinds = (TokenizersBackend,) if own.__name__ == "GPTNeoXTokenizer" else (own, TokenizersBackend)
    for kind in kinds if ids[: len(TEXTS)] == expected else ():
        tokenizer.__class__ = kind
        if _ids(_reloaded(tokenizer)) == ids:
            return
    tokenizer.__class__ = own
    raise ModelError(
        f"what {own.__name__} puts in front of a text does not stay as set; first give the checkpoint's tokenizer.json"
        " a post-processor of type TemplateProcessing, which puts the BOS token first"
    )


def _ids(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return [*(tokenizer(text).input_ids for text in TEXTS), tokenizer(*TEXTS).input_ids]


def _reloaded(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return type(tokenizer).from_pretrained(folder)


def _templates(tokenizer: PreTrainedTokenizerBase) -> dict[str | None, str]:
    templates = tokenizer.chat_template
    return templates if isinstance(templates, dict) else {None: templates} if templates else {}


def _change_chats(tokenizer: PreTrainedTokenizerBase, prefix: str, wrong: Callable[[str], bool]) -> bool:
    """Begin the chat templates that render to something wrong with `prefix`; whether that changed any."""
    changed = {}
    for name, template in _templates(tokenizer).items():
        chats = _chats(tokenizer, template)
        if any(map(wrong, chats)) and chats != _chats(tokenizer, prefix + template):
            changed[name] = prefix + template
    if None in changed:
        tokenizer.chat_template = changed[None]
    elif changed:
        tokenizer.chat_template = {**tokenizer.chat_template, **changed}
    return bool(changed)


def _chats(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str]:
    """Short chats as the template renders them; ModelError for one that takes none of them."""
    chats, refusals, name = [], [], type(tokenizer).__name__
    for roles in CHATS:
        messages = [{"role": role, "content": "a"} for role in roles]
        try:
            options = dict(chat_template=template, tokenize=False, add_generation_prompt=True)
            chats.append(tokenizer.apply_chat_template(messages, **options))
        except Exception as error:  # whatever a template raises for roles that it does not take
            refusals.append(error)
    if not chats:
        raise ModelError(f"a chat template of this {name} renders no chat ({refusals[0]}); repair it or take it out")
    return chats
