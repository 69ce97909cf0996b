"""`attnbench plan`: what a sweep would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbench.cli.options import json_option, matrix_options, require_scenarios, run_options
from attnbench.cli.preparation import Selection, Sources, compiled_in, known_ceilings, prepare
from attnbench.cli.resumption import refuse_beside_resume, stored_selection, unfinished
from attnbench.units import counted

if TYPE_CHECKING:
    from attnbench.case import Block, Case
    from attnbench.cli.capability import Answer
    from attnbench.scenario import Scenario
    from attnbench.workload import Workload

__all__ = ["plan", "score_bytes"]


@click.command(short_help="Show what a sweep would do, before anything runs.")
@click.argument("scenarios", metavar="SCENARIO...", nargs=-1)
@matrix_options
@run_options
@json_option
@click.pass_context
def plan(
    context: click.Context,
    /,
    scenarios: tuple[str, ...],
    devices: tuple[str, ...],
    implementations: tuple[str, ...],
    sets: tuple[str, ...],
    plugins: tuple[Path, ...],
    resume: Path | None,
    out: Path | None,
    name: str | None,
    as_json: bool,
    **without_effect: object,
) -> None:
    """Show what a sweep of each SCENARIO would do: its cases, what would be skipped and why, and at most how
    much time and memory it would take. Nothing is measured.

    Time is the measuring budget, an upper bound: cases that reach their precision end sooner. Memory is that
    of the operands, and, as a worst case, of the score matrix B·H·Lq·Lk that textbook implementations keep.

    A plan takes the options of a sweep, so that `sweep` need only be changed into `plan`. With --resume it
    shows what is left to measure of a run. --report, -o, --strict, --executor, --out and --name have no
    effect on it.

    \b
    Examples:
      attnbench plan quick
      attnbench plan my.yaml --set measure.max_seconds=1 --device cuda
      attnbench plan --resume results/quick-20260102-030405
    """
    selection = Selection(scenarios, devices, implementations, sets, plugins)
    texts = None
    if resume is not None:
        refuse_beside_resume(selection, out, name)
        selection, texts = stored_selection(resume, selection)
    else:
        require_scenarios(context, scenarios)
    with Sources(selection.plugins) as sources:
        matrix = prepare(selection, sources, texts)
        if resume is not None:
            matrix = unfinished(resume, matrix)
        blocks = _ask(matrix, sources)
    if as_json:
        from attnbench.cli.output import print_json

        print_json(_document(blocks))
    else:
        _print(blocks)


@dataclass(frozen=True, slots=True)
class PlannedBlock:
    """A block, what became known of its cases, and at most how long it takes."""

    block: Block
    answers: tuple[tuple[Case, Answer], ...]
    budget_s: float
    operand_bytes: int

    @property
    def runnable(self) -> int:
        """How many of its cases would be measured."""
        return sum(answer.status is None for _, answer in self.answers)


def score_bytes(workload: Workload) -> int:
    """Bytes of the largest score matrix `[batch, heads, q_len, kv_len]`; 0 where nobody attends."""
    scores: int = workload.shape.scores()
    return scores * workload.itemsize


def _ask(matrix: Sequence[tuple[Scenario, Sequence[Block]]], sources: Sources) -> list[PlannedBlock]:
    from dataclasses import replace

    from attnbench import environment, runner
    from attnbench.cli.capability import asking
    from attnbench.costs import costs

    hello = sources.any().hello
    ceilings = known_ceilings(matrix, hello, environment.fingerprint(hello))
    planned = []
    for scenario, blocks in matrix:
        threads = scenario.measure.threads_count()
        with asking(sources(scenario)) as asker:
            for block in blocks:
                answers = tuple(
                    (case, asker.ask(case, seed=scenario.measure.seed, threads=threads))
                    for case in block.cases
                )
                live = replace(block, cases=tuple(case for case, answer in answers if answer.status is None))
                budget_s = runner.budget_s(scenario, live, compiled_in(hello), ceilings)
                operand_bytes = costs(block.workload, scenario.measure.seed).bytes
                planned.append(PlannedBlock(block, answers, budget_s, operand_bytes))
    return planned


def _document(blocks: Sequence[PlannedBlock]) -> dict[str, Any]:
    return {
        "cases": sum(len(planned.answers) for planned in blocks),
        "to_measure": sum(planned.runnable for planned in blocks),
        "budget_s": sum(planned.budget_s for planned in blocks),
        "blocks": [
            {
                "scenario": planned.block.scenario,
                "block_id": planned.block.block_id,
                "budget_s": planned.budget_s,
                "operand_bytes": planned.operand_bytes,
                "score_bytes": score_bytes(planned.block.workload),
                "cases": [
                    {
                        "case_id": case.case_id,
                        "implementation": case.variant.implementation,
                        "options": dict(case.variant.options),
                        "device": case.device,
                        "skipped": answer.status,
                        "reason": answer.reason,
                    }
                    for case, answer in planned.answers
                ],
            }
            for planned in blocks
        ],
    }


def _print(blocks: Sequence[PlannedBlock]) -> None:
    from attnbench.cli import cells
    from attnbench.cli.output import clean
    from attnbench.units import format_bytes

    if not blocks:
        click.echo("Nothing is left to measure.")
        return
    several = len({planned.block.scenario for planned in blocks}) > 1
    for planned in blocks:
        scenario = f"{planned.block.scenario}: " if several else ""
        scores = score_bytes(planned.block.workload)
        click.echo(clean(f"{scenario}{planned.block.block_id}"))
        click.echo(
            f"  at most {cells.duration(planned.budget_s)}; operands {format_bytes(planned.operand_bytes)}"
            + (f", score matrix {format_bytes(scores)}" if scores else "")
        )
        measured = [case.variant.label for case, answer in planned.answers if answer.status is None]
        if measured:
            click.echo(f"  to be measured: {clean(', '.join(measured))}")
        for case, answer in planned.answers:
            if answer.status is not None:
                reason = clean(answer.reason or "no reason given")
                click.echo(f"  {answer.status}: {clean(case.variant.label)}: {reason}")
    cases = sum(len(planned.answers) for planned in blocks)
    to_measure = sum(planned.runnable for planned in blocks)
    most = max((score_bytes(p.block.workload) for p in blocks if p.runnable), default=0)
    click.echo(
        f"{to_measure} of {counted(cases, 'case')} in {counted(len(blocks), 'block')} "
        "would be measured, "
        f"in at most about {cells.duration(sum(planned.budget_s for planned in blocks))}"
        + (f"; the largest score matrix is {format_bytes(most)}." if most else ".")
    )
