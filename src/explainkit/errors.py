"""The errors that explainkit raises.

Each message is one line: what was expected, what was given, and what to do. Any other exception is
a bug, or comes from the caller's own model.
"""


class ExplainkitError(Exception):
    """Base class of all errors that explainkit raises."""


class InputError(ExplainkitError, ValueError):
    """The images have the wrong type, shape or device, or are not finite."""


class ModelError(ExplainkitError, RuntimeError):
    """The model can't be loaded, fails on the images, or does not return scores."""


class TargetError(ExplainkitError, ValueError):
    """The target does not exist in the model's output."""


class MethodError(ExplainkitError, ValueError):
    """A method got invalid parameters, or did not return a valid map."""


class DatasetError(ExplainkitError, ValueError):
    """A data set can't be read; the message names the file, the row and the reason."""


class PluginError(ExplainkitError, RuntimeError):
    """A plugin did not load, or violates its contract."""


class UnknownNameError(ExplainkitError, LookupError):
    """A name is not registered, or is ambiguous."""


class RenderError(ExplainkitError, RuntimeError):
    """A figure or report can't be rendered or written as requested."""


class StorageError(ExplainkitError, RuntimeError):
    """A result can't be written, or a saved one is incomplete or was changed."""


class GalleryError(ExplainkitError, RuntimeError):
    """A gallery script can't be read, fails, or takes too long; the notes have its traceback."""


class ExplainkitWarning(UserWarning):
    """A result is valid but has limitations; also recorded in ``Explanation.diagnostics``."""
