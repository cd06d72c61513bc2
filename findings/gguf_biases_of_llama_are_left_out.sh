#!/usr/bin/env bash
# transformers 5.24.0 reads a GGUF of architecture "llama" without the biases of its queries, keys, values and outputs
# (blk.N.attn_q.bias …), which the format has and llama.cpp uses: config.attention_bias stays False, from_pretrained
# says nothing, and the loading report has neither missing nor unexpected keys. Seen with torch 2.13.0 and gguf 0.19.0:
# logits off by 0.81 in a tiny random model, and by nothing where all biases are 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/look.py" <<'P'
import sys, torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
H, G, D, C = 4, 2, 16, 64
PARTS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def turned(x, heads):  # as llama.cpp orders the rows of queries and keys
    return x.reshape(heads, 2, D // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def written(path, model):
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(C)
    writer.add_feed_forward_length(96)
    writer.add_head_count(H)
    writer.add_head_count_kv(G)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(32)
    weights = {name: x.numpy() for name, x in model.state_dict().items()}
    for name, own in {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}.items():
        writer.add_tensor(f"{name}.weight", weights[f"{own}.weight"])
    for layer in range(2):
        for name, own in PARTS.items():
            for kind in ("weight", "bias"):
                x = weights.get(f"model.layers.{layer}.{own}.{kind}")
                if x is not None:
                    heads = {"attn_q": H, "attn_k": G}.get(name)
                    writer.add_tensor(f"blk.{layer}.{name}.{kind}", x if heads is None else turned(x, heads).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


found = {}
for name, size in {"biases": 1.0, "zeros": 0.0}.items():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=32, hidden_size=C, intermediate_size=96, num_hidden_layers=2, num_attention_heads=H, num_key_value_heads=G, max_position_embeddings=64, attention_bias=True, rms_norm_eps=1e-6)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for each, x in model.named_parameters():
            if each.endswith("bias"):
                x.copy_(size * torch.randn_like(x))
        written(f"{sys.argv[1]}/{name}.gguf", model)
        read, report = AutoModelForCausalLM.from_pretrained(sys.argv[1], gguf_file=f"{name}.gguf", output_loading_info=True)
        ids = torch.arange(1, 20)[None]
        off = float((read.eval()(ids).logits - model(ids).logits).abs().max())
    found[name] = (off, read.config.attention_bias, len(report["missing_keys"]), len(report["unexpected_keys"]))
print(found)
sys.exit(not (found["zeros"][0] < 1e-4 < 0.1 < found["biases"][0] and found["biases"][1:] == (False, 0, 0)))
P
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 gguf==0.19.0
"$folder/env/bin/python" "$folder/look.py" "$folder"
