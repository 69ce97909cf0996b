from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from attnbench.errors import UsageError
from attnbench.gate.arms import resolve
from attnbench.gate.arms.request import Interpreter, Plugin, Present, Revision
from checkouts import Repository


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    made = Repository(tmp_path / "repository")
    made.commit({"kernel.py": "one = 1\n"})
    made.commit({"kernel.py": "two = 2\n"})
    made.git("branch", "feature/fast-softmax")
    made.git("tag", "v1.2.0", "HEAD~1")
    monkeypatch.chdir(made.root)
    return made


def error_of(text: str, option: str = "--base") -> str:
    with pytest.raises(UsageError) as caught:
        resolve(text, option=option)
    assert str(caught.value).startswith(f"{option}: ")
    return str(caught.value)


def test_nothing_means_the_present_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = resolve(None, option="--head", plugins=[Path("a.py")])
    assert request == Present("--head", "this environment", (tmp_path / "a.py",))
    assert request.role == "--head this environment"


def test_a_python_file_is_a_plugin_also_where_there_is_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.py").touch()
    monkeypatch.chdir(tmp_path)
    request = resolve("old.py", option="--base")
    assert isinstance(request, Plugin)
    assert (request.title, request.file, request.kind) == ("old.py", tmp_path / "old.py", "plugin")


def test_an_executable_file_and_a_venv_are_interpreters_and_links_stay_what_they_are(tmp_path: Path) -> None:
    real = tmp_path / "python3.99"
    real.touch(mode=0o755)
    link = tmp_path / "venv" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    for text in (str(link), str(tmp_path / "venv")):
        request = resolve(text, option="--base")
        assert isinstance(request, Interpreter)
        assert (request.title, request.python, request.kind) == (text, link, "interpreter")


@pytest.mark.parametrize("text", ["main", "HEAD", "v1.2.0", "HEAD~1", "feature/fast-softmax"])
def test_everything_else_is_a_revision(repository: Repository, text: str) -> None:
    request = resolve(text, option="--base")
    assert isinstance(request, Revision)
    assert request.commit == repository.git("rev-parse", f"{text}^{{commit}}")
    assert request.checkout.root == repository.root
    assert request.title == f"{text} ({repository.git('rev-parse', '--short', request.commit)})"


def test_a_hash_is_told_by_its_beginning(repository: Repository) -> None:
    commit = repository.git("rev-parse", "main")
    assert resolve(commit, option="--base").title == repository.git("rev-parse", "--short", "main")


def test_a_short_name_and_a_subfolder_will_do(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository.root / "deep" / "down").mkdir(parents=True)
    monkeypatch.chdir(repository.root / "deep" / "down")
    commit = repository.git("rev-parse", "HEAD")
    request = resolve(commit[:8], option="--base")
    assert isinstance(request, Revision)
    assert (request.commit, request.checkout.root) == (commit, repository.root)


def test_what_hooks_tell_git_does_not_mislead_us(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Repository(tmp_path / "other")
    other.commit({"a": "b"})
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.root))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.root / "index"))
    request = resolve("v1.2.0", option="--base")
    assert isinstance(request, Revision)
    assert request.checkout.root == repository.root


def test_in_a_worktree_the_shared_part_is_known(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.git("worktree", "add", "--quiet", "--detach", str(tmp_path / "second"))
    monkeypatch.chdir(tmp_path / "second")
    request = resolve("main", option="--base")
    assert isinstance(request, Revision)
    assert request.checkout.root == tmp_path / "second"
    assert request.checkout.common == repository.root / ".git"


def test_no_such_revision_says_which_are_nearest(repository: Repository) -> None:
    text = error_of("feature/fast-sofmax")
    assert f"no git revision of {repository.root}" in text
    assert "Did you mean feature/fast-softmax?" in text
    assert "Did you mean v1.2.0?" in error_of("1.2.0")
    assert "feature/fast-softmax" in error_of("fast-softmax")
    text = error_of("zzz", "--head")
    assert "Branches and tags: " in text
    assert all(name in text for name in ("main", "v1.2.0"))


@pytest.mark.parametrize("text", ["", "-h", "--all", "HEAD:kernel.py", "main..HEAD", "kernel.py "])
def test_what_is_no_commit_is_no_revision(repository: Repository, text: str) -> None:
    assert "no git revision" in error_of(text)


def test_what_there_is_by_that_name_is_said(repository: Repository) -> None:
    (repository.root / "folder").mkdir()
    (repository.root / "notes.txt").touch()
    assert "it is a folder without bin/python" in error_of("folder")
    assert "it is a file that is neither *.py nor executable" in error_of("notes.txt")
    assert "the command of this name is" in error_of("sh")
    assert "is no Python file" in error_of("missing.py")


def test_a_shallow_checkout_says_how_to_fetch_more(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow = tmp_path / "shallow"
    clone = ["git", "clone", "--quiet", "--depth", "1", f"file://{repository.root}", str(shallow)]
    subprocess.run(clone, check=True, capture_output=True)
    monkeypatch.chdir(shallow)
    for text in ("v1.2.0", "HEAD~1"):
        assert "`fetch-depth: 0`" in error_of(text)
    assert isinstance(resolve("HEAD", option="--base"), Revision)


def test_outside_of_a_checkout_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path} is not in a checkout" in error_of("main")


def test_a_repository_without_files_is_no_checkout(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository.root / ".git")
    assert "is not in a checkout" in error_of("main")


def test_a_repository_without_commits_has_nothing_to_offer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repository(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    assert error_of("main").endswith("It has no branch and no tag")


def test_what_git_refuses_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(tmp_path)
    (repository.root / ".git" / "config").write_text("[core\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"git cannot read the repository around .*: fatal: bad config"):
        resolve("main", option="--base")


def test_without_git_files_and_interpreters_remain(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"git cannot be started .* install it"):
        resolve("main", option="--base")
    assert isinstance(resolve("kernel.py", option="--base"), Plugin)


def test_looking_changes_nothing(repository: Repository) -> None:
    os.utime(repository.root / "kernel.py")  # a status would refresh the index
    before = repository.state()
    resolve("v1.2.0", option="--base")
    error_of("nothing")
    assert repository.state() == before
