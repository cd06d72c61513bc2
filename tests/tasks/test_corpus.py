"""Training texts: the documents read from files, and the sequences drawn from them and laid out."""

import json
import lzma
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkctl.errors import Interrupted, TextError, UsageError
from sinkctl.recipe.schema import TextFiles
from sinkctl.tasks.convert.training.corpus import Corpus, check_room, of_files, of_tokens
from sinkctl.tasks.convert.training.packing import Body, drawn, packed

BOS = 1


def read(demo, *files, **how) -> Corpus:
    return of_files(TextFiles(files=tuple(map(str, files)), **how), demo, BOS)


def test_no_more_of_a_text_is_read_than_is_asked_for(demo, book, tmp_path):
    long, never = tmp_path / "long.txt", tmp_path / "never.txt"
    long.write_bytes(book.encode() + b"\xff")  # a block of 64 KiB is read at once
    never.write_bytes(b"\xff")
    settings = TextFiles(files=(str(long), str(never)))
    assert (
        of_files(settings, demo, BOS, most=500).first(500).tokens.tolist()
        == (demo.tokenizer(book[:5000], add_special_tokens=False).input_ids[:500])
    )
    with pytest.raises(TextError, match="not UTF-8"):
        of_files(settings, demo, BOS)


def documents(corpus: Corpus) -> list[list[int]]:
    return [part.tolist() for part in np.split(corpus.tokens, corpus.starts[1:])]


def of_lengths(lengths: list[int]) -> Corpus:
    """Tokens 1, 2, 3, … in documents of these lengths."""
    ends = np.cumsum(lengths)
    return Corpus(np.arange(1, ends[-1] + 1), np.append(0, ends[:-1]), "numbers")


def row(body: Body, front: tuple[int, ...], boundaries: str) -> list[tuple[int, int]]:
    """Of a sequence fed to a model: its tokens, and the number of the document each belongs to; token by token."""
    cuts = {0} if boundaries == "none" else set(body.starts)
    fed, document = [], -1
    for index, token in enumerate(body.ids.tolist()):
        if index in cuts:
            document += 1
            fed += [(token, document) for token in front]
        fed.append((token, document))
    return fed


def test_every_file_and_every_record_is_a_document_of_the_tokenizer_s_own_ids(demo, book, tmp_path):
    novel, second, records = tmp_path / "a.txt", tmp_path / "b.txt.xz", tmp_path / "c.jsonl"
    texts = [" A first record. ", "", "The second\n\n\nover lines", "third"]
    novel.write_text(book)  # several blocks
    second.write_bytes(lzma.compress(b"Another text."))
    records.write_text("\n".join(json.dumps({"story": text}) for text in texts))
    third, empty, shares = tmp_path / "d.txt", tmp_path / "e.txt", []
    third.write_text("A third text.")
    empty.write_text("")
    files = (
        novel,
        records,
        second,
        empty,
        third,
        third,
        novel,
    )  # the last five are one stream
    corpus = of_files(TextFiles(files=tuple(map(str, files)), field="story"), demo, BOS, progress=shares.append)
    expected = [book, *filter(None, texts), "Another text.", *["A third text."] * 2, book]
    assert documents(corpus) == [demo.tokenizer(text, add_special_tokens=False).input_ids for text in expected]
    assert corpus.tokens.dtype == np.uint16
    assert corpus.name == ", ".join(file.name for file in files)
    sizes = [file.stat().st_size for file in files]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    ends = np.cumsum(sizes) / sum(sizes)
    assert {float(ends[0]), float(ends[1]), *map(float, ends[3:])} <= {*shares}


