"""The gallery: scripts of the core and the plugins, run and written as pages that can't rot."""

from explainkit.gallery.builder import Built, build

__all__ = ["Built", "build"]
