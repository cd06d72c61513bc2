"""Training: data, attention, losses and optimizers, states to resume from, the checkpoint and its control."""
