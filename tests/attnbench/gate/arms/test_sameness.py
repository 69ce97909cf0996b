from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from attnbench.errors import MeasuringError, ScenarioError, UsageError
from attnbench.gate.arms import Arm, open_all, require_own, require_same_cases
from attnbench.protocol import HelloReply
from attnbench.scenario import Scenario, parse
from builders import make_info
from scripted import Script, ScriptedSource

SCENARIO = """
name: small
operation: attention
implementations: [naive, {chunked: {block: 64}}]
matrix: {seq_len: 64, heads: 2, head_dim: 16}
"""


def arm(title: str = "main~1 (3f2a91c)", option: str = "--base", **more: Any) -> Arm:
    role = f"{option} {title}"
    return Arm(title, "revision", role, Path(sys.executable), (), (), Path("scratch"), **more)


HEAD = arm("this environment", "--head")


def hello(*names: str, files: dict[str, str] | None = None, problems: tuple[str, ...] = ()) -> HelloReply:
    said = ScriptedSource({}).hello
    options = {"block": 128}
    said["catalogue"] = [
        make_info(name, options if name == "chunked" else None, file=(files or {}).get(name))
        for name in names
    ]
    said["problems"] = list(problems)
    return said


def scenario(**more: Any) -> Scenario:
    return parse(SCENARIO, "small.yaml", **more)


def test_arms_that_define_the_same_are_accepted() -> None:
    require_same_cases(arm(), hello("naive", "chunked"), HEAD, hello("chunked", "naive", "new"), scenario())


def test_what_the_base_lacks_is_an_error_that_names_it_and_says_what_may_be_why() -> None:
    base = arm(notes=("main~1 (3f2a91c) has no bench/chunked.py",))
    said = hello("naive", problems=("the entry point x of y cannot be loaded: ImportError: z",))
    with pytest.raises(UsageError) as caught:
        require_same_cases(base, said, HEAD, hello("naive", "chunked"), scenario())
    text = str(caught.value)
    assert text.startswith("--base main~1 (3f2a91c) lacks what this environment has: ")
    assert "'chunked' is no implementation of attention; there are naive" in text
    assert "(--impl NAME)" in text
    assert "(this may be why: main~1 (3f2a91c) has no bench/chunked.py; the entry point x of y" in text


def test_what_the_head_lacks_is_an_error_too() -> None:
    with pytest.raises(UsageError, match=r"^--head this environment lacks what main~1 .* has: 'naive' is no"):
        require_same_cases(arm(), hello("naive", "chunked"), HEAD, hello("chunked"), scenario())


def test_an_option_that_one_side_lacks_makes_another_case_of_it() -> None:
    old = hello("naive", "chunked")
    old["catalogue"][1]["options"] = {"size": 1}
    with pytest.raises(UsageError, match="chunked has no option 'block'"):
        require_same_cases(arm(), old, HEAD, hello("naive", "chunked"), scenario())


def test_what_neither_has_is_a_mistake_of_the_scenario_or_of_the_command_line() -> None:
    with pytest.raises(ScenarioError, match=r"small\.yaml:4:"):
        require_same_cases(arm(), hello("naive"), HEAD, hello("naive"), scenario())
    with pytest.raises(UsageError, match="'flex' is no implementation"):
        require_same_cases(arm(), hello("naive"), HEAD, hello("naive"), scenario(implementations=["flex"]))


def test_each_lacking_something_else_is_said_of_both() -> None:
    said = r"^--base .* lacks .* 'chunked' is no .*\. --head .* lacks .* 'naive' is no "
    with pytest.raises(UsageError, match=said):
        require_same_cases(arm(), hello("naive"), HEAD, hello("chunked"), scenario())


def test_what_is_measured_must_come_from_the_revision(tmp_path: Path) -> None:
    tree, venv, elsewhere = (tmp_path / name for name in ("tree", "venv", "elsewhere"))
    files = {
        "mine": str(tree / "a.py"),
        "built": str(venv / "b.so"),
        "naive": str(elsewhere / "naive.py"),
    }
    (tmp_path / "link").symlink_to(tree)
    files["linked"] = str(tmp_path / "link" / "c.py")
    said = hello(*files, "unknown", files=files)
    base = arm(own=(tree, venv))
    assert require_own(base, said, ["mine", "built", "linked"]) == []
    (note,) = require_own(base, said, ["mine", "naive"])
    assert note == f"the same on both sides, not of main~1 (3f2a91c): naive ({elsewhere}/naive.py)"
    assert "unknown (a file that cannot be told)" in require_own(base, said, ["built", "unknown"])[0]
    with pytest.raises(UsageError) as caught:
        require_own(base, said, ["naive", "unknown"])
    text = str(caught.value)
    assert text.startswith("--base main~1 (3f2a91c): nothing that is measured comes from this revision")
    assert f"naive ({elsewhere}/naive.py)" in text
    assert "check.build" in text


def test_what_is_not_there_at_all_is_left_to_be_said_by_others(tmp_path: Path) -> None:
    base = arm(own=(tmp_path,))
    assert require_own(base, hello("naive"), ["mine"]) == []
    assert len(require_own(base, hello("naive", files={"naive": __file__}), ["mine", "naive"])) == 1


def test_other_arms_have_nothing_that_must_be_their_own() -> None:
    assert require_own(HEAD, hello("naive"), ["naive"]) == []


def test_sources_are_opened_before_any_is_waited_for() -> None:
    order: list[str] = []

    class Slow(ScriptedSource):
        def __getattribute__(self, name: str) -> Any:
            if name == "hello":
                order.append("waited")
            return super().__getattribute__(name)

    def opener() -> Slow:
        order.append("opened")
        return Slow({"naive": Script()})

    sources = open_all([opener, opener])
    assert order == ["opened", "opened", "waited", "waited"]
    assert not any(source.closed for source in sources)


def test_when_one_source_fails_all_are_closed() -> None:
    good = ScriptedSource({})

    def failing() -> ScriptedSource:
        raise MeasuringError("no")

    with pytest.raises(MeasuringError):
        open_all([lambda: good, failing])
    assert good.closed
