"""Checkpoints: loading them, running them with their attention replaced, and finding how they use positions."""
