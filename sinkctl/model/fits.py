"""Whether weights fit their config, by headers alone, as `weights.py` says it of what is loaded. Imports no torch.

Of a folder, for decoders laid out as Llama's, GPT-NeoX's or GPT-2's, where config.json says the sizes itself. What is
not known for sure, loading tells: other families, quantized weights, sizes that are a class's default, other names.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sinkctl.errors import ModelError
from sinkctl.model.quantized_files import quantized_by
from sinkctl.model.weight_file import shapes_in, weight_files

WRONG = {
    "config.json": "one of the two belongs to another checkpoint",
    "its header": "the file is damaged or was edited: download it again",
}
HEAD = "lm_head.weight"
Shape = tuple[int, ...]
Sizes = Mapping[str, int | None]  # by the letter of a layout's shapes


class Layout(NamedTuple):
    """What the weights of some families are called, and their shapes in letters: rows, then columns."""

    inside: str  # what a decoder's weights have in front of their names, where they are of a whole model
    layers: str
    embedding: str
    of_layer: dict[str, str]
    beside: dict[str, str]
    sizes: Callable[[Mapping[str, Any]], Sizes]


class Differs(NamedTuple):
    """A tensor of another shape than it is to have."""

    key: str
    found: Shape
    expected: Shape

    def said(self, by: str, more: str = "") -> str:
        found, expected = ("×".join(map(str, shape)) or "one number" for shape in (self.found, self.expected))
        return f"{self.key} is {found} in the file and {expected} by {by}{more}"


def _of_llama(config: Mapping[str, Any]) -> Sizes:
    """C channels, F of the gated layer, V vocabulary, Q and K channels of all query and key heads."""
    names = ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    c, f, v, heads, pairs, width = (_count(config.get(name)) for name in names)
    if config.get("head_dim") is None and config["model_type"] in DIVIDED and c and heads:
        width = c // heads
    return {"C": c, "F": f, "V": v, "Q": width and heads and heads * width, "K": width and pairs and pairs * width}


def _of_neox(config: Mapping[str, Any]) -> Sizes:
    c, f, v = (_count(config.get(name)) for name in ("hidden_size", "intermediate_size", "vocab_size"))
    return {"C": c, "F": f, "V": v, "T": c and 3 * c}


def _of_gpt2(config: Mapping[str, Any]) -> Sizes:
    c, v, p, f = (_count(config.get(name)) for name in ("n_embd", "vocab_size", "n_positions", "n_inner"))
    f = c and 4 * c if config.get("n_inner") is None else f
    return {"C": c, "F": f, "V": v, "P": p, "T": c and 3 * c}


LLAMA = Layout(
    "model.", "layers", "embed_tokens.weight",
    {
        "self_attn.q_proj.weight": "QC", "self_attn.k_proj.weight": "KC", "self_attn.v_proj.weight": "KC",
        "self_attn.o_proj.weight": "CQ", "mlp.gate_proj.weight": "FC", "mlp.up_proj.weight": "FC",
        "mlp.down_proj.weight": "CF", "input_layernorm.weight": "C", "post_attention_layernorm.weight": "C",
    },
    {"embed_tokens.weight": "VC", "norm.weight": "C"}, _of_llama,
)  # fmt: skip
NEOX = Layout(
    "gpt_neox.", "layers", "embed_in.weight",
    {
        "attention.query_key_value.weight": "TC", "attention.dense.weight": "CC", "mlp.dense_h_to_4h.weight": "FC",
        "mlp.dense_4h_to_h.weight": "CF", "input_layernorm.weight": "C", "post_attention_layernorm.weight": "C",
    },
    {"embed_in.weight": "VC", "final_layer_norm.weight": "C"}, _of_neox,
)  # fmt: skip
GPT2 = Layout(
    "transformer.", "h", "wte.weight",
    {
        "attn.c_attn.weight": "CT", "attn.c_proj.weight": "CC", "mlp.c_fc.weight": "CF", "mlp.c_proj.weight": "FC",
        "ln_1.weight": "C", "ln_2.weight": "C",
    },
    {"wte.weight": "VC", "wpe.weight": "PC", "ln_f.weight": "C"}, _of_gpt2,
)  # fmt: skip
# Whose heads are a share of the channels where nothing else is said.
DIVIDED = ("llama", "mistral", "qwen2", "granite", "smollm3", "olmo2")
LAYOUTS = dict.fromkeys((*DIVIDED, "granite_swa", "qwen3", "gemma", "gemma2", "gemma3_text"), LLAMA)
LAYOUTS |= {"gpt_neox": NEOX, "gpt2": GPT2}
DECODERS = ("ForCausalLM", "LMHeadModel")
DEPTH = ("num_hidden_layers", "n_layer")
MOST = 4096  # layers looked for, whatever a damaged config says


def check_fits(name: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError for a tensor that the config asks for otherwise, or that is missing; one line has the first."""
    layout, depth = LAYOUTS.get(str(config.get("model_type"))), next(filter(None, map(config.get, DEPTH)), None)
    if layout is None or _count(depth) is None or not _plain(config):
        return
    held = dict(pair for path in weight_files(folder) for pair in shapes_in(path))
    own = {key.removeprefix(layout.inside): (key, shape) for key, shape in held.items()}
    if len(own) != len(held):  # two of one name
        return
    numbered = {(int(place[1]), place[2]): own[key] for key in own if (place := _place(layout, key))}
    shapes = [(*own[key], letters) for key, letters in layout.beside.items() if key in own]
    if HEAD in own and config.get("tie_word_embeddings") is False:
        shapes.append((*own[HEAD], "VC"))
    shapes += [(*each, layout.of_layer[kind]) for (number, kind), each in numbered.items() if number < depth]
    if differing := _differing(layout, config, shapes):
        raise ModelError(f"{name}: {differing[0].said('config.json', more(differing))}; {WRONG['config.json']}")
    # Those of another name say nothing, nor do layers past the last, which predict further tokens.
    kinds = {kind for number, kind in numbered if number < depth}
    lacking = [
        f"{layout.layers}.{n}.{kind}" for n in range(min(depth, MOST)) for kind in kinds if (n, kind) not in numbered
    ]
    lacking += [layout.embedding] * (bool(kinds) and layout.embedding not in own and HEAD not in own)
    if lacking:
        raise ModelError(missing(name, f"{layout.inside}{min(lacking)}", lacking))
    if layout is LLAMA and kinds and HEAD not in own and config.get("tie_word_embeddings") is False:
        raise ModelError(no_head(name, HEAD))
    beyond = min((number for number, _ in numbered if number >= depth), default=None)
    if beyond is not None and not config.get("num_nextn_predict_layers"):
        field = next(field for field in DEPTH if config.get(field))
        raise ModelError(too_deep(name, f"{layout.inside}{layout.layers}", beyond, depth, f" ({field})"))


