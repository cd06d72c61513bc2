"""Special tokens that a text spells are counted, however it is read, or read as text."""

import copy
from collections import Counter

import numpy as np
import pytest

from sinkctl.api import generate, stream
from sinkctl.model.load import load
from sinkctl.model.settings import ModelSettings
from sinkctl.text import SpecialTokens
from sinkctl.text.tokens import prepared

TEXT = "<|bos|>The <|pad|> of the <|bos|><|pad|> woodlanders.\n"
AS_TEXT = ModelSettings(device="cpu", special_tokens="text")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "spelt.txt"
    path.write_text(TEXT * 8)
    return path


def test_what_a_text_spells_is_counted_once_in_any_blocks(demo):
    ids = np.array(demo.tokenizer(TEXT * 8, add_special_tokens=False).input_ids)
    whole = SpecialTokens(demo.tokenizer, demo.rows, demo.bos_id)
    whole.add(ids, demo.bos_id, "it")
    assert whole.found == Counter({demo.bos_id: 16, demo.tokenizer.pad_token_id: 16})
    assert whole.twice == 1
    parts = SpecialTokens(demo.tokenizer, demo.rows, demo.bos_id)
    for start in range(0, len(ids), 7):
        parts.add(ids[start : start + 7], ids[start - 1] if start else demo.bos_id, "it")
        state, parts = parts.state(), SpecialTokens(demo.tokenizer, demo.rows, demo.bos_id)
        parts.join(state)
    assert (parts.found, parts.twice) == (whole.found, whole.twice)


def test_a_tokenizer_is_made_ready_once_until_it_reads_texts_otherwise(demo):
    tokenizer = copy.deepcopy(demo.tokenizer)
    first = prepared(tokenizer)
    assert prepared(copy.deepcopy(tokenizer)) is first

    def found() -> tuple[list[int], list[int]]:
        ids, _ = next(prepared(tokenizer).encode([TEXT], False))
        return ids.tolist(), tokenizer(TEXT, add_special_tokens=False).input_ids

    before, expected = found()
    assert before == expected
    for change in (
        lambda: setattr(tokenizer, "split_special_tokens", True),
        lambda: tokenizer.add_tokens("woodlanders"),
    ):
        change()
        after, expected = found()
        assert after == expected != before
        before = after


@pytest.mark.parametrize("bos", ["auto", "never"])
def test_a_scored_text_says_what_it_spells_and_that_bos_stands_twice(demo, file, bos):
    notes = "\n".join(stream(file, model=demo, policies="4+60", chunk=50, bos=bos).result.notes)
    assert "<|bos|> 16 times, <|pad|> 16 times; --special-tokens text" in notes
    assert ("A second <|bos|> stands behind the first, once" in notes) is (bos == "auto")


def test_read_as_text_nothing_of_it_is_special_in_files_and_prompts(demo, file):
    as_text = load(AS_TEXT)
    expected = as_text.tokenizer(TEXT * 8, add_special_tokens=False, split_special_tokens=True).input_ids
    scored = stream(file, model=as_text, policies="4+60")
    assert scored.result.stream.tokens == len(expected) > len(demo.tokenizer(TEXT * 8).input_ids)
    assert scored.result.recipe["model"]["special_tokens"] == "text"
    assert not any("special" in note for note in scored.result.notes)
    (row,) = generate(TEXT, model=as_text, tokens=1).result.generate.rows
    assert row.prompt_tokens == 1 + len(expected) // 8  # BOS in front
    assert "A second <|bos|>" in "".join(generate(TEXT, model=demo, tokens=1).result.notes)
