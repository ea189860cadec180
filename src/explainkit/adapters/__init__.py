"""Other people's models and images: where they come from, and what happens to them on the way."""
