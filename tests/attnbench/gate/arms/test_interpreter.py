from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from attnbench.errors import UsageError
from attnbench.gate.arms import Arm, prepared, resolve
from attnbench.gate.arms import interpreter as interpreters
from attnbench.workload import AttentionShape, Workload

#: What the harness needs beside NumPy and torch, and no bench may need.
PARENTS_OWN = (
    "click",
    "matplotlib",
    "pandas",
    "platformdirs",
    "psutil",
    "pyarrow",
    "pydantic",
    "pynvml",
    "rich",
    "ruamel",
    "scipy",
)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def new_venv(root: Path) -> Path:
    """A virtual environment with nothing in it; its folder of packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    (packages,) = root.glob("lib/python*/site-packages")
    return packages


def link_distribution(name: str, packages: Path, done: set[str]) -> None:
    """Link to what a distribution consists of, and to what it requires."""
    if name in done:
        return
    done.add(name)
    found = distribution(name)
    for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
        (packages / top).symlink_to(found.locate_file(top))
    for requirement in found.requires or ():
        if "extra ==" not in requirement and "platform" not in requirement:
            link_distribution(re.split(r"[^\w-]", requirement)[0], packages, done)


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with NumPy, torch and what they require, and nothing else."""
    root = tmp_path_factory.mktemp("lean") / "venv"
    packages = new_venv(root)
    done: set[str] = set()
    for name in ("numpy", "torch"):
        link_distribution(name, packages, done)
    return root


@pytest.fixture(scope="module")
def arm(lean: Path) -> Iterator[Arm]:
    with prepared(resolve(str(lean), option="--base")) as arm:
        yield arm


def error_of(text: str | Path) -> str:
    with pytest.raises(UsageError) as caught, prepared(resolve(str(text), option="--base")):
        pass
    assert str(caught.value).startswith(f"--base {text}: ")
    return str(caught.value)


def test_an_interpreter_is_led_to_this_harness_and_to_the_built_in_implementations(
    arm: Arm, lean: Path
) -> None:
    assert (arm.kind, arm.title, arm.python) == ("interpreter", str(lean), lean / "bin" / "python")
    (shim,) = arm.path
    names = {path.name.split("-")[0] for path in shim.iterdir()}
    assert names == {"attnbench", "attnbench_impls"}
    assert all(path.is_symlink() for path in shim.iterdir() if not path.name.endswith(".dist-info"))


def test_a_bench_needs_nothing_but_numpy_and_torch(arm: Arm) -> None:
    """Through all that a gate asks of it, each implementation that is here and a gradient among them."""
    for name in PARENTS_OWN:
        code = f"import {name}"
        assert subprocess.run([str(arm.python), "-c", code], capture_output=True, check=False).returncode == 1
    with arm.open(threads=1, malloc="pinned", memory_limit_bytes=2**32) as source:
        assert source.hello["problems"] == []
        assert source.hello["devices"]["cpu"]
        names = [info["name"] for info in source.hello["catalogue"]]
        assert {"naive", "sdpa", "numpy", "chunked"} <= set(names)
        for poisoned in (False, True):
            bench = source.bench()
            assert bench.start == ("forked" if sys.platform == "linux" else "spawned")
            for name, pass_ in (("naive", "forward_backward"), ("sdpa", "forward"), ("numpy", "forward")):
                shape = AttentionShape(1, 2, 2, 8, 8, 4)
                workload = Workload("attention", shape, "causal", pass_=pass_)
                parameters: dict[str, Any] = {
                    "case": name,
                    "implementation": name,
                    "options": {},
                    "workload": workload.to_json(),
                    "device": "cpu",
                    "seed": 0,
                    "threads": 1,
                    "poisoned": poisoned,
                }
                case = {"case": name}
                bench.request("prepare", parameters, 60)
                if poisoned:
                    assert bench.request("accuracy", case, 60)["accuracy"] == "pass"
                    continue
                assert bench.request("memory", case, 60)["peak_alloc_bytes"] > 0
                bench.request("reference", {"workload": workload.to_json(), "seed": 0}, 60)
                assert bench.request("accuracy", case, 60)["accuracy"] == "pass"
                sample = bench.request("sample", {**case, "calls": 2, "cache": "warm"}, 60)
                assert sample["elapsed_s"] > 0
                assert bench.request("verify", case, 60)["reason"] is None
                bench.request("release", case, 60)
            assert bench.request("describe", {}, 60)["threads"] == 1


def test_an_interpreter_with_implementations_of_its_own_keeps_them(tmp_path: Path) -> None:
    packages = new_venv(tmp_path / "venv")
    for name in ("numpy", "torch"):
        (packages / name).mkdir()
        (packages / name / "__init__.py").touch()
    metadata = packages / "attnbench-0.0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: attnbench\nVersion: 0.0.1\n")
    (metadata / "entry_points.txt").write_text("[attnbench.implementations]\nbuiltin = attnbench_impls\n")
    with prepared(resolve(str(tmp_path / "venv"), option="--base")) as arm:
        (shim,) = arm.path
        assert [path.name for path in shim.iterdir()] == ["attnbench"]


def test_an_interpreter_without_torch_says_what_is_missing(tmp_path: Path) -> None:
    packages = new_venv(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    assert f"{python} has no numpy and no torch" in error_of(tmp_path / "venv")
    (packages / "numpy").mkdir()
    (packages / "numpy" / "__init__.py").touch()
    assert f"{python} has no torch; benches need" in error_of(python)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("""echo '{"version": [3, 9, 18]}'""", "python is Python 3.9.18; benches need 3.11 or newer"),
        ("echo ls: cannot do this >&2; exit 2", "(status 2; last words: ls: cannot do this)"),
        ("true", "(status 0; last words: none); expected an interpreter, or a folder with bin/python"),
        ("echo 17", "is no Python that can be asked what it has (status 0; last words: 17)"),
        ("sleep 600", "did not tell what it has within 0.2 s"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    if "sleep" in text:
        monkeypatch.setattr(interpreters, "PROBE_S", 0.2)
    assert expected in error_of(script(tmp_path / "python", text))


def test_a_file_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_bytes(b"\x7fELF nonsense")
    path.chmod(0o755)
    assert "python cannot be started: Exec format error" in error_of(path)
