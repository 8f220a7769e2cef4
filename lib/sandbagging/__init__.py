"""Sandbagging, shown step by step: collection, sparse autoencoders, controls, and the heads that matter."""

__version__ = "0.1.0"
