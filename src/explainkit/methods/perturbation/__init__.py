"""Black-box methods: what the score does when parts of the image are taken away."""
