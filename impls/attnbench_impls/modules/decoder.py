"""The decoder: self-attention, attention to the encoder's output, and a feed-forward part, each with a
residual; Vaswani et al. (2017), §3.1.
"""

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
from attnbench_impls.modules.cache import KVCache
from attnbench_impls.modules.cores import TEXTBOOK, AttentionFunction
from attnbench_impls.modules.feed_forward import FeedForward
from attnbench_impls.modules.masks import is_causal_mask

__all__ = ["Decoder", "DecoderLayer"]


class DecoderLayer(FeedForward):
    """One layer of a decoder, with the arguments, parameters and results of `nn.TransformerDecoderLayer`.

    Args:
        d_model: E, the features of both sequences.
        nhead: H, the heads of both attentions.
        dim_feedforward: the features within the feed-forward part.
        dropout: the probability of all dropouts, in training.
        activation: of the feed-forward part: `"relu"`, `"gelu"`, or a function of a tensor.
        layer_norm_eps: what the layer norms add to the variance.
        batch_first: sequences are `[B, L, E]` rather than `[L, B, E]`.
        norm_first: normalise what enters a part (Xiong et al., 2020) rather than what leaves it.
        bias: whether projections and norms have biases.
        device: where the parameters are.
        dtype: of the parameters.
        core: of both attentions, as are `kv_heads` and `qk_norm`; see `MultiHeadAttention`.
        kv_heads: see there.
        rotary: of the self-attention alone: two sequences have no positions in common.
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

        def attention(rotary: bool | float) -> MultiHeadAttention:
            return MultiHeadAttention(
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

        self.self_attn = attention(rotary)
        self.multihead_attn = attention(False)
        self._make_feed_forward(d_model, dim_feedforward, dropout, bias, where)
        self.norm_first = norm_first
        self.norm1 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **where)
        self.norm2 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **where)
        self.norm3 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **where)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)
        self._make_activation(activation)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | Mask | None = None,
        memory_mask: Tensor | Mask | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        """`tgt` `[B, Lt, E]`, decoded in view of `memory` `[B, Lm, E]`; `[Lt, B, E]` … unless batch_first.

        `tgt_mask` `[Lt, Lt]` or `[B·H, Lt, Lt]`, `memory_mask` `[Lt, Lm]` or `[B·H, Lt, Lm]`, or an
        `attnbench.Mask` each; `tgt_key_padding_mask` `[B, Lt]`, `memory_key_padding_mask` `[B, Lm]`; all of
        them, the hints, and the `cache` of the self-attention as in `MultiHeadAttention`.

        Raises:
            ValueError: shapes that do not fit, or what the core cannot do.
        """
        self._check_sequence("tgt", tgt, self.self_attn)
        self._check_sequence("memory", memory, self.multihead_attn)

        def attend(x: Tensor) -> Tensor:
            o, _ = self.self_attn(
                x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal, cache=cache
            )
            dropped: Tensor = self.dropout1(o)
            return dropped

        def attend_to_memory(x: Tensor) -> Tensor:
            o, _ = self.multihead_attn(
                x, memory, memory, memory_key_padding_mask, False, memory_mask, is_causal=memory_is_causal
            )
            dropped: Tensor = self.dropout2(o)
            return dropped

        x: Tensor = tgt
        if self.norm_first:
            x = x + attend(self.norm1(x))
            x = x + attend_to_memory(self.norm2(x))
            x = x + self.dropout3(self._feed_forward(self.norm3(x)))
        else:
            x = self.norm1(x + attend(x))
            x = self.norm2(x + attend_to_memory(x))
            x = self.norm3(x + self.dropout3(self._feed_forward(x)))
        return x


class Decoder(nn.Module):
    """`num_layers` copies of `decoder_layer`, one after another, then `norm`; as `nn.TransformerDecoder`."""

    def __init__(self, decoder_layer: DecoderLayer, num_layers: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        check_whole("num_decoder_layers", num_layers)
        self.layers = nn.ModuleList([deepcopy(decoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm
        self._cored = decoder_layer.self_attn.core != TEXTBOOK

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | Mask | None = None,
        memory_mask: Tensor | Mask | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """`tgt` `[B, Lt, E]`, decoded, as `DecoderLayer`; `tgt_is_causal` None: look whether `tgt_mask` is.

        Raises:
            ValueError: as `DecoderLayer`.
        """
        x = tgt
        if tgt_is_causal is None:
            # The textbook has no use for the hint, and looking costs a pass over the mask.
            tgt_is_causal = self._cored and is_causal_mask(tgt_mask)
        for layer in self.layers:
            x = layer(
                x,
                memory,
                tgt_mask,
                memory_mask,
                tgt_key_padding_mask,
                memory_key_padding_mask,
                tgt_is_causal,
                memory_is_causal,
            )
        return x if self.norm is None else self.norm(x)
