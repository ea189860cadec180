"""A stand-in for IPython, which Lucent imports to show images in a notebook; it shows nothing."""

import sys
import types

display = sys.modules[f"{__name__}.display"] = types.ModuleType(f"{__name__}.display")
