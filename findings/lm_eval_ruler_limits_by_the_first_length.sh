#!/usr/bin/env bash
# lm_eval 0.4.13, RULER's tasks: with several max_seq_lengths a task holds 500 texts of each, sorted by length, and
# `limit` takes the first ones, so that 20 of two lengths are 20 of the first. All 1,000 are made, however few are
# asked for; the metric of a length without texts is -1. Seen with transformers 5.24.0 and a tokenizer of whole words:
# {256: 500, 512: 500} made, {256: 20} taken.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/look.py" <<'P'
import sys
from collections import Counter
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
inner = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>").save_pretrained(sys.argv[1])
manager = TaskManager(metadata={"tokenizer": sys.argv[1], "max_seq_lengths": [256, 512]})
task = manager.load(["niah_single_1"])["tasks"]["niah_single_1"]
made = Counter(doc["max_length"] for doc in task.eval_docs)
taken = Counter(doc["max_length"] for _, doc in task.doc_iterator(limit=20))
print(dict(made), dict(taken))
sys.exit((made, taken) != (Counter({256: 500, 512: 500}), Counter({256: 20})))
P
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 'lm_eval[ruler]==0.4.13'
"$folder/env/bin/python" "$folder/look.py" "$folder/words"
