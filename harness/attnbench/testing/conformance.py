"""Conformance in a test suite of your own: the implementation runs in the process of the tests.

    from attnbench.testing import conformance_test
    from my_package import mine

    test_mine = conformance_test(mine)

`attnbench conformance` checks the same in processes of its own, where a kernel that crashes, hangs or eats
memory costs a case and not the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from attnbench.case import Option, Variant
from attnbench.conformance.grid import pairwise_grid
from attnbench.implementation import Implementation
from attnbench.workload import Workload

if TYPE_CHECKING:
    from attnbench.inputs import InputPool
    from attnbench.protocol import AccuracyReply

__all__ = ["Checked", "NotRun", "assert_conforms", "conformance_test", "figures", "supported_grid"]

#: What can be checked: an implementation, a function that declares one, or the name of an installed one.
Checked = Implementation | Callable[..., Any] | str


class NotRun(Exception):
    """The implementation does not support the workload, or something that it needs is not here.

    `status` is `unsupported` or `unavailable`, the text the reason.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def conformance_test(
    implementation: Checked,
    *,
    device: str = "cpu",
    options: Mapping[str, Option] | None = None,
    seed: int = 0,
    workloads: Sequence[Workload] | None = None,
) -> Callable[[Workload], None]:
    """A pytest function with one case a workload: bind it to a name that begins with `test_`.

    `implementation` is a function decorated with `@attnbench.attention`, an `Implementation`, or the name of
    an installed one. By default the workloads are those of `supported_grid`; what is not supported, or needs
    something that is missing, is skipped with its reason.

    Raises:
        KeyError: no implementation of this name is installed.
        ValueError: `implementation` is none, or has no such option.
    """
    import pytest

    found = _implementation(implementation)
    grid = supported_grid(found, device=device, options=options) if workloads is None else workloads

    @pytest.mark.parametrize("workload", grid, ids=[workload.label for workload in grid])
    def conforms(workload: Workload) -> None:
        try:
            assert_conforms(found, workload, device=device, options=options, seed=seed)
        except NotRun as refusal:
            pytest.skip(f"{refusal.status}: {refusal}")

    conforms.__doc__ = f"{found.name} is right."
    return conforms


def supported_grid(
    implementation: Checked, *, device: str = "cpu", options: Mapping[str, Option] | None = None
) -> list[Workload]:
    """The workloads of `pairwise_grid`, completed for what the implementation supports, that it supports.

    All of `pairwise_grid` if it supports nothing: then every test says why.
    """
    found = _implementation(implementation)
    chosen = found.with_defaults(options or {})

    def supported(workload: Workload) -> bool:
        return _why_not(found, chosen, workload, device) is None

    grid = pairwise_grid(supported, found.operation)
    return [workload for workload in grid if supported(workload)] or grid


def assert_conforms(
    implementation: Checked,
    workload: Workload,
    *,
    device: str = "cpu",
    options: Mapping[str, Option] | None = None,
    seed: int = 0,
) -> None:
    """Run the implementation on `workload`, with memory as it is and then poisoned, and judge its results.

    Raises:
        AssertionError: it is wrong; the text says in what, and by how much.
        NotRun: it does not support the workload, or something that it needs is not here.
        OutputError: it returned something of the wrong kind, shape, dtype or device.
        KeyError, ValueError: as `conformance_test`.
        Exception: whatever it raises.
    """
    from attnbench.bench import accuracy
    from attnbench.bench.devices import why_unavailable
    from attnbench.bench.kernel import load_case
    from attnbench.bench.poison import poisoned
    from attnbench.bench.settings import TorchSettings

    found = _implementation(implementation)
    chosen = found.with_defaults(options or {})
    if missing := why_unavailable(device) or found.available(device):
        raise NotRun("unavailable", missing)
    if why := _why_not(found, chosen, workload, device):
        raise NotRun("unsupported", why)
    settings = TorchSettings()
    try:
        case = load_case(found, chosen, workload, device, seed, _pool())
        reply = accuracy.assess(case, own_precision=True)
        if reply["accuracy"] == "pass":
            with poisoned():
                unwritten = accuracy.assess(case)["reason"]
    finally:
        settings.restore()
    where = f"{Variant.of(found.name, options).label} on {workload.label}, seed {seed}"
    # Raised, not asserted: pytest rewrites assertions, and would add to the text what says nothing.
    if reply["accuracy"] != "pass":
        raise AssertionError(f"{where}: {reply['reason']}\n{figures(reply)}")
    if unwritten is not None:
        raise AssertionError(f"{where}: {unwritten}")


def figures(reply: AccuracyReply) -> str:
    """The error figures that are known, one after the other."""
    known = {name: value for name, value in reply.items() if name.startswith("error_") and value is not None}
    return ", ".join(f"{name} {value:.3g}" for name, value in known.items())


def _implementation(given: Checked) -> Implementation:
    if isinstance(given, str):
        from attnbench.registry import current

        return current().get(given)
    found = given if isinstance(given, Implementation) else getattr(given, "__attnbench__", None)
    if not isinstance(found, Implementation):
        raise ValueError(
            "expected a function decorated with @attnbench.attention, an attnbench.Implementation or the "
            f"name of an installed one, got {given!r}"
        )
    return found


def _why_not(
    implementation: Implementation, options: Mapping[str, Option], workload: Workload, device: str
) -> str | None:
    from attnbench.bench.kernel import why_unsupported

    return why_unsupported(implementation, options, workload, device)


@cache
def _pool() -> InputPool:
    """One for the whole suite, so that tests of one workload in a row share its inputs and its reference."""
    from attnbench.inputs import InputPool

    return InputPool()
