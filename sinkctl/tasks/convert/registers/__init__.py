"""Give vision transformers registers."""
