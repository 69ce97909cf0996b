"""The built-in implementations: a plug-in like anybody else's. Importing it imports no framework."""

from __future__ import annotations

from attnbench_impls.chunked import IMPLEMENTATION as CHUNKED
from attnbench_impls.flex import FLEX
from attnbench_impls.naive import IMPLEMENTATION as NAIVE
from attnbench_impls.numpy_attention import IMPLEMENTATION as NUMPY
from attnbench_impls.numpy_chunked import IMPLEMENTATION as NUMPY_CHUNKED
from attnbench_impls.sdpa import SDPA, SDPA_CUDNN, SDPA_EFFICIENT, SDPA_FLASH, SDPA_MATH

__all__ = [
    "CHUNKED",
    "FLEX",
    "NAIVE",
    "NUMPY",
    "NUMPY_CHUNKED",
    "SDPA",
    "SDPA_CUDNN",
    "SDPA_EFFICIENT",
    "SDPA_FLASH",
    "SDPA_MATH",
]
