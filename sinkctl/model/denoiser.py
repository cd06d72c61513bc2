"""A diffusion transformer (DiT), by diffusers, in the form that the rest measures: blocks that attend by transformers'
attention interface."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.fingerprint import folder_fingerprint
from sinkctl.model.load import LoadedModel, chosen_device, explained, wanted_dtype
from sinkctl.model.settings import ModelSettings
from sinkctl.model.undocumented import attends_by
from sinkctl.model.weights import check_weights

SCHEDULER = "scheduler"  # the folder of a pipeline that says how noise is taken away


class DenoiserConfig(PreTrainedConfig):
    model_type = "dit"


class Denoiser(PreTrainedModel):
    """The stock class inside, whose layers attend as those of transformers do."""

    config_class = DenoiserConfig
    base_model_prefix = "denoiser"
    _supports_sdpa = True

    def __init__(self, config: DenoiserConfig, denoiser: nn.Module):
        super().__init__(config)
        self.denoiser = denoiser
        for block in denoiser.transformer_blocks:
            block.attn1.is_causal = False
            block.attn1.set_processor(_Asking(config, block.attn1.processor))

    def forward(self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """Latents [B, C, H, W] at timesteps [B] of classes [B] → what the model predicts of them."""
        return self.denoiser(hidden_states, timestep=timestep, class_labels=class_labels, return_dict=False)[0]


class _Asking:
    """A processor of diffusers that computes what its AttnProcessor2_0 does, by the attention function in force."""

    def __init__(self, config: DenoiserConfig, stock: Any):
        self.config, self.stock = config, stock

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        by = attends_by(self.config)
        if by == "sdpa":  # as it is
            return self.stock(attn, hidden_states, *args, **kwargs)
        q, k, v = (
            layer(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        out_BTHE, _ = AttentionInterface()[by](attn, q, k, v, None, scaling=q.shape[-1] ** -0.5)
        return attn.to_out[1](attn.to_out[0](out_BTHE.flatten(2)))


def load_denoiser(settings: ModelSettings) -> LoadedModel:
    """What `sinkctl.model.load.load` returns; `processor` is the pipeline's scheduler, DDIM's own where it has none.

    ModelError without diffusers, and for weights that do not fit the config.
    """
    name, choices = settings.name, {}
    if find_spec("diffusers") is None:
        raise ModelError(f"{name} is a diffusion transformer, which needs diffusers; pip install 'sinkctl[diffusion]'")
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    device = chosen_device(settings.device, choices)
    with explained(name):
        dtype = wanted_dtype(settings.dtype, device, choices, kept=False)
        stock, report = DiTTransformer2DModel.from_pretrained(
            name, torch_dtype=torch.float32 if dtype == "auto" else dtype, output_loading_info=True,
            use_safetensors=None if settings.allow_pickle else True,
        )  # fmt: skip
        own = stock.config
        config = DenoiserConfig(
            num_hidden_layers=own.num_layers, num_attention_heads=own.num_attention_heads, attn_implementation="sdpa",
            hidden_size=own.num_attention_heads * own.attention_head_dim, patch_size=own.patch_size,
        )  # fmt: skip
        model = Denoiser(config, stock).to(device).eval()
        check_weights(name, model, {"mismatched_keys": [], **report})
        beside = Path(name).parent / SCHEDULER
        there = (beside / "scheduler_config.json").is_file()
        # DDIM's own default cuts what it takes for the image to ±1, which latents exceed and other schedulers leave.
        says = there and "clip_sample" in DDIMScheduler.load_config(beside)
        unclipped = {} if says else {"clip_sample": False}
        scheduler = DDIMScheduler.from_pretrained(beside, **unclipped) if there else DDIMScheduler(**unclipped)
        choices["scheduler"] = f"DDIM, by {beside}" if there else "DDIM as diffusers has it: none beside the model"
        choices["scheduler"] += f"; clip_sample={scheduler.config.clip_sample}" + ", as stored" * says
    fingerprint = folder_fingerprint(Path(name))
    return LoadedModel(model, None, name, fingerprint, choices, "diffusion", scheduler, settings=settings)