def test_bos_ids_separate_the_documents_of_an_array_and_are_taken_out(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("sinkctl.tasks.convert.training.corpus.BLOCK", 4)
    tokens, text = tmp_path / "ids.npy", tmp_path / "text.txt"
    np.save(tokens, np.array([BOS, 5, 6, 7, 8, 9, 10, BOS, BOS, 11, BOS], ">i8"))
    text.write_text("word")
    found = documents(read(demo, tokens, text, tokens))
    of_array = [[5, 6, 7, 8, 9, 10], [11]]
    assert found == [*of_array, demo.tokenizer("word", add_special_tokens=False).input_ids, *of_array]
    for most, name in ((9, "ids.npy"), (4, "ids.npy (its first 4 tokens)"), (3, "ids.npy (its first 3 tokens)")):
        taken = of_files(TextFiles(files=(str(tokens),)), demo, BOS, most=most).first(most)
        assert taken.name == name, "the first block of the array ends just there"
    assert documents(of_tokens(torch.tensor([5, 6]), "two")) == [[5, 6]]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        ([[1, 2], [3, 4]], "int64 of shape (2, 2), not integers in one dimension"),
        ([1.5, 2], "float64 of shape (2,), not integers"),
        ([5, 9, 4096, 7], "id 4096 at place 2 (the first is 0), and demo has 4,096 embeddings"),
        ([5, -3], "id -3 at place 1"),
        ([{}], "cannot be read as .npy"),
        ([BOS, BOS], "no text in it"),
    ],
)
def test_arrays_that_hold_no_token_ids_are_refused_in_one_line(demo, tmp_path, array, said):
    np.save(tmp_path / "ids.npy", np.array(array))
    with pytest.raises(TextError, match=re.escape(said)) as error:
        read(demo, tmp_path / "ids.npy")
    assert str(error.value).startswith(str(tmp_path / "ids.npy"))
    assert "\n" not in str(error.value)


def test_what_cannot_be_trained_on_is_said(demo, tmp_path):
    damaged, text = tmp_path / "damaged.npy", tmp_path / "text.txt"
    damaged.write_bytes(b"no array")
    text.write_text("One word.")
    with pytest.raises(TextError, match=r"damaged\.npy: cannot be read as \.npy"):
        read(demo, text, damaged)
    with pytest.raises(TextError, match=r"missing\.npy: no such file"):
        read(demo, tmp_path / "missing.npy")
    with pytest.raises(UsageError, match=r"field story: none .* is a \.jsonl file"):
        read(demo, text, field="story")
    with pytest.raises(Interrupted):
        of_files(TextFiles(files=(str(text),)), demo, BOS, stop=lambda: True)
    check_room(of_lengths([13]), 12)
    with pytest.raises(TextError, match=r"numbers: 12 tokens, and a sequence takes 12 and one to predict; .* --length"):
        check_room(of_lengths([12]), 12)


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    room=st.integers(2, 40),
    front=st.integers(0, 1),
    boundaries=st.sampled_from(["none", "bos", "mask"]),
    seed=st.integers(0, 1 << 61),
)
def test_crops_fill_the_room_with_consecutive_tokens_and_every_document_in_them(lengths, room, front, boundaries, seed):
    corpus = of_lengths([*lengths, room, room])
    begin = set((corpus.starts + 1).tolist())  # tokens that documents begin with
    for body in drawn(corpus, 4, room, front, boundaries, seed, step=3):
        ids = body.ids.tolist()
        assert ids == list(range(ids[0], ids[-1] + 1))
        inside = [n for n, token in enumerate(ids) if n == 0 or token in begin]
        assert list(body.starts) == ([0] if boundaries == "none" else inside)
        taken = len(row(body, (0,) * front, boundaries))
        # One short only from the first tokens on, where nothing earlier is left to begin with.
        assert taken == room or (taken == room - 1 and ids[0] <= room and ids[-1] + 1 in begin)


def test_a_crop_that_would_end_in_the_front_of_a_document_begins_a_token_earlier():
    corpus = of_lengths([20, 20])
    ends = {body.ids[0]: body for body in drawn(corpus, 400, 8, 1, "mask", seed=0, step=0)}
    assert sorted(ends) == [*range(1, 14 + 1), *range(16, 34 + 1)]  # from 15 on, 15 … 20 and two fronts would be it
    assert ends[14].ids.tolist() == [14, 15, 16, 17, 18, 19, 20]
    assert ends[16].ids.tolist() == [16, 17, 18, 19, 20, 21]
    pairs = Corpus(np.arange(40), np.arange(40), "documents of one token")
    assert {len(body.ids) for body in drawn(pairs, 50, 9, 1, "mask", seed=0, step=0)} == {4}  # 8 of 9: padded


def test_a_step_s_sequences_depend_on_seed_and_step_alone():
    corpus = of_lengths([40, 3, 500])
    first = [body.ids.tolist() for body in drawn(corpus, 6, 32, 1, "bos", seed=4, step=9)]
    drawn(corpus, 6, 32, 1, "bos", seed=4, step=10)
    assert first == [body.ids.tolist() for body in drawn(corpus, 6, 32, 1, "bos", seed=4, step=9)]
    for seed, step in [(4, 10), (5, 9), (9, 4)]:
        assert first != [body.ids.tolist() for body in drawn(corpus, 6, 32, 1, "bos", seed, step)]


