"""Attention over blocks of queries and keys in NumPy: `chunked`'s algorithm, in place, with its own backward.

Milakov & Gimelshein, Online normalizer calculation for softmax (2018); Rabe & Staats, Self-attention Does Not
Need O(n²) Memory (2021); Dao et al., FlashAttention (2022), appendix B, for the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbench.implementation import AttentionInputs, Implementation, Options
from attnbench.workload import Workload
from attnbench_impls.blocks import LOG2_E, QueryBlock, Tile, plan, supports

__all__ = ["IMPLEMENTATION"]

Array = npt.NDArray[Any]


# Below, N = B·Hkv counts key heads over the batch, G query heads share each; n of N are worked on at once. R
# queries are `[n, R·G, D]`: the heads of one position beside one another, so that positions are slices of
# rows, and one product serves a group without a copy of its keys. All is in float32, or float64.


def _grouped(tensor: Array, kv_heads: int) -> Array:
    """`[B, H, Lq, D]` -> `[N, Lq, G, D]`, the same memory."""
    batch, heads, q_len, head_dim = tensor.shape
    return tensor.reshape(batch * kv_heads, heads // kv_heads, q_len, head_dim).swapaxes(1, 2)


def _flat(tensor: Array) -> Array:
    """`[B, Hkv, Lk, D]` -> `[N, Lk, D]`, the same memory."""
    return tensor.reshape(-1, *tensor.shape[2:])


def _product(memory: Array, a: Array, b: Array) -> Array:
    """a·b, `[n, i, j]` · `[n, j, k]` -> `[n, i, k]`, in `memory`, which is used again and again."""
    n, i, k = a.shape[0], a.shape[1], b.shape[2]
    return np.matmul(a, b, out=memory[: n * i * k].reshape(n, i, k))


class Blocks:
    """The inputs of one call, cut into blocks of queries and tiles of keys."""

    def __init__(self, x: AttentionInputs, options: Options) -> None:
        kv_heads = x.k.shape[1]
        self.queries, self._keys, self._values = _grouped(x.q, kv_heads), _flat(x.k), _flat(x.v)
        self.computed = np.result_type(x.q.dtype, np.float32)
        self._factor = self.computed.type(x.scale * LOG2_E)
        self._group = x.q.shape[1] // kv_heads
        q_size, size = int(options["q_block"]), int(options["block"])
        planned = plan(x.mask, kv_heads, self._group, q_size, size, lambda array: array)
        self.work, self._largest_tile = planned.work, planned.largest_tile

    def tile_memory(self) -> Array:
        """Room for the scores of any tile."""
        return np.empty(self._largest_tile, self.computed)

    def rows(self, tensor: Array, part: slice, block: QueryBlock) -> Array:
        """The block's rows `[n, R·G, D]` of `tensor` `[N, Lq, G, D]`, in the dtype to compute in."""
        chosen = tensor[part, block.queries]
        return chosen.reshape(len(chosen), -1, tensor.shape[3]).astype(self.computed, copy=False)

    def scaled(self, part: slice, block: QueryBlock) -> Array:
        """The block's queries, times all that their scores are to be multiplied by."""
        scaled: Array = self.rows(self.queries, part, block) * self._factor
        return scaled

    def tiles(self, part: slice, block: QueryBlock) -> Iterator[tuple[Tile, slice, Array, Array]]:
        """Each tile of the block, its rows among the block's, and its keys and values, `[n, keys, D]`."""
        for tile in block.tiles():
            rows = slice(tile.rows.start * self._group, tile.rows.stop * self._group)
            k_tile, v_tile = (
                tensor[part, tile.keys].astype(self.computed, copy=False)
                for tensor in (self._keys, self._values)
            )
            yield tile, rows, k_tile, v_tile

    def scores(self, memory: Array, q_rows: Array, k_tile: Array, tile: Tile) -> Array:
        """A tile's scores `[n, rows·G, keys]` in units of log 2, −∞ where the mask hides them."""
        scores = _product(memory, q_rows, k_tile.swapaxes(1, 2))
        if tile.hidden is not None:
            per_head = scores.reshape(len(scores), -1, self._group, scores.shape[2])
            np.copyto(per_head[:, tile.cut], -np.inf, where=tile.hidden())
        return scores


class OnlineSoftmax:
    """Per row, the largest score so far and the sum of exp2(score − largest), over one tile after another."""

    def __init__(self, scaled: Array) -> None:
        # The largest score of a row that has seen none. Unlike −∞ it can be subtracted from itself, and half
        # the lowest number is as good as the lowest, from which nothing can be subtracted.
        self.largest = np.full((*scaled.shape[:2], 1), np.finfo(scaled.dtype).min / 2, scaled.dtype)
        self.total = np.zeros_like(self.largest)

    def weigh(self, scores: Array, rows: slice) -> Array:
        """Turn `scores` into exp2(score − largest) in place; the factor for what was summed before."""
        largest, total = self.largest[:, rows], self.total[:, rows]
        after = np.maximum(largest, scores.max(axis=2, keepdims=True))
        shrink: Array = np.exp2(largest - after)
        scores -= after
        np.exp2(scores, out=scores)
        total *= shrink
        total += scores @ np.ones((scores.shape[2], 1), scores.dtype)  # four times as fast as sum()
        largest[...] = after
        return shrink

    def divisor(self) -> Array:
        """The total; 1 where no key was seen. Others have at least 1, exp2(0) for the largest score."""
        return np.maximum(self.total, 1)


