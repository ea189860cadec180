"""The rows of the parity table, by peer, and the cases where a peer is wrong."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("torchvision") is None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))
