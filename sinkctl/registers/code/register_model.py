"""What gives a stock vision transformer the test-time registers that its config.json describes.

Needs torch and transformers alone: sinkctl copies this file into the checkpoints it writes.

Shapes: B batch, T tokens, C hidden width, F width of the MLP, K register neurons of a layer.
"""

import torch
from torch import Tensor, nn


class RegisterModel:
    """In front of a stock class: adds tokens behind [CLS], and moves register neurons to them.

    `config.test_time_registers` has `count`, and `neurons`: layer → indices into what its MLP's last linear layer
    takes. `last_hidden_state` leaves the registers out, as the stock class has none; `hidden_states` and `attentions`
    have them, from place 1.
    """

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        said, base = config.test_time_registers, self.base_model
        base.embeddings.register_tokens = nn.Parameter(torch.zeros(1, said["count"], config.hidden_size), False)
        base.embeddings.register_forward_hook(_Added(base.embeddings))
        outputs = mlp_outputs(base, config.hidden_size)
        for layer, neurons in said["neurons"].items():
            outputs[int(layer)].register_forward_pre_hook(_Moved(said["count"], list(neurons)))
        base.layernorm.register_forward_hook(_LeftOut(said["count"]))


def mlp_outputs(base: nn.Module, hidden: int) -> dict[int, nn.Module]:
    """Layer → the linear layer with which its MLP writes, whatever this version of transformers calls it."""
    found = {}
    for name, module in base.named_modules():
        numbers = [part for part in name.split(".") if part.isdigit()]
        if numbers and "attention" not in name and getattr(module, "out_features", None) == hidden:
            found[int(numbers[0])] = module  # the last one counts
    return found


# Objects, not closures: so that a copied model has its own.
class _Added:
    """After the embeddings: the registers behind [CLS]."""

    def __init__(self, embeddings: nn.Module):
        self.embeddings = embeddings

    def __call__(self, module: nn.Module, inputs: tuple, out_BTC: Tensor) -> Tensor:
        own = self.embeddings.register_tokens.to(out_BTC.dtype).expand(len(out_BTC), -1, -1)
        return torch.cat([out_BTC[:, :1], own, out_BTC[:, 1:]], dim=1)


class _Moved:
    """Before an MLP's last layer: the largest activation of each register neuron over patches goes to the registers.

    At the patches it is 0; [CLS] keeps its own. Largest by size, with its sign.
    """

    def __init__(self, count: int, neurons: list[int]):
        self.count, self.neurons = count, neurons

    def __call__(self, module: nn.Module, inputs: tuple) -> tuple:
        x_BTF, first = inputs[0], 1 + self.count
        patch_BTK = x_BTF[:, first:, self.neurons]
        top_B1K = patch_BTK.gather(1, patch_BTK.abs().argmax(1, keepdim=True))
        new_BTK = torch.cat(
            [x_BTF[:, :1, self.neurons], top_B1K.expand(-1, self.count, -1), torch.zeros_like(patch_BTK)], dim=1
        )
        x_BTF = x_BTF.clone()
        x_BTF[..., self.neurons] = new_BTK
        return (x_BTF, *inputs[1:])


class _LeftOut:
    """After the last norm: the registers go."""

    def __init__(self, count: int):
        self.count = count

    def __call__(self, module: nn.Module, inputs: tuple, out_BTC: Tensor) -> Tensor:
        return torch.cat([out_BTC[:, :1], out_BTC[:, 1 + self.count :]], dim=1)
