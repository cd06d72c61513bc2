#!/usr/bin/env bash
# transformers 5.24.0: a config loaded by a Hub id has no `_commit_hash`; 5.15.0 keeps the commit there. The
# commit is still in the path of the cached file, which huggingface_hub.try_to_load_from_cache tells. Seen, from a cache
# made by hand and without a network: "5.24.0 None 0123…" and "5.15.0 0123… 0123…".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
commit=0123456789abcdef0123456789abcdef01234567
export HF_HUB_CACHE=$folder/hub HF_HUB_OFFLINE=1
mkdir -p "$HF_HUB_CACHE/models--someone--something/"{refs,"snapshots/$commit"}
printf %s "$commit" > "$HF_HUB_CACHE/models--someone--something/refs/main"
echo '{"model_type": "llama"}' > "$HF_HUB_CACHE/models--someone--something/snapshots/$commit/config.json"
cat > "$folder/look.py" <<'P'
import sys
from pathlib import Path
import transformers
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig
own = getattr(AutoConfig.from_pretrained("someone/something"), "_commit_hash", None)
told = Path(try_to_load_from_cache("someone/something", "config.json")).parent.name
print(transformers.__version__, own, told)
sys.exit(str(own) != sys.argv[1] or told != sys.argv[2])
P
python3 -m venv "$folder/env"
for case in "5.24.0 None" "5.15.0 $commit"; do
  "$folder/env/bin/pip" install --quiet --disable-pip-version-check "transformers==${case% *}"
  "$folder/env/bin/python" "$folder/look.py" "${case#* }" "$commit"
done
