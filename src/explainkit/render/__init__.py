"""Figures and reports: the only place where maps are reduced, clipped and colored."""
