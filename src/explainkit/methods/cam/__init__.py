"""Class-activation maps: what a layer's channels say, where, weighted by what they mean."""
