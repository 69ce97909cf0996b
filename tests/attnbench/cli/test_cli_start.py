"""The command group: light to start, helpful, and never a traceback for wrong use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import attnbench
from attnbench.cli import COMMANDS, main
from attnbench.cli.failures import told
from attnbench.errors import RunError

HEAVY = {
    "jinja2",
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "rich",
    "ruamel.yaml",
    "scipy",
    "torch",
}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["sweep", "--help"], ["swep"]])
def test_start_loads_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import json, sys\n"
        "from attnbench.cli import main\n"
        "try:\n"
        f"    main({arguments!r}, prog_name='attnbench')\n"
        "except SystemExit:\n"
        "    print('\\n' + json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "attnbench.cli" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_with_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"attnbench {name}" in result.output
    assert "Example" in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_in_the_group_is_the_commands_own(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert command.short_help == COMMANDS[name][1]


def test_help_lists_the_commands_and_exit_codes() -> None:
    result = CliRunner().invoke(main, ["-h"])
    assert result.exit_code == 0
    for name, (_, summary) in COMMANDS.items():
        assert name in result.output
        assert summary in result.output
    assert "130 interrupted" in " ".join(result.output.split())


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"attnbench, version {attnbench.__version__}\n"


def test_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "attnbench", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"attnbench, version {attnbench.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["swep", "quick"], "No such command 'swep'. Did you mean 'sweep'?"),
        (["frobnicate"], f"The commands are {', '.join(COMMANDS)}."),
        (["sweep", "quick", "--stict"], "--strict"),
        (["--verison"], "--version"),
        (["list", "implementation"], "implementations"),
        (["export", "somewhere", "--format", "xml"], "'csv', 'parquet', 'json'"),
        (["sweep"], "attnbench list scenarios"),
        (["sweep", "quick", "--executor", "cloud"], "local"),
    ],
)
def test_wrong_use_is_told_with_the_nearest_right_name(arguments: list[str], expected: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_errors_become_one_message_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, told():
        raise RunError("results/x: is no run\nnext line \x1b[31mred\x07")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "Error: results/x: is no run\nnext line [31mred\n"


def test_a_path_that_the_system_refuses_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended, told():
        (tmp_path / "missing").read_text()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"Error: {tmp_path}/missing: No such file or directory\n"


def test_a_fault_of_our_own_asks_for_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATTNBENCH_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as ended, told():
        raise ZeroDivisionError("oops")
    assert ended.value.code == 70
    assert "ZeroDivisionError: oops" in (message := capsys.readouterr().err)
    assert "ATTNBENCH_TRACEBACK=1" in message

    monkeypatch.setenv("ATTNBENCH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError), told():
        raise ZeroDivisionError("oops")


def test_ctrl_c_is_no_abort(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, told():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "saying",
    [
        "print('x' * 100)",
        "from attnbench.cli import terminal; terminal.console().print('x' * 100)",
        "from attnbench.cli.output import print_json; print_json(['x'] * 100000)",
    ],
)
def test_a_reader_that_has_gone_ends_us_quietly(saying: str) -> None:
    script = (
        f"import sys\nfrom attnbench.cli.failures import told\nsys.stdin.read()\nwith told():\n    {saying}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdin is not None
    process.stdout.close()
    process.stdin.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["list", "scenarios", "--json"]])
def test_a_full_standard_output_is_told(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "attnbench", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == "Error: standard output: No space left on device\n"
    assert done.returncode == 2


@pytest.mark.parametrize("closed", ["0", "1", "2", "0, 1, 2"])
def test_streams_closed_from_the_start_are_no_fault(closed: str, tmp_path: Path) -> None:
    """As in a shell's `attnbench … >&-`; and no file of ours becomes standard output."""
    script = (
        "import sys, click\n"
        "from attnbench.cli.failures import told\n"
        "with told():\n"
        "    click.echo('out'), click.echo('err', err=True)\n"
        "    sys.stdout.isatty(), sys.stderr.isatty(), sys.stdin.read()\n"
        "    file = open('file', 'w')\n"
        "    assert file.fileno() > 2\n"
    )
    started = (
        f"import os, sys\nfor number in ({closed},): os.close(number)\n"
        f"os.execv(sys.executable, [sys.executable, '-c', {script!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", started], cwd=tmp_path, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0


def test_a_terminal_of_few_characters_is_no_fault() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from attnbench.cli.failures import told\nwith told(): print('2×')"],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)},
        check=True,
    )
    assert done.stdout == b"2?\n"
