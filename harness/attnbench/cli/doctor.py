"""`attnbench doctor`: is this machine fit to measure on, and are its figures true?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from time import monotonic
from typing import TYPE_CHECKING

import click

from attnbench.cli.failures import EXIT_FAILED_CASE, EXIT_INTERRUPTED, Interrupted, terminable
from attnbench.cli.options import json_option
from attnbench.errors import MeasuringError, RunError, UsageError

if TYPE_CHECKING:
    from attnbench.cli.diagnosis import Steps
    from attnbench.doctor.diagnosis import Diagnosis
    from attnbench.protocol import BenchSource, HelloReply

__all__ = ["doctor"]

#: The kinds of devices that there are truths and ceilings for.
KINDS = ("cpu", "cuda")

#: The share of memory that a bench may take.
MEMORY_FRACTION = 0.8

#: About how long starting the measuring processes takes; and, of each device, self-test and ceilings.
START_S, SELF_TEST_S, CEILINGS_S = 2.0, 12.0, 15.0


@click.command(short_help="Is this machine fit to measure on, and are the figures true?")
@click.option(
    "--device",
    "devices",
    metavar="DEVICE",
    multiple=True,
    help="Look at this device (cpu, cuda, cuda:1). Repeatable.  [default: the CPU and every NVIDIA GPU]",
)
@click.option("--refresh", is_flag=True, help="Measure the ceilings anew, also where they are known.")
@json_option
@click.pass_context
def doctor(context: click.Context, devices: tuple[str, ...], refresh: bool, as_json: bool) -> None:
    """Examine this machine, in three parts: under a minute with the CPU and one GPU.

    Findings: what makes it unfit to measure on (noise, load, clocks, settings), what that does to the
    numbers, and the command that mends it. The self-test: kernels whose duration, memory and error are known
    are measured as any other, and the figures held against the truth. The ceilings: the fastest that each
    device multiplies matrices and moves memory. They are kept; from then on every sweep tells how near its
    rows come to them (roofline_fraction), and flags times that cannot be.

    Exit 0, whatever the warnings; 1 when a figure of the self-test is not true.

    \b
    Examples:
      attnbench doctor
      attnbench doctor --device cuda:0 --refresh
      attnbench doctor --json > doctor.json
    """
    from attnbench.cli.diagnosis import Steps
    from attnbench.doctor.diagnosis import Diagnosis

    began = monotonic()
    wanted = _checked(devices)
    diagnosis = Diagnosis()
    interrupted = False
    try:
        with terminable():
            _examine(diagnosis, wanted, Steps(), refresh=refresh, quiet=as_json)
    except KeyboardInterrupt:
        interrupted = True
    code = EXIT_INTERRUPTED if interrupted else EXIT_FAILED_CASE if diagnosis.failed else 0
    if as_json:
        from attnbench.cli.output import print_json

        print_json(diagnosis.to_json(duration_s=monotonic() - began, exit_code=code))
    elif not interrupted:
        click.echo(f"\n{diagnosis.summary}")
    if interrupted:
        raise Interrupted("interrupted: ceilings that were measured are kept")
    context.exit(code)


def _examine(
    diagnosis: Diagnosis, wanted: Sequence[str], steps: Steps, *, refresh: bool, quiet: bool
) -> None:
    """Fill the diagnosis part by part, and show each part when it is known unless `quiet`."""
    from attnbench import driver, environment
    from attnbench.cli import diagnosis as show
    from attnbench.cli.preparation import warn_of_problems
    from attnbench.doctor import machine, selftest
    from attnbench.doctor.findings import conclude, too_disturbed

    with steps.step("starting the measuring processes", START_S):
        source = driver.ZygoteSource(
            threads="all", malloc="pinned", memory_limit_bytes=driver.memory_limit(MEMORY_FRACTION)
        )
    with closing(source):
        warn_of_problems(source.hello)
        diagnosis.devices = _present(source.hello, wanted)
        diagnosis.environment = environment.fingerprint(
            source.hello, driver.bench_environment("all", "pinned"), driver.thread_count("all"), "pinned"
        )
        with steps.step("looking at the machine", machine.LASTS_S):
            readings = machine.examine(source, diagnosis.devices)
        diagnosis.findings = conclude(readings)
        if not quiet:
            show.print_findings(diagnosis.environment["machine"], diagnosis.findings)
        with steps.step("self-test", SELF_TEST_S * len(diagnosis.devices)) as step:
            diagnosis.self_test = selftest.run(diagnosis.devices, progressed=step.share)
        if not quiet:
            show.print_self_test(diagnosis.self_test)
        _find_ceilings(diagnosis, source, steps, too_disturbed(readings), refresh=refresh)
        if not quiet:
            show.print_ceilings(diagnosis)


def _find_ceilings(
    diagnosis: Diagnosis, source: BenchSource, steps: Steps, disturbed: str | None, *, refresh: bool
) -> None:
    """Those that are known, and those that are not, measured now and kept.

    What is measured on a `disturbed` machine says so, is measured again the next time, and replaces nothing
    that was measured in peace. A cache that cannot be written to costs nothing of what was found out.
    """
    from dataclasses import replace

    from attnbench import ceilings
    from attnbench.doctor.ceilings import measure

    for device in diagnosis.devices:
        kept = ceilings.load(diagnosis.environment, device)
        in_peace = kept is not None and kept.disturbed is None
        if kept is not None and in_peace and not refresh:
            diagnosis.ceilings[device] = kept
            diagnosis.remembered.add(device)
            continue
        try:
            with steps.step(f"ceilings of {device}", CEILINGS_S) as step:
                found = replace(measure(source, device, progressed=step.share), disturbed=disturbed)
        except MeasuringError as error:
            diagnosis.unmeasured[device] = str(error)
            continue
        diagnosis.ceilings[device] = found
        if disturbed is not None and in_peace:
            diagnosis.unkept[device] = f"those measured before, in peace, hold ({disturbed})"
        else:
            try:
                ceilings.save(diagnosis.environment, found)
            except RunError as error:
                diagnosis.unkept[device] = str(error)


def _checked(devices: Sequence[str]) -> list[str]:
    """Names of devices, whether they are here or not, each once.

    Raises:
        UsageError: one is no device, or of a kind that the doctor knows nothing about.
    """
    from attnbench.scenario.values import Device

    for device in devices:
        try:
            Device().check(device)
        except ValueError as error:
            raise UsageError(f"--device: {error}") from None
        if device.split(":")[0] not in KINDS:
            raise UsageError(f"--device {device}: the doctor knows {' and '.join(KINDS)} alone, as yet")
    return list(dict.fromkeys("cuda:0" if device == "cuda" else device for device in devices))


def _present(hello: HelloReply, wanted: Sequence[str]) -> list[str]:
    """The devices to look at: those wanted, or all of the kinds that the doctor knows.

    Raises:
        UsageError: one that is wanted is not here.
    """
    here = [str(each["device"]) for kind in KINDS for each in hello["devices"].get(kind, [])]
    for device in wanted:
        if device not in here:
            raise UsageError(
                f"--device {device}: there is none here, but {', '.join(here)}; "
                "`attnbench list devices` says what is missing and how to get it"
            )
    return list(wanted) or here
