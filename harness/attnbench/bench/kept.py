"""What a kernel keeps from call to call: a workspace, a buffer for its output, results that it remembers.

Its peak is taken above what was held before the call, so what its first call left behind is not in it. Found
is what Python objects hold; not what libraries keep for themselves (a BLAS's workspace), nor arrays within
objects that were there before the kernel was loaded and are out of its reach.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from attnbench.bench.kernel import LoadedCase

__all__ = ["kept_bytes"]

#: Objects that are looked into on the way from a kernel to its memory: its globals may lead anywhere.
MOST_OBJECTS = 20_000

#: What `functools.lru_cache` makes of a function.
_Remembering = type(lru_cache(lambda: None))

#: What a kernel's memory is not looked for in.
_CLOSED = (ModuleType, type, BuiltinFunctionType, str, bytes, int, float)


def kept_bytes(case: LoadedCase) -> int:
    """Bytes of tensors and arrays that came to be since the last `gc.freeze()`, or that the kernel can reach.

    Each block of memory counts once; the case's inputs do not, nor does what is kept with its mask, which is
    made of the mask alone. To be asked after a collection, when the first call's results are gone. It takes a
    millisecond.
    """
    new = gc.get_objects()
    new += gc.get_referents(*new)  # arrays are not among the objects that are collected; what holds them is
    found = _storages(new) | _storages(_within(case.functions, MOST_OBJECTS))
    inputs = case.inputs
    own = _storages(_within([inputs.leaves(), inputs.masks(), case.grad_out, case.drawn]))
    return sum(size for at, size in found.items() if at not in own)


def _storages(objects: Iterable[Any]) -> dict[int, int]:
    """The memory behind those of `objects` that are tensors or arrays: bytes by address."""
    import torch

    found: dict[int, int] = {}
    for each in objects:
        if type(each) in (torch.Tensor, torch.nn.Parameter):
            with suppress(RuntimeError):  # what functions are traced with looks like a tensor, without memory
                storage = each.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
        elif type(each) is np.ndarray:
            whole = each
            while type(whole.base) is np.ndarray:
                whole = whole.base
            found[whole.ctypes.data] = whole.nbytes
    found.pop(0, None)  # nothing is allocated there
    return found


def _within(roots: Iterable[Any], with_globals: int = 0) -> list[Any]:
    """`roots` and what they hold, whatever it is held by; of functions what they close over.

    `with_globals` adds the globals of functions, and ends the search after so many objects, nearest first.
    """
    seen: set[int] = set()
    objects: list[Any] = []
    waiting = deque(roots)
    while waiting and (not with_globals or len(objects) < with_globals):
        each = waiting.popleft()
        # By its type alone: `isinstance` asks objects that stand for others, which may refuse or import them.
        if id(each) in seen or issubclass(type(each), _CLOSED):
            continue
        seen.add(id(each))
        objects.append(each)
        if type(each) is FunctionType:
            waiting += [each.__closure__, each.__defaults__, each.__dict__]
            values = each.__globals__.values() if with_globals else ()
            waiting += [value for value in values if not callable(value) or type(value) is _Remembering]
        else:
            waiting += gc.get_referents(each)
    return objects
