"""What a diffusion transformer is shown: its own latents, from noise to image, a set of samples a step.

C, H and W are channels, rows and columns of a latent; P patches.
"""

from collections.abc import Callable

import torch

from sinkctl.errors import UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import InputSettings
from sinkctl.tasks.measure.input_set import InputSet

BATCH = 8
KIND = "denoising"


@torch.no_grad()
def of_steps(settings: InputSettings, loaded: LoadedModel, told: Callable[[str, float], None]) -> list[InputSet]:
    """Latents before every step of a DDIM trajectory (deterministic, without guidance); classes in their order."""
    if settings.files or set(settings.kinds) != {"natural"}:
        raise UsageError(f"{loaded.name} is a diffusion transformer and begins with noise; leave inputs out")
    model, scheduler, device = loaded.model, loaded.processor, loaded.device
    own, most = model.denoiser.config, scheduler.config.num_train_timesteps
    if settings.steps > most:
        raise UsageError(f"input.steps={settings.steps}: the scheduler of {loaded.name} has {most}; take at most those")
    draw = torch.Generator().manual_seed(settings.seed)
    shape = (settings.samples, own.in_channels, own.sample_size, own.sample_size)
    latent_NCHW = torch.randn(shape, generator=draw)
    class_N = torch.arange(settings.samples) % own.num_embeds_ada_norm
    scheduler.set_timesteps(settings.steps)
    columns, found = own.sample_size // own.patch_size, []
    for number, time in enumerate(scheduler.timesteps):
        given = [
            {"hidden_states": latent_NCHW[n : n + 1], "timestep": time.view(1), "class_labels": class_N[n : n + 1]}
            for n in range(settings.samples)
        ]
        predicted = []
        for first in range(0, settings.samples, BATCH):
            part = slice(first, first + BATCH)
            latent_BCHW, class_B = latent_NCHW[part].to(device, loaded.dtype), class_N[part].to(device)
            out = model(latent_BCHW, time.expand(len(class_B)).to(device), class_B)
            told("denoising", (number + first / settings.samples) / settings.steps)
            predicted.append(out[:, : own.in_channels].float().cpu())  # behind it, a variance where one is learned
        note = f"latents of {settings.samples} trajectories of {settings.steps} steps, classes from 0, no guidance; "
        note += "numbers that name no step, such as sink_rate, are those of step 1"
        found.append(
            InputSet(
                f"step {number + 1} of {settings.steps}, t = {int(time)}", KIND, None, list(latent_NCHW),
                lambda sample, index: "patch {},{}".format(*divmod(index, columns)), note if not number else None,
                given=given, lengths=[columns**2] * settings.samples,
            )
        )  # fmt: skip
        latent_NCHW = scheduler.step(torch.cat(predicted), time, latent_NCHW).prev_sample
    return found
