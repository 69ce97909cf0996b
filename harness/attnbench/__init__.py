"""attnbench measures attention implementations side by side: latency, memory and numerical error.

Everything here is imported when first used, so that `import attnbench` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.implementation import AttentionInputs, Implementation, ModuleInputs, attention
    from attnbench.masks import Mask
    from attnbench.shapes import (
        AttentionShape,
        DecoderLayerShape,
        EncoderLayerShape,
        MhaShape,
        PositionsShape,
        TransformerShape,
    )
    from attnbench.table import load
    from attnbench.workload import Workload

__version__ = "0.1.0"

_HOMES = {
    "AttentionInputs": "attnbench.implementation",
    "AttentionShape": "attnbench.shapes",
    "DecoderLayerShape": "attnbench.shapes",
    "EncoderLayerShape": "attnbench.shapes",
    "Implementation": "attnbench.implementation",
    "Mask": "attnbench.masks",
    "MhaShape": "attnbench.shapes",
    "ModuleInputs": "attnbench.implementation",
    "PositionsShape": "attnbench.shapes",
    "TransformerShape": "attnbench.shapes",
    "Workload": "attnbench.workload",
    "attention": "attnbench.implementation",
    "load": "attnbench.table",
}

__all__ = [
    "AttentionInputs",
    "AttentionShape",
    "DecoderLayerShape",
    "EncoderLayerShape",
    "Implementation",
    "Mask",
    "MhaShape",
    "ModuleInputs",
    "PositionsShape",
    "TransformerShape",
    "Workload",
    "__version__",
    "attention",
    "load",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'attnbench' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
