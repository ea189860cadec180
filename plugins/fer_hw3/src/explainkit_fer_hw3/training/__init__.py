"""Training the study's networks: the recipe, one run, and its checkpoints."""
