"""Mechanisms that a model must learn with from random weights, one a file; no checkpoint can begin with them."""
