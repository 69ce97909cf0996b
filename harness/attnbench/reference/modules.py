"""The right answers for whole modules, and how wrong the textbook is in the case's dtype.

The textbook is run in float64 for the answer, with each step rounded for the yardstick, and a few times with
each step off by a random share of itself for the spread.
"""

from __future__ import annotations

import hashlib
import math

import torch

from attnbench.inputs import DrawnModule
from attnbench.reference.answer import Answer, rounding
from attnbench.reference.layers import Stack
from attnbench.reference.mha import Heads, multi_head_attention
from attnbench.reference.steps import Perturbed, Recorded, Rounded, Steps, relative_noise

__all__ = ["answer", "precise", "run", "yardstick"]

#: How often the textbook is perturbed to find the spread: as often as these many numbers allow, from 3 times
#: to 12. Small workloads need it: where a single softmax or ReLU is undecided, all errors have it in common.
DRAWN_NUMBERS = 1 << 21
DRAWS = (3, 12)

#: From this share of a result on roundings are gross.
GROSS = 0.25

#: The least of a column's squared spread, as a share of the mean of all.
AJAR = 1 / 16

#: Neighbours of a number in a vector that its spread is averaged over.
NEIGHBOURS = 8

Results = dict[str, torch.Tensor]


def run(drawn: DrawnModule, dtype: torch.dtype, steps: Steps) -> Results:
    """What the textbook makes of what was drawn, computed in `dtype`: all that the pass computes."""
    workload = drawn.workload
    backward = workload.pass_ != "forward"
    leaves = {
        name: each.to(dtype, copy=True).requires_grad_(backward) for name, each in drawn.leaves().items()
    }
    with torch.set_grad_enabled(backward):
        held = {name: steps(leaf) for name, leaf in leaves.items()}
        outputs = _outputs(drawn, held, steps)
    results = {name: each.detach() for name, each in outputs.items() if workload.pass_ != "backward"}
    if drawn.grad_out is not None:
        gradients = torch.autograd.grad(
            outputs["o"], list(leaves.values()), drawn.grad_out.to(dtype), materialize_grads=True
        )
        results |= {f"d{name}": each for name, each in zip(leaves, gradients, strict=True)}
    return results


def _outputs(drawn: DrawnModule, held: Results, steps: Steps) -> Results:
    """o and what else a forward returns, from leaves as they are held."""
    shape = drawn.workload.shape
    tensors = {
        name: held[name] if shape.batch_first else held[name].transpose(0, 1) for name in drawn.tensors
    }
    weights = {name: held[name] for name in drawn.parameters}
    masks = {"mask": drawn.mask(), **drawn.other_masks()}
    shares = None
    if drawn.workload.operation == "mha":
        setting = Heads(
            shape.heads,
            shape.kv_heads,
            add_zero_attn=shape.add_zero_attn,
            rotary=shape.rotary,
            past_len=shape.past_len,
            need_weights=shape.need_weights,
        )
        x = tensors.get("x")
        query, key, value = (
            (x[:, shape.past_len :], x, x)
            if x is not None
            else (tensors["query"], tensors["key"], tensors["value"])
        )
        o, shares = multi_head_attention(query, key, value, weights, masks["mask"], setting, steps)
    else:
        heads = Heads(getattr(shape, "heads", 1), getattr(shape, "kv_heads", 1))
        stack = Stack(heads, getattr(shape, "norm_first", False), steps)
        match drawn.workload.operation:
            case "encoder_layer":
                o = stack.encoder_layer(tensors["src"], weights, masks["mask"])
            case "decoder_layer":
                o = stack.decoder_layer(
                    tensors["tgt"], tensors["memory"], weights, masks["mask"], masks["memory_mask"]
                )
            case "transformer":
                o = stack.transformer(tensors["src"], tensors["tgt"], weights, shape.layers, masks)
            case _:
                o = stack.with_positions(tensors["x"])
    if not shape.batch_first:
        o = o.transpose(0, 1)
    return {"o": o} if shares is None else {"o": o, "weights": shares}


