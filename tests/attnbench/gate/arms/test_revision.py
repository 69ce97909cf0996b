from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from attnbench.errors import UsageError
from attnbench.gate.arms import Arm, prepared, resolve
from checkouts import Repository, kernel

OLD, NEW = "VERSION = 'old'\n", "VERSION = 'new'\n"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A package in src/, a plug-in beside it; the commit before the last is `base`."""
    made = Repository(tmp_path / "repository")
    made.commit({"src/fastattn/__init__.py": OLD, "bench/adapter.py": kernel(), ".gitignore": "ignored\n"})
    made.git("tag", "base")
    made.commit({"src/fastattn/__init__.py": NEW, "bench/added.py": kernel("added")})
    monkeypatch.chdir(made.root)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return made


def told(arm: Arm, code: str) -> str:
    """What Python code prints where the arm's benches would run."""
    path = os.pathsep.join([*map(str, arm.path), os.environ.get("PYTHONPATH", "")])
    pairs = [(str(folder), str(other)) for folder, other in arm.instead.items()]
    code = f"from attnbench.bench.path import put_instead; put_instead({pairs!r})\n{code}"
    done = subprocess.run(
        [str(arm.python), "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def error_of(text: str = "base", build: str | None = None) -> str:
    with pytest.raises(UsageError) as caught, prepared(resolve(text, option="--base"), build=build):
        pass
    assert str(caught.value).startswith(f"--base {text} (")
    return str(caught.value)


VERSION = "import fastattn; print(fastattn.VERSION)"


def test_what_lies_in_the_checkout_comes_from_the_revision(
    repository: Repository, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository.root / "src"))
    before = repository.state()
    with prepared(resolve("base", option="--base")) as arm:
        assert arm.title == f"base ({repository.git('rev-parse', '--short', 'base')})"
        assert arm.kind == "revision"
        assert told(arm, VERSION) == "old"
        (tree,) = arm.own
        assert told(arm, "import fastattn; print(fastattn.__file__)").startswith(str(tree))
        here = "import attnbench, os; print(os.path.realpath(attnbench.__file__))"
        assert told(arm, here) == subprocess.check_output([sys.executable, "-c", here], text=True).strip()
        assert len(repository.git("worktree", "list").splitlines()) == 2
    assert repository.state() == before
    assert list(temporary.iterdir()) == []


def test_what_is_in_no_revision_stays_and_nothing_of_the_head_is_found_besides(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment is often inside of the checkout; and the revision may lack what the head has."""
    environment = repository.root / "ignored" / "site-packages"
    environment.mkdir(parents=True)
    (environment / "third.py").write_text("VERSION = 'third'\n")
    repository.commit({"src/added.py": NEW, "later/added_later.py": NEW})
    entries = [environment, repository.root / "src", repository.root / "later", repository.root]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, entries)))
    with prepared(resolve("base", option="--base")) as arm:
        (tree,) = arm.own
        assert set(arm.instead.values()) == {tree / "src", tree / "later", tree}
        assert told(arm, "import third; print(third.VERSION)") == "third"
        assert told(arm, VERSION) == "old"
        found = "from importlib.util import find_spec; print(find_spec('{}'))"
        assert told(arm, found.format("added")) == "None"
        assert told(arm, found.format("added_later")) == "None"


def test_the_head_can_be_a_revision_and_both_can_be_there_at_once(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository.root / "src"))
    (repository.root / "src/fastattn/__init__.py").write_text("VERSION = 'not committed'\n")
    before = repository.state()
    with (
        prepared(resolve("base", option="--base")) as base,
        prepared(resolve("main", option="--head")) as head,
        prepared(resolve(None, option="--head")) as present,
    ):
        assert [told(arm, VERSION) for arm in (base, head, present)] == ["old", "new", "not committed"]
    assert repository.state() == before


def test_the_checkout_is_left_as_it_was_also_after_an_error(repository: Repository) -> None:
    before = repository.state()
    for build in (None, "exit 1"):
        with (
            pytest.raises((RuntimeError, UsageError)),
            prepared(resolve("base", option="--base"), build=build),
        ):
            raise RuntimeError
    assert repository.state() == before


def test_other_worktrees_and_gits_record_of_them_stay(repository: Repository, tmp_path: Path) -> None:
    repository.git("worktree", "add", "--quiet", str(tmp_path / "mine"), "-b", "mine")
    repository.git("worktree", "add", "--quiet", str(tmp_path / "unplugged"), "-b", "unplugged")
    (tmp_path / "unplugged").rename(tmp_path / "away")  # as on a disk that is not there: not ours to prune
    before = repository.state()
    with prepared(resolve("base", option="--base")):
        pass
    assert repository.state() == before


def test_hooks_and_what_they_set_do_not_matter(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = repository.root / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {repository.root}/ran\nexit 1\n")
    hook.chmod(0o755)
    before = repository.state()
    monkeypatch.setenv("GIT_INDEX_FILE", str(repository.root / ".git" / "index"))
    monkeypatch.setenv("GIT_DIR", str(repository.root / ".git"))
    with prepared(resolve("base", option="--base"), build="git status --short > said") as arm:
        assert (arm.own[0] / "said").read_text() == "?? said\n"
    assert repository.state() == before


def test_plugins_under_version_control_are_those_of_the_revision(
    repository: Repository, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.py"
    untracked = repository.root / "ignored" / "mine.py"
    untracked.parent.mkdir()
    for path in (outside, untracked):
        path.write_text(kernel(path.stem))
    plugins = [repository.root / "bench" / name for name in ("adapter.py", "added.py")]
    request = resolve("base", option="--base", plugins=[*plugins, outside, untracked])
    with prepared(request) as arm:
        (tree,) = arm.own
        assert arm.plugins == (tree / "bench" / "adapter.py", outside, untracked)
        assert arm.notes == (f"{arm.title} has no bench/added.py",)


def test_a_build_runs_in_the_worktree_and_in_an_environment_of_its_own(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository.root / "src"))
    before = repository.state()
    write = "import sys, os, numpy; print(sys.prefix, os.environ['VIRTUAL_ENV'], numpy.__version__)"
    build = f"""python -c "{write}" > said && command -v pip >> said && pwd >> said
    echo $TMPDIR >> said && python -c "{VERSION}" >> said
    echo "VERSION = 'built'" >> src/fastattn/__init__.py"""
    with prepared(resolve("base", option="--base"), build=build) as arm:
        tree, venv = arm.own
        numpy = told(arm, "import numpy; print(numpy.__version__)")
        scratch = venv.parent / "tmp"
        assert (tree / "said").read_text().split() == [
            *(str(venv), str(venv), numpy),
            *(str(venv / "bin" / "pip"), str(tree), str(scratch), "old"),
        ]
        assert told(arm, VERSION) == "built"
        assert arm.python == venv / "bin" / "python"
        assert told(arm, "from importlib.util import find_spec; print(find_spec('torch') is None)") == "False"
        points = (
            "from importlib.metadata import entry_points as e; print(*e(group='attnbench.implementations'))"
        )
        assert "attnbench_impls" in told(arm, points)
    assert repository.state() == before


PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "fastattn"
version = "1.0"
[tool.hatch.build.targets.wheel]
packages = ["src/fastattn"]
"""

INSTALL = "pip install --no-deps --no-index --no-build-isolation --disable-pip-version-check --quiet "


def installed_copy(folder: Path, direct_url: Mapping[str, object] | None) -> Path:
    """What `pip install .` leaves in a folder of packages."""
    metadata = folder / "fastattn-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fastattn\nVersion: 1.0\n")
    (metadata / "RECORD").write_text(
        "fastattn/__init__.py,,\n../../bin/x.py,,\nfastattn-1.0.dist-info/RECORD,,\n"
    )
    if direct_url is not None:
        (metadata / "direct_url.json").write_text(json.dumps(direct_url))
    (folder / "fastattn").mkdir()
    (folder / "fastattn" / "__init__.py").write_text("VERSION = 'copied'\n")
    return folder


def test_a_build_that_installs_goes_before_what_is_installed_here(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit({"pyproject.toml": PROJECT})
    copy = installed_copy(tmp_path / "site", {"url": f"file://{repository.root}", "dir_info": {}})
    monkeypatch.setenv("PYTHONPATH", str(copy))
    (repository.root / "src/fastattn/__init__.py").write_text("VERSION = 'not committed'\n")
    before = repository.state()
    with prepared(resolve("main", option="--base"), build=INSTALL + ".") as arm:
        _, venv = arm.own
        assert told(arm, VERSION) == "new"
        assert told(arm, "import fastattn; print(fastattn.__file__)").startswith(str(venv))
    assert (copy / "fastattn" / "__init__.py").read_text() == "VERSION = 'copied'\n"
    assert repository.state() == before


@pytest.mark.parametrize("by", ["folder", "wheel", "name"])
def test_a_copy_of_the_checkout_that_would_be_measured_on_both_sides_is_refused(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """`pip install .` before the check: else the head would be compared with itself, and pass."""
    if by == "name":
        repository.commit({"pyproject.toml": PROJECT.replace("fastattn", "Fastattn", 1)})
    direct_url: dict[str, dict[str, object]] = {
        "folder": {"url": f"file://{repository.root}", "dir_info": {}},
        "wheel": {"url": f"file://{repository.root}/dist/fastattn.whl", "archive_info": {}},
    }
    copy = installed_copy(tmp_path / "site", direct_url.get(by))
    monkeypatch.setenv("PYTHONPATH", str(copy))
    reasons = {None: "the base would be the same code"}
    if by == "folder":
        reasons["true"] = "check.build did not install the base's"
    for build, why in reasons.items():
        text = error_of(build=build)
        assert f"fastattn was installed from this checkout, and is imported from {copy}/fastattn" in text
        assert why in text
        assert "pip install -e ." in text


def test_of_other_projects_that_are_installed_nothing_is_said(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {"url": f"file://{repository.root}-2", "dir_info": {}}
    monkeypatch.setenv("PYTHONPATH", str(installed_copy(tmp_path / "site", elsewhere)))
    with prepared(resolve("base", option="--base")) as arm:
        assert told(arm, VERSION) == "copied"


FINDER = """
import sys
from importlib.util import spec_from_file_location

MAPPING = {{"fastattn": {package!r}, "single": {single!r}, "space.inner": {inner!r}, "gone": {gone!r}}}

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("fastattn", "space.inner"):
            return spec_from_file_location(name, MAPPING[name] + "/__init__.py")
        return spec_from_file_location(name, MAPPING[name] + ".py") if name in MAPPING else None

def install():
    sys.meta_path.{how}
"""


@pytest.mark.parametrize(("how", "refused"), [("append(Finder)", False), ("insert(0, Finder)", True)])
def test_modules_led_to_the_checkout_by_an_editable_installs_finder_are_led_to_the_revision(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, refused: bool
) -> None:
    inside = {"single.py": OLD, "lib/inner/__init__.py": OLD}
    repository.commit(inside)
    repository.git("tag", "--force", "base")
    repository.commit({**dict.fromkeys(inside, NEW), "src/fastattn/__init__.py": NEW, "gone.py": NEW})
    repository.commit({"src/fastattn/__init__.py": OLD})
    repository.git("tag", "--force", "base")
    repository.commit({"src/fastattn/__init__.py": NEW})
    site = tmp_path / "site"
    installed_copy(site, {"url": f"file://{repository.root}", "dir_info": {"editable": True}})
    (site / "fastattn" / "__init__.py").unlink()
    (site / "fastattn").rmdir()
    root = repository.root
    (site / "__editable___fastattn_1_0_finder.py").write_text(
        FINDER.format(
            package=str(root / "src/fastattn"),
            single=str(root / "single"),
            inner=str(root / "lib/inner"),
            gone=str(root / "missing"),
            how=how,
        )
    )
    (site / "sitecustomize.py").write_text("import __editable___fastattn_1_0_finder as f; f.install()")
    monkeypatch.setenv("PYTHONPATH", str(site))
    if refused:
        assert "is imported from" in error_of()
        return
    with prepared(resolve("base", option="--base")) as arm:
        (tree,) = arm.own
        assert told(arm, VERSION) == "old"
        for name in ("single", "space.inner"):
            found = told(arm, f"import os, {name} as m; print(os.path.realpath(m.__file__))")
            assert found.startswith(str(tree))


def test_a_build_that_fails_tells_how_and_the_end_of_what_it_said(repository: Repository) -> None:
    text = error_of(build="seq 100; echo error: no nvcc here >&2; exit 7")
    assert "check.build failed in a worktree of it: `seq 100; echo error" in text
    assert "exited with status 7. The end of what it said:\n" in text
    assert text.endswith("\n99\n100\nerror: no nvcc here")
    assert "\n1\n" not in text
    assert "was ended by SIGKILL. It said nothing." in error_of(build="kill -KILL $$")


def test_submodules_are_spoken_of(repository: Repository) -> None:
    repository.commit({".gitmodules": '[submodule "x"]\n\tpath = x\n\turl = ../x\n'})
    with prepared(resolve("main", option="--base")) as arm:
        (note,) = arm.notes
        assert "has submodules, which its worktree does not hold" in note
    assert "begin the command with `git submodule update" in error_of("main", build="exit 1")


def test_a_worktree_that_cannot_be_made_says_what_git_said(repository: Repository, temporary: Path) -> None:
    request = resolve("base", option="--base")
    blob = repository.git("rev-parse", "base:src/fastattn/__init__.py")
    (repository.root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    said = r"no worktree of it could be made: git exited with status \d+ and said:"
    with pytest.raises(UsageError, match=said), prepared(request):
        pass
    assert not (repository.root / ".git" / "worktrees").exists()
    assert list(temporary.iterdir()) == []
