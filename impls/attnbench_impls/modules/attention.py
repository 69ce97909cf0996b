"""Multi-head attention: Vaswani et al., Attention Is All You Need (2017), §3.2.2.

    MultiHead(Q, K, V) = Concat(head₁, …, head_h)·W_O,  headᵢ = Attention(Q·W_Qᵢ, K·W_Kᵢ, V·W_Vᵢ)

Four steps: project, split into heads, attend (the core), concatenate and project.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from attnbench.implementation import Implementation
from attnbench.masks import Mask
from attnbench_impls.modules import textbook
from attnbench_impls.modules.arguments import (
    check_attention_inputs,
    check_dtype,
    check_mask_tensor,
    check_probability,
    check_where,
    check_whole,
    rotary_base,
)
from attnbench_impls.modules.cache import KVCache
from attnbench_impls.modules.cores import TEXTBOOK, AttentionFunction, Core, core_of
from attnbench_impls.modules.heads import concatenate_heads, split_heads
from attnbench_impls.modules.masks import Sizes, check_mask, masking_of, per_head, score_bias, tensor_mask
from attnbench_impls.modules.norms import RMSNorm
from attnbench_impls.modules.rotary import RotaryPositions

__all__ = ["MultiHeadAttention"]

#: attn_mask, key_padding_mask and mask.
Masks = tuple[Tensor | None, Tensor | None, Mask | None]


class MultiHeadAttention(nn.Module):
    """Multi-head attention with the arguments, the parameters and the results of `nn.MultiheadAttention`.

    Args:
        embed_dim: E, the features of queries and of the output; a multiple of `num_heads`.
        num_heads: H; each head has D = E / H features.
        dropout: the probability with which a weight is dropped in training.
        bias: whether projections have biases.
        add_bias_kv: append a learned key and value, which every query sees.
        add_zero_attn: append a key and value of zeros, which every query sees.
        kdim: the features of keys; E by default.
        vdim: the features of values; E by default.
        batch_first: sequences are `[B, L, E]` rather than `[L, B, E]`.
        device: where the parameters are.
        dtype: of the parameters.
        core: what computes attention on the heads: the label of an implementation (`"sdpa"`,
            `"chunked(block=128)"`), an `attnbench.Implementation`, or a function `(q, k, v, *, mask, scale)`.
            `"naive"` is the textbook in this package; it alone takes floating masks that are biases, and
            drops weights out.
        kv_heads: how many heads keys and values have; each serves H / kv_heads query heads (grouped queries,
            Ainslie et al., 2023). H by default.
        rotary: turn queries and keys by their positions; True for base 10000, or the base. Queries are the
            last of the positions that the keys make up, as in masks.
        qk_norm: normalise queries and keys (RMS over the features of a head, learned scales).

    Parameters, with K = kv_heads·D: `in_proj_weight` `[3E, E]`, or, where kv_heads is not H, or kdim or vdim
    not E, `q_proj_weight` `[E, E]`, `k_proj_weight` `[K, kdim]`, `v_proj_weight` `[K, vdim]`; `in_proj_bias`
    `[E + 2K]`; `bias_k`, `bias_v` `[1, 1, K]`; `out_proj.weight` `[E, E]`, `out_proj.bias` `[E]`;
    `q_norm.scale`, `k_norm.scale` `[D]`.

    Raises:
        ValueError: an argument that is none of these.
    """

    in_proj_weight: Tensor | None
    q_proj_weight: Tensor | None
    k_proj_weight: Tensor | None
    v_proj_weight: Tensor | None
    in_proj_bias: Tensor | None

    #: torch's layers ask for it, and do not go past this module on their fast path where it is False.
    _qkv_same_embed_dim = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        core: str | Implementation | AttentionFunction = TEXTBOOK,
        kv_heads: int | None = None,
        rotary: bool | float = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.kv_heads = num_heads if kv_heads is None else kv_heads
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._check_sizes()
        check_probability("dropout", dropout)
        check_dtype(dtype)
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.add_zero_attn = add_zero_attn
        self.batch_first = batch_first
        self.core = core
        self._core = core_of(core)
        self._rotary = self._rotary_positions(rotary)
        self._scale = 1 / math.sqrt(self.head_dim)

        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self._make_projections(bias, where)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias, **where)
        kv_dim = self.kv_heads * self.head_dim
        self.bias_k = nn.Parameter(torch.empty(1, 1, kv_dim, **where)) if add_bias_kv else None
        self.bias_v = nn.Parameter(torch.empty(1, 1, kv_dim, **where)) if add_bias_kv else None
        self.q_norm = RMSNorm(self.head_dim, **where) if qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, **where) if qk_norm else None
        self._reset_parameters()

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return (
            f"{self.embed_dim}, num_heads={self.num_heads}, kv_heads={self.kv_heads}, "
            f"batch_first={self.batch_first}, core={TEXTBOOK if self._core is None else self._core.label}"
        )

    def _check_sizes(self) -> None:
        for name in ("embed_dim", "num_heads", "kv_heads", "kdim", "vdim"):
            setattr(self, name, check_whole(name, getattr(self, name)))
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim must be a multiple of num_heads; got {self.embed_dim} and {self.num_heads}"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"kv_heads must divide num_heads ({self.num_heads}), so that all serve as many query heads;"
                f" got {self.kv_heads}"
            )

    def _rotary_positions(self, rotary: bool | float) -> RotaryPositions | None:
        base = rotary_base(rotary)
        if base is not None and self.head_dim % 2:
            raise ValueError(
                f"rotary turns pairs of features, so embed_dim / num_heads must be even; got {self.head_dim}"
            )
        return None if base is None else RotaryPositions(self.head_dim, base)

    def _make_projections(self, bias: bool, where: dict[str, Any]) -> None:
        """One packed weight where queries, keys and values are alike, else three."""
        E, kv_dim = self.embed_dim, self.kv_heads * self.head_dim
        alike = self.kv_heads == self.num_heads and self.kdim == self.vdim == E
        sizes = {
            "in_proj_weight": (3 * E, E) if alike else None,
            "q_proj_weight": None if alike else (E, E),
            "k_proj_weight": None if alike else (kv_dim, self.kdim),
            "v_proj_weight": None if alike else (kv_dim, self.vdim),
            "in_proj_bias": (E + 2 * kv_dim,) if bias else None,
        }
        for name, size in sizes.items():
            parameter = None if size is None else nn.Parameter(torch.empty(size, **where))
            self.register_parameter(name, parameter)

    def _reset_parameters(self) -> None:
        """Draw the parameters as torch does, from the same random numbers."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                nn.init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        for column in (self.bias_k, self.bias_v):
            if column is not None:
                nn.init.xavier_normal_(column)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | Mask | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        mask: Mask | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The output, of the query's shape, and the weights `[B, Lq, S]`, `[B, H, Lq, S]`, or None.

        Args:
            query: `[B, Lq, E]` with batch_first, else `[Lq, B, E]`; or `[Lq, E]`, and all without a batch.
            key: `[B, Lk, kdim]` likewise.
            value: `[B, Lk, vdim]` likewise.
            key_padding_mask: `[B, Lk]`; boolean (True hides that key) or floating (added to its scores).
            need_weights: return the weights. With another core than `naive` they are computed beside it.
            attn_mask: `[Lq, Lk]` or `[B·H, Lq, Lk]`; boolean (True hides) or floating (added to the scores;
                −∞ hides); or an `attnbench.Mask`, the same as `mask`.
            average_attn_weights: the weights' mean over the heads rather than each head's.
            is_causal: a hint that `attn_mask` is the causal mask, by which a core may save half of the work.
            mask: which query sees which key, as an `attnbench.Mask` over Lq × Lk; the core gets it as it is.
            cache: the keys and values of all positions before; the new ones are appended. Lk then counts all
                that the cache holds, in masks too.

        S counts the keys and what `add_bias_kv` and `add_zero_attn` append. A query that sees no key has
        weights and attention of 0 (torch: 0 or NaN, depending on the way it takes).

        Raises:
            ValueError: shapes that do not fit, or what the core cannot do.
        """
        check_attention_inputs(query, key, value, (self.embed_dim, self.kdim, self.vdim), self.batch_first)
        weight = self.q_proj_weight if self.in_proj_weight is None else self.in_proj_weight
        assert weight is not None
        for name, x in (("query", query), ("key", key), ("value", value)):
            check_where(name, x, weight)
        mask, attn_mask = _one_mask(mask, attn_mask, is_causal)
        batched = query.dim() == 3
        for name, given in (("attn_mask", attn_mask), ("key_padding_mask", key_padding_mask)):
            if given is not None:
                check_mask_tensor(name, given, query.device)
        if cache is not None and not isinstance(cache, KVCache):
            raise ValueError(f"cache must be an attnbench_impls.KVCache; got {type(cache).__name__}")
        batch_first = self.batch_first or not batched

        q, k, v = self._project(query, key, value)
        if not batched:
            q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
            key_padding_mask = None if key_padding_mask is None else _one_element(key_padding_mask)

        q = split_heads(q, self.num_heads, batch_first)  # [B, H, Lq, D]
        k = split_heads(k, self.kv_heads, batch_first)  # [B, Hkv, Lk, D]
        v = split_heads(v, self.kv_heads, batch_first)
        new_keys = k.shape[2]
        q, k = self._turned_and_normalised(q, k, 0 if cache is None else cache.length)
        if cache is not None:
            k, v = cache.write(k, v)

        masks = (attn_mask, key_padding_mask, mask)
        weights = None
        # Where there is nothing to compute a core need not know that lengths can be 0.
        if self._core is None or 0 in (*q.shape, k.shape[2]):
            o, weights = self._textbook(q, k, v, masks, need_weights)
        else:
            o = self._cored(self._core, q, k, v, masks, is_causal)
            if need_weights:  # which the core does not hand out
                _, weights = self._textbook(q, k, v, masks, need_weights)

        if cache is not None:
            cache.advance(new_keys)
        o = self.out_proj(concatenate_heads(o, batch_first))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return o.squeeze(0), None if weights is None else weights.squeeze(0)
        return o, weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as the heads see them, beside one another: `[…, E]`, twice `[…, K]`."""
        packed, bias = self.in_proj_weight, self.in_proj_bias
        E, kv_dim = self.embed_dim, self.kv_heads * self.head_dim
        if packed is not None and key is value:
            if query is key:  # self-attention: one product
                q, k, v = linear(query, packed, bias).chunk(3, dim=-1)
                return q, k, v
            b_q, b_kv = _split(bias, E, 2 * E)
            k, v = linear(key, packed[E:], b_kv).chunk(2, dim=-1)
            return linear(query, packed[:E], b_q), k, v
        b_q, b_k, b_v = _split(bias, E, kv_dim, kv_dim)
        if packed is not None:
            w_q, w_k, w_v = _split(packed, E, E, E)
        else:
            w_q, w_k, w_v = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        return linear(query, w_q, b_q), linear(key, w_k, b_k), linear(value, w_v, b_v)

    def _turned_and_normalised(self, q: Tensor, k: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """Queries and keys with what `rotary` and `qk_norm` do to them; `past` keys came before."""
        if self._rotary is not None:
            first = past + k.shape[2] - q.shape[2]
            if first < 0:
                raise ValueError(
                    "with rotary positions the queries are the last of the positions that the keys make up; "
                    f"got {q.shape[2]} queries and {past + k.shape[2]} keys: pass keys for all of them"
                )
            q, k = self._rotary.turn(q, first), self._rotary.turn(k, past)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k

    def _columns(self, k: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The keys and values that every query sees besides, each `[B, Hkv, 1, D]`: learned, then zero."""
        one = (k.shape[0], self.kv_heads, 1, self.head_dim)
        keys, values = [], []
        if self.bias_k is not None and self.bias_v is not None:
            keys.append(self.bias_k.to(k.dtype).view(1, *one[1:]).expand(one))
            values.append(self.bias_v.to(v.dtype).view(1, *one[1:]).expand(one))
        if self.add_zero_attn:
            keys.append(k.new_zeros(one))
            values.append(v.new_zeros(one))
        return keys, values

    def _textbook(
        self, q: Tensor, k: Tensor, v: Tensor, masks: Masks, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The textbook's output `[B, H, Lq, D]` and, if they are needed, its weights `[B, H, Lq, S]`."""
        keys, values = self._columns(k, v)
        bias = score_bias(*masks, _sizes(q, k), len(keys), q)
        if keys:
            k, v = torch.cat((k, *keys), dim=2), torch.cat((v, *values), dim=2)
        dropout = self.dropout if self.training else 0.0
        weights = textbook.attention_weights(q, k, self._scale, bias.added, dropout)
        o = textbook.attend(weights, v)
        if bias.seeing is not None:
            o = o * bias.seeing
            weights = weights * bias.seeing if need_weights else weights
        return o, weights if need_weights else None

    def _cored(self, core: Core, q: Tensor, k: Tensor, v: Tensor, masks: Masks, is_causal: bool) -> Tensor:
        """The output of `core`, `[B, H, Lq, D]`."""
        if self.training and self.dropout > 0:
            raise ValueError(
                f"the core {core.label} drops no weights out, and dropout is {self.dropout}: "
                "use core='naive', dropout=0, or call eval()"
            )
        keys, values = self._columns(k, v)
        mask = self._core_mask(core, _sizes(q, k), masks, is_causal, len(keys), q.device)
        if keys:  # in front, see `tensor_mask`
            k, v = torch.cat((*keys, k), dim=2), torch.cat((*values, v), dim=2)
        return core(q, k, v, mask, self._scale)

    def _core_mask(
        self, core: Core, sizes: Sizes, masks: Masks, is_causal: bool, columns: int, device: torch.device
    ) -> Mask:
        """All masks as the one that a core takes, over `columns` keys in front that every query sees."""
        attn_mask, key_padding_mask, mask = masks
        if key_padding_mask is None:
            if mask is not None:
                check_mask(mask, sizes)
                if not columns:
                    return mask
            square = sizes.q_len == sizes.kv_len and not columns
            if is_causal and attn_mask is not None and square:
                per_head(attn_mask, sizes)  # it must fit, though the hint stands for it
                return core.mask("causal", sizes.batch, sizes.q_len, sizes.kv_len)
            if attn_mask is None and (mask is None or mask.specification == "none"):
                return core.mask("none", sizes.batch, sizes.q_len, columns + sizes.kv_len)
        return tensor_mask(masking_of(*masks, sizes, device), sizes, columns)


def _split(packed: Tensor | None, *sizes: int) -> Sequence[Any]:
    """The parts of `packed`, of these sizes along its first axis; None each if there is none."""
    return [None] * len(sizes) if packed is None else torch.split(packed, list(sizes))


def _sizes(q: Tensor, k: Tensor) -> Sizes:
    batch, heads, q_len, _ = q.shape
    return Sizes(batch, heads, q_len, k.shape[2])


def _one_element(key_padding_mask: Tensor) -> Tensor:
    """`[1, Lk]` of the `[Lk]` that belongs to a sequence without a batch."""
    if key_padding_mask.dim() != 1:
        raise ValueError(
            "key_padding_mask must be [keys], without a batch as the queries are; got "
            f"{list(key_padding_mask.shape)}"
        )
    return key_padding_mask.unsqueeze(0)


def _one_mask(
    mask: Mask | None, attn_mask: Tensor | Mask | None, is_causal: bool
) -> tuple[Mask | None, Tensor | None]:
    """`mask`, also where it was given as `attn_mask`, and `attn_mask` where it is a tensor."""
    if mask is not None and not isinstance(mask, Mask):
        raise ValueError(
            f"mask must be an attnbench.Mask; got {type(mask).__name__}: tensors are passed as attn_mask"
        )
    if mask is not None and attn_mask is not None:
        raise ValueError("give either mask or attn_mask, not both")
    if is_causal and mask is None and attn_mask is None:
        raise ValueError(
            "is_causal is a hint that attn_mask is the causal mask, and there is none; pass an attn_mask "
            "(Transformer.generate_square_subsequent_mask makes one), or an attnbench.Mask"
        )
    if isinstance(attn_mask, Mask):
        return attn_mask, None
    return mask, attn_mask
