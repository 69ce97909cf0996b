"""Kernels that keep memory from call to call, each in another way.

In a file of their own: a kernel's globals are looked through for what it keeps, and those of a test lead into
the test runner.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from attnbench.implementation import AttentionInputs
from attnbench.units import KIB

Function = Callable[[AttentionInputs], Any]


def in_torch(x: AttentionInputs) -> Any:
    scores = x.q @ x.k.transpose(-2, -1) * x.scale
    allowed = x.mask.to_bool(x.q.device)
    return torch.softmax(scores if allowed is None else scores.masked_fill(~allowed, -1e9), dim=-1) @ x.v


def in_numpy(x: AttentionInputs) -> Any:
    scores = x.q @ x.k.swapaxes(-2, -1) * np.float32(x.scale)
    allowed = x.mask.to_bool()
    weights = np.exp(scores if allowed is None else np.where(allowed, scores, -np.inf))
    return weights / weights.sum(axis=-1, keepdims=True) @ x.v


WORKSPACES: dict[str, Any] = {}


@lru_cache
def workspace_of(size: int) -> Any:
    return np.ones(size, np.uint8)


def load_nothing(like: Function) -> Function:
    return like


def load_in_a_global(like: Function) -> Function:
    empty: Any = torch.empty if like is in_torch else np.empty
    dtype: Any = torch.uint8 if like is in_torch else np.uint8

    def kernel(x: AttentionInputs) -> Any:
        if "it" not in WORKSPACES:
            WORKSPACES["it"] = empty(64 * KIB, dtype=dtype)
        return like(x)

    return kernel


def load_in_a_closure(like: Function) -> Function:
    workspace: list[Any] = []

    def kernel(x: AttentionInputs) -> Any:
        if not workspace:
            # Two views of one block, and a block of its own.
            whole: Any = np.ones(32 * KIB, np.uint8)
            whole = torch.ones(32 * KIB, dtype=torch.uint8) if like is in_torch else whole
            workspace.extend([whole[: 16 * KIB], whole[16 * KIB :], torch.ones(8 * KIB)])
        return like(x)

    return kernel


def load_cached(like: Function) -> Function:
    def kernel(x: AttentionInputs) -> Any:
        workspace_of(64 * KIB)
        return like(x)

    return kernel


def load_as_output(like: Function) -> Function:
    outputs: list[Any] = []

    def kernel(x: AttentionInputs) -> Any:
        outputs[:] = outputs or [like(x)]
        outputs[0][...] = like(x)
        return outputs[0]

    return kernel


class Held:
    """A kernel with state of its own, as a module has it."""

    def __init__(self, like: Function) -> None:
        self.like = like
        self.workspace: Any = None

    def __call__(self, x: AttentionInputs) -> Any:
        self.workspace = np.ones(64 * KIB, np.uint8) if self.workspace is None else self.workspace
        return self.like(x)
