#!/usr/bin/env bash
# lm_eval 0.4.13, model class hf: loglikelihood_rolling (wikitext and other perplexities) puts the tokenizer's bos_token
# in front of a text by itself. A tokenizer that adds BOS gets it twice, one that adds none gets it all the same; with
# add_bos_token=False the first gets it once. Seen with torch 2.13.0 and transformers 5.24.0 on a random Llama on CPU:
# the ids scored begin [1, 1], [1, 5] and [1, 5].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/look.py" <<'P'
import sys, torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
torch.manual_seed(0)
config = LlamaConfig(vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
model, begun = LlamaForCausalLM(config).eval(), []
model.register_forward_pre_hook(lambda _, args, kwargs: begun.append((args[0] if args else kwargs["input_ids"])[0, :2].tolist()), with_kwargs=True)
def begins(adds, **options):
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 5, "b": 6, "c": 7}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    begun.clear()
    scorer = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=1, **options)
    begun.clear()
    scorer.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("a b c a b c",), 0)], disable_tqdm=True)
    return begun[-1]
found = begins(True), begins(False), begins(True, add_bos_token=False)
print(found)
sys.exit(found != ([1, 1], [1, 5], [1, 5]))
P
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 lm_eval==0.4.13 accelerate==1.15.0
"$folder/env/bin/python" "$folder/look.py"
