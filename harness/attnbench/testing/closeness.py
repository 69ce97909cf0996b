"""Is a plain function right? The verdict on implementations, for functions that nobody has declared."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attnbench.case import Option
from attnbench.implementation import Implementation, attention
from attnbench.masks import KINDS
from attnbench.testing.conformance import Checked, assert_conforms
from attnbench.workload import PASSES, SHAPES, AxisError, Workload

if TYPE_CHECKING:
    import torch

__all__ = ["assert_attention_close"]


def assert_attention_close(
    kernel: Checked,
    workload: Workload | Mapping[str, Any] | None = None,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    options: Mapping[str, Option] | None = None,
    **axes: Any,
) -> None:
    """Run `kernel` on `workload` and judge what it returns (docs/method.md, "Verdict").

    `kernel` is any function of torch tensors q `[B, H, Lq, D]`, k `[B, Hkv, Lk, D]` and v `[B, Hkv, Lk, Dv]`
    that returns `[B, H, Lq, Dv]`. Besides it is given, by keyword and as far as it takes them, `mask` (an
    `attnbench.Mask`), `scale`, and `options`. Gradients are autograd's. What `assert_conforms` takes will do
    as well.

    `workload` is a `Workload`, or the axes of one by their names in scenarios, as a mapping or as keywords:
    `heads=8, head_dim=64, seq_len=512, mask="causal", dtype="bfloat16", pass_="backward"`.

    Raises:
        AssertionError: it is wrong; the text says in what, by how many times its bound and where, and has the
            figures of the error. Or it returned something of the wrong kind, shape, dtype or device.
        NotRun: a declared kernel does not support the workload, or something that it needs is not here.
        ValueError: the workload is none, or the kernel does not take its mask, or one of `options`.
        KeyError: no implementation of this name is installed.
        Exception: whatever the kernel raises.
    """
    from attnbench.bench.kernel import OutputError

    asked = _workload(workload, axes)
    declared = isinstance(kernel, str | Implementation) or hasattr(kernel, "__attnbench__")
    found = kernel if declared else _adapted(kernel, asked, options or {})
    try:
        assert_conforms(found, asked, device=str(device), options=options, seed=seed)
    except OutputError as error:
        raise AssertionError(f"on {asked.label}, seed {seed}: {error}") from error


def _workload(given: Workload | Mapping[str, Any] | None, axes: Mapping[str, Any]) -> Workload:
    """The workload of axes, or the one given."""
    if isinstance(given, Workload):
        if axes:
            raise ValueError(f"give either a Workload or axes; got both, with {', '.join(axes)}")
        return given
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"expected an attnbench.Workload or a mapping of axes, got {given!r}")
    # `pass` is no keyword that Python lets one give.
    asked = {"pass" if name == "pass_" else name: value for name, value in {**(given or {}), **axes}.items()}
    operation = asked.pop("operation", "attention")
    others: dict[str, Any] = {name: asked.pop(name) for name in ("mask", "dtype", "inputs") if name in asked}
    if "pass" in asked:
        others["pass_"] = asked.pop("pass")
    try:
        return Workload(operation, SHAPES[operation].from_axes(asked), **others)
    except KeyError:
        raise ValueError(f"operation must be one of {', '.join(SHAPES)}; got {operation!r}") from None
    except AxisError as error:
        text = str(error)
        raise ValueError(text if text.startswith(error.axis) else f"{error.axis}: {text}") from error


def _adapted(kernel: Any, workload: Workload, options: Mapping[str, Option]) -> Implementation:
    """A function that nobody declared, declared to do whatever its signature leaves open."""
    if not callable(kernel):
        raise ValueError(f"expected a function of q, k and v, or what assert_conforms takes; got {kernel!r}")
    name = re.sub(r"\W", "", getattr(kernel, "__name__", "")) or type(kernel).__name__
    taken = _keywords(kernel)
    lacking = [option for option in options if not taken(option)]
    if lacking:
        raise ValueError(f"{name} takes no option {', '.join(lacking)}: give it a parameter of that name")
    if workload.mask != "none" and not taken("mask"):
        raise ValueError(
            f"{name} takes no mask, and the workload has one ({workload.mask}): give it a parameter `mask`, "
            "an attnbench.Mask, or wrap it in a function that makes of one what it needs"
        )
    passed = [each for each in ("mask", "scale") if taken(each)]

    def call(q: Any, k: Any, v: Any, **keywords: Any) -> Any:
        return kernel(q, k, v, **{each: keywords[each] for each in (*passed, *options)})

    declare = attention(
        name if name.isidentifier() else f"_{name}",
        masks={"none", *KINDS},
        grouped_query=True,
        v_head_dim=True,
        passes=set(PASSES),
        options=dict(options),
    )
    adapted: Implementation = declare(call).__attnbench__  # type: ignore[attr-defined]  # the decorator's mark
    return adapted


def _keywords(function: Callable[..., Any]) -> Callable[[str], bool]:
    """Tells whether `function` takes a keyword; one that does not tell (a built-in) takes none."""
    try:
        # A module of torch tells nothing of itself: what it takes, its `forward` takes.
        parameters = inspect.signature(getattr(function, "forward", function)).parameters.values()
    except (TypeError, ValueError):
        return lambda name: False
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
    by_name = {
        each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    return lambda name: anything or name in by_name
