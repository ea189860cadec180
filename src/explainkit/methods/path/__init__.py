"""Methods that add up gradients along a path from where nothing is seen to the image."""
