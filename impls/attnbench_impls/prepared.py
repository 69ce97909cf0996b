"""Kernels of whole modules: what can be made ready before the first call is, once for the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnbench.implementation import ModuleInputs

__all__ = ["Call", "call_of", "prepared"]

#: What a user of a module has before calling it: the module over its weights, masks in the module's own form.
#: It reads the activations from the inputs at each call.
Call = Callable[[ModuleInputs], Any]

KEY = "the call that is made ready"


def prepared(prepare: Callable[[ModuleInputs], Call]) -> Call:
    """A kernel that calls what `prepare(inputs)` made ready; making it is in no call's time."""

    def kernel(x: ModuleInputs) -> Any:
        return x.kept(KEY, lambda: prepare(x))(x)

    return kernel


def call_of(x: ModuleInputs) -> Call:
    """What was made ready for `x`.

    Raises:
        RuntimeError: the kernel has not been called with `x` yet.
    """

    def missing() -> Call:
        raise RuntimeError("the kernel has to be called with these inputs before one can ask how it runs")

    return x.kept(KEY, missing)
