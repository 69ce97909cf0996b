"""`attnbench sweep`: the main job."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import attnbench
from attnbench.cli.failures import EXIT_FAILED_CASE, EXIT_INTERRUPTED, Interrupted, terminable, told_of
from attnbench.cli.options import json_option, matrix_options, require_scenarios, run_options
from attnbench.cli.preparation import (
    Selection,
    Sources,
    compiled_in,
    known_ceilings,
    plugin_header,
    prepare,
)
from attnbench.cli.resumption import refuse_beside_resume, stored_selection
from attnbench.errors import AttnbenchError, RunError
from attnbench.units import counted

if TYPE_CHECKING:
    from attnbench.case import Block
    from attnbench.ceilings import Ceilings
    from attnbench.report.findings import Finding
    from attnbench.scenario import Scenario
    from attnbench.store import RunWriter

__all__ = ["sweep"]


@click.command(short_help="Measure the cases of a scenario; the main job.")
@click.argument("scenarios", metavar="SCENARIO...", nargs=-1)
@matrix_options
@run_options
@json_option
@click.pass_context
def sweep(
    context: click.Context,
    scenarios: tuple[str, ...],
    devices: tuple[str, ...],
    implementations: tuple[str, ...],
    sets: tuple[str, ...],
    plugins: tuple[Path, ...],
    resume: Path | None,
    with_report: bool,
    strict: bool,
    executor: str,
    out: Path | None,
    name: str | None,
    report_directory: Path | None,
    as_json: bool,
) -> None:
    """Measure every case of each SCENARIO: latency, memory and numerical error, side by side.

    SCENARIO is a file, or the bare name of a shipped scenario (`attnbench list scenarios`). Every mistake
    is told before anything is measured. Cases are kept as soon as they are measured: an interrupted sweep
    goes on with --resume. A case that cannot run, breaks or answers wrongly is a row of the table, with its
    reason.

    --strict counts as failed: oom, timeout, crashed, error, and wrong answers; not what a kernel does not
    claim to do (unsupported) or this machine lacks (unavailable).

    \b
    Examples:
      attnbench sweep quick --report
      attnbench sweep my.yaml --set measure.precision=0.01 --impl sdpa --impl naive
      attnbench sweep quick --plugin my_kernel.py --impl mine --impl sdpa --strict
      attnbench sweep --resume results/quick-20260102-030405
    """
    del executor  # there is one
    selection = Selection(scenarios, devices, implementations, sets, plugins)
    if resume is not None:
        refuse_beside_resume(selection, out, name)
        selection, texts = stored_selection(resume, selection)
    else:
        require_scenarios(context, scenarios)
        texts = None
    arguments = list(context.meta.get("attnbench.arguments", ()))
    with terminable(), Sources(selection.plugins) as sources:
        matrix = prepare(selection, sources, texts)
        header = _header(arguments, selection, matrix, sources)
        ceilings = known_ceilings(matrix, sources.any().hello, header["environment"])
        header["ceilings"] = {device: found.to_json() for device, found in ceilings.items()}
        if name is None:
            name = resume.resolve().name if resume else _default_name([scenario for scenario, _ in matrix])
        _require_places(name, report_directory, with_report=with_report)
        with _open(resume, out, name, header) as writer:
            interrupted = _measure(matrix, sources, writer, ceilings)
            run = writer.path
    outcome = _conclude(run, interrupted, report_directory, with_report=with_report)
    try:
        if as_json:
            _print_document(outcome, strict=strict)
        else:
            _print_outcome(outcome)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(
            f"{told_of(error)}\nWhat was measured is kept in {run}; show it with: attnbench show {run}"
        ) from error
    if outcome.interrupted:
        raise Interrupted(
            f"interrupted: {counted(len(outcome.rows), 'case')} kept in {run}; "
            f"go on with: attnbench sweep --resume {run}"
        )
    context.exit(outcome.exit_code(strict=strict))


# Before


def _header(
    arguments: Sequence[str],
    selection: Selection,
    matrix: Sequence[tuple[Scenario, Sequence[Block]]],
    sources: Sources,
) -> dict[str, Any]:
    """What run.json keeps beside the store's own keys."""
    from attnbench import driver, environment

    first = matrix[0][0]
    threads, malloc = first.measure.threads_count(), first.measure.malloc
    return {
        "attnbench": attnbench.__version__,
        "command": ["attnbench", *arguments],
        "started_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "scenarios": [
            {
                "name": scenario.name,
                "path": str(scenario.path),
                "text": scenario.source_text,
                "sets": list(selection.sets),
                "implementations": list(selection.implementations),
                "devices": list(selection.devices),
            }
            for scenario, _ in matrix
        ],
        "seed": first.measure.seed,
        "plugins": plugin_header(selection.plugins),
        "environment": environment.fingerprint(
            sources(first).hello, driver.bench_environment(threads, malloc), threads, malloc
        ),
    }


