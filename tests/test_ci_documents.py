"""docs/check.md and docs/ci.md show commands that parse, workflows that are YAML, and a gate that works."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from attnbench import scenario
from attnbench.cli import main
from builders import make_info

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("check.md", "ci.md", "pytest.md")

PATIENCE_S = 120


def blocks_of(page: str, language: str = "[a-z]*") -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands_of(page: str) -> Iterator[list[str]]:
    """The words after `attnbench` of every command line that a page shows in a block."""
    for block in blocks_of(page):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.match(r"(?:\$ |.*\brun: |\s*)attnbench (?P<words>[a-z].*)$", line)
            if command:
                words = re.sub(r'"\$\((?:[^()]|"[^"]*")*\)"', "SUBSTITUTED", command["words"])
                yield shlex.split(words.split(" || ")[0])


def yaml_of(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def workflow() -> Any:
    (whole,) = [block for block in blocks_of("ci.md", "yaml") if block.startswith("name: attention")]
    return yaml_of(whole)


@pytest.mark.parametrize(("page", "at_least"), [("check.md", 9), ("ci.md", 5), ("pytest.md", 1)])
def test_every_command_line_parses(
    page: str, at_least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_kernel.py").write_text("")  # --plugin must exist
    Path("results/before").mkdir(parents=True)  # and so must a run
    lines = list(commands_of(page))
    assert len(lines) >= at_least
    for words in lines:
        command = main.get_command(click.Context(main), words[0])
        assert command is not None, words
        command.make_context(words[0], words[1:])


@pytest.mark.parametrize("page", ["check.md", "ci.md"])
def test_the_scenarios_are_sound(page: str) -> None:
    texts = [block for block in blocks_of(page, "yaml") if block.startswith("name: mine")]
    assert texts
    for text in texts:
        assert scenario.parse(text, page).expand([make_info("mine")])


def test_every_fragment_of_a_workflow_is_yaml() -> None:
    fragments = [block for block in blocks_of("ci.md", "yaml") if block.startswith(" ")]
    assert len(fragments) == 3
    for fragment in fragments:
        for step in yaml_of(fragment):
            assert set(step) == {"name", "run"}


def test_the_workflow_fetches_what_the_base_needs_and_keeps_the_report() -> None:
    found = workflow()
    assert found["on"] == {"pull_request": None}
    assert found["permissions"] == {"contents": "read"}
    (job,) = found["jobs"].values()
    checkout, *_, check, upload = job["steps"]
    assert checkout["with"]["fetch-depth"] == 0
    assert upload["if"] == "${{ !cancelled() }}"
    assert f"-o {upload['with']['path']} " in check["run"]


def test_the_suites_test_passes_right_kernels_and_fails_wrong_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = blocks_of("ci.md", "python")
    namespace: dict[str, Any] = {}
    exec(compile(code, "test_mine.py", "exec"), namespace)
    (tmp_path / "my_kernel.py").write_text(KERNEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_kernel", raising=False)
    namespace["test_mine_is_right"]("none")
    declared = importlib.import_module("my_kernel").mine
    monkeypatch.setattr(
        sys.modules["my_kernel"], "mine", lambda *args, **kwargs: 1.01 * declared(*args, **kwargs)
    )
    with pytest.raises(AssertionError, match=r"1\.01"):
        namespace["test_mine_is_right"]("none")


# The step, in a repository

SCENARIO = """\
name: small
operation: attention
implementations: [mine]
matrix: {heads: 4, head_dim: 32, seq_len: 64}
check: {gate: 0.9, alpha: 0.4, beta: 0.4, pairs: [6], budget: 0.001, latency: LATENCY}
"""

KERNEL = """\
import attnbench

@attnbench.attention("mine")
def mine(q, k, v, *, mask, scale):
    "The textbook algorithm."
    return (q @ k.mT * scale).softmax(-1) @ v
"""


def git(*arguments: str, cwd: Path) -> None:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A clone whose branch has a kernel that needs more memory than main's."""
    place = tmp_path / "repository"
    place.mkdir()
    git("init", "--quiet", "--initial-branch=main", cwd=place)
    (place / "my_kernel.py").write_text(KERNEL)
    (place / "my_scenario.yaml").write_text(SCENARIO.replace("LATENCY", "false"))
    git("add", ".", cwd=place)
    git("commit", "--quiet", "-m", "The kernel", cwd=place)
    git("update-ref", "refs/remotes/origin/main", "HEAD", cwd=place)
    git("checkout", "--quiet", "-b", "change", cwd=place)
    hungry = "    import torch\n    torch.empty(10**6)\n    return"
    (place / "my_kernel.py").write_text(KERNEL.replace("    return", hungry))
    git("commit", "--quiet", "-a", "-m", "It is better now", cwd=place)
    return place


@pytest.mark.rehearsal
def test_the_workflows_step_fails_what_is_worse_and_warns_of_what_it_cannot_tell(repository: Path) -> None:
    (job,) = workflow()["jobs"].values()
    (step,) = [each for each in job["steps"] if each.get("name") == "Check against the merge base"]
    bin_folder = Path(sys.executable).parent
    assert (bin_folder / "attnbench").exists()
    page = repository.parent / "summary.md"

    def ran() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-c", step["run"]],  # as GitHub runs it
            cwd=repository,
            env={
                **os.environ,
                "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
                "TARGET": step["env"]["TARGET"].replace("${{ github.base_ref }}", "main"),
                "GITHUB_STEP_SUMMARY": str(page),
            },
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    done = ran()
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("FAIL  small: 1 of 1 case failed\n")
    assert (repository / "gate/check.md").read_text(encoding="utf-8").startswith("# attnbench check: FAIL")

    (repository / "my_kernel.py").write_text(KERNEL)
    (repository / "my_scenario.yaml").write_text(SCENARIO.replace("LATENCY", "true"))
    done = ran()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("INCONCLUSIVE")
    assert done.stdout.splitlines()[-1].startswith("::warning title=attnbench::")
    headings = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    assert headings == ["# attnbench check: FAIL", "# attnbench check: INCONCLUSIVE"]

    git("update-ref", "-d", "refs/remotes/origin/main", cwd=repository)  # as in a shallow checkout
    done = ran()
    assert done.returncode == 2
    assert "--base is empty" in done.stderr
    trees = subprocess.run(
        ["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert len(trees.stdout.splitlines()) == 1, "a worktree was left behind"