def _plain(config: Mapping[str, Any]) -> bool:
    """Whether it is of a decoder of text alone, as its class is written, with weights that are what they say."""
    classes = config.get("architectures")
    decodes = isinstance(classes, list) and any(str(each).endswith(DECODERS) for each in classes)
    return decodes and not {"auto_map", "text_config", "sink"} & set(config) and quantized_by(dict(config)) is None


def _place(layout: Layout, key: str) -> re.Match[str] | None:
    """(number, kind) of a layer's weight that the layout knows."""
    place = re.fullmatch(rf"{layout.layers}\.(\d+)\.(.+)", key)
    return place if place is not None and place[2] in layout.of_layer else None


def _differing(layout: Layout, config: Mapping[str, Any], shapes: Sequence[tuple[str, Shape, str]]) -> list[Differs]:
    sizes = layout.sizes(config)
    known = [(key, found, tuple(map(sizes.get, letters))) for key, found, letters in shapes]
    return sorted(Differs(*each) for each in known if None not in each[2] and each[1] != each[2])


def missing(name: str, key: str, keys: Sequence[Any], by: str = "config.json") -> str:
    """What a checkpoint says that lacks weights, the first of them `key`."""
    wrong = f"{WRONG[by]}, or weights were lost"
    return f"{name}: {key} is not in the weights{more(keys)}, and {by} asks for it; {wrong}"


def no_head(name: str, key: str) -> str:
    """What one says that has no weights of its head, and shares none."""
    return (
        f"{name}: {key} is not in the weights, and config.json does not share the embedding's with it "
        "(tie_word_embeddings: false); set it to true if the model was trained so, else download the weights again"
    )


def too_deep(name: str, path: str, number: int, held: int, said: str) -> str:
    """What one says with layers beyond those that its config counts."""
    return (
        f"{name}: the weights hold {path}.{number}, and by config.json there are {held} of {path}{said}; correct "
        "config.json, or take the last ones out of the weights"
    )


def more(keys: Sequence[Any]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
