"""What a model does, as operators: recorded, walked backwards, run in part."""
