"""Which query sees which key.

Every mask here lets a query see one contiguous range of keys, and the intersection of two ranges is a
range. So a mask *is* two integers per query, `start` and `stop`; the boolean matrix, the exact number of
allowed pairs and the blocks that a chunked algorithm may skip all follow from them.

Causal masks are aligned bottom-right: the last query sees every key, for q_len ≠ kv_len too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["KINDS", "Mask", "MaskKind", "canonical", "parse"]

Ranges = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class MaskKind:
    """One kind of mask: its parameters' names and how it bounds the keys that each query sees.

    `ranges(batch, q_len, kv_len, seed, *parameters)` returns `start` and `stop`, each int64
    `[batch or 1, q_len]`: query i sees the keys start[i] ≤ j < stop[i].
    """

    name: str
    parameters: tuple[str, ...]
    ranges: Callable[..., Ranges]
    summary: str
    #: `(batch, q_len, kv_len, *parameters)`: the number of allowed pairs where a formula gives it, so that
    #: planning an absurdly long case takes neither its time nor its memory.
    pairs: Callable[..., int] | None = None


def _causal(batch: int, q_len: int, kv_len: int, seed: int) -> Ranges:
    del batch, seed
    queries = np.arange(q_len, dtype=np.int64)
    stop = np.maximum(queries + (kv_len - q_len) + 1, 0)[None]
    return np.zeros_like(stop), stop


def _causal_pairs(batch: int, q_len: int, kv_len: int) -> int:
    # The last query sees kv_len keys, each one before it one less, down to none.
    seeing = min(q_len, kv_len)
    return batch * (seeing * kv_len - seeing * (seeing - 1) // 2)


#: The kinds of masks by name. `none` is the empty intersection and has no entry.
KINDS: dict[str, MaskKind] = {
    "causal": MaskKind(
        "causal", (), _causal, "the last query sees every key, each one before it one less", _causal_pairs
    ),
}

_TERM = re.compile(r"\s*([a-z_]+)\s*(?:\(\s*([^()]*?)\s*\))?\s*\Z")


def parse(specification: str) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """The terms of a mask specification such as `causal+padding(0.5)`, in canonical order.

    Raises:
        ValueError: an unknown kind, a kind given twice, or parameters that do not fit.
    """
    if specification.strip() == "none":
        return ()
    terms: dict[str, tuple[float, ...]] = {}
    for text in specification.split("+"):
        match = _TERM.match(text)
        name = match.group(1) if match else text.strip()
        kind = KINDS.get(name)
        if match is None or kind is None:
            raise ValueError(f"{name!r} is no mask; the masks are {', '.join(['none', *KINDS])}")
        if name in terms:
            raise ValueError(f"the mask {name!r} is given twice")
        values = [part for part in (match.group(2) or "").split(",") if part.strip()]
        if len(values) != len(kind.parameters):
            wanted = f"{name}({', '.join(kind.parameters)})" if kind.parameters else name
            raise ValueError(f"expected {wanted}, got {text.strip()!r}")
        try:
            terms[name] = tuple(float(value) for value in values)
        except ValueError:
            raise ValueError(f"the parameters of {name} must be numbers, got {text.strip()!r}") from None
    return tuple((name, terms[name]) for name in KINDS if name in terms)


def canonical(specification: str) -> str:
    """The one spelling of a mask: terms in the order of `KINDS`, no blanks.

    Raises:
        ValueError: as `parse`.
    """
    terms = parse(specification)
    if not terms:
        return "none"
    return "+".join(
        name + (f"({','.join(f'{value:g}' for value in values)})" if values else "") for name, values in terms
    )


@dataclass(frozen=True)
class Mask:
    """The mask of one workload, given to implementations; True means that attention is allowed.

    `kind` is the specification's kinds joined by `+` (`none`, `causal`, …), `parameters` maps each
    parameter of each kind to its value. `framework` decides what `to_bool` returns.
    """

    specification: str
    batch: int
    q_len: int
    kv_len: int
    seed: int = 0
    framework: str = "torch"
    _built: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    # Cached, because kernels ask within their timed call.
    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are intersected; empty for `none`."""
        return tuple(name for name, _ in parse(self.specification))

    @cached_property
    def kind(self) -> str:
        """`none`, a kind's name, or several joined by `+`."""
        return "+".join(self.kinds) or "none"

    @cached_property
    def parameters(self) -> Mapping[str, float]:
        """Every kind's parameters by name."""
        return {
            parameter: value
            for name, values in parse(self.specification)
            for parameter, value in zip(KINDS[name].parameters, values, strict=True)
        }

    def key_ranges(self) -> Ranges:
        """`start` and `stop`, int64 `[B or 1, Lq]`: query i sees the keys start ≤ j < stop, none if equal."""
        if "ranges" not in self._built:
            start = np.zeros((1, self.q_len), dtype=np.int64)
            stop = np.full((1, self.q_len), self.kv_len, dtype=np.int64)
            for name, values in parse(self.specification):
                low, high = KINDS[name].ranges(self.batch, self.q_len, self.kv_len, self.seed, *values)
                start, stop = np.maximum(start, low), np.minimum(stop, high)
            self._built["ranges"] = (start, np.maximum(start, stop))
        ranges: Ranges = self._built["ranges"]
        return ranges

    def pairs(self) -> int:
        """The number of (query, key) pairs that are allowed, over the whole batch."""
        terms = parse(self.specification)
        if not terms:
            return self.batch * self.q_len * self.kv_len
        formula = KINDS[terms[0][0]].pairs
        if len(terms) == 1 and formula is not None:
            return formula(self.batch, self.q_len, self.kv_len, *terms[0][1])
        start, stop = self.key_ranges()
        total = int((stop - start).sum())
        return total * (self.batch if start.shape[0] == 1 else 1)

    def to_bool(self, device: Any = None) -> Any:
        """The mask as a boolean `[B or 1, 1, Lq, Lk]`, True where attention is allowed; None for `none`.

        A torch tensor on `device`, or an ndarray when the framework is NumPy. It is built at the first
        call and kept, so calling it inside the timed function costs a dictionary look-up.
        """
        if self.specification == "none":
            return None
        key = str(device)
        if key not in self._built:
            began = perf_counter()
            start, stop = self.key_ranges()
            keys = np.arange(self.kv_len, dtype=np.int64)
            if self.framework == "numpy":
                self._built[key] = ((keys >= start[..., None]) & (keys < stop[..., None]))[:, None]
            else:
                import torch

                keys_t, start_t, stop_t = (torch.from_numpy(a).to(device) for a in (keys, start, stop))
                self._built[key] = ((keys_t >= start_t[..., None]) & (keys_t < stop_t[..., None]))[:, None]
            self._built["seconds"] = self.build_s + perf_counter() - began
        return self._built[key]

    def blind_queries(self, device: Any = None) -> Any:
        """The queries that see no key (their output is 0), boolean `[B or 1, 1, Lq, 1]`; None without any.

        A torch tensor on `device`, or an ndarray when the framework is NumPy; built once, as in `to_bool`.
        """
        key = f"blind {device}"
        if key not in self._built:
            began = perf_counter()
            start, stop = self.key_ranges()
            blind: Any = (start == stop)[:, None, :, None] if (start == stop).any() else None
            if blind is not None and self.framework != "numpy":
                import torch

                blind = torch.from_numpy(blind).to(device)
            self._built[key] = blind
            self._built["seconds"] = self.build_s + perf_counter() - began
        return self._built[key]

    @property
    def build_s(self) -> float:
        """Seconds spent building so far; the first call's time is reported without them."""
        return float(self._built.get("seconds", 0.0))
