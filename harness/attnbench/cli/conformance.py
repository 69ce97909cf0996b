"""`attnbench conformance`: is an implementation right, over the whole grid?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench.cli.failures import EXIT_FAILED_CASE, EXIT_INTERRUPTED, Interrupted, terminable
from attnbench.cli.options import json_option, plugin_option
from attnbench.errors import UsageError

if TYPE_CHECKING:
    from attnbench.case import Variant
    from attnbench.cli.verdicts import Tally
    from attnbench.conformance.check import Result
    from attnbench.protocol import BenchSource, HelloReply
    from attnbench.workload import Workload

__all__ = ["conformance"]

#: The share of memory that a bench may take.
MEMORY_FRACTION = 0.8


@click.command(short_help="Check implementations over a grid of workloads: are they right?")
@click.option(
    "--impl",
    "implementations",
    metavar="NAME",
    multiple=True,
    help="Check this implementation, by name or with options: 'chunked(block=32)'. Repeatable.  "
    "[default: the plug-ins', or all]",
)
@plugin_option
@click.option(
    "--operation",
    metavar="NAME",
    help="Only implementations of this operation: attention, mha, …  [default: all]",
)
@click.option("--device", metavar="DEVICE", default="cpu", show_default=True, help="Check on this device.")
@click.option("--full", is_flag=True, help="Every three values of three axes, of more values; minutes.")
@click.option(
    "--only",
    metavar="TEXT",
    help="Only the workload with this label, or those whose labels have this text in them.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws the inputs.")
@json_option
@click.pass_context
def conformance(
    context: click.Context,
    implementations: tuple[str, ...],
    plugins: tuple[Path, ...],
    operation: str | None,
    device: str,
    full: bool,
    only: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Check that implementations are right, over a grid of masks × heads × lengths × head dimensions × dtypes
    × passes × input distributions; of whole modules also over their settings.

    By default every pair of values of two axes is checked, in about a hundred workloads; --full is
    thorough. Implementations run in processes of their own: one that crashes, hangs or takes all memory
    fails a case and disturbs nothing else. What it does not declare is unsupported, which is no failure.

    An implementation that declares to compute in less than its inputs' dtype, int8 say, is judged by that.

    Exit 0 when every case that is supported passed; 1 when one failed, or when nothing of an implementation
    that was asked for could be checked.

    \b
    Examples:
      attnbench conformance --plugin my_kernel.py
      attnbench conformance --impl sdpa --impl 'chunked(block=32)' --full
      attnbench conformance --impl sdpa --only float16 --json
    """
    from attnbench import driver
    from attnbench.cli.preparation import warn_of_problems
    from attnbench.conformance.check import grids

    _require_device(device)
    _require_operation(operation)
    with (
        terminable(),
        closing(
            driver.ZygoteSource(
                plugins=[plugin.resolve() for plugin in plugins],
                threads="all",
                malloc="pinned",
                memory_limit_bytes=driver.memory_limit(MEMORY_FRACTION),
            )
        ) as source,
    ):
        warn_of_problems(source.hello)
        variants = _variants(source, implementations, plugins, operation)
        workloads = _only(grids(variants, source, device=device, seed=seed, full=full), only)
        results, interrupted = _checked(workloads, source, device, seed)
    tallies = _tallies(variants, results, source.hello)
    asked_for = bool(implementations or plugins)
    code, reason = (EXIT_INTERRUPTED, "interrupted") if interrupted else _outcome(tallies, asked_for)
    if as_json:
        from attnbench.cli.output import print_json

        print_json(
            {
                "exit_code": code,
                "exit_reason": reason,
                "device": device,
                "seed": seed,
                "grid": "full" if full else "pairwise",
                "implementations": [tally.to_json() for tally in tallies],
                "rows": [result.to_json() for result in results],
            }
        )
    else:
        _print(tallies, reason, _command(plugins, device, seed, full))
    if interrupted:
        raise Interrupted(f"interrupted: {len(results)} of {sum(map(len, workloads.values()))} cases checked")
    context.exit(code)


# Before


def _require_device(device: str) -> None:
    from attnbench.scenario.values import Device

    try:
        Device().check(device)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None


def _require_operation(operation: str | None) -> None:
    from attnbench.scenario.values import OneOf
    from attnbench.workload import SHAPES

    try:
        if operation is not None:
            OneOf(SHAPES).check(operation)
    except ValueError as error:
        raise UsageError(f"--operation: {error}") from None


