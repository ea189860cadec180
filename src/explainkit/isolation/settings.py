"""Settings of torch that hold for the whole process or thread, read and put back."""

from collections.abc import Callable
from typing import Any

import torch
from torch.backends import cuda, cudnn

Access = tuple[Callable[[], Any], Callable[[Any], Any]]


def _attribute(owner: Any, name: str) -> Access:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


SETTINGS: dict[str, Access] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "deterministic algorithms": (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda modes: torch.use_deterministic_algorithms(modes[0], warn_only=modes[1]),
    ),
    "cudnn.enabled": _attribute(cudnn, "enabled"),
    "cudnn.benchmark": _attribute(cudnn, "benchmark"),
    "cudnn.deterministic": _attribute(cudnn, "deterministic"),
    "flash attention": (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    "memory-efficient attention": (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    "math attention": (cuda.math_sdp_enabled, cuda.enable_math_sdp),
    "cudnn attention": (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "anomaly detection": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
}
"""For each setting, how it is read and written."""


def read_settings() -> dict[str, Any]:
    """The current values."""
    return {name: read() for name, (read, _) in SETTINGS.items()}


def write_settings(values: dict[str, Any]) -> None:
    """Sets those that differ now."""
    for name, value in values.items():
        read, write = SETTINGS[name]
        if read() != value:
            write(value)
