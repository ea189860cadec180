"""Activation maximization: images that a unit, a layer or a class responds to most."""
