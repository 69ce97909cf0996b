"""Which query sees which key.

Every mask here lets a query see one contiguous range of keys, and the intersection of two ranges is a
range. So a mask *is* two integers per query, `start` and `stop`; the boolean matrix, the exact number of
allowed pairs and the blocks that a chunked algorithm may skip all follow from them.

Queries are the last ones of the sequence that the keys make up (bottom-right alignment): query i stands at
position p = i + kv_len − q_len, so the last query stands at the last key, for q_len ≠ kv_len too. Where
there are more queries than keys, the first ones stand before every key, at negative positions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["KINDS", "Mask", "MaskKind", "Parameter", "canonical", "parse", "why_impossible"]

Integers = npt.NDArray[np.int64]
Ranges = tuple[Integers, Integers]
Built = TypeVar("Built")

#: The largest length that an axis may have, and so the largest window and number of documents.
LARGEST = 2**31 - 1

#: Queries whose ranges are held at a time where they are only counted.
COUNTED_AT_A_TIME = 2**20


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a kind of mask: a number from `low` to `high`, by default a whole one."""

    name: str
    low: float
    high: float
    whole: bool = True

    def read(self, text: str) -> float:
        """The number that `text` says, an int where whole ones are wanted.

        Raises:
            ValueError: it is none, or out of bounds.
        """
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high or (self.whole and not value.is_integer()):
            what = "a whole number" if self.whole else "a number"
            raise ValueError(
                f"expected {what} {self.name} from {self.low:.10g} to {self.high:.10g}, got {text!r}"
            )
        return int(value) if self.whole else value


@dataclass(frozen=True, slots=True)
class MaskKind:
    """One kind of mask: its parameters and how it bounds the keys that each query sees.

    `ranges(positions, batch, kv_len, seed, *parameters)` returns `start` and `stop`, int64, `[batch or 1, n]`
    for n positions: the query at position p sees the keys start ≤ j < stop. They may lie outside of
    0 … kv_len, and stop below start. `pairs(batch, q_len, kv_len, seed, *parameters)` counts what is allowed
    without listing the queries, so that planning an absurdly long case takes neither its time nor its memory.
    There must be at least `fewest_keys(*parameters)`.
    """

    name: str
    parameters: tuple[Parameter, ...]
    ranges: Callable[..., Ranges]
    pairs: Callable[..., int]
    summary: str
    fewest_keys: Callable[..., float] = lambda *_: 1

    @property
    def signature(self) -> str:
        """`sliding_window(w)`."""
        names = ", ".join(parameter.name for parameter in self.parameters)
        return f"{self.name}({names})" if names else self.name


def _rng(kind: str, seed: int, kv_len: int) -> np.random.Generator:
    """The random stream of a mask's lengths: the same everywhere, whatever the queries."""
    return np.random.Generator(np.random.PCG64([seed, kv_len, *kind.encode()]))


def _causal(positions: Integers, batch: int, kv_len: int, seed: int) -> Ranges:
    del batch, kv_len, seed
    stop = positions[None] + 1
    return np.zeros_like(stop), stop


