"""The costs of whole modules: projections, attention and feed-forward network counted apart.

Of a linear layer a backward takes two products, the gradients of its input and of its weights; of attention
the 2.5 forwards of `attnbench.costs.attention`. A module's definition knows no cache: its `flops` project all
keys and values, those of the past too. Sinusoids, rotations and additions are no products: a positional
encoding's `flops` are 0.

The least is taken from what the mask lets anybody see, from the cheapest order of products, and where a past
is there, from a cache that holds its keys and values. In a transformer the encoder's last positions make no
difference where the decoder sees none of them; what they are seen by in the encoder itself is then left out
as a whole. Biases, the weights of normalisations and the masks are left out of the least bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from attnbench.costs.counted import Costs
from attnbench.costs.products import Heads, Products, Seen, feed_forward, multi_head
from attnbench.masks import Mask
from attnbench.workload import Workload

__all__ = ["decoder_layer", "encoder_layer", "mha", "positional_encoding", "transformer"]


def mha(workload: Workload, seed: int) -> Costs:
    """The costs of multi-head attention; it has no feed-forward network."""
    shape = workload.shape
    heads = Heads(shape.embed_dim, shape.heads, shape.kv_heads, shape.kdim, shape.vdim)
    mask = Mask(workload.mask, shape.batch, shape.q_len, shape.kv_len, seed)
    appended = int(shape.add_bias_kv) + int(shape.add_zero_attn)
    seen = Seen.of(mask, appended)
    if shape.attention == "cross":
        read = seen.choosing * shape.embed_dim + seen.keys * (shape.kdim + shape.vdim)
        held = read
    else:
        past = max(0, seen.keys - shape.batch * shape.q_len)
        read = (max(seen.choosing, seen.keys) - past) * shape.embed_dim
        # A position of the past is read from x, or its key and value from a cache.
        held = read + past * min(shape.embed_dim, 2 * heads.kv_dim)
        read += past * shape.embed_dim
    products = multi_head(heads, mask, appended=appended, past=shape.past_len)
    found = _costs(
        workload,
        products,
        ("projections", "attention"),
        read={"forward": held, "backward": read, "forward_backward": read},
        written=seen.choosing * shape.embed_dim,
        # Without a choice no query, no key and no weight of theirs makes a difference.
        weights=_weights(workload) if seen.choosing else 0,
    )
    if not shape.past_len or workload.pass_ != "forward":
        return found
    kept = shape.batch * shape.past_len * 2 * shape.embed_dim * heads.kv_dim
    return replace(found, with_cache=found.flops - 2 * kept)


def encoder_layer(workload: Workload, seed: int) -> Costs:
    """The costs of an encoder layer."""
    shape = workload.shape
    mask = Mask(workload.mask, shape.batch, shape.seq_len, shape.seq_len, seed)
    rows = shape.batch * shape.seq_len
    products = multi_head(_heads(workload), mask) + feed_forward(rows, shape.embed_dim, shape.ff_dim)
    return _layered(workload, products, rows * shape.embed_dim, {r"self_attn\.": mask})


def decoder_layer(workload: Workload, seed: int) -> Costs:
    """The costs of a decoder layer: two attentions and a feed-forward network."""
    shape = workload.shape
    own = Mask(workload.mask, shape.batch, shape.q_len, shape.q_len, seed)
    cross = Mask(shape.memory_mask, shape.batch, shape.q_len, shape.kv_len, seed)
    rows = shape.batch * shape.q_len
    read = (rows + cross.keys_seen()) * shape.embed_dim
    masks = {r"self_attn\.": own, r"multihead_attn\.": cross}
    return _layered(workload, _decoder_layer(workload, own, cross), read, masks)


def transformer(workload: Workload, seed: int) -> Costs:
    """The costs of a stack of encoder layers and one of decoder layers."""
    shape = workload.shape
    encoded = Mask(shape.src_mask, shape.batch, shape.kv_len, shape.kv_len, seed)
    own = Mask(workload.mask, shape.batch, shape.q_len, shape.q_len, seed)
    cross = Mask(shape.memory_mask, shape.batch, shape.q_len, shape.kv_len, seed)
    rows, needed = shape.batch * shape.kv_len, cross.keys_seen()
    attention = multi_head(_heads(workload), encoded)
    masks: dict[str, Mask | None] = {
        r"encoder\..*self_attn\.": encoded,
        r"decoder\..*self_attn\.": own,
        r"multihead_attn\.": cross,
    }
    if needed < rows:
        attention = Products(attention.projections, attention.attention)
        masks[r"encoder\..*self_attn\."] = None
    encoder = attention + feed_forward(rows, shape.embed_dim, shape.ff_dim, needed)
    layers = encoder + _decoder_layer(workload, own, cross)
    read = (needed + shape.batch * shape.q_len) * shape.embed_dim
    return _layered(workload, layers.times(shape.layers), read, masks)


def positional_encoding(workload: Workload, seed: int) -> Costs:
    """The costs of a positional encoding: an addition, so nothing but traffic.

    Its gradient is that of the output itself, which nobody has to copy.
    """
    del seed
    size = prod(workload.shape.activations()["x"])
    elements = {"forward": 2 * size, "backward": 4 * size, "forward_backward": 4 * size}
    least = {"forward": 2 * size, "backward": 0, "forward_backward": 2 * size}
    itemsize, pass_ = workload.itemsize, workload.pass_
    return Costs(0, elements[pass_] * itemsize, 0, least[pass_] * itemsize)


def _heads(workload: Workload) -> Heads:
    """The heads of a layer's attentions, whose inputs are all `embed_dim` wide."""
    shape = workload.shape
    return Heads(shape.embed_dim, shape.heads, shape.kv_heads, shape.embed_dim, shape.embed_dim)


