"""Unwritten memory made visible: it is filled with NaN, so a kernel that leaves part of its output shows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["is_poisoned", "poison", "poisoned"]

_poisoned = False

#: Keeps what `poison` entered: a context that nothing refers to any more is left.
_for_good = ExitStack()


def is_poisoned() -> bool:
    """Whether uninitialised memory is being filled in this process."""
    return _poisoned


def poison(*, fill: bool = True) -> None:
    """Fill uninitialised memory from now on, until this process ends; see `poisoned`."""
    if not _poisoned:
        _for_good.enter_context(poisoned(fill=fill))


@contextmanager
def poisoned(*, fill: bool = True) -> Iterator[None]:
    """Fill uninitialised memory with NaN within the context; without `fill` only what that entails.

    torch does it itself in its deterministic mode; its warnings about operations that have no deterministic
    form are silenced. `numpy.empty` and `numpy.empty_like` are replaced by versions that fill floats. A
    kernel that took them by name before (`from numpy import empty`), `numpy.ndarray(shape)` and compiled
    code that allocates for itself are out of reach. Without `fill` torch is in deterministic mode all the
    same: a kernel that fails there too fails because of the mode, not of what memory holds.
    """
    global _poisoned
    import torch

    # Its class defines its properties when it is imported, so type checkers cannot see them.
    deterministic: Any = import_module("torch.utils.deterministic")
    was = (
        _poisoned,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,
    )
    creators = {name: getattr(np, name) for name in ("empty", "empty_like")}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deterministic", category=UserWarning)
        torch.use_deterministic_algorithms(True, warn_only=True)
        deterministic.fill_uninitialized_memory = fill
        if fill:
            for name, create in creators.items():
                setattr(np, name, _filling(create))
        _poisoned = fill
        try:
            yield
        finally:
            for name, create in creators.items():
                setattr(np, name, create)
            _poisoned, enabled, warn_only, deterministic.fill_uninitialized_memory = was
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def _filling(create: Any) -> Any:
    """`create` (an ndarray's constructor) with floats and complex numbers filled with NaN."""

    @wraps(create)
    def create_filled(*args: Any, **kwargs: Any) -> Any:
        array = create(*args, **kwargs)
        if isinstance(array, np.ndarray) and np.issubdtype(array.dtype, np.inexact):
            array.fill(np.nan)
        return array

    return create_filled
