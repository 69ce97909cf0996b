"""However it ends, worktrees and processes are gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from checkouts import Repository, kernel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")

#: Says when it has come so far that all is prepared, and measures until it is killed.
PARENT = """
import sys
from pathlib import Path
from attnbench.gate.arms import open_all, prepared, resolve
from attnbench.workload import AttentionShape, Workload

build = sys.argv[1] or None
plugin = Path("bench/adapter.py")
with prepared(resolve("base", option="--base", plugins=[plugin]), build=build) as base:
    with prepared(resolve(None, option="--head", plugins=[plugin])) as head:
        Path(sys.argv[2]).touch()
        if len(sys.argv) > 3:
            openers = [
                lambda arm=arm: arm.open(threads=1, malloc="pinned", memory_limit_bytes=None, wait=False)
                for arm in (base, head)
            ]
            benches = [source.bench() for source in open_all(openers)]
            Path(sys.argv[3]).touch()
            workload = Workload("attention", AttentionShape(1, 1, 1, 4, 4, 4)).to_json()
            benches[0].request("prepare", {
                "case": "c", "implementation": "mine", "options": {}, "device": "cpu", "seed": 0,
                "threads": None, "workload": workload,
            }, 600)
        sys.stdin.read()
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository")
    more = "import subprocess\nfrom pathlib import Path\n"
    busy = "subprocess.run(['sleep', '600'])"
    made.commit({"bench/adapter.py": kernel(more=more, result=busy), **{f"{n}.txt": "" for n in range(9)}})
    made.git("tag", "base")
    return made


class Stage:
    """A parent that prepares arms in a repository, and what it may not leave behind."""

    def __init__(self, repository: Repository, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self._repository = repository
        self._before = repository.state()

    def start(self, build: str, *marks: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", PARENT, build, *map(str, marks)],
            cwd=self._repository.root,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def commands(self) -> list[str]:
        """The command lines of all processes that have to do with the temporary folder."""
        found = []
        for pid in (name for name in os.listdir("/proc") if name.isdigit()):
            try:
                text = Path(f"/proc/{pid}/cmdline").read_text()
                text += Path(f"/proc/{pid}/environ").read_text(errors="replace")
            except OSError:
                continue
            if str(self.temporary) in text:
                found.append(text.split("\0")[0])
        return found

    def require_as_before(self) -> None:
        eventually(lambda: not self.commands() and not list(self.temporary.iterdir()))
        assert self._repository.state() == self._before
        assert self._repository.git("status", "--short") == ""


@pytest.fixture
def stage(repository: Repository, tmp_path: Path) -> Stage:
    return Stage(repository, tmp_path)


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def end(parent: subprocess.Popen[bytes], number: int) -> None:
    with parent:
        assert parent.poll() is None
        parent.send_signal(number)


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.2, 0.3, 0.5])
def test_killed_at_any_moment_while_it_prepares_nothing_is_left(stage: Stage, delay_s: float) -> None:
    parent = stage.start("sleep 600", stage.folder / "never")
    time.sleep(delay_s)
    end(parent, signal.SIGKILL)
    stage.require_as_before()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_while_git_makes_the_worktree_gits_record_of_it_is_gone(
    repository: Repository, tmp_path: Path, number: int
) -> None:
    reached = tmp_path / "reached"
    repository.commit({".gitattributes": "*.txt filter=slow\n"})
    repository.git("tag", "--force", "base")
    repository.git("config", "filter.slow.smudge", f"touch {reached}; sleep 600; cat")
    stage = Stage(repository, tmp_path)
    parent = stage.start("", stage.folder / "never")
    eventually(reached.exists)
    assert list((repository.root / ".git" / "worktrees").iterdir())
    end(parent, number)
    stage.require_as_before()
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_while_it_builds_the_whole_build_is_gone(stage: Stage, number: int) -> None:
    reached = stage.folder / "reached"
    build = (
        f"sleep 600 & setsid sleep 600 & mkdir locked; touch locked/a; chmod 0 locked; touch {reached}; wait"
    )
    parent = stage.start(build, stage.folder / "never")
    eventually(reached.exists)
    assert sum("sleep" in command for command in stage.commands()) == 2
    end(parent, number)
    stage.require_as_before()


def test_killed_while_it_measures_worktrees_benches_and_what_compilers_keep_are_gone(stage: Stage) -> None:
    prepared, measuring = stage.folder / "prepared", stage.folder / "measuring"
    parent = stage.start("", prepared, measuring)
    eventually(measuring.exists)
    eventually(lambda: "sleep" in stage.commands())
    assert len(list(stage.temporary.iterdir())) == 2
    end(parent, signal.SIGKILL)
    stage.require_as_before()
