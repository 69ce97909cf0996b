"""`pytest --attnbench SCENARIO`: cases as tests, measured through pytest-benchmark (docs/pytest.md).

pytest imports this in every run where attnbench is installed. So there is nothing here but options and two
hooks, of the oldest kind; all else is imported once --attnbench is given.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import pytest

__all__ = ["pytest_addoption", "pytest_configure"]

#: The options that narrow or change scenarios, by the names of what they fill.
_CHANGES = {
    "attnbench_plugin": "--attnbench-plugin",
    "attnbench_impl": "--attnbench-impl",
    "attnbench_set": "--attnbench-set",
    "attnbench_device": "--attnbench-device",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options; each means what that of `attnbench sweep` means."""
    group = parser.getgroup("attnbench", "attnbench: attention implementations, measured")

    def add(option: str, metavar: str, text: str) -> None:
        group.addoption(option, action="append", default=[], metavar=metavar, help=f"{text} Repeatable.")

    add(
        "--attnbench",
        "SCENARIO",
        "Turn a scenario (a YAML file, or the bare name of a shipped one) into tests, one per case.",
    )
    add("--attnbench-plugin", "FILE", "A Python file with implementations of your own.")
    add("--attnbench-impl", "NAME", "Measure this implementation instead of the scenario's.")
    add("--attnbench-set", "KEY=VALUE", "Override a setting: --attnbench-set measure.precision=0.01.")
    add(
        "--attnbench-device",
        "DEVICE",
        "Measure on this device (cpu, cuda, cuda:1), not on the scenario's.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Go on with what is heavy where a scenario is asked for.

    Raises:
        pytest.UsageError: it cannot be measured in this run of pytest; the text says what to do.
    """
    if config.getoption("attnbench"):
        from attnbench.pytest_plugin.session import ScenarioTests

        config.pluginmanager.register(ScenarioTests.of(config), "attnbench-scenarios")
        return
    for name, option in _CHANGES.items():
        if config.getoption(name):
            raise pytest.UsageError(
                f"{option} changes scenarios, and none is given; add --attnbench SCENARIO"
            )
