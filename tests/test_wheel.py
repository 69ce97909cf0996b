"""The wheel, installed away from the checkout, is complete: implementations and scenarios are found there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment that has the wheel; what it depends on comes from this one."""
    root = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(root / "dist")]
    subprocess.run([*build, str(CHECKOUT)], check=True, capture_output=True, text=True)
    (wheel,) = (root / "dist").glob("*.whl")

    venv.create(root / "venv", with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(root / "venv")}))
    # A path in a .pth file brings the packages of this environment, but not its editable install of us.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = root / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)],
        check=True,
        capture_output=True,
        text=True,
    )
    return python.parent


def run(installed: Path, cwd: Path, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    answer = subprocess.run(
        [installed / "attnbench", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.slow
def test_the_wheel_runs_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [installed / "python", "-c", "import attnbench; print(attnbench.__file__)"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert not Path(where).is_relative_to(CHECKOUT)
    assert "sdpa_flash" in run(installed, tmp_path, "list", "implementations")
    assert "quick" in run(installed, tmp_path, "list", "scenarios")
    plan = run(installed, tmp_path, "plan", "quick")
    assert "naive" in plan
    assert list(tmp_path.iterdir()) == [], "a plan leaves nothing behind"


@pytest.mark.slow
def test_types_and_report_template_are_in_the_wheel(installed: Path) -> None:
    package = next((installed.parent / "lib").glob("python*")) / "site-packages" / "attnbench"
    assert (package / "py.typed").exists()
    assert {path.name for path in (package / "scenarios").iterdir()} >= {"quick.yaml", "smoke.yaml"}
    assert list((package / "report").rglob("*.j2")), "the report's template"
