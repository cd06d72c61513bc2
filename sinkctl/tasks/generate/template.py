"""A chat template: messages to the text that a model was trained on, and that text to ids."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, TemplateError, meta
from tokenizers import AddedToken, Tokenizer

from sinkctl.errors import ModelError, UsageError
from sinkctl.model.load import LoadedModel

# Characters that stand for nothing in Unicode, so in no text: one breaks what a message spells, the other marks what
# the template writes.
BROKEN, WRITTEN = "\ufdd0", "\ufdd1"
FOR_TEMPLATES = ("tools", "documents")  # of apply_chat_template's own arguments

Message = dict[str, str]


class Template:
    """The chat template of a model, with arguments of the user's; special tokens are its own, or also the messages'."""

    def __init__(self, loaded: LoadedModel, arguments: dict[str, Any]):
        """ModelError for a model without one, UsageError for an argument that it does not know."""
        if loaded.tokenizer.chat_template is None:
            raise ModelError(f"{loaded.name} has no chat template; --generate with --prompt goes on from a text")
        self._tokenizer, self._name, self._arguments = loaded.tokenizer, loaded.name, arguments
        self._check_arguments()
        self._apart = _Apart(loaded) if loaded.tokenizer.split_special_tokens else None

    def rendered(self, messages: Sequence[Message]) -> str:
        """The text up to where the next reply begins; for `ids` alone."""
        if self._apart is not None:
            messages = [message | {"content": self._apart.broken(message["content"])} for message in messages]
        try:
            return self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **self._arguments
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise ModelError(f"the chat template of {self._name} does not take this: {error}") from error

    def ids(self, text: str) -> list[int]:
        """The ids of a rendered text, or of a part of it."""
        if self._apart is not None:
            return self._apart.ids(text)
        return self._tokenizer(text, add_special_tokens=False).input_ids

    def _check_arguments(self) -> None:
        own = set(inspect.signature(self._tokenizer.apply_chat_template).parameters) - {*FOR_TEMPLATES, "kwargs"}
        for name in self._arguments:
            if name in own or name == "messages":
                raise UsageError(
                    f"--template-arg {name}: is no argument of a template, and set by sinkctl; leave it out"
                )
        try:
            parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(self._tokenizer.get_chat_template())
        except TemplateError:  # tags of transformers' own: what it takes is not known then
            return
        taken = meta.find_undeclared_variables(parsed) - own - {"messages"}
        for name in self._arguments:
            if name not in taken:
                close = difflib.get_close_matches(name, taken, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(sorted(taken)) or 'none'}"
                raise UsageError(f"--template-arg {name}: the chat template of {self._name} has no such one; {hint}")


class _Apart:
    """Reads the special tokens that the template writes as such, and those that a message spells as text.

    What the template writes is an added token under another name, which the tokenizer takes out of a text as it takes
    out special tokens; so every piece between is read in its place.
    """

    def __init__(self, loaded: LoadedModel):
        backend = getattr(loaded.tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ModelError(f"--special-tokens text: in a chat, {loaded.name} needs a fast tokenizer (tokenizer.json)")
        added = loaded.tokenizer.added_tokens_decoder
        special = [(number, token) for number, token in added.items() if token.special and len(token.content) > 1]
        special.sort(key=lambda item: -len(item[1].content))  # the longest first: one may begin with another
        self._names = {token.content: f"{WRITTEN}{number}{WRITTEN}" for number, token in special}
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        names = [
            AddedToken(self._names[t.content], special=False, normalized=False, lstrip=t.lstrip, rstrip=t.rstrip)
            for _, t in special
        ]
        self._backend.add_tokens(names)
        self._real = {
            self._backend.token_to_id(name.content): number for name, (number, _) in zip(names, special, strict=True)
        }

    def broken(self, content: str) -> str:
        """A message in which no special token is spelt."""
        content = content.replace(BROKEN, "").replace(WRITTEN, "")
        for token in self._names:
            content = content.replace(token, token[0] + BROKEN + token[1:])
        return content

    def ids(self, text: str) -> list[int]:
        for token, name in self._names.items():
            text = text.replace(token, name)
        found = self._backend.encode(text.replace(BROKEN, ""), add_special_tokens=False).ids
        return [self._real.get(number, number) for number in found]
