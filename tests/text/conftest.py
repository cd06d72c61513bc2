"""Tokenizers of every kind the stream must be exact for: four real ones, and small ones built here."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "The end of the world isn't the end's end; they'll see 12345 things, and he'd SAY Hello HELLO hello.\r\n\r\n",
    "Café naïve — “quotes” … 東京は日本の首都です。人口は多い。 한국어 문장입니다. नमस्ते दुनिया\n",
    "  aaaa bbbb    cccc\t\tdd\n\n",
    "<a href='x'>text</a> 👨‍👩‍👧‍👦 1.5 3,000 e\u0301e\u0301 ------ ====== ||| []{}()\n",
] * 20
SPLIT_BYTES = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def trained_bpe(pre_tokenizer, normalizer=None, added=(), **options) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_tokens(list(added))
    return tokenizer


def split_by(pattern: str, behavior: str = "isolated") -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior), *SPLIT_BYTES])


def edited_stories(edit: Callable[[dict], None]) -> Tokenizer:
    spec = json.loads((ROOT / "tests/data/stories260K/tokenizer.json").read_text())
    edit(spec)
    return Tokenizer.from_str(json.dumps(spec))


def llama2_legacy() -> Tokenizer:
    def edit(spec: dict) -> None:
        prepend = {"type": "Prepend", "prepend": "▁"}
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        spec |= {"normalizer": {"type": "Sequence", "normalizers": [prepend, replace]}, "pre_tokenizer": None}
        for token in spec["added_tokens"]:
            token["normalized"] = token["content"] == "</s>"

    return edited_stories(edit)


def llama2_always_prefix() -> Tokenizer:
    return edited_stories(lambda spec: spec["pre_tokenizer"].update(prepend_scheme="always"))


def llama2_without_bytes() -> Tokenizer:
    """Characters outside the vocabulary become one fused unknown token."""

    def edit(spec: dict) -> None:
        spec["model"] |= {"byte_fallback": False, "unk_token": "<unk>", "fuse_unk": True}

    return edited_stories(edit)


def gemma(*more: dict) -> Tokenizer:
    """Splits at spaces, of which its normalizer leaves none, unless `more` of it writes some."""

    def edit(spec: dict) -> None:
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        spec |= {"normalizer": {"type": "Sequence", "normalizers": [replace, *more]}, "pre_tokenizer": split}

    return edited_stories(edit)


def unigram(split: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def bert() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    return tokenizer


ADDED = [
    AddedToken("<mask>", lstrip=True, rstrip=True),
    AddedToken("<l>", lstrip=True),
    AddedToken("<r>", rstrip=True, normalized=True),
    AddedToken("yes", single_word=True),
    AddedToken("a  b", normalized=True),
    AddedToken("<|bos|>", special=True),
]


def stripping_added_tokens() -> Tokenizer:
    return trained_bpe(pre_tokenizers.ByteLevel(add_prefix_space=True), added=ADDED)


def stripping_llama2() -> Tokenizer:
    tokenizer = llama2_legacy()
    tokenizer.add_tokens(ADDED)
    return tokenizer


BUILT = {
    "llama3": lambda: trained_bpe(split_by(CL100K), added=["<|bos|>"], ignore_merges=True),
    "o200k": lambda: trained_bpe(split_by(O200K), added=["<|bos|>"]),
    "qwen": lambda: trained_bpe(split_by(CL100K.replace("{1,3}", "")), normalizers.NFC(), added=["<|bos|>"]),
    "deepseek": lambda: trained_bpe(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
                pre_tokenizers.Split(Regex("[一-龥぀-ゟ゠-ヿ]+"), "isolated"),
                pre_tokenizers.Split(Regex(CL100K), "isolated"),
                *SPLIT_BYTES,
            ]
        )
    ),
    "digits": lambda: trained_bpe(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()]),
        normalizers.Strip(),
    ),
    "bytes_unsplit": lambda: trained_bpe(SPLIT_BYTES[0]),
    "llama2_legacy": llama2_legacy,
    "llama2_always_prefix": llama2_always_prefix,
    "llama2_without_bytes": llama2_without_bytes,
    "gemma": gemma,
    "gemma_spaced": lambda: gemma({"type": "Replace", "pattern": {"String": "\n"}, "content": " \n"}),
    "unigram": lambda: unigram(split=True),
    "unigram_unsplit": lambda: unigram(split=False),
    "metaspace": lambda: trained_bpe(pre_tokenizers.Metaspace(split=True), normalizers.NFKC()),
    "bert": bert,
    "stripping": stripping_added_tokens,
    "stripping_llama2": stripping_llama2,
    "brackets": lambda: trained_bpe(split_by(r"<[^>]*>|\p{L}+|\s+|[^\s\p{L}]")),
    "lines": lambda: trained_bpe(split_by(r".+|\n+")),
}
REAL = ["demo", "stories", "gpt2", "gptneox"]


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PreTrainedTokenizerFast]:
    """A tokenizer by its name, built once."""
    unpacked = tmp_path_factory.mktemp("tokenizers")
    for name in ("gpt2", "gptneox"):
        with tarfile.open(ROOT / f"tests/data/tokenizers/{name}.tar.xz") as archive:
            archive.extractall(unpacked, filter="data")
    folders = {
        "demo": ROOT / "sinkctl/model/demo",
        "stories": ROOT / "tests/data/stories260K",
        "gptneox": unpacked / "gptneox",
    }
    cache: dict[str, PreTrainedTokenizerFast] = {}

    def gpt2() -> Tokenizer:
        folder = unpacked / "gpt2"
        tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        tokenizer.add_special_tokens(["<|endoftext|>"])
        return tokenizer

    def get(name: str) -> PreTrainedTokenizerFast:
        if name not in cache:
            cache[name] = (
                AutoTokenizer.from_pretrained(folders[name])
                if name in folders
                else PreTrainedTokenizerFast(tokenizer_object=gpt2() if name == "gpt2" else BUILT[name]())
            )
        return cache[name]

    return get


@pytest.fixture(params=[*REAL, *BUILT])
def any_tokenizer(request: pytest.FixtureRequest, tokenizer_of) -> PreTrainedTokenizerFast:
    return tokenizer_of(request.param)


@pytest.fixture(params=REAL)
def real_tokenizer(request: pytest.FixtureRequest, tokenizer_of) -> PreTrainedTokenizerFast:
    return tokenizer_of(request.param)
