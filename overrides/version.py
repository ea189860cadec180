"""Shows the version of explainkit at the foot of every page."""

from typing import Any

import explainkit


def on_config(config: Any) -> Any:
    """Called by mkdocs before it builds."""
    config["copyright"] = f"explainkit {explainkit.__version__}"
    return config
