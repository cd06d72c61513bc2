#!/usr/bin/env bash
# lm_eval 0.4.13, ruler_vt: with a max_seq_lengths that its shortest text does not fit (a worked example of up to 500
# tokens comes in front of it) it tries the same size for ever, and its bare `except:` takes in KeyboardInterrupt too.
# With a tokenizer of whole words it makes those of 1,024 tokens within a second, and in a minute none of 256. Seen with
# transformers 5.24.0; with the tokenizers of SmolLM2 and Gemma 3, 512 tokens are too few.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/look.py" <<'P'
import sys
from lm_eval.tasks.ruler.vt_utils import get_dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
inner = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
made = get_dataset(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>"), int(sys.argv[1]))
print(len(made), "texts of", sys.argv[1])
P
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 'lm_eval[ruler]==0.4.13'
"$folder/env/bin/python" "$folder/look.py" 1024 | tail -n 1
code=0
timeout --signal=INT --kill-after=5 60 "$folder/env/bin/python" "$folder/look.py" 256 > "$folder/said" 2>&1 || code=$?
echo "256: exit code $code (137: killed, as it was deaf to the interrupt)"
test "$code" = 137