def test_crops_begin_anywhere_equally_often_and_reach_the_corpus_s_end():
    corpus = of_lengths([15, 25, 2])
    begins = [int(body.ids[0]) for step in range(20) for body in drawn(corpus, 500, 5, 1, "none", seed=0, step=step)]
    counts = np.bincount(begins, minlength=40)[1:]
    assert len(counts) == 39  # 1 … 39: the last is 39, 40, 41, 42
    expected = len(begins) / 39
    assert ((counts - expected) ** 2 / expected).sum() < 75  # χ² of 38 degrees of freedom: p = 0.0003
    last = max(int(body.ids[-1]) for body in drawn(corpus, 500, 5, 1, "mask", seed=0, step=0))
    assert last == 42


def test_documents_in_two_rows_by_hand():
    bodies = [Body(np.array([10, 11, 12, 13, 14]), (0, 2)), Body(np.array([20, 21, 22, 23]), (0,))]
    out = packed(bodies, (1,), "mask")
    assert out.ids_BT.tolist() == [[1, 10, 11, 1, 12, 13, 14], [1, 20, 21, 22, 23, 0, 0]]
    assert out.target_BT.tolist() == [[10, 11, -100, 12, 13, 14, -100], [20, 21, 22, 23, -100, -100, -100]]
    assert out.place_BN.tolist() == [[0, 1, 3, 4, 5], [0, 1, 2, 3, -1]]
    assert out.documents_N.tolist() == [0, 3, 7, 12, 14]
    assert (out.ids_BT.dtype, out.documents_N.dtype) == (torch.int64, torch.int32)
    bare = packed(bodies, (), "mask")
    assert bare.target_BT.tolist() == [[11, -100, 13, 14, -100], [21, 22, 23, -100, -100]]
    assert bare.documents_N.tolist() == [0, 2, 5, 9, 10]
    assert packed(bodies, (), "bos").target_BT.tolist()[0] == [11, 12, 13, 14, -100]
    assert packed(bodies, (1,), "none").ids_BT.tolist()[0] == [1, 10, 11, 12, 13, 14]


@pytest.mark.parametrize("boundaries", ["none", "bos", "mask"])
@pytest.mark.parametrize("front", [(), (900,), (900, 901)])
def test_targets_and_places_by_brute_force(boundaries, front):
    bodies = drawn(of_lengths([3, 1, 9, 30, 2, 2, 60]), 12, 16, 1, boundaries, seed=1, step=1)
    out = packed(bodies, front, boundaries)
    width, owners = out.ids_BT.shape[1], []
    for number, (body, ids, target, place) in enumerate(zip(bodies, *map(torch.unbind, out[:3]), strict=True)):
        fed = row(body, front, boundaries)
        fed += [(0, None)] * (width - len(fed))
        assert ids.tolist() == [token for token, _ in fed]
        predicted = []
        for (_, document), (token, its_document) in pairwise([*fed, (0, None)]):
            hidden = boundaries == "mask" and its_document != document
            predicted.append(-100 if its_document is None or token in front or hidden else token)
        assert target.tolist() == predicted
        places = [at for at in place.tolist() if at >= 0]
        assert places == [at for at, token in enumerate(predicted) if token != -100]
        assert all(at < 0 or predicted[at] == token for at, token in zip(place.tolist(), body.ids, strict=False))
        owners += [(number, document) for _, document in fed]
    if boundaries == "mask":
        changes = [at for at in range(1, len(owners)) if owners[at] != owners[at - 1]]
        assert out.documents_N.tolist() == [0, *changes, len(owners)]
    else:
        assert out.documents_N is None


@pytest.mark.parametrize("boundaries", ["none", "bos", "mask"])
def test_with_and_without_a_front_the_same_tokens_are_predicted_at_the_places_told(boundaries):
    bodies = drawn(of_lengths([3, 1, 9, 30, 2, 2, 60]), 12, 16, 0, boundaries, seed=1, step=1)
    bare, fronted = packed(bodies, (), boundaries), packed(bodies, (900,), boundaries)
    both = (bare.place_BN >= 0) & (fronted.place_BN >= 0)
    assert both.sum() > 100
    target = [out.target_BT.gather(1, out.place_BN.clamp(min=0))[both] for out in (bare, fronted)]
    assert torch.equal(*target)
    assert (target[0] > 0).all()
    assert (fronted.place_BN >= 0).all()  # with a front every token is predicted
