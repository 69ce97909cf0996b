"""A virtual environment for building a revision: what is installed there goes before what we have."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.errors import UsageError
from attnbench.gate.arms.checkout import environment
from attnbench.gate.arms.guard import Guard

__all__ = ["Venv", "make_venv"]

#: pip by its name must be the venv's: the next one on PATH would install into the environment of the head.
PIP = '#!/bin/sh\nexec "{python}" -m pip "$@"\n'

#: A module that is imported whenever the venv's interpreter starts.
PRESENT = "attnbench_present"

#: What it does. addsitedir, since what is installed there may be .pth files (editable installs, say).
PRESENT_TEXT = """import os
import site
import sys

for folder in {sites!r}:
    site.addsitedir(folder)
instead = {instead!r}
sys.path[:] = [instead.get(os.path.realpath(path), path) for path in sys.path]
"""


@dataclass(frozen=True, slots=True)
class Venv:
    """A virtual environment at `root`; `packages` is where what is built is installed."""

    root: Path
    packages: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.root / "bin" / "python"

    def environment(self, inherited: Mapping[str, str], scratch: Path) -> dict[str, str]:
        """`inherited` as if the environment were activated, with `scratch` for temporary files."""
        kept = {name: value for name, value in environment(inherited).items() if name != "PYTHONHOME"}
        path = os.pathsep.join([str(self.root / "bin"), inherited.get("PATH", os.defpath)])
        return {**kept, "VIRTUAL_ENV": str(self.root), "PATH": path, "TMPDIR": str(scratch)}


def make_venv(
    guard: Guard, root: Path, sites: Sequence[str], instead: Mapping[Path, Path], role: str
) -> Venv:
    """A virtual environment of this interpreter, with the packages in the folders `sites` behind its own.

    Where they, or an inherited PYTHONPATH, lead to a key of `instead`, its value is in its place.

    Raises:
        UsageError: it cannot be made.
    """
    create = [sys.executable, "-m", "venv", "--without-pip", str(root)]
    code, said = guard.run(create, cwd=guard.folder, environment=environment(os.environ))
    if code != 0:
        raise UsageError(f"{role}: no virtual environment for check.build could be made:\n{said}")
    variables = {"base": str(root), "platbase": str(root), "installed_base": sys.base_prefix}
    venv = Venv(root, Path(sysconfig.get_path("purelib", scheme="venv", vars=variables)))
    (venv.packages / f"{PRESENT}.py").write_text(
        PRESENT_TEXT.format(
            sites=list(sites), instead={str(folder): str(other) for folder, other in instead.items()}
        )
    )
    (venv.packages / f"{PRESENT}.pth").write_text(f"import {PRESENT}\n")
    if importlib.util.find_spec("pip") is None:  # as in an environment that another tool made
        guard.run(
            [str(venv.python), "-m", "ensurepip"], cwd=guard.folder, environment=environment(os.environ)
        )
    for name in ("pip", "pip3"):
        script = root / "bin" / name
        script.write_text(PIP.format(python=venv.python))
        script.chmod(0o755)
    return venv
