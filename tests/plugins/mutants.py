# ruff: noqa: N801
"""Attention with one thing wrong each: what a conformance test must refuse.

`Attention` is right: every mask, grouped queries, a head dimension of v of its own, any dtype (computed in
float32, in float64 for float64), gradients by autograd. Each mutant overrides one step of it. `MUTANTS` holds
them by name, each as an implementation that claims to do everything; `RIGHT` is the unspoilt one. Whether a
mutant's fault matters to a workload at all (a causal mask has none to get wrong for one query) is for
`matters` to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch

from attnbench import Implementation, Mask
from attnbench.implementation import AttentionInputs
from attnbench.inputs import DrawnAttention
from attnbench.masks import parse


class Attention:
    """softmax(scale·q·kᵀ)·v, in steps."""

    def __call__(self, x: AttentionInputs) -> torch.Tensor:
        wide = torch.promote_types(x.q.dtype, torch.float32)
        q, k, v = (each.to(wide) for each in (x.q, x.k, x.v))
        q, k, v = self.operands(q, k, v)
        of_queries = self.key_heads(torch.arange(q.shape[1]), k.shape[1])
        k, v = self.per_query_head(k[:, of_queries], v[:, of_queries], q.shape[1] // k.shape[1])
        scores = q @ k.mT * self.scale(x)  # [B, H, Lq, Lk]
        weights = self.weights(scores, self.allowed(x))
        return self.finish(self.product(weights, v).to(x.q.dtype), x)

    def operands(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return q, k, v

    def key_heads(self, heads: torch.Tensor, kv_heads: int) -> torch.Tensor:
        """The key head of each query head."""
        return heads // (len(heads) // kv_heads)

    def per_query_head(
        self, k: torch.Tensor, v: torch.Tensor, group: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """k and v `[B, H, Lk, D]`, repeated for the queries of each group."""
        return k, v

    def scale(self, x: AttentionInputs) -> float:
        return x.scale

    def allowed(self, x: AttentionInputs) -> torch.Tensor:
        """`[B or 1, 1, Lq, Lk]`, True where attention is allowed."""
        return matrix(*x.mask.key_ranges(), x.mask.kv_len)

    def weights(self, scores: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        scores = scores.masked_fill(~allowed, -math.inf)
        # Only rows without keys are without weights; anything else that is no number shall show.
        return softmax(scores).masked_fill(~allowed.any(dim=-1, keepdim=True), 0)

    def product(self, weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return weights @ v

    def finish(self, o: torch.Tensor, x: AttentionInputs) -> torch.Tensor:
        return o


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """Over the last axis; 0/0 in rows of −∞ alone, whose gradient is 0 all the same."""
    empty = (scores == -math.inf).all(dim=-1, keepdim=True)
    return torch.softmax(scores.masked_fill(empty, 0), dim=-1)


def matrix(start, stop, kv_len: int) -> torch.Tensor:
    """The ranges of `Mask.key_ranges` as a boolean matrix `[B or 1, 1, Lq, Lk]`."""
    start, stop = torch.as_tensor(start)[..., None], torch.as_tensor(stop)[..., None]
    keys = torch.arange(kv_len)
    return ((keys >= start) & (keys < stop))[:, None]


def masked_by(mask: Mask, terms) -> torch.Tensor:
    """The matrix of `mask` with other terms: (kind, parameters) each."""
    spelled = [
        name + (f"({','.join(f'{each:g}' for each in values)})" if values else "") for name, values in terms
    ]
    other = Mask("+".join(spelled) or "none", mask.batch, mask.q_len, mask.kv_len, mask.seed, mask.framework)
    return matrix(*other.key_ranges(), mask.kv_len)


def without(mask: Mask, kind: str) -> torch.Tensor:
    """The matrix of `mask` with one kind left out."""
    return masked_by(mask, [term for term in parse(mask.specification) if term[0] != kind])


def last_positions(mask: Mask) -> torch.Tensor:
    """The position of each query among the keys, aligned bottom-right, `[Lq, 1]`."""
    return (torch.arange(mask.q_len) + mask.kv_len - mask.q_len)[:, None]


def rounded(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`tensor` with the precision of `dtype`, straight through for gradients."""
    return tensor + (tensor.to(dtype).to(tensor.dtype) - tensor).detach()


