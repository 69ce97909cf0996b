"""Module operations for tests: torch's own modules as kernels, and textbooks with one thing wrong each.

`TORCH` computes every operation by `torch.nn`; `Mha`, `EncoderLayer` and `Positions` are right, in the case's
own precision, and each of `MUTANTS` overrides one step of them: by name, each an operation and a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from attnbench import Implementation, Mask
from attnbench.implementation import ModuleInputs
from attnbench.workload import Workload

Weights = Mapping[str, torch.Tensor]


def implementation(operation: str, kernel: Callable[..., Any], **settings: Any) -> Implementation:
    return Implementation(
        name=getattr(kernel, "__name__", type(kernel).__name__),
        operation=operation,
        framework="torch",
        summary="",
        load=lambda workload, options: lambda x: kernel(x, workload),
        **settings,
    )


def torch_mask(mask: Mask, heads: int) -> torch.Tensor | None:
    """In torch's polarity: `[Lq, Lk]`, or `[B·H, Lq, Lk]` where it differs by batch element."""
    allowed = mask.to_bool()
    if allowed is None:
        return None
    return ~allowed[0, 0] if len(allowed) == 1 else (~allowed).expand(-1, heads, -1, -1).flatten(0, 1)


def by_torch(x: ModuleInputs, workload: Workload) -> Any:
    """What `torch.nn`'s modules make of it."""
    s = workload.shape
    where = {"device": "meta", "dtype": getattr(torch, workload.dtype)}
    heads = getattr(s, "heads", 1)
    mask = torch_mask(x.mask, heads)
    others = {axis: torch_mask(each, heads) for axis, each in x.other_masks.items()}
    settings = {name: getattr(s, name, None) for name in ("norm_first", "batch_first", "bias")}
    match workload.operation:
        case "mha":
            module = nn.MultiheadAttention(
                s.embed_dim,
                heads,
                bias=s.bias,
                add_bias_kv=s.add_bias_kv,
                add_zero_attn=s.add_zero_attn,
                kdim=s.kdim,
                vdim=s.vdim,
                batch_first=s.batch_first,
                **where,
            )
            asked = {
                "need_weights": s.need_weights != "none",
                "average_attn_weights": s.need_weights != "per_head",
            }
            o, weights = functional_call(
                module, x.parameters, (x.query, x.key, x.value), {**asked, "attn_mask": mask}
            )
            return o if weights is None else (o, weights)
        case "encoder_layer":
            layer = nn.TransformerEncoderLayer(s.embed_dim, heads, s.ff_dim, 0.0, **settings, **where)
            return functional_call(layer, x.parameters, (x.tensors["src"],), {"src_mask": mask})
        case "decoder_layer":
            layer = nn.TransformerDecoderLayer(s.embed_dim, heads, s.ff_dim, 0.0, **settings, **where)
            arguments = (x.tensors["tgt"], x.tensors["memory"])
            return functional_call(layer, x.parameters, arguments, {"tgt_mask": mask, **others})
        case "transformer":
            module = nn.Transformer(
                s.embed_dim, heads, s.layers, s.layers, s.ff_dim, 0.0, **settings, **where
            )
            arguments = tuple(with_positions(x.tensors[name], s.batch_first) for name in ("src", "tgt"))
            return functional_call(module, x.parameters, arguments, {"tgt_mask": mask, **others})
    return with_positions(x.tensors["x"], s.batch_first)


def with_positions(x: torch.Tensor, batch_first: bool) -> torch.Tensor:
    length, features = x.shape[1 if batch_first else 0], x.shape[2]
    wide = torch.promote_types(x.dtype, torch.float32)
    exponents = torch.arange(0, features, 2, dtype=wide) / features
    angles = torch.arange(length, dtype=wide)[:, None] / 10000**exponents
    table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :features].to(x.dtype)
    return x + (table if batch_first else table[:, None])


