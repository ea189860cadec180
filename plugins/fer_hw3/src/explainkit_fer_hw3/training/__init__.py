"""Training the study's networks: what is done (`recipe`), and how it is kept safe (`run`)."""
