"""Black-box methods: how the score changes when parts of the image are hidden."""