def load(workload: Workload, options: Options) -> Callable[[AttentionInputs], Array]:
    """Attention that holds a tile of scores, `q_block` × `block`, of some heads."""
    del workload

    def numpy_chunked(x: AttentionInputs) -> Array:
        blocks = Blocks(x, options)
        output = np.empty((*x.q.shape[:3], x.v.shape[3]), x.q.dtype)
        outputs = _grouped(output, x.k.shape[1])
        memory = blocks.tile_memory()
        for part, block in blocks.work:
            scaled = blocks.scaled(part, block)
            softmax = OnlineSoftmax(scaled)
            summed = np.zeros((*scaled.shape[:2], x.v.shape[3]), blocks.computed)
            for tile, rows, k_tile, v_tile in blocks.tiles(part, block):
                weights = blocks.scores(memory, scaled[:, rows], k_tile, tile)
                so_far = summed[:, rows]
                so_far *= softmax.weigh(weights, rows)
                so_far += weights @ v_tile
            summed /= softmax.divisor()
            outputs[part, block.queries] = summed.reshape(outputs[part, block.queries].shape)
        return output

    return numpy_chunked


def load_backward(
    workload: Workload, options: Options
) -> Callable[[AttentionInputs, Array, Array], tuple[Array, Array, Array]]:
    """The gradients, tile by tile: every row's logsumexp is computed again, then every tile's weights.

    P = exp(score − logsumexp); then, with Δ = Σ dO∘O per row, dV = Pᵀ·dO, dS = P∘(dO·Vᵀ − Δ),
    dQ = scale·dS·K, dK = scale·dSᵀ·Q.
    """
    del workload

    def numpy_chunked_backward(
        x: AttentionInputs, output: Array, grad_out: Array
    ) -> tuple[Array, Array, Array]:
        blocks = Blocks(x, options)
        outputs, d_outputs = (_grouped(tensor, x.k.shape[1]) for tensor in (output, grad_out))
        dq = np.empty(x.q.shape, x.q.dtype)
        d_queries = _grouped(dq, x.k.shape[1])
        dk, dv = (np.zeros(tensor.shape, blocks.computed) for tensor in (x.k, x.v))
        d_keys, d_values = _flat(dk), _flat(dv)
        memory, d_memory = blocks.tile_memory(), blocks.tile_memory()
        for part, block in blocks.work:
            scaled = blocks.scaled(part, block)
            softmax = OnlineSoftmax(scaled)
            for tile, rows, k_tile, _ in blocks.tiles(part, block):
                softmax.weigh(blocks.scores(memory, scaled[:, rows], k_tile, tile), rows)
            logsumexp = softmax.largest + np.log2(softmax.divisor())
            out, d_out = (blocks.rows(tensor, part, block) for tensor in (outputs, d_outputs))
            delta = (d_out * out).sum(axis=2, keepdims=True)
            dq_block = np.zeros_like(scaled)
            for tile, rows, k_tile, v_tile in blocks.tiles(part, block):
                weights = blocks.scores(memory, scaled[:, rows], k_tile, tile)
                weights -= logsumexp[:, rows]
                np.exp2(weights, out=weights)
                d_values[part, tile.keys] += weights.swapaxes(1, 2) @ d_out[:, rows]
                d_scores = _product(d_memory, d_out[:, rows], v_tile.swapaxes(1, 2))
                d_scores -= delta[:, rows]
                d_scores *= weights
                dq_block[:, rows] += d_scores @ k_tile
                d_keys[part, tile.keys] += d_scores.swapaxes(1, 2) @ scaled[:, rows]
            dq_block *= x.scale
            d_queries[part, block.queries] = dq_block.reshape(d_queries[part, block.queries].shape)
        dk /= LOG2_E  # the queries that made it hold the scale, and this
        return dq, dk.astype(x.k.dtype, copy=False), dv.astype(x.v.dtype, copy=False)

    return numpy_chunked_backward


IMPLEMENTATION = Implementation(
    name="numpy_chunked",
    operation="attention",
    framework="numpy",
    summary="online softmax over blocks of queries and keys in NumPy, one tile of scores in memory",
    memory="O(q_block·block); backward of halves: + O(B·Hkv·Lk·(D + Dv)), dk and dv in float32",
    flops="O(B·H·Lq·Lk·D), without the tiles that the mask hides",
    source="Rabe & Staats, Self-attention Does Not Need O(n²) Memory (2021)",
    load=load,
    load_backward=load_backward,
    supports=supports,
    options={"block": 256, "q_block": 512},
)
