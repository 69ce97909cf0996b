"""Workloads of modules, and what implementations make of them; for tests of what computes modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnbench import ModuleInputs, Workload, registry
from attnbench.case import Option
from attnbench.inputs import draw
from attnbench.workload import SHAPES

__all__ = ["make_workload", "placed", "results", "why_unsupported"]

SMALL = {"batch": 2, "embed_dim": 16, "heads": 4}


def make_workload(operation: str, mask: str = "none", dtype: str = "float64", **axes: Any) -> Workload:
    """A small workload; `pass_` and the axes of the shape can be given by name."""
    pass_ = axes.pop("pass_", "forward")
    sizes: dict[str, Any] = dict(SMALL)
    if operation == "positional_encoding":
        del sizes["heads"]
    if not {"q_len", "kv_len"} & axes.keys():
        sizes["seq_len"] = 6
    return Workload(operation, SHAPES[operation].from_axes({**sizes, **axes}), mask, dtype, pass_)


def why_unsupported(
    name: str, workload: Workload, device: str = "cpu", options: Mapping[str, Option] | None = None
) -> str | None:
    """What the implementation's own `supports` says."""
    implementation = registry.current().get(name)
    return implementation.supports(workload, implementation.with_defaults(options or {}), device)


def placed(name: str, workload: Workload, seed: int = 0) -> ModuleInputs:
    """Inputs for that implementation."""
    inputs: ModuleInputs = draw(workload, seed).place(registry.current().get(name).framework, "cpu")
    return inputs


def results(
    name: str,
    workload: Workload,
    options: Mapping[str, Option] | None = None,
    inputs: ModuleInputs | None = None,
) -> dict[str, Tensor]:
    """All that the pass computes, by name; of the second of two calls, so that what is kept is used."""
    implementation = registry.current().get(name)
    kernel = implementation.load(workload, implementation.with_defaults(options or {}))
    x = placed(name, workload) if inputs is None else inputs
    with torch.set_grad_enabled(workload.pass_ != "forward"):
        kernel(x)
        found = kernel(x)
        values = list(found) if isinstance(found, tuple) else [found]
        if workload.pass_ != "forward":
            gradients = torch.autograd.grad(values[0], list(x.leaves().values()), draw(workload, 0).grad_out)
            values = [*values, *gradients] if workload.pass_ == "forward_backward" else list(gradients)
    tensors = [torch.from_numpy(each) if isinstance(each, np.ndarray) else each.detach() for each in values]
    names = workload.results()
    assert [tuple(each.shape) for each in tensors] == list(names.values())
    return dict(zip(names, tensors, strict=True))
