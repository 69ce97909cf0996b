"""What the shapes of whole modules have in common: their axes, and the weights of an attention.

Sizes are those of `torch.nn`'s modules of the same name, and so are the names and layouts of their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnbench.shapes.axis import Axis, AxisError, AxisValue, Shape

__all__ = ["Headed", "Module", "Sizes", "axes_named", "joined"]

#: Tensors by name, each with its size.
Sizes = dict[str, tuple[int, ...]]

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


def axes_named(*names: str) -> Mapping[str, Axis]:
    """The axes of these names, in this order."""
    return {name: _AXES[name] for name in names}


def joined(usual: str, unusual: tuple[tuple[bool, str], ...]) -> str:
    """A label: what is as usual, and each text of `unusual` that applies."""
    return "-".join((usual, *(text for there, text in unusual if there)))


@dataclass(frozen=True, slots=True)
class Module(Shape):
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
class Headed(Module):
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

    def _attention(self, prefix: str, *, bias: bool, kdim: int, vdim: int) -> Sizes:
        """The weights of one multi-head attention."""
        e, kv = self.embed_dim, self.kv_dim
        packed = kdim == vdim == e and kv == e
        sizes: Sizes = (
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