def _variants(
    source: BenchSource, wanted: Sequence[str], plugins: Sequence[Path], operation: str | None
) -> list[Variant]:
    """What is to be checked: what was asked for, what the plug-ins declare, or all that is not compiled anew.

    Of an `operation`, if one is given, alone.

    Raises:
        UsageError: an implementation or option that there is not, or none of the operation.
    """
    from attnbench.case import Variant
    from attnbench.cli.preparation import compiled_in
    from attnbench.scenario.source import error_from
    from attnbench.scenario.variants import look_up, select

    catalogue = [info for info in source.hello["catalogue"] if operation in (None, info["operation"])]
    if wanted:
        listed, findings = select(wanted, ())
        findings += look_up(listed, operation, source.hello["catalogue"])
        if findings:
            raise error_from(findings, "")
        return [each.variant for each in listed]
    origins = {str(plugin.resolve()) for plugin in plugins}
    compiled = frozenset() if plugins else compiled_in(source.hello)
    if compiled:
        names = ", ".join(sorted(compiled))
        click.echo(f"Left out, as it is compiled for each workload: {names} (--impl checks it)", err=True)
    variants = [
        Variant.of(info["name"])
        for info in catalogue
        if (info["origin"] in origins if plugins else info["name"] not in compiled)
    ]
    if not variants:
        where = "the plug-ins declare" if plugins else "there is"
        raise UsageError(f"--operation {operation}: {where} no implementation of it to be checked")
    return variants


def _only(
    workloads: Mapping[Variant, Sequence[Workload]], text: str | None
) -> Mapping[Variant, Sequence[Workload]]:
    """The workloads labelled `text`, or else those with `text` in their labels.

    Raises:
        UsageError: there is none.
    """
    if text is None:
        return workloads
    labels = {workload.label for grid in workloads.values() for workload in grid}
    chosen = {text} if text in labels else {label for label in labels if text in label}
    if not chosen:
        from attnbench.scenario.names import nearest

        raise UsageError(
            f"--only {text}: no workload of this grid has this in its label{nearest(text, labels)}; a label "
            f"is such as {min(labels, key=len)}; --full has more"
        )
    return {
        variant: [workload for workload in grid if workload.label in chosen]
        for variant, grid in workloads.items()
    }


# While


def _checked(
    workloads: Mapping[Variant, Sequence[Workload]], source: BenchSource, device: str, seed: int
) -> tuple[list[Result], bool]:
    """The results, and whether there would have been more."""
    from attnbench.cli.verdicts import display
    from attnbench.conformance.check import check

    results: list[Result] = []
    try:
        with display() as shown:
            shown.begin(sum(map(len, workloads.values())))
            for result in check(workloads, source, device=device, seed=seed):
                results.append(result)
                shown.add(result)
    except KeyboardInterrupt:
        return results, True
    return results, False


# After


def _tallies(variants: Sequence[Variant], results: Sequence[Result], hello: HelloReply) -> list[Tally]:
    from attnbench.cli.verdicts import Tally

    precisions = {info["name"]: info["precision"] for info in hello["catalogue"]}
    return [
        Tally(
            variant.label,
            [result for result in results if result.case.variant == variant],
            precisions.get(variant.implementation, ""),
        )
        for variant in variants
    ]


def _outcome(tallies: Sequence[Tally], asked_for: bool) -> tuple[int, str]:
    """The exit code and its reason."""
    failed = [tally.implementation for tally in tallies if tally.failed]
    if failed:
        return EXIT_FAILED_CASE, f"not right: {', '.join(failed)}"
    unchecked = [tally for tally in tallies if not tally.checked]
    if unchecked and (asked_for or len(unchecked) == len(tallies)):
        told = "; ".join(f"{tally.implementation} ({tally.why_unchecked})" for tally in unchecked)
        return EXIT_FAILED_CASE, f"nothing could be checked of {told}"
    return 0, "every case that is supported passed"


def _command(plugins: Sequence[Path], device: str, seed: int, full: bool) -> list[str]:
    """What was typed, but for which implementation and workload."""
    command = ["attnbench", "conformance"]
    for plugin in plugins:
        command += ["--plugin", str(plugin)]
    if device != "cpu":
        command += ["--device", device]
    if seed:
        command += ["--seed", str(seed)]
    return command + ["--full"] * full


def _print(tallies: Sequence[Tally], reason: str, command: Sequence[str]) -> None:
    from attnbench.cli.output import clean
    from attnbench.cli.verdicts import print_failures, print_precisions, print_tallies

    if any(tally.results for tally in tallies):
        print_tallies(tallies)
        print_precisions(tallies)
        print_failures(tallies, command)
        click.echo()
    click.echo(clean(reason))
