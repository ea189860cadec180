"""The gallery: scripts of the core and the plugins, executed and written as pages."""

from explainkit.gallery.builder import Built, build

__all__ = ["Built", "build"]
