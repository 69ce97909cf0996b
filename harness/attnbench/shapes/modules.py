"""The shapes of whole modules: multi-head attention, encoder and decoder layers, transformers, positions.

Sizes are those of `torch.nn`'s modules of the same name, and so are the names and layouts of their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from attnbench.masks import why_impossible
from attnbench.shapes.axis import Axis, AxisError, AxisValue, Shape

__all__ = [
    "DecoderLayerShape",
    "EncoderLayerShape",
    "MhaShape",
    "PositionsShape",
    "TransformerShape",
]

_Sizes = dict[str, tuple[int, ...]]

_AXES: dict[str, Axis] = {
    "batch": Axis("Sequences computed together.", 1),
    "embed_dim": Axis("Numbers per position; each head has embed_dim / heads of them."),
    "heads": Axis("Query heads, a divisor of embed_dim."),
    "kv_heads": Axis(
        "Key and value heads, a divisor of heads (grouped queries); by default as many as heads."
    ),
    "kdim": Axis("Numbers per position of the keys, in cross attention; by default embed_dim."),
    "vdim": Axis("Numbers per position of the values, in cross attention; by default embed_dim."),
    "ff_dim": Axis("Inner size of the feed-forward network; by default 4 · embed_dim."),
    "layers": Axis("Encoder layers, and as many decoder layers.", 1),
    "seq_len": Axis("Length of all sequences; or give q_len and kv_len."),
    "q_len": Axis("Length of the queries, or of the decoder's sequence."),
    "kv_len": Axis("Length of the keys and values, or of the encoder's sequence."),
    "attention": Axis(
        "Where keys and values come from: the sequence itself, or others.",
        "self",
        "choice",
        ("self", "cross"),
    ),
    "bias": Axis("Whether linear layers and normalisations add a bias.", True, "switch"),
    "add_bias_kv": Axis("Whether one learnt key and value are appended.", False, "switch"),
    "add_zero_attn": Axis("Whether a key and value of zeros are appended.", False, "switch"),
    "dropout": Axis("Share of the numbers that is dropped, when training.", 0.0, "share"),
    "need_weights": Axis(
        "Whether the attention weights are returned too.", "none", "choice", ("none", "averaged", "per_head")
    ),
    "norm_first": Axis("Whether each part is normalised before, not after it.", False, "switch"),
    "batch_first": Axis("Whether the first axis is the batch, not the position.", True, "switch"),
    "rotary": Axis("Whether queries and keys are rotated by their positions.", False, "switch"),
    "qk_norm": Axis("Whether queries and keys are normalised, head by head.", False, "switch"),
    "training": Axis("Training mode, in which dropout acts; else evaluation.", False, "switch"),
    "memory_mask": Axis("Which position of the memory the cross attention sees.", "none", "mask"),
    "src_mask": Axis("Which position of its own sequence the encoder sees.", "none", "mask"),
}


def _axes(*names: str) -> Mapping[str, Axis]:
    return {name: _AXES[name] for name in names}


@dataclass(frozen=True, slots=True)
class _Module(Shape):
    """What all shapes of modules share."""

    batch: int
    embed_dim: int

    @classmethod
    def _derive(cls, given: dict[str, AxisValue]) -> None:
        for axis, other, times in (
            ("kv_heads", "heads", 1),
            ("kdim", "embed_dim", 1),
            ("vdim", "embed_dim", 1),
            ("ff_dim", "embed_dim", 4),
        ):
            size = given.get(other)
            if axis in cls.AXES and isinstance(size, int):
                given.setdefault(axis, times * size)

    def _swapped(self, *size: int) -> tuple[int, ...]:
        """`[B, L, E]`, or `[L, B, E]` where the batch does not come first."""
        batch, length, *rest = size
        return size if getattr(self, "batch_first", True) else (length, batch, *rest)


@dataclass(frozen=True, slots=True)
class _Headed(_Module):
    """What all shapes with attention in them share."""

    heads: int
    kv_heads: int

    def _check(self) -> None:
        if self.embed_dim % self.heads:
            raise AxisError("heads", f"expected a divisor of embed_dim ({self.embed_dim}), got {self.heads}")
        if self.heads % self.kv_heads:
            raise AxisError("kv_heads", f"expected a divisor of heads ({self.heads}), got {self.kv_heads}")

    @property
    def head_dim(self) -> int:
        """Numbers per head and position."""
        return self.embed_dim // self.heads

    @property
    def kv_dim(self) -> int:
        """Numbers of all key heads per position."""
        return self.kv_heads * self.head_dim

    def columns(self) -> dict[str, AxisValue]:
        """The shape's columns in the table; `head_dim` follows from the others."""
        return {**self.to_json(), "head_dim": self.head_dim}

    def why_random(self) -> str | None:
        """Dropout, in training mode."""
        dropout: float = getattr(self, "dropout", 0.0)
        training: bool = getattr(self, "training", False)
        if not (training and dropout):
            return None
        return f"dropout {dropout:g} in training mode: no two calls need agree; judge it with dropout 0"

    def _heads_label(self) -> str:
        return f"H{self.heads}" if self.heads == self.kv_heads else f"H{self.heads}kv{self.kv_heads}"

    def _attention(self, prefix: str, *, bias: bool, kdim: int, vdim: int) -> _Sizes:
        """The weights of one multi-head attention."""
        e, kv = self.embed_dim, self.kv_dim
        packed = kdim == vdim == e and kv == e
        sizes: _Sizes = (
            {"in_proj_weight": (3 * e, e)}
            if packed
            else {"q_proj_weight": (e, e), "k_proj_weight": (kv, kdim), "v_proj_weight": (kv, vdim)}
        )
        if bias:
            sizes["in_proj_bias"] = (e + 2 * kv,)
        sizes["out_proj.weight"] = (e, e)
        if bias:
            sizes["out_proj.bias"] = (e,)
        return {prefix + name: size for name, size in sizes.items()}


