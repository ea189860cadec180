"""Models as operator graphs: recorded, traversed backwards, and run in part."""
