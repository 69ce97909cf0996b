"""What the modules' arguments must be; every mistake is a ValueError that says what to do instead."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, relu

__all__ = [
    "Activation",
    "activation_of",
    "check_attention_inputs",
    "check_dtype",
    "check_features",
    "check_mask_tensor",
    "check_probability",
    "check_where",
    "check_whole",
    "rotary_base",
]

Activation = Callable[[Tensor], Tensor]

#: The base of the wavelengths of rotary positions (Su et al., RoFormer, 2021, §3.2.2).
ROTARY_BASE = 10_000.0

ACTIVATIONS: dict[str, Activation] = {"relu": relu, "gelu": gelu}


def check_whole(name: str, value: Any, least: int = 1) -> int:
    """`value`, which must be a whole number (NumPy's are), at least `least`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}")
    return int(value)


def check_probability(name: str, value: float) -> None:
    """`value` must lie between 0 and 1.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability from 0 to 1; got {value!r}")


def check_dtype(dtype: torch.dtype | None) -> None:
    """`dtype` must be floating, or None for the default.

    Raises:
        ValueError: it is not.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype must be floating, such as torch.float32; got {dtype}")


def activation_of(activation: str | Activation) -> Activation:
    """The function that `activation` is or names.

    Raises:
        ValueError: it does neither.
    """
    if callable(activation):
        return activation
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = " or ".join(repr(name) for name in ACTIVATIONS)
        raise ValueError(f"activation must be {known}, or a function of one tensor; got {activation!r}")
    return ACTIVATIONS[activation]


def rotary_base(rotary: bool | float) -> float | None:
    """The base of the rotary positions that the argument `rotary` asks for; None for none.

    Raises:
        ValueError: it is neither a bool nor a number above 1.
    """
    if isinstance(rotary, bool):
        return ROTARY_BASE if rotary else None
    if not isinstance(rotary, int | float) or not 1 < rotary < math.inf:
        raise ValueError(
            f"rotary must be True (base {ROTARY_BASE:.0f}), False, or a base above 1; got {rotary!r}"
        )
    return float(rotary)


def _check_tensor(name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise ValueError(
            f"{name} must be a torch.Tensor; got {type(x).__name__}: torch.as_tensor makes one of an array"
        )
    if x.is_nested:
        raise ValueError(f"{name} is a nested tensor; pass a padded one and its key padding mask")
    if x.layout != torch.strided:
        raise ValueError(f"{name} must be dense; got the layout {x.layout}: pass {name}.to_dense()")


def check_features(name: str, x: Tensor, features: int) -> None:
    """`x` must be `[L, features]`, or that with a batch.

    Raises:
        ValueError: it is not.
    """
    _check_tensor(name, x)
    if x.dim() not in (2, 3):
        raise ValueError(
            f"{name} must be [L, E], or with a batch [B, L, E] (batch_first) or [L, B, E]; "
            f"got {x.dim()} dimensions, {list(x.shape)}"
        )
    if x.shape[-1] != features:
        raise ValueError(f"{name} must have {features} features last; got {list(x.shape)}")


def check_where(name: str, x: Tensor, weight: Tensor) -> None:
    """`x` must be of the parameters' dtype (but for autocast) and on their device.

    Raises:
        ValueError: it is not.
    """
    if x.device != weight.device or (
        x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type)
    ):
        raise ValueError(
            f"{name} is {x.dtype} on {x.device}, the module's parameters are {weight.dtype} on "
            f"{weight.device}; move one to the other with to(device, dtype)"
        )


def check_attention_inputs(
    query: Tensor, key: Tensor, value: Tensor, features: tuple[int, int, int], batch_first: bool
) -> None:
    """`query`, `key` and `value` must have these `features`, one batch, and as many values as keys.

    Raises:
        ValueError: they do not.
    """
    check_features("query", query, features[0])
    if key is query and value is query and features[0] == features[1] == features[2]:
        return
    check_features("key", key, features[1])
    check_features("value", value, features[2])
    if not query.dim() == key.dim() == value.dim():
        raise ValueError(
            "query, key and value must all have a batch or all have none; got "
            f"{list(query.shape)}, {list(key.shape)}, {list(value.shape)}"
        )
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"there must be one value for each key; got key {list(key.shape)}, value {list(value.shape)}"
        )
    if query.dim() == 3:
        axis = 0 if batch_first else 1
        if query.shape[axis] != key.shape[axis]:
            raise ValueError(
                f"query and key must have the same batch, axis {axis} with batch_first={batch_first}; "
                f"got query {list(query.shape)}, key {list(key.shape)}"
            )


def check_mask_tensor(name: str, mask: Tensor, device: torch.device) -> None:
    """`mask` must be boolean or floating, and on this device.

    Raises:
        ValueError: it is not.
    """
    _check_tensor(name, mask)
    if mask.device != device:
        raise ValueError(f"{name} is on {mask.device}, the queries on {device}: pass {name}.to('{device}')")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(
            f"{name} must be boolean (True = hidden) or floating (added to the scores); got {mask.dtype}: "
            f"write {name}.bool()"
        )