@dataclass(frozen=True, slots=True)
class MhaShape(_Headed):
    """Multi-head attention: x `[B, Lk, E]`, or query `[B, Lq, E]`, key `[B, Lk, kdim]`, value `[…, vdim]`.

    In self attention the queries are the last `q_len` positions of x, and what stands before them is the
    past. o is `[B, Lq, E]`. Where the batch does not come first, B and L change places.
    """

    q_len: int
    kv_len: int
    kdim: int
    vdim: int
    attention: str = "self"
    bias: bool = True
    add_bias_kv: bool = False
    add_zero_attn: bool = False
    dropout: float = 0.0
    need_weights: str = "none"
    batch_first: bool = True
    rotary: bool = False
    qk_norm: bool = False
    training: bool = False

    OPERATION: ClassVar[str] = "mha"
    NEEDED: ClassVar[tuple[str, ...]] = ("embed_dim", "heads")
    AXES: ClassVar[Mapping[str, Axis]] = _axes(
        "batch",
        "embed_dim",
        "heads",
        "kv_heads",
        "kdim",
        "vdim",
        "seq_len",
        "q_len",
        "kv_len",
        "attention",
        "bias",
        "add_bias_kv",
        "add_zero_attn",
        "dropout",
        "need_weights",
        "batch_first",
        "rotary",
        "qk_norm",
        "training",
    )

    def _check(self) -> None:
        _Headed._check(self)
        if self.attention == "self":
            for axis in ("kdim", "vdim"):
                if getattr(self, axis) != self.embed_dim:
                    raise AxisError(
                        axis,
                        f"expected embed_dim ({self.embed_dim}) in self attention, "
                        f"got {getattr(self, axis)}; give attention: cross",
                    )
            if self.q_len > self.kv_len:
                raise AxisError(
                    "q_len",
                    f"expected at most kv_len ({self.kv_len}) in self attention, whose queries are the last "
                    f"of its positions, got {self.q_len}; give attention: cross",
                )
        elif self.rotary:
            raise AxisError("rotary", "is for self attention: others' positions are not the queries' own")
        if self.rotary and self.head_dim % 2:
            raise AxisError("rotary", f"turns pairs of numbers, and a head has {self.head_dim}")

    @property
    def past_len(self) -> int:
        """Positions of x before the first query's; 0 in cross attention."""
        return self.kv_len - self.q_len if self.attention == "self" else 0

    @property
    def weights_len(self) -> int:
        """Keys that a query has weights for, appended ones included."""
        return self.kv_len + self.add_bias_kv + self.add_zero_attn

    @property
    def label(self) -> str:
        """`B1-L512-E512-H8`; what is not as usual follows: `-cross`, `-kd256`, `-nobias`, `-weights`, …"""
        lengths = f"L{self.q_len}" if self.q_len == self.kv_len else f"Lq{self.q_len}-Lk{self.kv_len}"
        unusual = (
            (self.attention == "cross", "cross"),
            (self.kdim != self.embed_dim, f"kd{self.kdim}"),
            (self.vdim != self.embed_dim, f"vd{self.vdim}"),
            (not self.bias, "nobias"),
            (self.add_bias_kv, "biaskv"),
            (self.add_zero_attn, "zeroattn"),
            (self.dropout > 0, f"drop{self.dropout:g}"),
            (self.need_weights == "averaged", "weights"),
            (self.need_weights == "per_head", "headweights"),
            (not self.batch_first, "seqfirst"),
            (self.rotary, "rotary"),
            (self.qk_norm, "qknorm"),
            (self.training, "train"),
        )
        return _label(f"B{self.batch}-{lengths}-E{self.embed_dim}-{self._heads_label()}", unusual)

    @property
    def mask_lengths(self) -> tuple[int, int]:
        """Queries and keys."""
        return self.q_len, self.kv_len

    def activations(self) -> _Sizes:
        """x, or query, key and value."""
        if self.attention == "self":
            return {"x": self._swapped(self.batch, self.kv_len, self.embed_dim)}
        return {
            "query": self._swapped(self.batch, self.q_len, self.embed_dim),
            "key": self._swapped(self.batch, self.kv_len, self.kdim),
            "value": self._swapped(self.batch, self.kv_len, self.vdim),
        }

    def parameters(self) -> _Sizes:
        """As of `torch.nn.MultiheadAttention`; the scales of normalised queries and keys besides."""
        sizes = self._attention("", bias=self.bias, kdim=self.kdim, vdim=self.vdim)
        if self.add_bias_kv:
            sizes |= dict.fromkeys(("bias_k", "bias_v"), (1, 1, self.kv_dim))
        if self.qk_norm:
            sizes |= dict.fromkeys(("q_norm.scale", "k_norm.scale"), (self.head_dim,))
        return sizes

    def scores(self) -> int:
        """B·H·Lq·S."""
        return self.batch * self.heads * self.q_len * self.weights_len

    def outputs(self) -> _Sizes:
        """o, and the weights where they are needed."""
        sizes = {"o": self._swapped(self.batch, self.q_len, self.embed_dim)}
        if self.need_weights == "averaged":
            sizes["weights"] = (self.batch, self.q_len, self.weights_len)
        elif self.need_weights == "per_head":
            sizes["weights"] = (self.batch, self.heads, self.q_len, self.weights_len)
        return sizes


