"""A stand-in for torchvision, from which pytorch-grad-cam and zennit import names when loaded.

The parity table compares nothing that uses them: every name is an empty class.
"""

import sys
import types

from torch import nn

for _path, _names in {
    "transforms": ("Compose", "Normalize", "ToTensor"),
    "transforms.functional": ("resize",),
    "ops": ("box_iou", "FrozenBatchNorm2d"),
    "models": (),
    "models.resnet": ("BasicBlock", "Bottleneck"),
}.items():
    _module = types.ModuleType(f"{__name__}.{_path}")
    for _name in _names:
        setattr(_module, _name, type(_name, (nn.Module,), {}))
    sys.modules[_module.__name__] = _module
    _parent, _, _last = _module.__name__.rpartition(".")
    setattr(sys.modules[_parent], _last, _module)