def _require_places(name: str, report_directory: Path | None, *, with_report: bool) -> None:
    """Find out before an hour of measuring that the run's name is none, or its report has no place."""
    from attnbench import report, store
    from attnbench.cli.report import default_directory

    store.require_plain_name(name)
    if with_report:
        report.require_writable(report_directory or default_directory([name]))


def _default_name(scenarios: Sequence[Scenario]) -> str:
    return "+".join(scenario.name for scenario in scenarios) + datetime.now(UTC).strftime("-%Y%m%d-%H%M%S")


def _open(resume: Path | None, out: Path | None, name: str, header: dict[str, Any]) -> RunWriter:
    from attnbench import store

    if resume is not None:
        return store.resume(resume, header)
    return store.create(out or Path("results"), name, header)


# While


def _measure(
    matrix: Sequence[tuple[Scenario, Sequence[Block]]],
    sources: Sources,
    writer: RunWriter,
    ceilings: Mapping[str, Ceilings],
) -> bool:
    """Run the sweep; True when it was interrupted.

    Raises:
        AttnbenchError: it could not go on; the text says what was kept.
    """
    from attnbench import runner
    from attnbench.cli.terminal import progress_display

    try:
        with progress_display(ceilings) as display:
            runner.sweep(
                matrix,
                sources,
                writer,
                display,
                compiled=compiled_in(sources.any().hello),
                ceilings=ceilings,
            )
    except KeyboardInterrupt:
        return True
    except AttnbenchError as error:
        raise type(error)(f"{error}\n{_kept(writer)}") from error
    except OSError as error:
        raise RunError(
            f"{error.filename or 'the run'}: {error.strerror or error}\n{_kept(writer)}"
        ) from error
    return False


def _kept(writer: RunWriter) -> str:
    cases = sum(len(case_ids) for case_ids in writer.finished.values())
    return (
        f"{counted(cases, 'case')} kept in {writer.path}; go on with: attnbench sweep --resume {writer.path}"
    )


# After


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep came to."""

    run: Path
    report: Path | None
    rows: list[dict[str, Any]]
    findings: list[Finding]
    interrupted: bool

    def failed(self) -> int:
        """How many cases `--strict` counts as failed."""
        from attnbench.cli import cells

        return sum(cells.failed(row) for row in self.rows)

    def exit_code(self, *, strict: bool) -> int:
        """0, 1 for a failed case under `--strict`, 130 when interrupted."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        return EXIT_FAILED_CASE if strict and self.failed() else 0


def _conclude(run: Path, interrupted: bool, report_directory: Path | None, *, with_report: bool) -> Outcome:
    """Derive the table of the run, and write its report if asked to."""
    from attnbench import store, table
    from attnbench.cli import cells
    from attnbench.pairs import Pairs
    from attnbench.report.conditions import conditions
    from attnbench.report.facts import precisions
    from attnbench.report.findings import findings

    read = store.read(run)
    frame = table.from_runs([read])
    found = [*conditions([read.header]), *findings(frame, precisions([read.header]), Pairs.of([read]))]
    page = None
    try:
        table.write_parquet(run)
        if with_report and not interrupted:
            from attnbench.cli.report import write_report

            page = write_report([run], report_directory)
    except AttnbenchError as error:
        raise type(error)(
            f"{error}\nWhat was measured is kept in {run}; report it with: attnbench report {run} -o DIR"
        ) from error
    return Outcome(run, page, cells.rows_of(frame), found, interrupted)


def _print_document(outcome: Outcome, *, strict: bool) -> None:
    from attnbench.cli.output import print_json

    failed = outcome.failed()
    code = outcome.exit_code(strict=strict)
    reasons = {
        0: "good" if not failed else f"{counted(failed, 'case')} failed; without --strict that is good",
        EXIT_FAILED_CASE: f"{counted(failed, 'case')} failed",
        EXIT_INTERRUPTED: "interrupted",
    }
    print_json(
        {
            "run": str(outcome.run),
            "report": str(outcome.report) if outcome.report else None,
            "exit_code": code,
            "exit_reason": reasons[code],
            "cases": len(outcome.rows),
            "failed": failed,
            "statuses": dict(Counter(row["status"] for row in outcome.rows)),
            "findings": [
                {"kind": each.kind, "text": each.text, "serious": each.serious} for each in outcome.findings
            ],
            "rows": outcome.rows,
        }
    )


def _print_outcome(outcome: Outcome) -> None:
    from attnbench.cli import terminal
    from attnbench.cli.output import clean
    from attnbench.cli.results import print_results

    if outcome.interrupted and not outcome.rows:
        return
    print_results(outcome.rows, terminal.console())
    terminal.print_findings(outcome.findings)
    click.echo(f"\nrun     {clean(str(outcome.run))}")
    if outcome.report:
        click.echo(f"report  {clean(str(outcome.report))}")