def _label(usual: str, unusual: tuple[tuple[bool, str], ...]) -> str:
    return "-".join((usual, *(text for there, text in unusual if there)))


@dataclass(frozen=True, slots=True)
class _Layered(_Headed):
    """What encoder layers, decoder layers and stacks of both share."""

    ff_dim: int

    def _feed_forward(self, prefix: str, *, bias: bool) -> _Sizes:
        e, f = self.embed_dim, self.ff_dim
        sizes: _Sizes = {"linear1.weight": (f, e), "linear1.bias": (f,), "linear2.weight": (e, f)}
        sizes["linear2.bias"] = (e,)
        return {prefix + name: size for name, size in sizes.items() if bias or not name.endswith("bias")}

    def _norms(self, *names: str, bias: bool) -> _Sizes:
        kinds = ("weight", "bias") if bias else ("weight",)
        return {f"{name}.{kind}": (self.embed_dim,) for name in names for kind in kinds}

    def _encoder_layer(self, prefix: str, *, bias: bool) -> _Sizes:
        e = self.embed_dim
        return {
            **self._attention(f"{prefix}self_attn.", bias=bias, kdim=e, vdim=e),
            **self._feed_forward(prefix, bias=bias),
            **self._norms(f"{prefix}norm1", f"{prefix}norm2", bias=bias),
        }

    def _decoder_layer(self, prefix: str, *, bias: bool) -> _Sizes:
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
        return _label(usual, unusual)


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
    AXES: ClassVar[Mapping[str, Axis]] = _axes(
        "batch", "embed_dim", "heads", "kv_heads", "ff_dim", "seq_len", *_LAYER
    )

    def columns(self) -> dict[str, AxisValue]:
        """The shape's columns in the table; queries and keys are as many."""
        columns = _Headed.columns(self)
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

    def activations(self) -> _Sizes:
        """src."""
        return {"src": self._swapped(self.batch, self.seq_len, self.embed_dim)}

    def parameters(self) -> _Sizes:
        """As of `torch.nn.TransformerEncoderLayer`."""
        return self._encoder_layer("", bias=self.bias)

    def scores(self) -> int:
        """B·H·L²."""
        return self.batch * self.heads * self.seq_len**2

    def outputs(self) -> _Sizes:
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
    AXES: ClassVar[Mapping[str, Axis]] = _axes(
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
        _Headed._check(self)
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

    def activations(self) -> _Sizes:
        """tgt and memory."""
        return {
            "tgt": self._swapped(self.batch, self.q_len, self.embed_dim),
            "memory": self._swapped(self.batch, self.kv_len, self.embed_dim),
        }

    def other_masks(self) -> dict[str, tuple[str, int, int]]:
        """The cross attention's."""
        return {"memory_mask": (self.memory_mask, self.q_len, self.kv_len)}

    def parameters(self) -> _Sizes:
        """As of `torch.nn.TransformerDecoderLayer`."""
        return self._decoder_layer("", bias=self.bias)

    def scores(self) -> int:
        """B·H·Lq·L, L being the longer length."""
        return self.batch * self.heads * self.q_len * max(self.q_len, self.kv_len)

    def outputs(self) -> _Sizes:
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
    AXES: ClassVar[Mapping[str, Axis]] = _axes(
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
        _Headed._check(self)
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

    def activations(self) -> _Sizes:
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

    def parameters(self) -> _Sizes:
        """As of `torch.nn.Transformer`."""
        sizes: _Sizes = {}
        for layer in range(self.layers):
            sizes |= self._encoder_layer(f"encoder.layers.{layer}.", bias=self.bias)
        sizes |= self._norms("encoder.norm", bias=self.bias)
        for layer in range(self.layers):
            sizes |= self._decoder_layer(f"decoder.layers.{layer}.", bias=self.bias)
        return sizes | self._norms("decoder.norm", bias=self.bias)

    def scores(self) -> int:
        """B·H·L², L being the longer length."""
        return self.batch * self.heads * max(self.q_len, self.kv_len) ** 2

    def outputs(self) -> _Sizes:
        """o."""
        return {"o": self._swapped(self.batch, self.q_len, self.embed_dim)}


@dataclass(frozen=True, slots=True)
class PositionsShape(_Module):
    """x `[B, L, E]` -> o `[B, L, E]`: the sinusoidal encoding of each position is added."""

    seq_len: int
    batch_first: bool = True

    OPERATION: ClassVar[str] = "positional_encoding"
    NEEDED: ClassVar[tuple[str, ...]] = ("embed_dim", "seq_len")
    AXES: ClassVar[Mapping[str, Axis]] = _axes("batch", "embed_dim", "seq_len", "batch_first")

    def columns(self) -> dict[str, AxisValue]:
        """The shape's columns in the table; there are neither queries nor keys, so both lengths are L."""
        columns = self.to_json()
        length = columns.pop("seq_len")
        return {**columns, "q_len": length, "kv_len": length}

    @property
    def label(self) -> str:
        """`B1-L512-E512`."""
        usual = f"B{self.batch}-L{self.seq_len}-E{self.embed_dim}"
        return _label(usual, ((not self.batch_first, "seqfirst"),))

    @property
    def mask_lengths(self) -> tuple[int, int]:
        """The sequence's length, twice."""
        return self.seq_len, self.seq_len

    def activations(self) -> _Sizes:
        """x."""
        return {"x": self._swapped(self.batch, self.seq_len, self.embed_dim)}

    def scores(self) -> int:
        """None: nobody attends."""
        return 0

    def outputs(self) -> _Sizes:
        """o."""
        return {"o": self._swapped(self.batch, self.seq_len, self.embed_dim)}

    def why_impossible(self, mask: str) -> str | None:
        """Nothing is masked where nobody attends."""
        return None if mask == "none" else f"there is nothing to mask in positional_encoding, got {mask}"


def _check_mask(axis: str, mask: str, keys: int) -> None:
    why = why_impossible(mask, keys)
    if why is not None:
        raise AxisError(axis, why)
