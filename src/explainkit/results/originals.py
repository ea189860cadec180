"""An explanation's original images and their geometries, as they are stored."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from explainkit.adapters.geometry import Geometry

NONE: Mapping[str, Any] = {"originals": None, "geometries": None, "names": []}
"""What a record without originals holds."""


def check(fields: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError unless originals, geometries and names fit the inputs."""
    inputs, originals, geometries = (fields[n] for n in ("inputs", "originals", "geometries"))
    if fields["names"] and len(fields["names"]) != len(inputs):
        raise ValueError(f"names: expected {len(inputs)}, got {len(fields['names'])}")
    if originals is None and geometries is None:
        return
    if originals is None or geometries is None:
        raise TypeError("originals and geometries: expected both or neither")
    if not len(originals) == len(geometries) == len(inputs):
        raise ValueError(f"originals and geometries: expected {len(inputs)} of each")
    for original, geometry in zip(originals, geometries, strict=True):
        if not isinstance(geometry, Geometry):
            raise TypeError(f"geometries: expected a Geometry, got {geometry!r:.40}")
        if geometry.size != tuple(inputs.shape[2:]):
            raise ValueError(
                f"geometries: expected the inputs' size {list(inputs.shape[2:])}, got "
                f"{list(geometry.size)}"
            )
        shape = (*geometry.original, 3)
        if getattr(original, "dtype", None) != np.uint8 or original.shape != shape:
            raise ValueError(f"originals: expected uint8 {list(shape)}, got {original!r:.40}")


def storable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Originals as tensors and geometries as JSON."""
    if fields["originals"] is None:
        return {}
    return {
        "originals": [torch.from_numpy(one) for one in fields["originals"]],
        "geometries": [geometry.to_dict() for geometry in fields["geometries"]],
    }


def loaded(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `storable` made, as it was."""
    if values["originals"] is None or values["geometries"] is None:
        return {}
    return {
        "originals": tuple(one.numpy() for one in values["originals"]),
        "geometries": tuple(map(Geometry.from_dict, values["geometries"])),
    }
