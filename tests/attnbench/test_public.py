"""The public surface: exactly the names that are promised."""

from __future__ import annotations

import subprocess
import sys

import attnbench


def test_every_public_name_is_there_and_no_other() -> None:
    assert sorted(attnbench.__all__) == dir(attnbench)
    for name in attnbench.__all__:
        assert getattr(attnbench, name) is not None


def test_importing_attnbench_loads_nothing_heavy() -> None:
    code = "import sys, attnbench; print(sorted(m for m in sys.modules if m.startswith('attnbench')))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "['attnbench']"
