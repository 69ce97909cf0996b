"""The shapes of encoder layers, decoder layers, and transformers made of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from attnbench.masks import why_impossible
from attnbench.shapes.axis import Axis, AxisError, AxisValue
from attnbench.shapes.modules import Headed, Sizes, axes_named, joined

__all__ = ["DecoderLayerShape", "EncoderLayerShape", "TransformerShape"]


@dataclass(frozen=True, slots=True)
class _Layered(Headed):
    """What encoder layers, decoder layers and stacks of both share."""

    ff_dim: int

    def _feed_forward(self, prefix: str, *, bias: bool) -> Sizes:
        e, f = self.embed_dim, self.ff_dim
        sizes: Sizes = {"linear1.weight": (f, e), "linear1.bias": (f,), "linear2.weight": (e, f)}
        sizes["linear2.bias"] = (e,)
        return {prefix + name: size for name, size in sizes.items() if bias or not name.endswith("bias")}

    def _norms(self, *names: str, bias: bool) -> Sizes:
        kinds = ("weight", "bias") if bias else ("weight",)
        return {f"{name}.{kind}": (self.embed_dim,) for name in names for kind in kinds}

    def _encoder_layer(self, prefix: str, *, bias: bool) -> Sizes:
        e = self.embed_dim
        return {
            **self._attention(f"{prefix}self_attn.", bias=bias, kdim=e, vdim=e),
            **self._feed_forward(prefix, bias=bias),
            **self._norms(f"{prefix}norm1", f"{prefix}norm2", bias=bias),
        }

    def _decoder_layer(self, prefix: str, *, bias: bool) -> Sizes:
        e = self.embed_dim
        return {
            **self._attention(f"{prefix}self_attn.", bias=bias, kdim=e, vdim=e),
            **self._attention(f"{prefix}multihead_attn.", bias=bias, kdim=e, vdim=e),
            **self._feed_forward(prefix, bias=bias),
            **self._norms(f"{prefix}norm1", f"{prefix}norm2", f"{prefix}norm3", bias=bias),
        }

    def _layer_label(self, lengths: str, *others: tuple[bool, str]) -> str:
        settings = self.to_json()
        unusual = (
            *others,
            (not settings["bias"], "nobias"),
            (settings["dropout"] != 0, f"drop{settings['dropout']:g}"),
            (bool(settings["norm_first"]), "prenorm"),
            (not settings["batch_first"], "seqfirst"),
            (bool(settings["training"]), "train"),
        )
        usual = f"B{self.batch}-{lengths}-E{self.embed_dim}-{self._heads_label()}-F{self.ff_dim}"
        return joined(usual, unusual)


_LAYER = ("bias", "dropout", "norm_first", "batch_first", "training")


@dataclass(frozen=True, slots=True)
class EncoderLayerShape(_Layered):
    """src `[B, L, E]` -> o `[B, L, E]`: self attention, then a feed-forward network, added and normalised."""

    seq_len: int
    bias: bool = True
    dropout: float = 0.0
    norm_first: bool = False
    batch_first: bool = True
    training: bool = False

    OPERATION: ClassVar[str] = "encoder_layer"
    NEEDED: ClassVar[tuple[str, ...]] = ("embed_dim", "heads", "seq_len")
    AXES: ClassVar[Mapping[str, Axis]] = axes_named(
        "batch", "embed_dim", "heads", "kv_heads", "ff_dim", "seq_len", *_LAYER
    )

    def columns(self) -> dict[str, AxisValue]:
        """The shape's columns in the table; queries and keys are as many."""
        columns = Headed.columns(self)
        length = columns.pop("seq_len")
        return {**columns, "q_len": length, "kv_len": length}

    @property
    def label(self) -> str:
        """`B1-L512-E512-H8-F2048`, and what is not as usual: `-prenorm`, …"""
        return self._layer_label(f"L{self.seq_len}")

    @property
    def mask_lengths(self) -> tuple[int, int]:
        """The sequence's length, twice."""
        return self.seq_len, self.seq_len

    def activations(self) -> Sizes:
        """src."""
        return {"src": self._swapped(self.batch, self.seq_len, self.embed_dim)}

    def parameters(self) -> Sizes:
        """As of `torch.nn.TransformerEncoderLayer`."""
        return self._encoder_layer("", bias=self.bias)

    def scores(self) -> int:
        """B·H·L²."""
        return self.batch * self.heads * self.seq_len**2

    def outputs(self) -> Sizes:
        """o."""
        return {"o": self._swapped(self.batch, self.seq_len, self.embed_dim)}


