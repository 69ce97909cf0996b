"""The encoder: self-attention and a feed-forward part, each with a residual; Vaswani et al. (2017), §3.1."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from attnbench.implementation import Implementation
from attnbench.masks import Mask
from attnbench_impls.modules.arguments import Activation, check_whole
from attnbench_impls.modules.attention import MultiHeadAttention
from attnbench_impls.modules.cores import TEXTBOOK, AttentionFunction
from attnbench_impls.modules.feed_forward import FeedForward
from attnbench_impls.modules.masks import is_causal_mask

__all__ = ["Encoder", "EncoderLayer"]


class EncoderLayer(FeedForward):
    """One layer of an encoder, with the arguments, parameters and results of `nn.TransformerEncoderLayer`.

    Args:
        d_model: E, the features of the sequence.
        nhead: H, the heads of the attention.
        dim_feedforward: the features within the feed-forward part.
        dropout: the probability of all dropouts, in training.
        activation: of the feed-forward part: `"relu"`, `"gelu"`, or a function of a tensor.
        layer_norm_eps: what the layer norms add to the variance.
        batch_first: sequences are `[B, L, E]` rather than `[L, B, E]`.
        norm_first: normalise what enters a part (Xiong et al., 2020) rather than what leaves it.
        bias: whether projections and norms have biases.
        device: where the parameters are.
        dtype: of the parameters.
        core: of the attention, as are `kv_heads`, `rotary` and `qk_norm`; see `MultiHeadAttention`.
        kv_heads: see there.
        rotary: see there.
        qk_norm: see there.

    Raises:
        ValueError: an argument that is none of these.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        core: str | Implementation | AttentionFunction = TEXTBOOK,
        kv_heads: int | None = None,
        rotary: bool | float = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.self_attn = MultiHeadAttention(
            d_model,
            nhead,
            dropout,
            bias,
            batch_first=batch_first,
            core=core,
            kv_heads=kv_heads,
            rotary=rotary,
            qk_norm=qk_norm,
            **where,
        )
        self._make_feed_forward(d_model, dim_feedforward, dropout, bias, where)
        self.norm_first = norm_first
        self.norm1 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **where)
        self.norm2 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **where)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self._make_activation(activation)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | Mask | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """`src` `[B, L, E]`, encoded; `[L, B, E]` unless batch_first, or `[L, E]`.

        `src_mask` `[L, L]` or `[B·H, L, L]`, or an `attnbench.Mask`; `src_key_padding_mask` `[B, L]`; both,
        and `is_causal`, as in `MultiHeadAttention`.

        Raises:
            ValueError: shapes that do not fit, or what the core cannot do.
        """
        self._check_sequence("src", src, self.self_attn)

        def attend(x: Tensor) -> Tensor:
            o, _ = self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)
            dropped: Tensor = self.dropout1(o)
            return dropped

        x: Tensor = src
        if self.norm_first:
            x = x + attend(self.norm1(x))
            x = x + self.dropout2(self._feed_forward(self.norm2(x)))
        else:
            x = self.norm1(x + attend(x))
            x = self.norm2(x + self.dropout2(self._feed_forward(x)))
        return x


class Encoder(nn.Module):
    """`num_layers` copies of `encoder_layer`, one after another, then `norm`; as `nn.TransformerEncoder`."""

    def __init__(self, encoder_layer: EncoderLayer, num_layers: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        check_whole("num_encoder_layers", num_layers)
        self.layers = nn.ModuleList([deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm
        self._cored = encoder_layer.self_attn.core != TEXTBOOK

    def forward(
        self,
        src: Tensor,
        mask: Tensor | Mask | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """`src` `[B, L, E]`, encoded, as `EncoderLayer`; `is_causal` None: look whether `mask` is causal.

        Raises:
            ValueError: as `EncoderLayer`.
        """
        x = src
        if is_causal is None:
            # The textbook has no use for the hint, and looking costs a pass over the mask.
            is_causal = self._cored and is_causal_mask(mask)
        for layer in self.layers:
            x = layer(x, mask, src_key_padding_mask, is_causal)
        return x if self.norm is None else self.norm(x)
