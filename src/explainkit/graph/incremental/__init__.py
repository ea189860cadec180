"""Recomputing only what a local change of an image touches."""
