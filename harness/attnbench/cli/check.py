"""`attnbench check`: the regression gate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbench.cli.failures import EXIT_FAILED_CASE, EXIT_INCONCLUSIVE, terminable
from attnbench.cli.options import json_option, matrix_options, require_scenarios
from attnbench.cli.preparation import Selection, read_scenarios, warn_of_problems
from attnbench.cli.publication import Publication
from attnbench.driver import Sources
from attnbench.errors import UsageError

if TYPE_CHECKING:
    from attnbench.cli.gating import Display
    from attnbench.gate.arms import Arm, Request
    from attnbench.gate.verdict import Report
    from attnbench.protocol import BenchSource, HelloReply
    from attnbench.scenario import Scenario

__all__ = ["check"]

#: The exit code of each outcome; an ERROR is raised, and exits with 2.
EXIT_CODES = {"PASS": 0, "FAIL": EXIT_FAILED_CASE, "INCONCLUSIVE": EXIT_INCONCLUSIVE}


class PublishingCommand(click.Command):
    """A command whose wrong use is told on the job's page as well."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does."""
        with Publication(None).of_errors():
            return super().parse_args(ctx, args)


@click.command(cls=PublishingCommand, short_help="Judge a change: slower, hungrier or more wrong? For CI.")
@click.argument("scenario", metavar="SCENARIO", required=False)
@click.option(
    "--base",
    metavar="ARM",
    help="What the head is compared with: a plug-in file (old.py), a Python interpreter (another venv), or a "
    "git revision of this checkout.",
)
@click.option(
    "--head", metavar="ARM", help="What is judged, given likewise.  [default: the present environment]"
)
@click.option(
    "--baseline",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Instead of --base: judge memory, errors and statuses by a stored run; its times only inform.",
)
@matrix_options
@click.option(
    "-o",
    "--out",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write check.json and check.md into this folder.",
)
@json_option
@click.pass_context
def check(
    context: click.Context,
    scenario: str | None,
    base: str | None,
    head: str | None,
    baseline: Path | None,
    devices: tuple[str, ...],
    implementations: tuple[str, ...],
    sets: tuple[str, ...],
    plugins: tuple[Path, ...],
    folder: Path | None,
    as_json: bool,
) -> None:
    """Judge the head by the base, over the cases of SCENARIO: is it slower, does it take more memory, is it
    more wrong?

    Base and head are measured in turns, now, on this machine, in pairs of fresh processes, until each case is
    decided. `check:` in the scenario says what is tolerated (docs/scenarios.md). Nothing is kept but
    what -o names.

    Exit 0 PASS; 1 FAIL, a regression; 3 INCONCLUSIVE, too noisy or too little time to tell; 2 ERROR, nothing
    was judged. In GitHub Actions the report is on the job's page.

    \b
    Examples:
      attnbench check my.yaml --base old.py --head new.py
      attnbench check my.yaml --base main
      attnbench check quick --base ../other-venv/bin/python --impl sdpa
      attnbench check quick --baseline results/reference/quick -o gate
    """
    publication = Publication(folder)
    with terminable(), publication.of_errors():
        require_scenarios(context, [scenario] if scenario else [])
        _require_one_base(base, baseline)
        publication.require_writable()
        selection = Selection((str(scenario),), devices, implementations, sets, plugins)
        report = _judged(selection, base, head, baseline)
    _conclude(report, publication, as_json=as_json)
    context.exit(EXIT_CODES[report.outcome])


# Before


def _require_one_base(base: str | None, baseline: Path | None) -> None:
    """Refuse two bases, or none.

    Raises:
        UsageError: there are two, or none; or `--base` is empty, as what a command that failed gave to it.
    """
    if base is not None and not base.strip():
        raise UsageError(
            "--base is empty; if a command was to name it (git merge-base …), see why that said nothing: in "
            "a shallow checkout there is no common ancestor (actions/checkout: `fetch-depth: 0`)"
        )
    if base is not None and baseline is not None:
        raise UsageError(
            "--base and --baseline exclude one another: --base measures its arm now and judges times too, "
            "--baseline judges by what a stored run holds; give one of them"
        )
    if base is None and baseline is None:
        raise UsageError(
            "check needs something to compare with: give --base (a plug-in file, a Python interpreter or a "
            "git revision), or --baseline RUN"
        )


class _Opener:
    """Opens fresh sources of an arm; the first is the one that was asked what there is."""

    def __init__(self, arm: Arm, scenario: Scenario) -> None:
        self.arm = arm
        self._scenario = scenario
        self._first = self._open()
        self._taken = False

    def hello(self) -> HelloReply:
        """What the first source says of itself.

        Raises:
            PluginError: a plug-in cannot be loaded.
            MeasuringError: the zygote cannot be started.
        """
        return self._first.hello

    def notes(self) -> list[str]:
        """What must be said of the arm and of where its implementations come from.

        Raises:
            UsageError: none of them comes from the arm itself.
        """
        from attnbench.gate import arms

        names = list(dict.fromkeys(each.implementation for each in self._scenario.implementations))
        return [*self.arm.notes, *arms.require_own(self.arm, self.hello(), names)]

    def _open(self) -> BenchSource:
        from attnbench import driver

        measure = self._scenario.measure
        return self.arm.open(
            threads=measure.threads_count(),
            malloc=measure.malloc,
            memory_limit_bytes=driver.memory_limit(self._scenario.limits.memory_fraction),
            wait=False,  # the other arm's can import its libraries at the same time
        )

    def __call__(self) -> BenchSource:
        if self._taken:
            return self._open()
        self._taken = True
        return self._first

    def close(self) -> None:
        """End the first source, should nobody have taken it. Can be called twice."""
        self._first.close()


