"""Incremental inference: recomputing only what a local change of an image affects."""
