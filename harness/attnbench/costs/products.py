"""The products of matrices in modules, counted part by part, and the least of them.

Here a product of m × k and k × n numbers counts m·n·k: each a multiplication and an addition.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnbench.masks import Mask

__all__ = ["Heads", "Products", "Seen", "feed_forward", "multi_head"]


@dataclass(frozen=True, slots=True)
class Products:
    """A forward pass' products by part, and the least that the answer takes, forward and backward.

    `least_backward` is as if every product had one gradient; it has two.
    """

    projections: int = 0
    attention: int = 0
    feed_forward: int = 0
    least: int = 0
    least_backward: int = 0

    def __add__(self, other: Products) -> Products:
        return Products(
            self.projections + other.projections,
            self.attention + other.attention,
            self.feed_forward + other.feed_forward,
            self.least + other.least,
            self.least_backward + other.least_backward,
        )

    def times(self, number: int) -> Products:
        """So many of the same."""
        return Products(
            number * self.projections,
            number * self.attention,
            number * self.feed_forward,
            number * self.least,
            number * self.least_backward,
        )


@dataclass(frozen=True, slots=True)
class Heads:
    """The sizes of a multi-head attention: `embed_dim` numbers in `heads` heads, key heads, and inputs."""

    embed_dim: int
    heads: int
    kv_heads: int
    kdim: int
    vdim: int

    @property
    def head_dim(self) -> int:
        """Numbers per head and position."""
        return self.embed_dim // self.heads

    @property
    def kv_dim(self) -> int:
        """Numbers of all key heads per position."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Seen:
    """Who sees whom, over the whole batch: what an attention's least work follows from.

    `choosing` are the queries that see more than one key, appended ones included: a single key has the
    weight 1 whatever its score is, so that no other query takes a product. `keys` are those that any of them
    sees, at least: of the lone ones' keys each may be seen by nobody else. `pairs` are those of `choosing`
    with keys that are not appended.
    """

    choosing: int
    keys: int
    pairs: int

    @classmethod
    def of(cls, mask: Mask, appended: int = 0) -> Seen:
        """What `mask` lets anybody see, beside `appended` keys that all see."""
        # Appended keys are no part of the mask; with two of them even a query that sees no other can choose.
        choosing = mask.batch * mask.q_len if appended > 1 else mask.queries_that_see(2 - appended)
        lone = 0 if appended else mask.queries_that_see(1) - choosing
        return cls(choosing, max(0, mask.keys_seen() - lone), mask.pairs() - lone)


def multi_head(heads: Heads, mask: Mask, *, appended: int = 0, past: int = 0) -> Products:
    """Multi-head attention: projections of queries, keys, values and output; scores and weighted values.

    `appended` keys are seen by every query; they are projected already, or zeros, which by convention are
    multiplied all the same. Of the keys `past` positions in each batch element stand before the first query:
    they are projected with all the others, by definition; but a cache may hold what came of them, so that
    the least of a forward has no products for them. In a backward they have gradients like all others.
    """
    e, d = heads.embed_dim, heads.head_dim
    queries, keys = mask.batch * mask.q_len, mask.batch * mask.kv_len
    seen = Seen.of(mask, appended)
    fresh = min(seen.keys, keys - mask.batch * past)
    return Products(
        projections=2 * queries * e * e + keys * (heads.kdim + heads.vdim) * heads.kv_dim,
        attention=(mask.pairs() + appended * queries) * heads.heads * 2 * d,
        least=_both_ends(heads, seen, fresh),
        least_backward=_both_ends(heads, seen, seen.keys),
    )


def _both_ends(heads: Heads, seen: Seen, keys: int) -> int:
    """The least for scores and for weighted values, with `keys` to be projected."""
    return _cheapest(heads, seen, keys, heads.kdim) + _cheapest(heads, seen, keys, heads.vdim)


def _cheapest(heads: Heads, seen: Seen, keys: int, inputs: int) -> int:
    """The least for a chain of four matrices, over the orders in which it can be multiplied.

    The scores of a head are X_q · W_q · W_kᵀ · X_kᵀ, and its share in the output P · X_v · W_v · W_o, where
    `inputs` are the numbers per position of X_k or X_v: both chains have one outer matrix with a row for each
    query, one with a row for each key, and weights between them, which are as wide as a head where they
    meet. Projecting first is the ordinary order. With few queries it is less to take W_k to their side, and
    never to project a key (as DeepSeek-V2 does, 2024, §2.1.2); with very few heads, to multiply the weights
    with one another. What rotates or normalises in between forbids it; the least is the least with neither.
    """
    e, h, d = heads.embed_dim, heads.heads, heads.head_dim
    of_queries, of_keys = seen.choosing * e * e, keys * inputs * heads.kv_dim
    to_keys, to_queries = seen.pairs * h * e, seen.pairs * h * inputs
    folded = h * e * d * inputs
    return min(
        of_queries + of_keys + seen.pairs * h * d,
        of_queries + seen.choosing * e * inputs + to_queries,
        of_keys + keys * e * e + to_keys,
        folded + seen.choosing * h * e * inputs + to_queries,
        folded + keys * h * e * inputs + to_keys,
    )


def feed_forward(rows: int, embed_dim: int, ff_dim: int, needed: int | None = None) -> Products:
    """Two linear layers over `rows` positions, of which `needed` (all) make a difference to the answer.

    Zeros that a ReLU leaves are multiplied like other numbers: which they are is known after the first layer
    alone.
    """
    products = 2 * embed_dim * ff_dim
    least = products * (rows if needed is None else needed)
    return Products(feed_forward=products * rows, least=least, least_backward=least)
