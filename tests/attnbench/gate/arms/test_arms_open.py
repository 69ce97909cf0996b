"""Arms with real measuring processes behind them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from attnbench.driver import ZygoteSource
from attnbench.errors import PluginError
from attnbench.gate.arms import Arm, open_all, prepared, require_own, resolve
from checkouts import Repository, kernel

PACKAGED = "from fastattn import compute\n"


def opener(arm: Arm) -> Callable[[], ZygoteSource]:
    return lambda: arm.open(threads=1, malloc="pinned", memory_limit_bytes=None, wait=False)


@pytest.mark.slow
def test_each_arm_is_opened_with_its_own_code_and_its_errors_say_whose_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(tmp_path / "repository")
    repository.commit({"adapter.py": kernel(), "src/fastattn.py": "compute = None\n"})
    repository.git("tag", "good")
    repository.commit({"adapter.py": kernel(more=PACKAGED), "src/fastattn.py": None})
    repository.git("tag", "unbuilt")  # its package is somewhere else by now, and must not come from there
    repository.commit({"adapter.py": kernel(more=PACKAGED), "src/fastattn.py": "compute = None\n"})
    (tmp_path / "old.py").write_text(kernel())
    monkeypatch.chdir(repository.root)
    monkeypatch.setenv("PYTHONPATH", str(repository.root / "src"))
    plugins = [Path("adapter.py")]
    with ExitStack() as stack:
        arms = {
            text: stack.enter_context(prepared(resolve(text, option="--base", plugins=plugins)))
            for text in ("good", "unbuilt", str(tmp_path / "old.py"))
        }
        present = stack.enter_context(prepared(resolve(None, option="--head", plugins=plugins)))
        good, head = open_all([opener(arms["good"]), opener(present)])
        stack.enter_context(good)
        stack.enter_context(head)
        others = [stack.enter_context(opener(arm)()) for text, arm in arms.items() if text != "good"]

        (mine,) = (info for info in good.hello["catalogue"] if info["name"] == "mine")
        assert mine["file"] == str(arms["good"].own[0] / "adapter.py")
        assert require_own(arms["good"], good.hello, ["mine"]) == []
        (mine,) = (info for info in head.hello["catalogue"] if info["name"] == "mine")
        assert mine["file"] == str(repository.root / "adapter.py")

        said = []
        for source in others:
            with pytest.raises(PluginError) as caught:
                _ = source.hello
            said.append(str(caught.value))
    unbuilt, conflicting = said
    tree = arms["unbuilt"].own[0]
    assert unbuilt.startswith(f"--base {arms['unbuilt'].title}: the plug-in {tree}/adapter.py:")
    assert unbuilt.endswith("ModuleNotFoundError: No module named 'fastattn'")
    assert conflicting.startswith(f"--base {tmp_path}/old.py, beside the --plugin files of both arms: ")
    assert "declares 'mine', a name that" in conflicting


def test_a_plugin_given_for_one_arm_and_for_both_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(kernel(name[0]))
    with prepared(resolve("a.py", option="--base", plugins=[Path("b.py"), tmp_path / "a.py"])) as arm:
        assert arm.plugins == (tmp_path / "b.py", tmp_path / "a.py")
        assert arm.own == ()
