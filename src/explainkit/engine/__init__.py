"""The engine: runs methods on a model, in chunks, and checks what goes in and comes out."""
