"""The shape of multi-head attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from attnbench.shapes.axis import Axis, AxisError
from attnbench.shapes.modules import Headed, Sizes, axes_named, joined

__all__ = ["MhaShape"]


@dataclass(frozen=True, slots=True)
class MhaShape(Headed):
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
    AXES: ClassVar[Mapping[str, Axis]] = axes_named(
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
        Headed._check(self)
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
        return joined(f"B{self.batch}-{lengths}-E{self.embed_dim}-{self._heads_label()}", unusual)

    @property
    def mask_lengths(self) -> tuple[int, int]:
        """Queries and keys."""
        return self.q_len, self.kv_len

    def activations(self) -> Sizes:
        """x, or query, key and value."""
        if self.attention == "self":
            return {"x": self._swapped(self.batch, self.kv_len, self.embed_dim)}
        return {
            "query": self._swapped(self.batch, self.q_len, self.embed_dim),
            "key": self._swapped(self.batch, self.kv_len, self.kdim),
            "value": self._swapped(self.batch, self.kv_len, self.vdim),
        }

    def parameters(self) -> Sizes:
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

    def outputs(self) -> Sizes:
        """o, and the weights where they are needed."""
        sizes = {"o": self._swapped(self.batch, self.q_len, self.embed_dim)}
        if self.need_weights == "averaged":
            sizes["weights"] = (self.batch, self.q_len, self.weights_len)
        elif self.need_weights == "per_head":
            sizes["weights"] = (self.batch, self.heads, self.q_len, self.weights_len)
        return sizes
