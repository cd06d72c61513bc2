"""What transformers alone makes of a checkpoint that sinkctl wrote: python benchmarks/stock_losses.py FOLDER < ids.json

Prints, as JSON, the class that it was loaded as and the loss of every token but the first, nats, on the CPU in float32.
Code beside the weights is run, so the checkpoint has to be one's own.
"""

import argparse
import json
import sys


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM


@torch.no_grad()
def main(folder: str) -> None:
    ids_T = torch.tensor(json.load(sys.stdin))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True).eval()
    assert "sinkctl" not in sys.modules
    logits_TV = model(ids_T[None], use_cache=False).logits[0, :-1].float()
    nll_T = cross_entropy(logits_TV, ids_T[1:], reduction="none")
    print(json.dumps({"class": type(model).__name__, "nll": nll_T.tolist()}))


if __name__ == "__main__":
    main(flags().folder)
