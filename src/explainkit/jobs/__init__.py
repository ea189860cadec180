"""Whole data sets: planned, computed in shards, stored, resumed, verified and exported."""
