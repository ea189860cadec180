"""The errors that explainkit raises on purpose.

Each is one line that says what was expected, what came, and what to do. Anything else that
escapes is a bug, or an error of the caller's own model.
"""


class ExplainkitError(Exception):
    """Base of every error that explainkit raises on purpose."""


class InputError(ExplainkitError, ValueError):
    """The images can't be explained: wrong type, shape, device, or values that are not finite."""


class ModelError(ExplainkitError, RuntimeError):
    """The model can't be loaded, fails on the images, or its output can't be read as scores."""


class TargetError(ExplainkitError, ValueError):
    """The target names nothing that the model's output has."""


class MethodError(ExplainkitError, ValueError):
    """A method got parameters it doesn't take, or returned something that is not a map."""


class DatasetError(ExplainkitError, ValueError):
    """A data set can't be read; names the file, the row and the reason."""


class PluginError(ExplainkitError, RuntimeError):
    """A plugin that was asked for did not load or breaks its contract."""


class UnknownNameError(ExplainkitError, LookupError):
    """A name is not registered, or belongs to several plugins."""


class RenderError(ExplainkitError, RuntimeError):
    """An image can't be drawn or written as asked."""


class StorageError(ExplainkitError, RuntimeError):
    """A saved result is incomplete, was changed, or can't be written."""


class GalleryError(ExplainkitError, RuntimeError):
    """A gallery script can't be read, fails, or takes too long; its traceback is in the notes."""


class ExplainkitWarning(UserWarning):
    """A result is valid but needs a remark; also recorded in ``Explanation.diagnostics``."""
