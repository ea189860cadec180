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


class ModelLookupError(ModelError, LookupError):
    """A model's file does not exist, or the model has no such layer."""


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


LONGEST = 300
"""Characters of another's text in a message of ours."""


def line(error: BaseException) -> str:
    """An error's type and message, in one printable line of bounded length.

    Examples:
        >>> line(ValueError("no")), line(ValueError("x" * 10**6))[-3:]
        ('ValueError: no', 'xx…')
    """
    kind = type(error).__name__
    try:
        text = str(error).strip().splitlines()
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - also __str__ can be anybody's code
        return clipped(f"{kind}, whose message can't be read")
    return clipped(f"{kind}: {text[0]}" if text else kind)


def clipped(text: str) -> str:
    """A text without control characters and of bounded length."""
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return "".join(char if char.isprintable() else "�" for char in short)
