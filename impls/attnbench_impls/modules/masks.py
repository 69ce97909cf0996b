"""Masks as torch's modules take them, and as a core does.

torch's are tensors: boolean ones, in which True hides a key, or floating ones, which are added to the scores
(−∞ hides a key). A core takes an `attnbench.Mask`, in which True allows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench.masks import Mask

__all__ = [
    "Masking",
    "ScoreBias",
    "Sizes",
    "TensorMask",
    "check_mask",
    "is_causal_mask",
    "masking_of",
    "per_head",
    "score_bias",
    "tensor_mask",
]

Integers = npt.NDArray[np.int64]

#: What `TensorMask` has in place of a specification.
TENSOR = "tensor"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a mask is over: so many batch elements, heads, queries and keys."""

    batch: int
    heads: int
    q_len: int
    kv_len: int


@dataclass(frozen=True, slots=True)
class Masking:
    """What happens to the scores `[B, H, Lq, Lk]`, to which both broadcast.

    `bias`, finite, is added; those that are `hidden` do not count. Each is None where there is nothing to do.
    """

    hidden: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ScoreBias:
    """A masking as one tensor, which is how it is applied soonest: adding is cheaper than choosing.

    `added` broadcasts to the scores; −∞ hides. A query that sees no key would have a softmax of 0/0, and
    gradients of NaN: such a query sees every key here, and what comes of it is to be multiplied by `seeing`,
    `[…, Lq or 1, 1]`, which is 0 for these queries and 1 for others. Both are None where they change nothing.
    """

    added: Tensor | None = None
    seeing: Tensor | None = None