def to_bits(tensor: torch.Tensor, bits: int) -> torch.Tensor:
    """`tensor` with `bits` bits after the leading one, as matrix units of lower precision read it."""
    mantissa, exponent = torch.frexp(tensor)
    kept = torch.ldexp((mantissa * 2 ** (bits + 1)).round(), exponent - bits - 1)
    return tensor + (kept - tensor).detach()


def with_gradient(tensor: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`tensor`, whose gradient will be changed on its way back."""
    if not (tensor.requires_grad and torch.is_grad_enabled()):
        return tensor
    tensor = tensor.view_as(tensor)
    tensor.register_hook(change)
    return tensor


def implementation(kernel: type[Attention], name: str) -> Implementation:
    return Implementation(
        name=name,
        operation="attention",
        framework="torch",
        summary=(kernel.__doc__ or "").strip(),
        load=lambda workload, options: kernel(),
    )


RIGHT = implementation(Attention, "right")

MUTANTS: dict[str, Implementation] = {}

#: Wrong in the gradients alone: nothing can be seen in a forward pass.
GRADIENT_MUTANTS: set[str] = set()


def mutant(kernel: type[Attention]) -> Implementation:
    """The implementation that `kernel` is, by its own name; registered in `MUTANTS`."""
    MUTANTS[kernel.__name__] = made = implementation(kernel, kernel.__name__)
    return made


def gradient_mutant(kernel: type[Attention]) -> Implementation:
    GRADIENT_MUTANTS.add(kernel.__name__)
    return mutant(kernel)


# Each class becomes an implementation of the same name, as the table will show it: no CamelCase.


# The output.


@mutant
class zeros(Attention):
    """Zeros; the graph is kept, so that its gradients are zeros too."""

    def finish(self, o, x):
        return o * 0


@mutant
class scaled_by_1_01(Attention):
    """Every value 1% too large."""

    def product(self, weights, v):
        return weights @ v * 1.01


@mutant
class scaled_by_1_001(Attention):
    """Every value 0.1% too large: beyond what halves can show of small tensors."""

    def product(self, weights, v):
        return weights @ v * 1.001


@mutant
class rows_shifted(Attention):
    """Each row has the answer of the one before it."""

    def finish(self, o, x):
        return o.roll(1, dims=2)


@mutant
class heads_swapped(Attention):
    """The first two heads change places."""

    def finish(self, o, x):
        order = [1, 0, *range(2, o.shape[1])][: o.shape[1]] if o.shape[1] > 1 else [0]
        return o[:, order]


@mutant
class heads_and_rows_transposed(Attention):
    """[B, L, H, D] read as [B, H, L, D]."""

    def finish(self, o, x):
        return o.transpose(1, 2).reshape(o.shape)


@mutant
class batch_swapped(Attention):
    """Each batch element has another's answer."""

    def finish(self, o, x):
        return o.roll(1, dims=0)


@mutant
class last_row_nan(Attention):
    """NaN in the last row."""

    def finish(self, o, x):
        return torch.cat([o[:, :, :-1], o[:, :, -1:] * math.nan], dim=2)


@mutant
class last_row_zero(Attention):
    """The last row never computed, in memory that happened to be zero."""

    def finish(self, o, x):
        return torch.cat([o[:, :, :-1], o[:, :, -1:] * 0], dim=2)


@mutant
class last_row_unwritten(Attention):
    """The last row never written: whatever the memory held. Only poison is sure to tell."""

    def finish(self, o, x):
        written = torch.empty_like(o)
        written[:, :, :-1] = o[:, :, :-1]
        return written


@mutant
class one_row_in_1000(Attention):
    """A row in a thousand is zero, none beside a multiple of 64: on long sequences a matter of luck."""

    def finish(self, o, x):
        wrong = (torch.arange(o.shape[2]) % 1000 == 500)[:, None]
        return torch.where(wrong, 0 * o, o)


@mutant
class inputs_overwritten(Attention):
    """The right answer, but v is doubled on the way."""

    def finish(self, o, x):
        x.v.data.mul_(2)
        return o


@mutant
class from_memory(Attention):
    """The first answer for ever."""

    remembered: torch.Tensor | None = None

    def finish(self, o, x):
        if self.remembered is None:
            self.remembered = o.detach().clone()
        return o + (self.remembered - o).detach()


@mutant
class weights_kept(Attention):
    """The first softmax's weights for ever, times whatever v is."""

    kept: torch.Tensor | None = None

    def product(self, weights, v):
        if self.kept is None:
            self.kept = weights.detach().clone()
        return (weights + (self.kept - weights).detach()) @ v


# Heads.


@mutant
class key_heads_interleaved(Attention):
    """Query head h reads key head h mod Hkv, as if groups were interleaved."""

    def key_heads(self, heads, kv_heads):
        return heads % kv_heads


@mutant
class first_key_head_only(Attention):
    """Every query head reads key head 0."""

    def key_heads(self, heads, kv_heads):
        return heads * 0


# Scores.


@mutant
class scale_5_percent_off(Attention):
    """Scores 5% too large."""

    def scale(self, x):
        return x.scale * 1.05


@mutant
class scale_forgotten(Attention):
    """Scores not scaled at all."""

    def scale(self, x):
        return 1.0


@mutant
class no_maximum_subtracted(Attention):
    """exp of the scores themselves, which overflows."""

    def weights(self, scores, allowed):
        exponentials = scores.masked_fill(~allowed, -math.inf).exp()
        total = exponentials.sum(dim=-1, keepdim=True)
        return exponentials / total.masked_fill(~allowed.any(dim=-1, keepdim=True), 1)


@mutant
class never_rescaled(Attention):
    """An online softmax over blocks of 16 keys that forgets to rescale what it has when the maximum moves."""

    def weights(self, scores, allowed):
        scores = scores.masked_fill(~allowed, -math.inf)
        blocks = scores.split(16, dim=-1)
        running = torch.cat([b.amax(-1, keepdim=True) for b in blocks], dim=-1).cummax(dim=-1).values
        shifts = running.clamp(min=torch.finfo(scores.dtype).min).split(1, dim=-1)
        weights = torch.cat([(b - shift).exp() for b, shift in zip(blocks, shifts, strict=True)], dim=-1)
        return weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


# Keys.


@mutant
class key_dropped(Attention):
    """The key in the middle is never seen."""

    def allowed(self, x):
        allowed = super().allowed(x)
        allowed[..., x.mask.kv_len // 2] = False
        return allowed


@mutant
class last_key_dropped(Attention):
    """The last key is never seen."""

    def allowed(self, x):
        allowed = super().allowed(x)
        allowed[..., -1] = False
        return allowed


@mutant
class last_block_forgotten(Attention):
    """Keys beyond the last multiple of 64 are never seen."""

    def allowed(self, x):
        allowed = super().allowed(x)
        allowed[..., x.mask.kv_len // 64 * 64 :] = False
        return allowed


@mutant
class padded_with_zeros(Attention):
    """Keys up to the next multiple of 64 are zeros that take part in the softmax."""

    def weights(self, scores, allowed):
        missing = -scores.shape[-1] % 64
        scores = scores.masked_fill(~allowed, -math.inf)
        padded = torch.cat([scores, scores.new_zeros(*scores.shape[:-1], missing)], dim=-1)
        return softmax(padded)[..., : scores.shape[-1]].masked_fill(~allowed.any(dim=-1, keepdim=True), 0)


# Masks.


@mutant
class mask_ignored(Attention):
    """Every query sees every key."""

    def allowed(self, x):
        return masked_by(x.mask, [])


@mutant
class causal_ignored(Attention):
    """Causal masks are not applied, others are."""

    def allowed(self, x):
        return without(x.mask, "causal")


@mutant
class causal_off_by_one(Attention):
    """Each query sees the key after its own position."""

    def allowed(self, x):
        if "causal" not in x.mask.kinds:
            return super().allowed(x)
        return without(x.mask, "causal") & (torch.arange(x.mask.kv_len) <= last_positions(x.mask) + 1)


@mutant
class causal_without_itself(Attention):
    """No query sees the key at its own position."""

    def allowed(self, x):
        if "causal" not in x.mask.kinds:
            return super().allowed(x)
        return super().allowed(x) & (torch.arange(x.mask.kv_len) < last_positions(x.mask))


@mutant
class causal_top_left(Attention):
    """The first query sees the first key, whatever the lengths."""

    def allowed(self, x):
        if "causal" not in x.mask.kinds:
            return super().allowed(x)
        return without(x.mask, "causal") & (
            torch.arange(x.mask.kv_len) <= torch.arange(x.mask.q_len)[:, None]
        )


@mutant
class window_off_by_one(Attention):
    """Windows are one key too wide."""

    def allowed(self, x):
        return masked_by(
            x.mask,
            [
                (kind, (values[0] + 1,) if kind == "sliding_window" else values)
                for kind, values in parse(x.mask.specification)
            ],
        )


@mutant
class window_one_short(Attention):
    """Windows are one key too narrow."""

    def allowed(self, x):
        allowed = super().allowed(x)
        if "sliding_window" not in x.mask.kinds:
            return allowed
        oldest = last_positions(x.mask) - int(x.mask.parameters["w"]) + 1
        return allowed & (torch.arange(x.mask.kv_len) != oldest)


@mutant
class window_ignored(Attention):
    """Sliding windows are not applied, others are."""

    def allowed(self, x):
        return without(x.mask, "sliding_window")


@mutant
class padding_ignored(Attention):
    """Padding is not applied, other masks are."""

    def allowed(self, x):
        return without(x.mask, "padding")


@mutant
class padding_of_first_element(Attention):
    """Every batch element is masked as the first one."""

    def allowed(self, x):
        return super().allowed(x)[:1]


@mutant
class documents_ignored(Attention):
    """Document masks are not applied, others are."""

    def allowed(self, x):
        return without(x.mask, "document")


@mutant
class blind_rows_averaged(Attention):
    """A query that sees no key gets the mean of all values instead of 0."""

    def weights(self, scores, allowed):
        return softmax(scores.masked_fill(~allowed, -math.inf))


@mutant
class masked_after_softmax(Attention):
    """What is not allowed is taken out of the weights, not of the sum they are divided by."""

    def weights(self, scores, allowed):
        return softmax(scores).masked_fill(~allowed, 0)


@mutant
class masked_by_minus_10000(Attention):
    """−10⁴ is added to the scores in place of −∞: a query that may see no key sees all of them."""

    def weights(self, scores, allowed):
        return torch.softmax(scores - 1e4 * (~allowed).to(scores.dtype), dim=-1)


@mutant
class masked_by_zero(Attention):
    """Scores that are not allowed become 0 in place of −∞."""

    def weights(self, scores, allowed):
        return softmax(scores.masked_fill(~allowed, 0)).masked_fill(~allowed.any(dim=-1, keepdim=True), 0)


# Precision: wrong in float32 and above, in halves within their own rounding.


@mutant
class inputs_in_bfloat16(Attention):
    """q, k and v rounded to bfloat16."""

    def operands(self, q, k, v):
        return tuple(rounded(each, torch.bfloat16) for each in (q, k, v))


@mutant
class inputs_in_tf32(Attention):
    """q, k and v rounded to 10 bits, as TF32 matrix units read them."""

    def operands(self, q, k, v):
        return tuple(to_bits(each, 10) for each in (q, k, v))


@mutant
class weights_in_bfloat16(Attention):
    """The softmax's weights rounded to bfloat16."""

    def product(self, weights, v):
        return rounded(weights, torch.bfloat16) @ v


@mutant
class weights_in_float16(Attention):
    """The softmax's weights rounded to float16."""

    def product(self, weights, v):
        return rounded(weights, torch.float16) @ v


@mutant
class output_in_float16(Attention):
    """The output rounded to float16."""

    def finish(self, o, x):
        return rounded(o, torch.float16)


@mutant
class summed_in_bfloat16(Attention):
    """The output summed over blocks of 16 keys in a bfloat16 accumulator: worse the longer the row."""

    def product(self, weights, v):
        o = v.new_zeros(*weights.shape[:-1], v.shape[-1])
        for w, values in zip(weights.split(16, dim=-1), v.split(16, dim=-2), strict=True):
            o = rounded(o + w @ values, torch.bfloat16)
        return o


# Gradients.


def scales(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda gradient: gradient * factor


@gradient_mutant
class dq_scaled_by_1_01(Attention):
    """dq is 1% too large."""

    def operands(self, q, k, v):
        return with_gradient(q, scales(1.01)), k, v


@gradient_mutant
class dk_scaled_by_1_01(Attention):
    """dk is 1% too large."""

    def operands(self, q, k, v):
        return q, with_gradient(k, scales(1.01)), v


@gradient_mutant
class dv_scaled_by_1_01(Attention):
    """dv is 1% too large."""

    def operands(self, q, k, v):
        return q, k, with_gradient(v, scales(1.01))


@gradient_mutant
class dq_zero(Attention):
    """dq is 0."""

    def operands(self, q, k, v):
        return with_gradient(q, scales(0)), k, v


@gradient_mutant
class dk_zero(Attention):
    """dk is 0."""

    def operands(self, q, k, v):
        return q, with_gradient(k, scales(0)), v


@gradient_mutant
class dv_zero(Attention):
    """dv is 0."""

    def operands(self, q, k, v):
        return q, k, with_gradient(v, scales(0))


@gradient_mutant
class dk_unscaled(Attention):
    """dk lacks the factor `scale`."""

    def __call__(self, x):
        self.forgotten = 1 / x.scale
        return super().__call__(x)

    def operands(self, q, k, v):
        return q, with_gradient(k, scales(self.forgotten)), v


@gradient_mutant
class dk_shifted(Attention):
    """Each key has the gradient of the one before it."""

    def operands(self, q, k, v):
        return q, with_gradient(k, lambda gradient: gradient.roll(1, dims=2)), v


@gradient_mutant
class dk_of_one_query_head(Attention):
    """dk of grouped heads comes from the first query head of each group alone."""

    def per_query_head(self, k, v, group):
        return with_gradient(k, lambda gradient: first_of_group(gradient, group)), v


@gradient_mutant
class dv_of_one_query_head(Attention):
    """dv of grouped heads comes from the first query head of each group alone."""

    def per_query_head(self, k, v, group):
        return k, with_gradient(v, lambda gradient: first_of_group(gradient, group))


def first_of_group(gradient: torch.Tensor, group: int) -> torch.Tensor:
    others = torch.arange(gradient.shape[1]) % group != 0
    return gradient.masked_fill(others[:, None, None], 0)


@gradient_mutant
class delta_forgotten(Attention):
    """dS = P∘dP, without Δ: as if the sum of the weights were no function of the scores."""

    def weights(self, scores, allowed):
        scores = scores.masked_fill(~allowed, -math.inf)
        total = torch.logsumexp(scores.detach(), dim=-1, keepdim=True)
        return (scores - total.clamp(min=torch.finfo(scores.dtype).min)).exp()


@gradient_mutant
class gradients_in_bfloat16(Attention):
    """dS rounded to bfloat16 before its products."""

    def weights(self, scores, allowed):
        scores = with_gradient(scores, lambda gradient: gradient.bfloat16().to(gradient.dtype))
        return super().weights(scores, allowed)


def matters(name: str, drawn: DrawnAttention) -> bool:
    """Whether the mutant's results are others than the right ones, by more than float64's rounding.

    Both are computed in float64, as drawn, with every input negated, and with q alone; numbers that are not
    finite in the workload's own dtype matter too.
    """
    own = MUTANTS[name].load(drawn.workload, {})
    for signs in ((1, 1), (-1, -1), (-1, 1)):
        pairs = zip(results(own, drawn, torch.float64, signs), right_results(drawn, signs), strict=True)
        if not all(torch.allclose(*pair, rtol=1e-9, atol=1e-9) for pair in pairs):
            return True
    own = MUTANTS[name].load(drawn.workload, {})
    return not all(bool(each.isfinite().all()) for each in results(own, drawn, drawn.q.dtype, (1, 1)))


@lru_cache(maxsize=3)
def right_results(drawn: DrawnAttention, signs: tuple[int, int]) -> list[torch.Tensor]:
    return results(RIGHT.load(drawn.workload, {}), drawn, torch.float64, signs)


def results(
    kernel: Callable[[AttentionInputs], torch.Tensor],
    drawn: DrawnAttention,
    dtype: torch.dtype,
    signs: tuple[int, int],
) -> list[torch.Tensor]:
    """What the workload's pass computes, and v as the kernel leaves it, for inputs in `dtype`.

    `signs` are what q, and what k, v and the gradient of the output are multiplied with.
    """
    of_q, sign = signs
    leaves = [of_q * drawn.q.to(dtype), *(sign * each.to(dtype) for each in (drawn.k, drawn.v))]
    backward = drawn.grad_out is not None
    leaves = [leaf.detach().clone().requires_grad_(backward) for leaf in leaves]
    o = kernel(AttentionInputs(*leaves, mask=drawn.mask(), scale=drawn.scale))
    computed = [] if drawn.workload.pass_ == "backward" else [o.detach()]
    if drawn.grad_out is not None:
        computed += torch.autograd.grad(o, leaves, sign * drawn.grad_out.to(dtype))
    return [*computed, leaves[2].detach()]
