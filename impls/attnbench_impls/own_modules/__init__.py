"""The modules of `attnbench_impls.modules` as implementations."""

from __future__ import annotations

from attnbench_impls.own_modules.layers import DECODER_LAYER, ENCODER_LAYER, TRANSFORMER
from attnbench_impls.own_modules.mha import MHA
from attnbench_impls.own_modules.positions import POSITIONAL_ENCODING

__all__ = ["DECODER_LAYER", "ENCODER_LAYER", "MHA", "POSITIONAL_ENCODING", "TRANSFORMER"]
