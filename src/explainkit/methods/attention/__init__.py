"""What transformers attend to, weighted by what it means for the score."""
