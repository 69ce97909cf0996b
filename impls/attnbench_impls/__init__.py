"""The built-in implementations: a plug-in like anybody else's. Importing it imports no framework.

The modules (`MultiHeadAttention`, `Transformer`, …) are torch's, and are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnbench_impls.chunked import IMPLEMENTATION as CHUNKED
from attnbench_impls.flex import FLEX
from attnbench_impls.naive import IMPLEMENTATION as NAIVE
from attnbench_impls.numpy_attention import IMPLEMENTATION as NUMPY
from attnbench_impls.numpy_chunked import IMPLEMENTATION as NUMPY_CHUNKED
from attnbench_impls.numpy_mha import IMPLEMENTATION as NUMPY_MHA
from attnbench_impls.numpy_positions import IMPLEMENTATION as NUMPY_POSITIONAL_ENCODING
from attnbench_impls.own_modules import DECODER_LAYER, ENCODER_LAYER, MHA, POSITIONAL_ENCODING, TRANSFORMER
from attnbench_impls.quantized import IMPLEMENTATION as QUANTIZED_MHA
from attnbench_impls.sdpa import SDPA, SDPA_CUDNN, SDPA_EFFICIENT, SDPA_FLASH, SDPA_MATH
from attnbench_impls.torch_modules import (
    TORCH_DECODER_LAYER,
    TORCH_ENCODER_LAYER,
    TORCH_ENCODER_LAYER_FASTPATH,
    TORCH_MHA,
    TORCH_MHA_FASTPATH,
    TORCH_TRANSFORMER,
)
from attnbench_impls.torchtune_mha import IMPLEMENTATION as TORCHTUNE_MHA

if TYPE_CHECKING:
    from attnbench_impls.modules import (
        DecoderLayer,
        EncoderLayer,
        KVCache,
        MultiHeadAttention,
        SinusoidalPositionalEncoding,
        Transformer,
    )

__all__ = [
    "CHUNKED",
    "DECODER_LAYER",
    "ENCODER_LAYER",
    "FLEX",
    "MHA",
    "NAIVE",
    "NUMPY",
    "NUMPY_CHUNKED",
    "NUMPY_MHA",
    "NUMPY_POSITIONAL_ENCODING",
    "POSITIONAL_ENCODING",
    "QUANTIZED_MHA",
    "SDPA",
    "SDPA_CUDNN",
    "SDPA_EFFICIENT",
    "SDPA_FLASH",
    "SDPA_MATH",
    "TORCHTUNE_MHA",
    "TORCH_DECODER_LAYER",
    "TORCH_ENCODER_LAYER",
    "TORCH_ENCODER_LAYER_FASTPATH",
    "TORCH_MHA",
    "TORCH_MHA_FASTPATH",
    "TORCH_TRANSFORMER",
    "TRANSFORMER",
    "DecoderLayer",
    "EncoderLayer",
    "KVCache",
    "MultiHeadAttention",
    "SinusoidalPositionalEncoding",
    "Transformer",
]

_MODULES = (
    "DecoderLayer",
    "EncoderLayer",
    "KVCache",
    "MultiHeadAttention",
    "SinusoidalPositionalEncoding",
    "Transformer",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module("attnbench_impls.modules"), name)
    raise AttributeError(f"module 'attnbench_impls' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