def answer(drawn: DrawnModule) -> Answer:
    """The float64 results, and how far rounding moves each number."""
    recorded = Recorded()
    results = run(drawn, torch.float64, recorded)
    dtype = next(iter(drawn.leaves().values())).dtype
    summed = _summed(drawn)
    noise = relative_noise(dtype)
    roundings = rounding(dtype, 0.0, max(summed.values()))
    draws = _draws(drawn)
    squares = {name: torch.zeros(each.shape) for name, each in results.items()}
    for draw in range(draws):
        seed = _seed(drawn, draw)
        perturbed = Perturbed(dtype, noise, seed, recorded.before_relu, roundings)
        for name, each in run(drawn, torch.float32, perturbed).items():
            squares[name].add_(each.sub_(results[name]).square_(), alpha=1 / (draws * noise**2))
    eps = torch.finfo(dtype).eps
    for name, each in squares.items():
        rounded_off = float(each.mean())
        if eps**2 * rounded_off > GROSS**2 * float(results[name].square().mean()):
            each.clamp_(min=rounded_off)  # so far that some draws tell little of where
    spreads = {name: _smoothed(each).sqrt_() for name, each in squares.items()}
    if dtype.itemsize < 4:
        for name, spread in spreads.items():
            if "norm" in name:
                # torch adds up the gradients of all positions in halves themselves, one after another.
                spread.mul_(1 + math.sqrt(summed[name]) / 2)
    return Answer(rows=None, results=results, max_score=0.0, spreads=spreads, summed=summed)


def yardstick(drawn: DrawnModule) -> Results:
    """What the textbook makes of what was drawn where each step is rounded to the workload's dtype."""
    dtype = next(iter(drawn.leaves().values())).dtype
    wide = torch.promote_types(dtype, torch.float32)
    return {name: each.to(dtype) for name, each in run(drawn, wide, Rounded(dtype)).items()}


def precise(drawn: DrawnModule) -> Results:
    """What the textbook makes of what was drawn in more precision than the workload's, where that matters."""
    dtype = next(iter(drawn.leaves().values())).dtype
    return run(drawn, torch.float32 if dtype.itemsize < 4 else torch.float64, Steps())


def _seed(drawn: DrawnModule, draw: int) -> int:
    label = f"{drawn.workload.label}/{drawn.seed}/{draw}"
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:7], "little")


def _draws(drawn: DrawnModule) -> int:
    """How many draws fit: scores and leaves are counted."""
    numbers = drawn.workload.shape.scores() + sum(each.numel() for each in drawn.leaves().values())
    fewest, most = DRAWS
    return int(max(fewest, min(most, DRAWN_NUMBERS // numbers)))


def _summed(drawn: DrawnModule) -> dict[str, int]:
    """How many numbers the longest sum is of that each result comes from: features or keys, or positions."""
    shape = drawn.workload.shape
    lengths = [*shape.mask_lengths, *(length for _, *both in shape.other_masks().values() for length in both)]
    of_activations = max(shape.embed_dim, getattr(shape, "ff_dim", 1), *lengths)
    of_weights = max(of_activations, shape.batch * max(lengths))
    return {
        name: of_weights if name.removeprefix("d") in drawn.parameters else of_activations
        for name in drawn.workload.results()
    }


def _smoothed(squares: torch.Tensor) -> torch.Tensor:
    """`squares`, at least what their row and their column (of a vector, their neighbours) suggest.

    A few draws are small by luck here and there, and no kernel is wrong for it.
    """
    rows = squares.reshape(-1, squares.shape[-1])
    if len(rows) == 1:
        suggested = torch.nn.functional.avg_pool1d(
            rows[None], 2 * NEIGHBOURS + 1, stride=1, padding=NEIGHBOURS, count_include_pad=False
        )[0]
    else:
        mean = rows.mean()
        # A column may be 0 in all draws, of a ReLU that is shut: by rounding it may be ajar.
        columns = rows.mean(dim=0).clamp_(min=AJAR * float(mean))
        suggested = rows.mean(dim=1, keepdim=True) * columns / mean.clamp_(min=1e-30)
    return torch.maximum(squares, suggested.reshape(squares.shape))