def _causal_pairs(batch: int, q_len: int, kv_len: int, seed: int) -> int:
    del seed
    # The last query sees kv_len keys, each one before it one less, down to none.
    seeing = min(q_len, kv_len)
    return batch * (seeing * kv_len - seeing * (seeing - 1) // 2)


def _sliding_window(positions: Integers, batch: int, kv_len: int, seed: int, w: int) -> Ranges:
    del batch, kv_len, seed
    stop = positions[None] + 1
    return stop - w, stop


def _sliding_window_pairs(batch: int, q_len: int, kv_len: int, seed: int, w: int) -> int:
    # What is causal, without the pairs that are causal still when the last w keys are not there.
    whole = _causal_pairs(batch, q_len, kv_len, seed)
    return whole - (_causal_pairs(batch, q_len, kv_len - w, seed) if w < kv_len else 0)


def _padding_lengths(batch: int, kv_len: int, seed: int, r: float) -> Integers:
    """The keys that are no padding, int64 `[batch]`: from r·kv_len to kv_len, and at least one."""
    # Rounded first: 0.07 · 100 is a little more than 7.
    shortest = max(1, math.ceil(round(r * kv_len, 6)))
    return _rng("padding", seed, kv_len).integers(shortest, kv_len, size=batch, endpoint=True)


def _padding(positions: Integers, batch: int, kv_len: int, seed: int, r: float) -> Ranges:
    stop = np.repeat(_padding_lengths(batch, kv_len, seed, r)[:, None], len(positions), axis=1)
    return np.zeros_like(stop), stop


def _padding_pairs(batch: int, q_len: int, kv_len: int, seed: int, r: float) -> int:
    return q_len * int(_padding_lengths(batch, kv_len, seed, r).sum())


def _document_starts(batch: int, kv_len: int, seed: int, n: int) -> Integers:
    """The first key of each document, ascending, int64 `[batch, n]`: n documents of at least one key."""
    rng = _rng("document", seed, kv_len)
    starts = np.zeros((batch, n), dtype=np.int64)
    for row in starts:
        row[1:] = 1 + np.sort(rng.choice(kv_len - 1, n - 1, replace=False, shuffle=False)) if n > 1 else 0
    return starts


def _document(positions: Integers, batch: int, kv_len: int, seed: int, n: int) -> Ranges:
    firsts = _document_starts(batch, kv_len, seed, n)
    ends = np.concatenate([firsts[:, 1:], np.full((batch, 1), kv_len)], axis=1)
    own = np.stack(
        [np.searchsorted(row, positions, side="right") - 1 for row in firsts]
    )  # −1 before all keys
    start, stop = (np.take_along_axis(each, np.maximum(own, 0), axis=1) for each in (firsts, ends))
    return start, np.where(own < 0, start, stop)


def _document_pairs(batch: int, q_len: int, kv_len: int, seed: int, n: int) -> int:
    firsts = _document_starts(batch, kv_len, seed, n)
    ends = np.concatenate([firsts[:, 1:], np.full((batch, 1), kv_len)], axis=1)
    queries = ends - np.maximum(firsts, kv_len - q_len)  # those that stand in the document
    return sum(
        int(keys) * int(each)
        for keys, each in zip((ends - firsts).flat, queries.flat, strict=True)
        if each > 0
    )


#: The kinds of masks by name. `none` is the empty intersection and has no entry.
KINDS: dict[str, MaskKind] = {
    kind.name: kind
    for kind in (
        MaskKind(
            "causal",
            (),
            _causal,
            _causal_pairs,
            "the last query sees every key, each one before it one less",
        ),
        MaskKind(
            "sliding_window",
            (Parameter("w", 1, LARGEST),),
            _sliding_window,
            _sliding_window_pairs,
            "a query sees the last w keys, the one that it stands at included",
        ),
        MaskKind(
            "padding",
            (Parameter("r", 0, 1, whole=False),),
            _padding,
            _padding_pairs,
            "of each batch element only the first keys are there, a seeded number from r·kv_len to kv_len",
        ),
        MaskKind(
            "document",
            (Parameter("n", 1, LARGEST),),
            _document,
            _document_pairs,
            "n documents of seeded lengths stand one after another; a query sees the keys of its own",
            fewest_keys=lambda n: n,
        ),
    )
}

_TERM = re.compile(r"\s*([a-z_]+)\s*(?:\(\s*([^()]*?)\s*\))?\s*\Z")

Terms = tuple[tuple[str, tuple[float, ...]], ...]


@lru_cache(maxsize=256)
def parse(specification: str) -> Terms:
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
        if name in ("none", "") and "+" in specification:
            what = "an intersection has no room for none" if name else "a mask is missing beside a +"
            raise ValueError(f"{what}, got {specification!r}")
        if match is None or kind is None:
            known = ["none", *(each.signature for each in KINDS.values())]
            raise ValueError(f"{name!r} is no mask; the masks are {', '.join(known)}")
        if name in terms:
            raise ValueError(f"the mask {name!r} is given twice")
        values = [part.strip() for part in (match.group(2) or "").split(",") if part.strip()]
        if len(values) != len(kind.parameters):
            raise ValueError(f"expected {kind.signature}, got {text.strip()!r}")
        try:
            terms[name] = tuple(each.read(value) for each, value in zip(kind.parameters, values, strict=True))
        except ValueError as error:
            raise ValueError(f"in {kind.signature}: {error}") from None
    return tuple((name, terms[name]) for name in KINDS if name in terms)


def _number(value: float) -> str:
    """The shortest text that reads back as `value`."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def canonical(specification: str) -> str:
    """The one spelling of a mask: terms in the order of `KINDS`, no blanks.

    Raises:
        ValueError: as `parse`.
    """
    terms = parse(specification)
    if not terms:
        return "none"
    return "+".join(
        name + (f"({','.join(map(_number, values))})" if values else "") for name, values in terms
    )


def why_impossible(specification: str, kv_len: int) -> str | None:
    """Why there can be no such mask over `kv_len` keys, or None.

    Raises:
        ValueError: as `parse`.
    """
    for name, values in parse(specification):
        fewest = KINDS[name].fewest_keys(*values)
        if kv_len < fewest:
            return f"{name}({_number(values[0])}) needs at least {_number(fewest)} keys, got kv_len {kv_len}"
    return None


@dataclass(frozen=True)
class Mask:
    """The mask of one workload, given to implementations; True means that attention is allowed.

    `kind` is the specification's kinds joined by `+` (`none`, `causal`, …), `parameters` maps each
    parameter of each kind (`w`, `r`, `n`) to its value. `framework` decides what `to_bool` returns.
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
        """Every kind's parameters by name; those that are whole are ints."""
        return {
            parameter.name: value
            for name, values in parse(self.specification)
            for parameter, value in zip(KINDS[name].parameters, values, strict=True)
        }

    def key_ranges(self) -> Ranges:
        """`start` and `stop`, int64 `[B or 1, Lq]`: query i sees the keys start ≤ j < stop, none if equal."""
        if "ranges" not in self._built:
            self._built["ranges"] = self._ranges(0, self.q_len)
        ranges: Ranges = self._built["ranges"]
        return ranges

    def _ranges(self, first: int, end: int) -> Ranges:
        """The ranges of the queries from `first` to `end`."""
        start, stop = self._bounds(first, end)
        return np.minimum(start, self.kv_len), np.maximum(np.minimum(start, self.kv_len), stop)

    def _bounds(self, first: int, end: int) -> Ranges:
        """As `_ranges`, but that of a query that sees nothing may stop before it starts."""
        positions = np.arange(first, end, dtype=np.int64) + (self.kv_len - self.q_len)
        start = np.zeros((1, end - first), dtype=np.int64)
        stop = np.full((1, end - first), self.kv_len, dtype=np.int64)
        for name, values in parse(self.specification):
            low, high = KINDS[name].ranges(positions, self.batch, self.kv_len, self.seed, *values)
            start, stop = np.maximum(start, low), np.minimum(stop, high)
        return start, stop

    def pairs(self) -> int:
        """The number of (query, key) pairs that are allowed, over the whole batch."""
        terms = parse(self.specification)
        if not terms:
            return self.batch * self.q_len * self.kv_len
        if len(terms) == 1:
            name, values = terms[0]
            return KINDS[name].pairs(self.batch, self.q_len, self.kv_len, self.seed, *values)
        total = 0
        for first in range(0, self.q_len, COUNTED_AT_A_TIME):
            start, stop = self._ranges(first, min(first + COUNTED_AT_A_TIME, self.q_len))
            total += int((stop - start).sum()) * (self.batch if start.shape[0] == 1 else 1)
        return total

    def keys_seen(self) -> int:
        """The number of keys that any query sees, over the whole batch.

        Ranges ascend with the queries, and those of neighbours meet, since a query at a key sees at least
        that key or, where it is padding, none behind it: so all that is seen lies between the first start
        of a query that stands at a key and the last stop.
        """
        first = max(0, self.q_len - self.kv_len)
        (start, _), (_, stop) = self._bounds(first, first + 1), self._bounds(self.q_len - 1, self.q_len)
        seen = int(np.maximum(0, stop - start).sum())
        return seen * (self.batch if start.shape[0] == 1 else 1)

    def queries_that_see(self, least: int) -> int:
        """The number of queries that see at least so many keys (1 or more), over the whole batch."""
        terms = parse(self.specification)
        if all(name == "padding" for name, _ in terms):  # all queries see the same
            start, stop = self._ranges(0, 1)
            enough = int((stop - start >= least).sum())
            return enough * self.q_len * (self.batch if start.shape[0] == 1 else 1)
        if all(name in ("causal", "sliding_window") for name, _ in terms):
            # The query at position p sees p + 1 keys, or the window; the last query is at kv_len - 1.
            windows = [values[0] for name, values in terms if name == "sliding_window"]
            reaching = min(self.q_len, max(0, self.kv_len - least + 1))
            return self.batch * reaching if all(width >= least for width in windows) else 0
        total = 0
        for first in range(0, self.q_len, COUNTED_AT_A_TIME):
            start, stop = self._ranges(first, min(first + COUNTED_AT_A_TIME, self.q_len))
            total += int((stop - start >= least).sum()) * (self.batch if start.shape[0] == 1 else 1)
        return total

    def to_bool(self, device: Any = None) -> Any:
        """The mask as a boolean `[B or 1, 1, Lq, Lk]`, True where attention is allowed; None for `none`.

        A torch tensor on `device`, or an ndarray when the framework is NumPy. It is built at the first
        call and kept, so calling it inside the timed function costs a dictionary look-up.
        """
        if self.specification == "none":
            return None

        def build() -> Any:
            start, stop = self.key_ranges()
            keys = np.arange(self.kv_len, dtype=np.int64)
            if self.framework == "numpy":
                return ((keys >= start[..., None]) & (keys < stop[..., None]))[:, None]
            import torch

            keys_t, start_t, stop_t = (torch.from_numpy(a).to(device) for a in (keys, start, stop))
            return ((keys_t >= start_t[..., None]) & (keys_t < stop_t[..., None]))[:, None]

        return self.kept(str(device), build)

    def blind_queries(self, device: Any = None) -> Any:
        """The queries that see no key (their output is 0), boolean `[B or 1, 1, Lq, 1]`; None without any.

        A torch tensor on `device`, or an ndarray when the framework is NumPy; built once, as in `to_bool`.
        """

        def build() -> Any:
            start, stop = self.key_ranges()
            blind: Any = (start == stop)[:, None, :, None] if (start == stop).any() else None
            if blind is not None and self.framework != "numpy":
                import torch

                blind = torch.from_numpy(blind).to(device)
            return blind

        return self.kept(f"blind {device}", build)

    def kept(self, key: str, build: Callable[[], Built]) -> Built:
        """What `build()` returns, built at the first call with this `key` and kept as long as the mask.

        For a kernel's own form of the mask (a table of blocks, lengths, …): building it counts as `build_s`,
        and asking again within the timed call costs a dictionary look-up.
        """
        if key not in self._built:
            before, began = self.build_s, perf_counter()
            self._built[key] = build()
            # What `build` had this mask build on its way is part of it.
            self._built["seconds"] = before + perf_counter() - began
        built: Built = self._built[key]
        return built

    @property
    def build_s(self) -> float:
        """Seconds spent building so far; the first call's time is reported without them."""
        return float(self._built.get("seconds", 0.0))
