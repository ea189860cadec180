"""What the study measures: numbers first, figures and words after them."""
