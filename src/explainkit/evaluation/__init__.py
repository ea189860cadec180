"""Methods judged and compared over many images."""