def _decoder_layer(workload: Workload, own: Mask, cross: Mask) -> Products:
    shape, heads = workload.shape, _heads(workload)
    rows = shape.batch * shape.q_len
    attentions = multi_head(heads, own) + multi_head(heads, cross)
    return attentions + feed_forward(rows, shape.embed_dim, shape.ff_dim)


def _weights(workload: Workload, idle: tuple[str, ...] = ()) -> int:
    """How many numbers all weights of linear layers have, but those whose names match one of `idle`."""
    return sum(
        prod(size)
        for name, size in workload.shape.parameters().items()
        if len(size) == 2 and not any(re.search(pattern, name) for pattern in idle)
    )


def _layered(workload: Workload, products: Products, read: int, masks: Mapping[str, Mask | None]) -> Costs:
    """The costs of a layer or stack; all of its queries are of consequence, if only by the residuals.

    `masks` has the mask of each attention, by a pattern of its weights' names; None where it need not be
    computed.
    """
    idle = tuple(name for name, mask in masks.items() if mask is None or not Seen.of(mask).choosing)
    return _costs(
        workload,
        products,
        ("projections", "attention", "feed_forward"),
        read=dict.fromkeys(("forward", "backward", "forward_backward"), read),
        written=prod(workload.shape.outputs()["o"]),
        weights=_weights(workload, idle),
    )


def _costs(
    workload: Workload,
    products: Products,
    names: tuple[str, ...],
    *,
    read: dict[str, int],
    written: int,
    weights: int,
) -> Costs:
    """The costs of `products` in the workload's pass, told in parts of these `names`.

    For the least: the numbers of activations that are `read` in each pass, those of the output that make a
    difference to the gradients (`written`), and those of the `weights` that are read.
    """
    forward = {name: 2 * getattr(products, name) for name in names}
    backward = {name: 5 * flops // 2 if name == "attention" else 2 * flops for name, flops in forward.items()}
    parts = {
        "forward": forward,
        "backward": backward,
        "forward_backward": {name: forward[name] + backward[name] for name in names},
    }
    least, least_backward = 2 * products.least, 4 * products.least_backward
    outputs = workload.shape.outputs()
    leaves, o = sum(map(prod, workload.leaves().values())), prod(outputs["o"])
    returned = sum(map(prod, outputs.values()))
    # A forward reads the leaves and writes what it returns. A backward reads the leaves, o and its gradient,
    # and writes those of the leaves.
    elements = {
        "forward": leaves + returned,
        "backward": 2 * (leaves + o),
        "forward_backward": 2 * leaves + returned + o,
    }
    least_elements = {
        "forward": returned,
        "backward": written + leaves,
        "forward_backward": returned + written + leaves,
    }
    pass_ = workload.pass_
    return Costs(
        flops=sum(parts[pass_].values()),
        bytes=elements[pass_] * workload.itemsize,
        least_flops={
            "forward": least,
            "backward": least_backward,
            "forward_backward": least + least_backward,
        }[pass_],
        least_bytes=(read[pass_] + weights + least_elements[pass_]) * workload.itemsize,
        parts=parts[pass_],
    )
