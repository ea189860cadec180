"""Results: explanations and visualizations, which can be plotted, saved and loaded."""
