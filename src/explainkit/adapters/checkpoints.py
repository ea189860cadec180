"""Weights from files: read, unwrapped, and matched with a model."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from explainkit.errors import ModelError, ModelLookupError, line

PICKLED = frozenset({".pt", ".pth", ".ckpt", ".bin", ".pkl", ".tar"})
"""Suffixes of files that torch.save writes."""

_HOLDERS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights",
)  # fmt: skip
"""Keys under which training scripts keep a model's weights."""

_WRAPPERS = frozenset({"module", "model", "net", "network"})
"""Attributes under which wrappers such as DataParallel or a LightningModule keep the model."""

_COMPILED = "_orig_mod."
"""What `torch.compile` adds to the path of a module."""

_UNUSED = "num_batches_tracked"
"""A buffer of batch normalization that old checkpoints lack; eval mode does not read it."""


def read_state(path: str | Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Reads the weights in a file, unwrapped from the dictionaries around them.

    Args:
        path: A ``.safetensors`` file, or a checkpoint that ``torch.save`` wrote.
        allow_pickle: Also read pickled checkpoints, with ``weights_only=True``: tensors and plain
            values, no code.

    Raises:
        ModelError: The file can't be read, is pickled, or holds no weights.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "last.ckpt"
        >>> torch.save({"epoch": 3, "state_dict": {"net.weight": torch.zeros(2)}}, file)
        >>> read_state(file, allow_pickle=True)
        {'net.weight': tensor([0., 0.])}
    """
    path = Path(path)
    if path.suffix.lower() not in PICKLED:
        return read_safetensors(path)[0]
    if not allow_pickle:
        raise ModelError(
            f"expected a .safetensors file, got {path}: pickled checkpoints can run code when they "
            "are loaded; allow_pickle=True (--allow-pickle) loads their tensors alone, and "
            "safetensors.torch.save_file writes a file that needs no permission"
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelLookupError(f"expected a weights file, found nothing at {path}") from None
    except Exception as error:
        # damaged archives raise almost anything; objects in them, UnpicklingError
        raise ModelError(
            f"expected a checkpoint of tensors and plain values, got {path}: {line(error)}; where "
            "it was trained, save model.state_dict() with safetensors.torch.save_file"
        ) from error
    return _innermost(found, path)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        ModelError: The file can't be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return state, file.metadata() or {}
    except FileNotFoundError:
        raise ModelLookupError(f"expected a weights file, found nothing at {path}") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"expected a safetensors file, got {path}: {error}") from error


def _innermost(found: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors in what a checkpoint holds."""
    while isinstance(found, Mapping):
        state = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        held = next((key for key in _HOLDERS if isinstance(found.get(key), Mapping)), None)
        if held is None and state:
            return state
        if held is None:
            raise ModelError(
                f"expected weights in {path}, under {', '.join(_HOLDERS[:4])} or by their names, "
                f"got {_some(map(str, found))}"
            )
        found = found[held]
    raise ModelError(f"expected a dictionary of weights in {path}, got {type(found).__name__}")


def load_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Loads weights into a model; all of them must be there and fit.

    The prefixes of wrappers are removed: ``module.``, ``model.``, ``net.``, ``_orig_mod.``, or any
    other under which all weights of the model are found. What lies beside them, such as the
    weights of a loss, belongs to the training.

    Args:
        module: The model; unchanged if this raises.
        state: From `read_state`.
        what: The model's name, for errors.

    Raises:
        ModelError: Weights are missing, left over, or of another shape; the message names them.
    """
    wanted = {_plain(name): name for name in module.state_dict()}
    given = {_plain(name): value for name, value in state.items()}
    prefix = _prefix(wanted.keys(), given.keys(), what)
    own = {name.removeprefix(prefix): v for name, v in given.items() if name.startswith(prefix)}
    buffers = {_plain(name) for name, _ in module.named_buffers()}
    missing = [n for n in wanted if n not in own and not n.endswith(_UNUSED)]
    unexpected = [n for n in own if n not in wanted and n not in buffers]
    if missing or unexpected:
        raise ModelError(
            f"expected weights of {what} ({len(wanted)} tensors), got {len(own)}: "
            + "; ".join(
                f"{len(names)} {kind}: {_some(names)}"
                for kind, names in (("missing", missing), ("unexpected", unexpected))
                if names
            )
        )
    current = module.state_dict()
    for name, full in wanted.items():
        if name in own and own[name].shape != current[full].shape:
            raise ModelError(
                f"expected {name!r} of {what} to be {list(current[full].shape)}, "
                f"got {list(own[name].shape)}: these weights are of another architecture"
            )
    module.load_state_dict({full: own.get(name, current[full]) for name, full in wanted.items()})


def outputs_in(module: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """The number of outputs that weights are made for, by the model's last layer; None: unknown.

    A network that was trained anew for other classes differs in its last layer alone.
    """
    last = _plain(list(module.state_dict())[-1])
    found = {len(v) for name, v in state.items() if _ends_with(_plain(name), last) and v.dim()}
    return found.pop() if len(found) == 1 else None


def _prefix(wanted: Iterable[str], given: Iterable[str], what: str) -> str:
    """The prefix under which the given names have all those that are wanted, or most."""
    wanted, given = set(wanted), set(given)
    needed = {name for name in wanted if not name.endswith(_UNUSED)}
    first = min(needed, default="")
    candidates = {name.removesuffix(first) for name in given if _ends_with(name, first)}
    complete = [p for p in candidates if all(p + name in given for name in needed)]
    if not complete:
        return max({"", *candidates}, key=lambda p: (sum(p + n in given for n in wanted), p == ""))
    usual = [p for p in complete if set(p.split(".")[:-1]) <= _WRAPPERS]
    chosen = usual if len(complete) > 1 else complete
    if len(chosen) == 1 or "" in chosen:
        return "" if "" in chosen else chosen[0]
    raise ModelError(
        f"expected the weights of {what} once, found them under "
        f"{' and '.join(map(repr, sorted(complete)))}: keep one of them in the file"
    )


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _plain(name: str) -> str:
    return name.replace(_COMPILED, "")


def _some(names: Iterable[str]) -> str:
    """The first few names."""
    names = list(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
