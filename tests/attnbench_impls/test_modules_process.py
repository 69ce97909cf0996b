"""The modules' implementations as users meet them: listed and swept from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import attnbench_impls
from attnbench.implementation import declared_in

pytestmark = pytest.mark.slow

PATIENCE_S = 120

SCENARIO = """\
name: tokens
operation: mha
implementations:
  - torch_mha
  - torch_mha_fastpath
  - numpy_mha
  - quantized_mha
  - mha: {core: sdpa, cache: [false, true]}
anchor: torch_mha
matrix: {embed_dim: 32, heads: 4, q_len: 1, kv_len: 64}
measure: {precision: 0.5, max_seconds: 0.05, processes: 1}
"""


def attnbench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "attnbench", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=PATIENCE_S,
        check=False,
    )


def test_all_are_listed(tmp_path: Path) -> None:
    done = attnbench("list", "implementations", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = {each["name"]: each for each in json.loads(done.stdout)}
    for each in declared_in(vars(attnbench_impls)):
        assert listed[each.name]["operation"] == each.operation
        assert listed[each.name]["options"] == each.options


def test_a_real_sweep_of_decoding(tmp_path: Path) -> None:
    (tmp_path / "tokens.yaml").write_text(SCENARIO, encoding="utf-8")
    done = attnbench("sweep", "tokens.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {
        (row["implementation"], row["options"]): (row["status"], row["accuracy"], row["resolved_backend"])
        for row in json.loads(done.stdout)["rows"]
    }
    ordinary = "ordinary path, flash_attention"
    assert rows == {
        ("torch_mha", ""): ("ok", "pass", ordinary),
        ("torch_mha_fastpath", ""): ("unsupported", "unchecked", None),
        ("numpy_mha", ""): ("ok", "pass", None),
        ("quantized_mha", ""): ("ok", "fail", None),
        ("mha", "cache=false, core=sdpa"): ("ok", "pass", "flash_attention"),
        ("mha", "cache=true, core=sdpa"): ("ok", "pass", "flash_attention"),
    }