def _with_threads(scenario: Scenario, threads: int | str) -> Scenario:
    """The scenario as a gate measures it: with threads of its own, whatever a sweep would take."""
    measure = scenario.measure.model_copy(update={"threads": threads})
    return scenario.model_copy(update={"measure": measure})


@contextmanager
def _opened(request: Request, scenario: Scenario, shown: Display) -> Iterator[_Opener]:
    """An arm, made and opened, and in the end taken down."""
    from attnbench.gate import arms

    with ExitStack() as stack:
        shown.phase(f"preparing {request.option}: {request.title}")
        arm = stack.enter_context(arms.prepared(request, build=scenario.check.build))
        yield stack.enter_context(closing(_Opener(arm, scenario)))


# While


def _judged(selection: Selection, base: str | None, head: str | None, baseline: Path | None) -> Report:
    """What the gate comes to, by `base` or else by `baseline`."""
    from attnbench.cli.gating import display
    from attnbench.gate import arms

    requests = {
        option: arms.resolve(text, option=option, plugins=selection.plugins)
        for option, text in (("--base", base), ("--head", head))
        if text is not None or option == "--head"
    }
    with display() as shown, Sources(selection.plugins) as sources:
        # Another head than the present environment may well have what is not here.
        (scenario,) = read_scenarios(selection, sources if head is None else None)
        if baseline is not None:
            return _judged_by_run(scenario, selection, baseline, requests["--head"], shown)
        return _judged_by_arm(scenario, requests["--base"], requests["--head"], shown)


def _judged_by_arm(scenario: Scenario, base: Request, head: Request, shown: Display) -> Report:
    from attnbench import environment
    from attnbench.gate import arms
    from attnbench.gate.check import check as judge

    scenario = _with_threads(scenario, scenario.check.threads)
    with (
        _opened(base, scenario, shown) as base_side,
        _opened(head, scenario, shown) as head_side,
    ):
        warn_of_problems(base_side.hello(), head_side.hello())
        notes = [*base_side.notes(), *head_side.notes()]
        arms.require_same_cases(base_side.arm, base_side.hello(), head_side.arm, head_side.hello(), scenario)
        return judge(
            scenario,
            scenario.expand(head_side.hello()["catalogue"]),
            base_side,
            head_side,
            observer=shown,
            base_title=base_side.arm.title,
            head_title=head_side.arm.title,
            environment=environment.differences(_said(base_side.hello()), _said(head_side.hello())),
            notes=notes,
        )


def _judged_by_run(
    scenario: Scenario, selection: Selection, baseline: Path, head: Request, shown: Display
) -> Report:
    from attnbench import driver, environment, store
    from attnbench.gate.baseline import Baseline, check_against

    run = store.read(baseline)
    stored = Baseline.of(run, scenario)
    scenario = _with_threads(scenario, stored.threads or scenario.check.threads)
    with _opened(head, scenario, shown) as side:
        warn_of_problems(side.hello())
        notes = side.notes()
        blocks = scenario.expand(side.hello()["catalogue"])
        stored.require_same_cases(
            scenario,
            blocks,
            chosen=bool(selection.implementations or selection.devices),
            reshaped=any(each.startswith("matrix.") for each in selection.sets),
        )
        threads, malloc = scenario.measure.threads_count(), scenario.measure.malloc
        present = environment.fingerprint(
            side.hello(), driver.bench_environment(threads, malloc), threads, malloc
        )
        return check_against(
            scenario,
            blocks,
            stored,
            side,
            observer=shown,
            head_title=side.arm.title,
            environment=environment.differences(run.header.get("environment") or {}, present),
            notes=notes,
        )


def _said(hello: HelloReply) -> dict[str, Any]:
    """What an arm's environment is, where two on one machine can differ."""
    return {"python": hello["python"], "libraries": hello["libraries"], "devices": hello["devices"]}


# After


def _conclude(report: Report, publication: Publication, *, as_json: bool) -> None:
    """Publish and print; a verdict that was found is printed even where it cannot be published."""
    from attnbench.cli.gating import print_report
    from attnbench.cli.output import print_json
    from attnbench.report.gate import document, markdown, tallied

    whole = {**document(report), "exit_code": EXIT_CODES[report.outcome]}
    try:
        publication.publish(markdown(report), whole)
    finally:
        if as_json:
            print_json(whole)
        else:
            print_report(report, tallied(report))
