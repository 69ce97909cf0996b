"""Time to verdict: `attnbench check` as a user starts it, three cases of which nothing changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from gate_parts import DataError, Store, kernels
from gate_parts.kernels import Version

__all__ = ["PART", "measure"]

PART = "duration"

#: Exit code of `attnbench check` for wrong use, and its outcomes by exit code.
WRONG_USE = 2
OUTCOMES: Mapping[int, str] = {0: "PASS", 1: "FAIL", 2: "ERROR", 3: "INCONCLUSIVE"}

SETTINGS: Mapping[str, Any] = {
    "three cases": {
        "name": "three",
        "operation": "attention",
        "implementations": ["by_head"],
        "matrix": {"heads": 8, "head_dim": 32, "seq_len": [32, 64, 128]},
        "check": {"gate": 0.10},
    },
    "one case is missing": {
        "name": "shrunken",
        "operation": "attention",
        "implementations": ["by_head", "by_head_too"],
        "matrix": {"heads": 2, "head_dim": 32, "seq_len": 32},
    },
}


def measure(folder: Path, counts: Mapping[str, int], *, go_on: Callable[[], bool]) -> None:
    """What is missing of `counts` runs of each command (`same`, `missing`), while `go_on()`.

    Raises:
        DataError: the command failed in another way than by its verdict.
    """
    store = Store.open(folder, PART, SETTINGS)
    for number in range(max(counts.values(), default=0)):
        for name, count in counts.items():
            key = f"{name}/{number}"
            if number < count and key not in store and go_on():
                entry = _RUNS[name]()
                store.append(key, {"run": name, **entry})
                print(f"{key}: {entry['outcome']} after {entry['wall_s']:.1f} s", flush=True)


def _same() -> dict[str, Any]:
    """Two files with the same kernel, three cases of it."""
    return _run(SETTINGS["three cases"], Version(), Version())


def _missing() -> dict[str, Any]:
    """The scenario has two implementations, the base's file defines one."""
    head = Version(names=("by_head", "by_head_too"))
    return _run(SETTINGS["one case is missing"], Version(), head)


_RUNS: Mapping[str, Callable[[], dict[str, Any]]] = {"same": _same, "missing": _missing}


def _run(scenario: Mapping[str, Any], base: Version, head: Version) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gate.yaml")
        path.write_text(json.dumps(scenario))
        arms = {
            "--base": kernels.write(base, Path(folder, "base.py")),
            "--head": kernels.write(head, Path(folder, "head.py")),
        }
        options = [part for option, file in arms.items() for part in (option, str(file))]
        command = [sys.executable, "-m", "attnbench", "check", str(path), *options]
        environment = {name: value for name, value in os.environ.items() if name != "GITHUB_STEP_SUMMARY"}
        began = monotonic()
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, cwd=folder, check=False
        )
        wall_s = monotonic() - began
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode not in OUTCOMES or (done.returncode == WRONG_USE) != (scenario["name"] == "shrunken"):
        raise DataError(f"{' '.join(command)} ended with {done.returncode}: {' '.join(said[-5:])}")
    return {"outcome": OUTCOMES[done.returncode], "wall_s": round(wall_s, 2)}
