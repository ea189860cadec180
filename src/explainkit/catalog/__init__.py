"""The catalog: finds plugins, and turns registered names into objects."""
