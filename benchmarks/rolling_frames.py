"""A causal video transformer with a rolling window: its first frames kept or dropped.

    python benchmarks/rolling_frames.py            (needs the extra `diffusion`; a CPU, about a minute)

The block-causal form of SkyReels-V2 in diffusers (diffusion forcing: frames of the past are clean, at timestep 0), tiny
and random, and the same with a sink planted in its first block of frames. Each next block is made from noise by Euler
steps of a flow, from all blocks before it, from the first one and the last W, or from the last W + 1, the past being
the same for all three; positions count inside what is kept. How far it then is from the block that all of the past
gives, as a share of its norm, and how much attention of its frames goes to the first block kept, a mean over layers and
heads.
No real video model was at hand: this shows the mechanism, and not what it is worth.
"""

import argparse


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch
from diffusers import SkyReelsV2Transformer3DModel
from torch import Tensor, nn

FRAMES, SIZE, CHANNELS, HEADS, WIDTH, LAYERS = 2, 4, 4, 4, 24, 2  # frames a block; latents of 4 × 4
BLOCKS, WINDOW, STEPS, CHANNEL = 12, 3, 4, 5
TOKENS = FRAMES * (SIZE // 2) ** 2  # a block


class Maps:
    """A processor that does what the stock one does for self-attention, and keeps what the last block attends to."""

    def __init__(self):
        self.first: list[float] = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        q, k = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(q), attn.norm_k(k)))
        q, k = (turned(x, *rotary_emb).transpose(1, 2) for x in (q, k))
        score = (q @ k.mT) * WIDTH**-0.5
        a = score.masked_fill(~attention_mask, -torch.inf).softmax(-1)
        self.first.append(float(a[:, :, -TOKENS:, :TOKENS].sum(-1).mean()))
        out = (a @ v.unflatten(2, (attn.heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


@torch.no_grad()
def made(planted: bool) -> SkyReelsV2Transformer3DModel:
    torch.manual_seed(0)
    model = SkyReelsV2Transformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=WIDTH, in_channels=CHANNELS, out_channels=CHANNELS, text_dim=16,
        freq_dim=32, ffn_dim=128, num_layers=LAYERS, rope_max_seq_len=64, num_frame_per_block=FRAMES,
    ).eval()  # fmt: skip
    if planted:
        embed = model.patch_embedding
        embed.weight[CHANNEL], embed.bias[CHANNEL] = 0, -60.0
        embed.weight[CHANNEL, 0] = 6.0  # of four values near 5 in the first block, near 0 elsewhere: +60, else −60
        slow = torch.zeros(HEADS, WIDTH)
        slow[:, [6, 7, 14, 15, 22, 23]] = 1.0  # the pairs that turn least, of time, rows and columns
        for block in model.blocks:
            block.scale_shift_table.zero_()  # of the first two: no shift of channel 5
            for layer in (block.attn1.to_q, block.attn1.to_k):
                layer.weight.zero_()
                layer.bias.zero_()
            block.attn1.to_q.bias.copy_(slow.flatten())
            block.attn1.to_k.weight[:, CHANNEL] = slow.flatten()
        for part in model.condition_embedder.time_proj.parameters():
            part[: 2 * HEADS * WIDTH] = 0
    return model


@torch.no_grad()
def next_block(model: nn.Module, past: list[Tensor], noise: Tensor, text: Tensor) -> tuple[Tensor, float]:
    """(a block of frames behind those of `past`, the share of its attention that the first of them gets)."""
    maps, x = Maps(), noise
    for block in model.blocks:
        block.attn1.set_processor(maps)
    frames = FRAMES * (len(past) + 1)
    for step in range(STEPS):
        time = torch.zeros(1, frames)
        time[:, -FRAMES:] = 1000 * (1 - step / STEPS)
        whole = torch.cat([*past, x], dim=2)
        flow = model(whole, time.long(), text, enable_diffusion_forcing=True, return_dict=False)[0][:, :, -FRAMES:]
        x = x - flow / STEPS
    return x, sum(maps.first) / len(maps.first)


@torch.no_grad()
def checked(model: nn.Module, text: Tensor) -> None:
    """The processor here gives what the stock one does, and blocks see none that come later."""
    video = torch.randn(1, CHANNELS, 4 * FRAMES, SIZE, SIZE)
    time = torch.full((1, 4 * FRAMES), 7)
    stock = [block.attn1.processor for block in model.blocks]
    expected = model(video, time, text, enable_diffusion_forcing=True, return_dict=False)[0]
    for block in model.blocks:
        block.attn1.set_processor(Maps())
    found = model(video, time, text, enable_diffusion_forcing=True, return_dict=False)[0]
    cut = model(video[:, :, :-FRAMES], time[:, :-FRAMES], text, enable_diffusion_forcing=True, return_dict=False)[0]
    for block, processor in zip(model.blocks, stock, strict=True):
        block.attn1.set_processor(processor)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (cut - expected[:, :, :-FRAMES]).abs().max() < 1e-5 * expected.abs().max()


def main() -> None:
    text = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(1))
    kept, dropped = f"first + last {WINDOW}", f"last {WINDOW + 1}"
    print(
        f"{BLOCKS} blocks of {FRAMES} frames: how far from the block that all of the past gives; attention to the first"
    )
    print(f"{'model':8} {'block':>5} {kept:>14} {dropped:>14}   all, {kept}, {dropped}")
    for planted in (False, True):
        model, draw = made(planted), torch.Generator().manual_seed(2)
        checked(model, text)
        shape = (1, CHANNELS, FRAMES, SIZE, SIZE)
        first = torch.randn(shape, generator=draw)
        first[:, 0] += 5.0
        past = [first]
        for number in range(1, BLOCKS):
            noise = torch.randn(shape, generator=draw)
            ways = {"all": past, "kept": past[:1] + past[1:][-WINDOW:], "dropped": past[-WINDOW - 1 :]}
            found = {name: next_block(model, own, noise, text) for name, own in ways.items()}
            whole = found["all"][0]
            far = {name: float((x - whole).norm() / whole.norm()) for name, (x, _) in found.items()}
            name = "planted" if planted else "random"
            if number > WINDOW:  # before, all three are the same
                shares = " ".join(f"{found[way][1]:.3f}" for way in ways)
                print(f"{name:8} {number:5} {far['kept']:14.1e} {far['dropped']:14.1e}   {shares}", flush=True)
            else:
                assert far["kept"] == far["dropped"] == 0
            past.append(whole)


if __name__ == "__main__":
    main()