class TensorMask(Mask):
    """A mask that was given as a tensor: `allowed`, boolean `[B or 1, 1, Lq or 1, Lk]`, True = allowed.

    It is asked as any `attnbench.Mask` is. A core that goes by ranges of keys, as `chunked` does, gets those
    of the tensor, where each query sees one range; one that goes by the kind of mask cannot be used.

    Raises:
        ValueError: the tensor is another; or, when a core asks: a query sees keys that are no range, or the
            core wants to know the mask's kind.
    """

    def __init__(self, allowed: Tensor, q_len: int, batch: int) -> None:
        sizes = allowed.shape
        fits = len(sizes) == 4 and sizes[0] in (1, batch) and sizes[1] == 1 and sizes[2] in (1, q_len)
        if allowed.dtype != torch.bool or not fits:
            raise ValueError(
                f"allowed must be boolean, [{batch} or 1, 1, {q_len} or 1, keys], True where a query may see "
                f"a key; got {allowed.dtype}, {list(sizes)}"
            )
        super().__init__(TENSOR, batch, q_len, allowed.shape[-1])
        object.__setattr__(self, "_allowed", allowed)

    # Two masks are the same if they are one: comparing tensors is dear.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    @cached_property
    def kind(self) -> str:
        """`tensor`, which is the name of no kind."""
        return TENSOR

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Nobody knows.

        Raises:
            ValueError: always.
        """
        self._refuse("kind")

    @cached_property
    def parameters(self) -> Mapping[str, float]:
        """Nobody knows.

        Raises:
            ValueError: always.
        """
        self._refuse("parameters")

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"the core asks for the {what} of its mask, and this mask was given as a tensor, which has none; "
            "pass an attnbench.Mask such as Mask('causal', batch, q_len, kv_len), or use another core"
        )

    def pairs(self) -> int:
        """The number of (query, key) pairs that are allowed, over the whole batch."""
        each = int(self._tensor.sum())
        times = self.q_len if self._tensor.shape[2] == 1 else 1
        return each * times * (self.batch if self._tensor.shape[0] == 1 else 1)

    def key_ranges(self) -> tuple[Integers, Integers]:
        """`start` and `stop`, int64 `[B or 1, Lq]`: query i sees the keys start ≤ j < stop, none if equal.

        Raises:
            ValueError: a query sees keys that are no range.
        """
        return self.kept("ranges of the tensor", self._ranges_of_the_tensor)

    def _ranges_of_the_tensor(self) -> tuple[Integers, Integers]:
        allowed = self._tensor[:, 0].cpu().numpy()  # [B or 1, Lq or 1, Lk]
        count = allowed.sum(-1, dtype=np.int64)
        ranges = allowed[..., 0] + (allowed[..., 1:] & ~allowed[..., :-1]).sum(-1, dtype=np.int64)
        if (ranges > 1).any():
            element, query = (int(each[0]) for each in np.nonzero(ranges > 1))
            raise ValueError(
                f"the core takes masks that let each query see one range of keys, but query {query} of batch "
                f"element {element} sees {ranges[element, query]} ranges; "
                "use core='naive' or 'sdpa', which take any mask"
            )
        start = allowed.argmax(-1)  # 0 where there is none
        rows = (len(count), self.q_len)
        return np.broadcast_to(start, rows), np.broadcast_to(start + count, rows)

    def to_bool(self, device: Any = None) -> Any:
        """The mask as a boolean tensor `[B or 1, 1, Lq, Lk]`, True where attention is allowed."""
        return self.kept(f"{device}", lambda: self._tensor.to(device).expand(-1, 1, self.q_len, -1))

    def blind_queries(self, device: Any = None) -> Any:
        """The queries that see no key, boolean `[B or 1, 1, Lq, 1]`; None without any."""

        def build() -> Any:
            blind = ~self.to_bool(device).any(-1, keepdim=True)
            return blind if bool(blind.any()) else None

        return self.kept(f"blind {device}", build)

    @property
    def _tensor(self) -> Tensor:
        tensor: Tensor = self.__dict__["_allowed"]
        return tensor


def check_mask(mask: Mask, sizes: Sizes) -> None:
    """`mask` must be one of torch's, over these sizes.

    Raises:
        ValueError: it is not.
    """
    if mask.framework != "torch":
        raise ValueError(f"the mask must be made with framework='torch'; got {mask.framework!r}")
    if (mask.batch, mask.q_len, mask.kv_len) != (sizes.batch, sizes.q_len, sizes.kv_len):
        raise ValueError(
            f"the mask must be over batch {sizes.batch}, q_len {sizes.q_len}, kv_len {sizes.kv_len}; got "
            f"batch {mask.batch}, q_len {mask.q_len}, kv_len {mask.kv_len}"
        )


def masking_of(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, mask: Mask | None, sizes: Sizes, device: Any
) -> Masking:
    """Both masks of torch's, and an `attnbench.Mask`, as one; what any of them hides is hidden.

    `attn_mask` `[Lq, Lk]` or `[B·H, Lq, Lk]`, `key_padding_mask` `[B, Lk]`.

    Raises:
        ValueError: one has another shape.
    """
    hidden, bias = None, None
    if mask is not None:
        check_mask(mask, sizes)
        allowed = mask.to_bool(device)
        hidden = None if allowed is None else ~allowed
    if attn_mask is not None:
        hidden, bias = _parts(per_head(attn_mask, sizes))
    if key_padding_mask is not None:
        padding_hidden, padding_bias = _parts(_per_key(key_padding_mask, sizes))
        hidden = padding_hidden if hidden is None else hidden | padding_hidden
        if padding_bias is not None:
            bias = padding_bias if bias is None else bias + padding_bias
    return Masking(hidden, bias)


def score_bias(
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    mask: Mask | None,
    sizes: Sizes,
    columns: int,
    q: Tensor,
) -> ScoreBias:
    """All masks as they are added to the scores of `q`, over `columns` more keys at the end that all see.

    Raises:
        ValueError: as `masking_of`.
    """
    if mask is not None and key_padding_mask is None and not columns:
        check_mask(mask, sizes)

        def build() -> ScoreBias:
            # A tensor made in inference mode could not be used for training later.
            with torch.inference_mode(False):
                hidden = masking_of(None, None, mask, sizes, q.device).hidden
                return _one_tensor(Masking(hidden), q.dtype, mask.blind_queries(q.device))

        return mask.kept(f"the modules' {q.dtype} on {q.device}", build)
    masking = masking_of(attn_mask, key_padding_mask, mask, sizes, q.device)
    if masking.hidden is None:
        return ScoreBias()
    if columns:  # so nobody is blind
        bias = None if masking.bias is None else pad(masking.bias, (0, columns))
        return _one_tensor(Masking(pad(masking.hidden, (0, columns)), bias), q.dtype, None)
    return _one_tensor(masking, q.dtype, masking.hidden.all(-1, keepdim=True))


def _one_tensor(masking: Masking, dtype: torch.dtype, blind: Tensor | None) -> ScoreBias:
    """`masking` as something to add, but for the queries that are `blind`."""
    if masking.hidden is None:
        return ScoreBias()
    hidden = masking.hidden if blind is None else masking.hidden & ~blind
    finite = hidden.new_zeros(hidden.shape, dtype=dtype) if masking.bias is None else masking.bias.to(dtype)
    return ScoreBias(finite.masked_fill(hidden, -math.inf), None if blind is None else (~blind).to(dtype))


def per_head(attn_mask: Tensor, sizes: Sizes) -> Tensor:
    """`attn_mask` as `[1, 1, Lq, Lk]` or `[B, H, Lq, Lk]`.

    Raises:
        ValueError: it has another shape.
    """
    one = (sizes.q_len, sizes.kv_len)
    each = (sizes.batch * sizes.heads, *one)
    if attn_mask.shape == one:
        return attn_mask[None, None]
    if attn_mask.shape == each:
        return attn_mask.view(sizes.batch, sizes.heads, *one)
    raise ValueError(
        f"attn_mask must be [queries, keys] = {list(one)}, or [batch·heads, queries, keys] = {list(each)}; "
        f"got {list(attn_mask.shape)}"
    )


def _per_key(key_padding_mask: Tensor, sizes: Sizes) -> Tensor:
    """`[B, 1, 1, Lk]`."""
    if key_padding_mask.shape != (sizes.batch, sizes.kv_len):
        raise ValueError(
            f"key_padding_mask must be [batch, keys] = {[sizes.batch, sizes.kv_len]}, without a batch [keys];"
            f" got {list(key_padding_mask.shape)}"
        )
    return key_padding_mask[:, None, None]


def _parts(mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """What `mask` hides, and what it adds to the rest; a boolean mask adds nothing."""
    if mask.dtype == torch.bool:
        return mask, None
    hidden = mask == -math.inf
    return hidden, mask.masked_fill(hidden, 0)


def tensor_mask(masking: Masking, sizes: Sizes, columns: int) -> Mask:
    """`masking` as a core takes it, over `columns` more keys in front, which every query sees.

    In front, so that what is one range of keys remains one.

    Raises:
        ValueError: it differs from head to head, or adds something to the scores.
    """
    hidden = masking.hidden
    if masking.bias is not None and bool(masking.bias.any()):
        raise ValueError(
            "a floating mask that adds anything but 0 and −∞ to the scores needs core='naive': other cores "
            "take masks that hide keys, no biases"
        )
    if hidden is None:
        return Mask("none", sizes.batch, sizes.q_len, columns + sizes.kv_len)
    if hidden.shape[1] > 1:
        if not torch.equal(hidden, hidden[:, :1].expand_as(hidden)):
            raise ValueError(
                "an attn_mask [batch·heads, queries, keys] that differs from head to head needs "
                "core='naive': other cores take one mask for all heads of a batch element"
            )
        hidden = hidden[:, :1]
    return TensorMask(pad(~hidden, (columns, 0), value=True), sizes.q_len, sizes.batch)


def is_causal_mask(mask: Tensor | Mask | None) -> bool:
    """Whether `mask` is a tensor `[L, L]` that hides from each query exactly the keys after it."""
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[0] != mask.shape[1]:
        return False
    causal = torch.ones_like(mask, dtype=torch.bool).triu(diagonal=1)
    hidden, bias = _parts(mask)
    return bool((hidden == causal).all()) and (bias is None or not bool(bias.any()))