class Mha:
    """Multi-head attention in steps; batch first, packed or separate projections."""

    def __call__(self, x: ModuleInputs, workload: Workload) -> Any:
        s = workload.shape
        o, weights = self.attend(
            x.query, x.key, x.value, x.parameters, x.mask, s.heads, s.kv_heads, x.past_len, s
        )
        if s.need_weights == "none":
            return o
        return o, self.returned(weights, s)

    def outputs(self, x: ModuleInputs, s: Any) -> tuple[torch.Tensor, torch.Tensor]:
        heads = s.heads, s.kv_heads
        return self.attend(x.query, x.key, x.value, x.parameters, x.mask, *heads, x.past_len, s)

    def returned(self, weights: torch.Tensor, s: Any) -> torch.Tensor:
        return weights.mean(dim=1) if s.need_weights == "averaged" else weights

    def attend(self, query, key, value, weights: Weights, mask, heads, kv_heads, past, s):
        q, k, v = self.projected(query, key, value, weights)
        q, k, v = self.split(q, heads), self.split(k, kv_heads), self.split(v, kv_heads)
        if getattr(s, "rotary", False):
            q, k = self.turned(q, past), self.turned(k, 0)
        if "q_norm.scale" in weights:
            q, k = (
                self.rms(each) * weights[name] for each, name in ((q, "q_norm.scale"), (k, "k_norm.scale"))
            )
        of_query = self.key_heads(heads, kv_heads)
        k, v = k[:, of_query], v[:, of_query]
        scores = self.seen(q @ k.mT * self.scale(q, heads), mask)
        shares = scores.softmax(dim=-1).nan_to_num(0)
        o = self.merged(shares @ v) @ weights["out_proj.weight"].T
        return self.finished(o + self.out_bias(weights)), shares

    def projected(self, query, key, value, weights: Weights):
        if "in_proj_weight" in weights:
            parts = weights["in_proj_weight"].chunk(3)
        else:
            parts = tuple(weights[f"{name}_proj_weight"] for name in "qkv")
        bias = weights.get("in_proj_bias")
        biases = (0, 0, 0) if bias is None else bias.split([len(each) for each in parts])
        return [
            each @ part.T + self.in_bias(b)
            for each, part, b in zip((query, key, value), parts, biases, strict=True)
        ]

    def in_bias(self, bias):
        return bias

    def out_bias(self, weights: Weights):
        return weights.get("out_proj.bias", 0)

    def split(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def merged(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2).flatten(2)

    def key_heads(self, heads: int, kv_heads: int) -> torch.Tensor:
        return torch.arange(heads) // (heads // kv_heads)

    def scale(self, q: torch.Tensor, heads: int) -> float:
        return q.shape[-1] ** -0.5

    def seen(self, scores: torch.Tensor, mask: Mask) -> torch.Tensor:
        allowed = mask.to_bool()
        return scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)

    def finished(self, o: torch.Tensor) -> torch.Tensor:
        return o

    def rms(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    def turned(self, x: torch.Tensor, first: int) -> torch.Tensor:
        """Each pair as a complex number times e^(i·angle)."""
        length, features = x.shape[-2:]
        angles = (first + torch.arange(length).double())[:, None] / 10000 ** (
            torch.arange(0, features, 2).double() / features
        )
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return (
            torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2).to(x.dtype)
        )


class EncoderLayer:
    """Over `Mha`, batch first."""

    attention: Mha = Mha()
    eps = 1e-5

    def __call__(self, x: ModuleInputs, workload: Workload) -> torch.Tensor:
        s, p = workload.shape, x.parameters
        src = x.tensors["src"]
        below = {name.removeprefix("self_attn."): each for name, each in p.items()}

        def attend(y):
            return self.attention.attend(y, y, y, below, x.mask, s.heads, s.kv_heads, 0, s)[0]

        def feed(y):
            inner = (y @ p["linear1.weight"].T + p.get("linear1.bias", 0)).relu()
            return inner @ p["linear2.weight"].T + p.get("linear2.bias", 0)

        def norm(y, name):
            return nn.functional.layer_norm(
                y, y.shape[-1:], p[f"{name}.weight"], p.get(f"{name}.bias"), self.eps
            )

        if self.norm_first(s):
            src = src + attend(norm(src, "norm1"))
            return src + feed(norm(src, "norm2"))
        src = norm(src + attend(src), "norm1")
        return norm(src + feed(src), "norm2")

    def norm_first(self, s: Any) -> bool:
        return s.norm_first


def variant(base: type, **steps: Any) -> Any:
    """A `base` with other steps."""
    return type("Variant", (base,), steps)()


def _top_left(self, scores, mask):
    q_len, keys = scores.shape[-2:]
    return scores.masked_fill(~torch.ones(q_len, keys, dtype=torch.bool).tril(), -torch.inf)


def _last_row(value):
    def finished(self, o):
        o = o.clone()
        o[:, -1] = value
        return o

    return finished


