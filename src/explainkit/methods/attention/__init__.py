"""Methods for transformers: attention matrices and rules for attention."""
