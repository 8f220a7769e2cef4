"""Attention heads: ablating them, searching them, sets and random sets of them, patching, and what they attend to and write."""