def _halves(self, x, first):
    """Pairs of (i, i + D/2) in place of neighbours."""
    features = x.shape[-1]
    order = torch.arange(features).view(2, -1).T.flatten()
    return Mha.turned(self, x[..., order], first)[..., order.argsort()]


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, gradient):
        return gradient * 0


#: Of one step of `Mha` each; what the workload must have for it to matter.
MHA_MUTANTS: dict[str, tuple[dict[str, Any], Any]] = {
    "zeros": ({}, variant(Mha, finished=lambda self, o: 0 * o)),
    "scaled by 1.01": ({}, variant(Mha, finished=lambda self, o: 1.01 * o)),
    "scaled by 1.001": ({}, variant(Mha, finished=lambda self, o: 1.001 * o)),
    "bias of projections forgotten": ({}, variant(Mha, in_bias=lambda self, bias: 0)),
    "bias of output forgotten": ({}, variant(Mha, out_bias=lambda self, weights: 0)),
    "heads transposed": ({}, variant(Mha, merged=lambda self, x: x.permute(0, 2, 3, 1).flatten(2))),
    "heads permuted": ({}, variant(Mha, merged=lambda self, x: Mha.merged(self, x.roll(1, dims=1)))),
    "mask ignored": ({"mask": "causal"}, variant(Mha, seen=lambda self, scores, mask: scores)),
    "aligned top-left": ({"mask": "causal", "q_len": 9, "kv_len": 20}, variant(Mha, seen=_top_left)),
    "one row off": ({}, variant(Mha, finished=lambda self, o: o.roll(1, dims=1))),
    "NaN in the last row": ({}, variant(Mha, finished=_last_row(math.nan))),
    "last row zero": ({}, variant(Mha, finished=_last_row(0.0))),
    "scale of embed_dim": (
        {},
        variant(Mha, scale=lambda self, q, heads: (q.shape[-1] * heads) ** -0.5),
    ),
    "a key dropped": (
        {},
        variant(Mha, seen=lambda self, s, m: s.index_fill(-1, torch.tensor([3]), -torch.inf)),
    ),
    "groups interleaved": (
        {"kv_heads": 2},
        variant(Mha, key_heads=lambda self, heads, kv: torch.arange(heads) % kv),
    ),
    "past ignored": (
        {"q_len": 5, "kv_len": 20},
        variant(
            Mha,
            seen=lambda self, s, m: s.masked_fill(torch.arange(s.shape[-1]) < 15, -torch.inf),
        ),
    ),
    "weights not averaged": (
        {"need_weights": "averaged"},
        variant(Mha, returned=lambda self, weights, s: weights[:, 0]),
    ),
    "weights of other heads": (
        {"need_weights": "per_head"},
        variant(Mha, returned=lambda self, weights, s: weights.roll(1, dims=1)),
    ),
    "rotary in halves": ({"rotary": True}, variant(Mha, turned=_halves)),
    "rotary of the past forgotten": (
        {"rotary": True, "q_len": 5, "kv_len": 20},
        variant(Mha, turned=lambda self, x, first: Mha.turned(self, x, 0)),
    ),
    "queries not normalised": (
        {"qk_norm": True},
        variant(Mha, rms=lambda self, x: x),
    ),
    "a gradient without its scores": (
        {"pass": "forward_backward"},
        variant(Mha, seen=lambda self, scores, mask: _NoGradient.apply(scores)),
    ),
    "a gradient without its bias": (
        {"pass": "forward_backward"},
        variant(Mha, in_bias=lambda self, bias: bias.detach() + 0 * bias.sum()),
    ),
}

LAYER_MUTANTS: dict[str, tuple[dict[str, Any], Any]] = {
    "post-norm for pre-norm": ({"norm_first": True}, variant(EncoderLayer, norm_first=lambda self, s: False)),
    "pre-norm for post-norm": ({}, variant(EncoderLayer, norm_first=lambda self, s: True)),
    "eps of 1e-3": ({}, variant(EncoderLayer, eps=1e-3)),
    "heads permuted in a layer": (
        {},
        variant(
            EncoderLayer, attention=variant(Mha, merged=MHA_MUTANTS["heads permuted"][1].merged.__func__)
        ),
    ),
    "mask ignored in a layer": (
        {"mask": "causal"},
        variant(EncoderLayer, attention=variant(Mha, seen=lambda self, scores, mask: scores)),
    ),
}
