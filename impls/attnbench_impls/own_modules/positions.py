"""Sinusoidal positional encoding by `attnbench_impls.SinusoidalPositionalEncoding`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnbench.implementation import Implementation, ModuleInputs, Options
from attnbench.workload import Workload
from attnbench_impls.prepared import Call, prepared

__all__ = ["POSITIONAL_ENCODING"]


def load(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
    """x + PE, of which the table is made before the first call."""
    del options
    from attnbench_impls.modules import SinusoidalPositionalEncoding

    shape = workload.shape

    def prepare(x: ModuleInputs) -> Call:
        first = x.tensors["x"]
        module = SinusoidalPositionalEncoding(
            shape.embed_dim, shape.seq_len, shape.batch_first, device=first.device, dtype=first.dtype
        )
        return lambda x: module(x.tensors["x"])

    return prepared(prepare)


POSITIONAL_ENCODING = Implementation(
    name="positional_encoding",
    operation="positional_encoding",
    framework="torch",
    summary="ours: adds a table of sines and cosines, which is made once",
    memory="O(1); the table, O(L·E), is kept between calls",
    flops="O(B·L·E)",
    source="Vaswani et al., Attention Is All You Need (2017), §3.5",
    load=load,
)
