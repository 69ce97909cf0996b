"""The transformer, encoder and decoder: Vaswani et al., Attention Is All You Need (2017), figure 1."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from attnbench.implementation import Implementation
from attnbench.masks import Mask
from attnbench_impls.modules.arguments import Activation, check_features, check_whole
from attnbench_impls.modules.cores import TEXTBOOK, AttentionFunction
from attnbench_impls.modules.decoder import Decoder, DecoderLayer
from attnbench_impls.modules.encoder import Encoder, EncoderLayer

__all__ = ["Transformer"]


class Transformer(nn.Module):
    """An encoder and a decoder, with the arguments, parameters and results of `nn.Transformer`.

    Args:
        d_model: E, the features of both sequences.
        nhead: H, the heads of all attentions.
        num_encoder_layers: layers of the encoder.
        num_decoder_layers: layers of the decoder.
        dim_feedforward: the features within the feed-forward parts.
        dropout: the probability of all dropouts, in training.
        activation: of the feed-forward parts: `"relu"`, `"gelu"`, or a function of a tensor.
        custom_encoder: a module that is called as `Encoder` is, in its place.
        custom_decoder: a module that is called as `Decoder` is, in its place.
        layer_norm_eps: what the layer norms add to the variance.
        batch_first: sequences are `[B, L, E]` rather than `[L, B, E]`.
        norm_first: normalise what enters a part rather than what leaves it.
        bias: whether projections and norms have biases.
        device: where the parameters are.
        dtype: of the parameters.
        core: of all attentions, as are `kv_heads` and `qk_norm`; see `MultiHeadAttention`.
        kv_heads: see there.
        rotary: of the self-attentions; see there.
        qk_norm: see there.

    Raises:
        ValueError: an argument that is none of these.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = relu,
        custom_encoder: Any | None = None,
        custom_decoder: Any | None = None,
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
        check_whole("d_model", d_model)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        shared = (d_model, nhead, dim_feedforward, dropout, activation)
        more: dict[str, Any] = {
            "layer_norm_eps": layer_norm_eps,
            "batch_first": batch_first,
            "norm_first": norm_first,
            "bias": bias,
            "core": core,
            "kv_heads": kv_heads,
            "rotary": rotary,
            "qk_norm": qk_norm,
            **where,
        }
        if custom_encoder is None:
            encoder_layer = EncoderLayer(*shared, **more)
            norm = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **where)
            custom_encoder = Encoder(encoder_layer, num_encoder_layers, norm)
        if custom_decoder is None:
            decoder_layer = DecoderLayer(*shared, **more)
            norm = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **where)
            custom_decoder = Decoder(decoder_layer, num_decoder_layers, norm)
        self.encoder = custom_encoder
        self.decoder = custom_decoder
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | Mask | None = None,
        tgt_mask: Tensor | Mask | None = None,
        memory_mask: Tensor | Mask | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The decoder's output `[B, Lt, E]` for `src` `[B, Ls, E]` and `tgt` `[B, Lt, E]`.

        `[Ls, B, E]` and `[Lt, B, E]` unless batch_first, or `[Ls, E]` and `[Lt, E]`. Masks `src_mask`
        `[Ls, Ls]`, `tgt_mask` `[Lt, Lt]`, `memory_mask` `[Lt, Ls]`, each also with B·H in front, or as an
        `attnbench.Mask`; `src_key_padding_mask` and `memory_key_padding_mask` `[B, Ls]`,
        `tgt_key_padding_mask` `[B, Lt]`. Boolean ones hide where they are True, floating ones are added to
        the scores. The hints say that a mask is the causal one; None: look.

        Raises:
            ValueError: shapes that do not fit, or what the core cannot do.
        """
        for name, x in (("src", src), ("tgt", tgt)):
            check_features(name, x, self.d_model)
        axis = 0 if self.batch_first else 1
        if src.dim() != tgt.dim() or (src.dim() == 3 and src.shape[axis] != tgt.shape[axis]):
            raise ValueError(
                f"src and tgt must have the same batch, axis {axis} with batch_first={self.batch_first}; got "
                f"{list(src.shape)} and {list(tgt.shape)}"
            )
        memory = self.encoder(
            src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal
        )
        output: Tensor = self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )
        return output

    @staticmethod
    def generate_square_subsequent_mask(
        sz: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """The causal mask of `sz` positions as a floating one `[sz, sz]`: −∞ above the diagonal, else 0."""
        return torch.full((sz, sz), -math.inf, device=device, dtype=dtype).triu(diagonal=1)