@dataclass(frozen=True, slots=True)
class DecoderLayerShape(_Layered):
    """tgt `[B, Lq, E]`, memory `[B, Lk, E]` -> o `[B, Lq, E]`: two attentions and a feed-forward network.

    The workload's mask is that of the self attention.
    """

    q_len: int
    kv_len: int
    bias: bool = True
    dropout: float = 0.0
    norm_first: bool = False
    batch_first: bool = True
    training: bool = False
    memory_mask: str = "none"

    OPERATION: ClassVar[str] = "decoder_layer"
    NEEDED: ClassVar[tuple[str, ...]] = ("embed_dim", "heads")
    AXES: ClassVar[Mapping[str, Axis]] = axes_named(
        "batch",
        "embed_dim",
        "heads",
        "kv_heads",
        "ff_dim",
        "seq_len",
        "q_len",
        "kv_len",
        *_LAYER,
        "memory_mask",
    )

    def _check(self) -> None:
        Headed._check(self)
        _check_mask("memory_mask", self.memory_mask, self.kv_len)

    @property
    def label(self) -> str:
        """`B1-L512-E512-H8-F2048`, or `Lq64-Lk512`; what is not as usual follows, a mask as `-m(…)`."""
        equal = self.q_len == self.kv_len
        lengths = f"L{self.q_len}" if equal else f"Lq{self.q_len}-Lk{self.kv_len}"
        return self._layer_label(lengths, (self.memory_mask != "none", f"memory({self.memory_mask})"))

    @property
    def mask_lengths(self) -> tuple[int, int]:
        """The decoder's sequence, twice."""
        return self.q_len, self.q_len

    def activations(self) -> Sizes:
        """tgt and memory."""
        return {
            "tgt": self._swapped(self.batch, self.q_len, self.embed_dim),
            "memory": self._swapped(self.batch, self.kv_len, self.embed_dim),
        }

    def other_masks(self) -> dict[str, tuple[str, int, int]]:
        """The cross attention's."""
        return {"memory_mask": (self.memory_mask, self.q_len, self.kv_len)}

    def parameters(self) -> Sizes:
        """As of `torch.nn.TransformerDecoderLayer`."""
        return self._decoder_layer("", bias=self.bias)

    def scores(self) -> int:
        """B·H·Lq·L, L being the longer length."""
        return self.batch * self.heads * self.q_len * max(self.q_len, self.kv_len)

    def outputs(self) -> Sizes:
        """o."""
        return {"o": self._swapped(self.batch, self.q_len, self.embed_dim)}


@dataclass(frozen=True, slots=True)
class TransformerShape(_Layered):
    """src `[B, Lk, E]`, tgt `[B, Lq, E]` -> o `[B, Lq, E]`: `layers` encoder layers, and decoder layers.

    Both sequences have the sinusoidal encoding added to them; both stacks end in a normalisation. The
    workload's mask is that of the decoder's self attention.
    """

    q_len: int
    kv_len: int
    layers: int = 1
    bias: bool = True
    dropout: float = 0.0
    norm_first: bool = False
    batch_first: bool = True
    training: bool = False
    src_mask: str = "none"
    memory_mask: str = "none"

    OPERATION: ClassVar[str] = "transformer"
    NEEDED: ClassVar[tuple[str, ...]] = ("embed_dim", "heads")
    AXES: ClassVar[Mapping[str, Axis]] = axes_named(
        "batch",
        "embed_dim",
        "heads",
        "kv_heads",
        "ff_dim",
        "layers",
        "seq_len",
        "q_len",
        "kv_len",
        *_LAYER,
        "src_mask",
        "memory_mask",
    )

    def _check(self) -> None:
        Headed._check(self)
        _check_mask("src_mask", self.src_mask, self.kv_len)
        _check_mask("memory_mask", self.memory_mask, self.kv_len)

    @property
    def label(self) -> str:
        """`B1-L512-E512-H8-F2048-N2`; what is not as usual follows."""
        equal = self.q_len == self.kv_len
        return self._layer_label(
            f"L{self.q_len}" if equal else f"Lq{self.q_len}-Lk{self.kv_len}",
            (True, f"N{self.layers}"),
            (self.src_mask != "none", f"src({self.src_mask})"),
            (self.memory_mask != "none", f"memory({self.memory_mask})"),
        )

    @property
    def mask_lengths(self) -> tuple[int, int]:
        """The decoder's sequence, twice."""
        return self.q_len, self.q_len

    def activations(self) -> Sizes:
        """src and tgt."""
        return {
            "src": self._swapped(self.batch, self.kv_len, self.embed_dim),
            "tgt": self._swapped(self.batch, self.q_len, self.embed_dim),
        }

    def other_masks(self) -> dict[str, tuple[str, int, int]]:
        """The encoder's, and the cross attention's."""
        return {
            "src_mask": (self.src_mask, self.kv_len, self.kv_len),
            "memory_mask": (self.memory_mask, self.q_len, self.kv_len),
        }

    def parameters(self) -> Sizes:
        """As of `torch.nn.Transformer`."""
        sizes: Sizes = {}
        for layer in range(self.layers):
            sizes |= self._encoder_layer(f"encoder.layers.{layer}.", bias=self.bias)
        sizes |= self._norms("encoder.norm", bias=self.bias)
        for layer in range(self.layers):
            sizes |= self._decoder_layer(f"decoder.layers.{layer}.", bias=self.bias)
        return sizes | self._norms("decoder.norm", bias=self.bias)

    def scores(self) -> int:
        """B·H·L², L being the longer length."""
        return self.batch * self.heads * max(self.q_len, self.kv_len) ** 2

    def outputs(self) -> Sizes:
        """o."""
        return {"o": self._swapped(self.batch, self.q_len, self.embed_dim)}


def _check_mask(axis: str, mask: str, keys: int) -> None:
    why = why_impossible(mask, keys)
    if why is not None:
        raise AxisError(axis, why)
