"""Multi-head attention, the layers and the transformer made of it: `nn.Module`s to read (docs/modules.md)."""

from __future__ import annotations

from attnbench_impls.modules.attention import MultiHeadAttention
from attnbench_impls.modules.build import over
from attnbench_impls.modules.cache import KVCache
from attnbench_impls.modules.decoder import Decoder, DecoderLayer
from attnbench_impls.modules.encoder import Encoder, EncoderLayer
from attnbench_impls.modules.masks import TensorMask
from attnbench_impls.modules.positions import SinusoidalPositionalEncoding, sinusoidal_table
from attnbench_impls.modules.transformer import Transformer

__all__ = [
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "KVCache",
    "MultiHeadAttention",
    "SinusoidalPositionalEncoding",
    "TensorMask",
    "Transformer",
    "over",
    "sinusoidal_table",
]
