"""Running methods on one model: what goes in, how much at once, what comes out."""
