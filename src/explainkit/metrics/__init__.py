"""Metrics of saliency maps, and the scorecard that judges them."""
