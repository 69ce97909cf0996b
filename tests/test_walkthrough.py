"""docs/walkthrough.md does what it shows: its blocks run in order, print what stands below them, and draw."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from attnbench.cli import main
from attnbench.scenario import shipped
from published.blocks import Block, blocks, difference, printed, with_outputs

PAGE = Path(__file__).parent.parent / "docs" / "walkthrough.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = blocks(TEXT)
PICTURES = re.findall(r"!\[[^]]+\]\(([^)]+\.png)\)", TEXT)


def test_the_blocks_print_what_the_page_shows_and_draw_its_pictures(tmp_path: Path) -> None:
    for block, output in zip(BLOCKS, printed(BLOCKS, str(PAGE), tmp_path), strict=True):
        found = difference(block.shown, output)
        assert found is None, f"{PAGE.name}, the block at line {block.line}: {found}"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PICTURES)
    for picture in PICTURES:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_every_picture_is_committed_and_small() -> None:
    assert 0 < len(PICTURES) <= 5
    assert {path.name for path in PAGE.parent.glob("walkthrough-*.png")} == set(PICTURES)
    assert all((PAGE.parent / picture).stat().st_size < 120_000 for picture in PICTURES)


def parsed(arguments: list[str]) -> click.Context:
    """The context of the command that `arguments` name; as click, wrong ones raise."""
    command: click.Command = main
    while isinstance(command, click.Group):
        _, found, arguments = command.resolve_command(click.Context(command), arguments)
        assert found is not None
        command = found
    return command.make_context(command.name, list(arguments))


def test_the_commands_and_scenarios_are_ones_that_there_are() -> None:
    """Commands are parsed alone: running them takes minutes."""
    shown = [parsed(line.split()) for line in re.findall(r"^attnbench (.+)$", TEXT, re.MULTILINE)]
    assert {each.command.name for each in shown} == {"sweep", "weights", "positions"}
    told = re.findall(r"scenario `([a-z_]+)`", TEXT)
    for each in shown:
        told += each.params.get("scenarios", ())
        told += [each.params["scenario"]] if "scenario" in each.params else []
    assert {"encoder_layer", "mha", "kv_cache_decode"} < set(told) <= set(shipped())


# What reads the page ---------------------------------------------------------------------------------------


def test_blocks_share_a_namespace_and_are_told_by_their_lines(tmp_path: Path) -> None:
    silent, loud = "```python\na = 1\n```\n", "```python\nprint(a + 1)\n```\n\n```text\n2\n```\n"
    page = f"text\n\n{silent}\n{loud}\n```text\nno output\n```\n"
    assert blocks(page) == [Block(4, "a = 1\n", ""), Block(8, "print(a + 1)\n", "2\n")]
    assert printed(blocks(page), "page", tmp_path) == ["", "2\n"]
    assert with_outputs(page, ["", "2\n"]) == page
    assert with_outputs(page, ["1\n", ""]) == page.replace(loud, loud.split("\n\n")[0] + "\n").replace(
        silent, f"{silent}\n```text\n1\n```\n"
    )
    with pytest.raises(ZeroDivisionError) as raised:
        printed([Block(7, "1 / 0\n", "")], "page.md", tmp_path)
    assert raised.traceback[-1].lineno == 6  # counted from 0


@pytest.mark.parametrize(
    ("shown", "output"),
    [
        ("a 1.25\n", "a 1.24\n"),  # within one of the last digit
        ("25%, -0.5\n", "25%, -0.4\n"),
        ("nan\n", "nan\n"),
        ("2.10e-05", "2.11e-05"),
    ],
)
def test_numbers_are_compared_with_the_precision_that_is_shown(shown: str, output: str) -> None:
    assert difference(shown, output) is None


@pytest.mark.parametrize(
    ("shown", "output"),
    [
        ("a 1.25\n", "a 1.23\n"),
        ("a 1.25\n", "a 1.2500\n"),
        ("True\n", "False\n"),
        ("", "1\n"),
        ("1 2\n", "1\n"),
        ("2.10e-05", "2.10e-04"),
        ("[6, 16]", "[6, 17]"),  # whole numbers are counts
    ],
)
def test_what_differs_is_told(shown: str, output: str) -> None:
    found = difference(shown, output)
    assert found is not None
    assert repr(output) in found
