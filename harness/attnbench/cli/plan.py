"""`attnbench plan`: what a sweep would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbench.cli.options import json_option, matrix_options
from attnbench.cli.preparation import Selection, Sources, expand, read_scenarios

if TYPE_CHECKING:
    from attnbench.case import Block, Case
    from attnbench.cli.capability import Answer
    from attnbench.scenario import Scenario
    from attnbench.workload import Workload

__all__ = ["operand_bytes", "plan", "score_bytes"]


@click.command(short_help="Show what a sweep would do, before anything runs.")
@click.argument("scenarios", metavar="SCENARIO...", nargs=-1, required=True)
@matrix_options
@json_option
def plan(
    scenarios: tuple[str, ...],
    devices: tuple[str, ...],
    implementations: tuple[str, ...],
    sets: tuple[str, ...],
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Show what a sweep of each SCENARIO would do: its cases, what would be skipped and why, and at most how
    much time and memory it would take. Nothing is measured.

    Time is the measuring budget, an upper bound: cases that reach their precision end sooner. Memory is that
    of the operands, and, as a worst case, of the score matrix B·H·Lq·Lk that textbook implementations keep.

    \b
    Examples:
      attnbench plan quick
      attnbench plan my.yaml --set measure.max_seconds=1 --device cuda
    """
    selection = Selection(scenarios, devices, implementations, sets, plugins)
    chosen = read_scenarios(selection)
    with Sources(selection.plugins) as sources:
        matrix = expand(chosen, sources)
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

    @property
    def runnable(self) -> int:
        """How many of its cases would be measured."""
        return sum(answer.status is None for _, answer in self.answers)


def operand_bytes(workload: Workload) -> int:
    """Bytes of q, k, v and o; with gradients, of theirs too."""
    shape = workload.shape
    queries = 2 * shape.batch * shape.heads * shape.q_len * shape.head_dim
    keys = 2 * shape.batch * shape.kv_heads * shape.kv_len * shape.head_dim
    return (queries + keys) * workload.itemsize * (1 if workload.pass_ == "forward" else 2)


def score_bytes(workload: Workload) -> int:
    """Bytes of the score matrix `[batch, heads, q_len, kv_len]`."""
    shape = workload.shape
    return shape.batch * shape.heads * shape.q_len * shape.kv_len * workload.itemsize


def _ask(matrix: Sequence[tuple[Scenario, Sequence[Block]]], sources: Sources) -> list[PlannedBlock]:
    from dataclasses import replace

    from attnbench import runner
    from attnbench.cli.capability import asking

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
                planned.append(PlannedBlock(block, answers, runner.budget_s(scenario, live)))
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
                "operand_bytes": operand_bytes(planned.block.workload),
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
    from attnbench.cli import cells, terminal
    from attnbench.cli.output import clean
    from attnbench.units import format_bytes

    rows = [
        {
            "scenario": clean(planned.block.scenario),
            "block": clean(planned.block.block_id.removeprefix(f"{planned.block.workload.operation}/")),
            "cases": str(planned.runnable),
            "skipped": str(len(planned.answers) - planned.runnable),
            "time at most": cells.duration(planned.budget_s),
            "operands": format_bytes(operand_bytes(planned.block.workload)),
            "score matrix": format_bytes(score_bytes(planned.block.workload)),
        }
        for planned in blocks
    ]
    numbers = ("cases", "skipped", "time at most", "operands", "score matrix")
    droppable = ["scenario"] if len({row["scenario"] for row in rows}) == 1 else []
    terminal.print_grid(
        [{name: text for name, text in row.items() if name not in droppable} for row in rows],
        right=numbers,
    )
    skipped: dict[tuple[str, str, str], int] = {}
    for planned in blocks:
        for case, answer in planned.answers:
            if answer.status is not None:
                key = (clean(case.variant.label), answer.status, clean(answer.reason or "no reason given"))
                skipped[key] = skipped.get(key, 0) + 1
    if skipped:
        click.echo("Skipped, as a row that says so:")
        for (name, status, reason), count in skipped.items():
            click.echo(f"  {name}: {status} ({cells.counted(count, 'case')}): {reason}")
    cases = sum(len(planned.answers) for planned in blocks)
    measured = sum(planned.runnable for planned in blocks)
    most = max((score_bytes(p.block.workload) for p in blocks if p.runnable), default=0)
    click.echo(
        f"{measured} of {cells.counted(cases, 'case')} in {cells.counted(len(blocks), 'block')} "
        "would be measured, "
        f"in at most about {cells.duration(sum(planned.budget_s for planned in blocks))}; "
        f"the largest score matrix is {format_bytes(most)}."
    )
