"""Sinusoidal positional encoding in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbench.implementation import Implementation, ModuleInputs, Options
from attnbench.workload import Workload
from attnbench_impls.prepared import Call, prepared

__all__ = ["IMPLEMENTATION", "sinusoidal_encoding"]

Array = npt.NDArray[Any]

#: Wavelengths grow from 2π to this times 2π.
BASE = 10_000.0


def sinusoidal_encoding(length: int, embed_dim: int) -> Array:
    """PE[p, 2i] = sin(p / 10000^(2i/E)) and PE[p, 2i + 1] = cos(same), float64 `[length, E]`."""
    features = np.arange(embed_dim)
    angles = np.arange(length)[:, None] / BASE ** ((features - features % 2) / embed_dim)
    return np.where(features % 2 == 0, np.sin(angles), np.cos(angles))


def load(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
    """x + PE, of which the table is made before the first call."""
    del options
    shape = workload.shape

    def prepare(x: ModuleInputs) -> Call:
        table = sinusoidal_encoding(shape.seq_len, shape.embed_dim).astype(x.tensors["x"].dtype)
        if not shape.batch_first:
            table = table[:, None]
        return lambda x: x.tensors["x"] + table

    return prepared(prepare)


IMPLEMENTATION = Implementation(
    name="numpy_positional_encoding",
    operation="positional_encoding",
    framework="numpy",
    summary="adds a table of sines and cosines, which is made once, in NumPy",
    memory="O(1); the table, O(L·E), is kept between calls",
    flops="O(B·L·E)",
    source="Vaswani et al., Attention Is All You Need (2017), §3.5",
    load=load,
)
