#!/usr/bin/env bash
# transformers 5.24.0: generate() takes `past_key_values` from its caller, with a warning, but the decoder inside the
# model is called with `cache`; a forward pre-hook that looks for `past_key_values` sees nothing. 5.23.0 hands it on
# under the old name. Seen with torch 2.13.0 on CPU: "5.24.0 ['cache']", "5.23.0 ['past_key_values']".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/look.py" <<'P'
import sys, torch, transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
model = LlamaForCausalLM(LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
cache, names = DynamicCache(config=model.config), set()
model.model.register_forward_pre_hook(
    lambda module, args, kwargs: names.update(n for n, v in kwargs.items() if v is cache), with_kwargs=True
)
model.generate(torch.tensor([[1, 2, 3]]), past_key_values=cache, max_new_tokens=2, do_sample=False)
print(transformers.__version__, sorted(names))
sys.exit(sorted(names) != [sys.argv[1]])
P
python3 -m venv "$folder/env"
for case in "5.24.0 cache" "5.23.0 past_key_values"; do
  "$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 "transformers==${case% *}"
  "$folder/env/bin/python" "$folder/look.py" "${case#* }"
done
