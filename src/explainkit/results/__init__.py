"""What users hold in their hands: results that draw, save and describe themselves."""
