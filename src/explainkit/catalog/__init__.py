"""What exists: plugins are found, and a name becomes an object."""
