#!/usr/bin/env bash
# peft 0.21.2: merge_and_unload() of a LoRA on the embedding or on the head of a model that ties the two is another
# model than the one before: both merge into the one matrix they share, also with ensure_weight_tying=True. Seen with
# torch 2.13.0 and transformers 5.24.0 on CPU: logits off by 2.9 (lm_head), 1.2e2 (embed_tokens), 1.2e2 (embed_tokens,
# ensure_weight_tying=True); q_proj alone 6e-8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/look.py" <<'P'
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
off = {}
for name, options in {
    "q_proj": {}, "lm_head": {}, "embed_tokens": {}, "embed_tokens, tied": {"ensure_weight_tying": True}
}.items():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, tie_word_embeddings=True)
    lora = LoraConfig(target_modules=[name.partition(",")[0]], init_lora_weights=False, **options)
    model = get_peft_model(LlamaForCausalLM(config), lora).eval()
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        before = model(ids).logits
        off[name] = float((model.merge_and_unload()(ids).logits - before).abs().max())
print({name: f"{value:.1e}" for name, value in off.items()})
sys.exit(not (off.pop("q_proj") < 1e-4 < min(off.values())))
P
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 peft==0.21.2
"$folder/env/bin/python" "$folder/look.py"
