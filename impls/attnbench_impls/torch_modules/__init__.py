"""torch's own modules: nn.MultiheadAttention, its layers and its transformer."""

from __future__ import annotations

from attnbench_impls.torch_modules.layers import (
    TORCH_DECODER_LAYER,
    TORCH_ENCODER_LAYER,
    TORCH_ENCODER_LAYER_FASTPATH,
    TORCH_TRANSFORMER,
)
from attnbench_impls.torch_modules.mha import TORCH_MHA, TORCH_MHA_FASTPATH

__all__ = [
    "TORCH_DECODER_LAYER",
    "TORCH_ENCODER_LAYER",
    "TORCH_ENCODER_LAYER_FASTPATH",
    "TORCH_MHA",
    "TORCH_MHA_FASTPATH",
    "TORCH_TRANSFORMER",
]
