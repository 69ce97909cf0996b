"""What modules can be told to do, in words and as case ids have it: `pre-norm`, `prenorm`.

Their sizes are columns like others; what is here are the switches, choices, shares and masks of their shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CHOICES", "Choice"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One axis that is no size: what it is called, the value that goes without saying, and how all are told.

    `words(value)` is for people, `label(value)` part of a case id.
    """

    name: str
    plural: str
    usual: Any
    words: Callable[[Any], str]
    label: Callable[[Any], str]


def _of(name: str, plural: str, usual: Any, told: Mapping[Any, tuple[str, str]]) -> Choice:
    """A choice among few values, each told in words and as a label; a value of a later version as it is."""

    def words(value: Any) -> str:
        return told[value][0] if value in told else f"{name} {value}"

    def label(value: Any) -> str:
        return told[value][1] if value in told else str(value)

    return Choice(name, plural, usual, words, label)


def _mask(name: str, short: str) -> Choice:
    return Choice(
        f"{name} mask",
        f"{name} masks",
        "none",
        lambda value: f"no {name} mask" if value == "none" else f"{name} mask {value}",
        lambda value: f"{short}({value})",
    )


#: By column, in the order in which case ids tell them.
CHOICES: Mapping[str, Choice] = {
    "src_mask": _mask("source", "src"),
    "memory_mask": _mask("memory", "memory"),
    "attention": _of(
        "kind of attention",
        "kinds of attention",
        "self",
        {"self": ("self attention", "self"), "cross": ("cross", "cross")},
    ),
    "bias": _of("bias", "biases", True, {True: ("bias", "bias"), False: ("no bias", "nobias")}),
    "add_bias_kv": _of(
        "learnt key",
        "learnt keys",
        False,
        {True: ("learnt key", "biaskv"), False: ("no learnt key", "nobiaskv")},
    ),
    "add_zero_attn": _of(
        "zero key", "zero keys", False, {True: ("zero key", "zeroattn"), False: ("no zero key", "nozeroattn")}
    ),
    "dropout": Choice(
        "dropout",
        "dropouts",
        0.0,
        lambda value: f"dropout {value:g}" if value else "no dropout",
        lambda value: f"drop{value:g}",
    ),
    "need_weights": _of(
        "returned weights",
        "returned weights",
        "none",
        {
            "none": ("no weights", "noweights"),
            "averaged": ("averaged weights", "weights"),
            "per_head": ("weights per head", "headweights"),
        },
    ),
    "norm_first": _of(
        "order of normalisation",
        "orders of normalisation",
        False,
        {True: ("pre-norm", "prenorm"), False: ("post-norm", "postnorm")},
    ),
    "batch_first": _of(
        "layout",
        "layouts",
        True,
        {True: ("batch first", "batchfirst"), False: ("sequence first", "seqfirst")},
    ),
    "rotary": _of(
        "rotary positions",
        "rotary positions",
        False,
        {True: ("rotary positions", "rotary"), False: ("no rotary positions", "norotary")},
    ),
    "qk_norm": _of(
        "normalisation of queries and keys",
        "normalisations of queries and keys",
        False,
        {
            True: ("normalised queries and keys", "qknorm"),
            False: ("queries and keys as they are", "noqknorm"),
        },
    ),
    "training": _of("mode", "modes", False, {True: ("training", "train"), False: ("evaluation", "eval")}),
}
