"""Metrics of a checkpoint: one a file, one definition, one test against a closed form."""
