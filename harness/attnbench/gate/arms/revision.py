"""Another commit's code, in this environment: a worktree of it in the place of the checkout that it is of."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.errors import UsageError
from attnbench.gate.arms.checkout import environment
from attnbench.gate.arms.guard import Guard, how_it_ended
from attnbench.gate.arms.interpreter import Facts, ask
from attnbench.gate.arms.request import Revision
from attnbench.gate.arms.shim import HARNESS, link_modules
from attnbench.gate.arms.venv import Venv, make_venv

__all__ = ["Installed", "install"]


@dataclass(frozen=True, slots=True)
class Installed:
    """A revision that can be measured; the fields are those of an arm.

    What comes from the revision lies in the folders `own`. `notes` say what it lacks.
    """

    python: Path
    path: tuple[Path, ...]
    instead: Mapping[Path, Path]
    plugins: tuple[Path, ...]
    own: tuple[Path, ...]
    notes: tuple[str, ...]


def install(request: Revision, guard: Guard, shim: Path, build: str | None) -> Installed:
    """Check the revision out, build it where there is a command for that, and lead imports to it by `shim`.

    Raises:
        UsageError: it cannot be checked out or built, or imports cannot be led to it.
    """
    root = request.checkout.root
    python = Path(sys.executable)
    present = ask(python, request.role, checkout=root, project=_project(root))
    tree = _check_out(request, guard)
    instead = _instead(request, present.path, tree)
    plugins, notes = _plugins(request, tree)
    venv = None
    if build is not None:
        venv = make_venv(guard, guard.folder / "venv", present.sites, instead, request.role)
        _build(request, guard, build, venv, tree)
    elif (tree / ".gitmodules").exists():
        notes.append(
            f"{request.title} has submodules, which its worktree does not hold: where they matter, set "
            "check.build to `git submodule update --init --recursive`"
        )
    link_modules(shim, _redirected(present.redirected, root, tree))
    installed = Installed(
        venv.python if venv else python,
        # What was built goes before sources on an inherited PYTHONPATH, which lack what was compiled.
        (shim, venv.packages) if venv else (shim,),
        instead,
        plugins,
        (tree, venv.root) if venv else (tree,),
        tuple(notes),
    )
    _require_led(request, installed, present, build)
    return installed


def _check_out(request: Revision, guard: Guard) -> Path:
    """A worktree of the revision."""
    # git names its record of a worktree after the folder, so that must be nobody else's name.
    tree = guard.folder / guard.folder.name
    record = request.checkout.common / "worktrees" / tree.name
    # Hooks are for people who check something out: they may fail here, or change the checkout.
    command = ["git", "-c", f"core.hooksPath={os.devnull}", "worktree", "add", "--quiet", "--detach"]
    code, said = guard.run(
        [*command, str(tree), request.commit],
        cwd=request.checkout.root,
        environment=environment(os.environ),
        leaves=[record],
    )
    if code != 0:
        raise UsageError(
            f"{request.role}: no worktree of it could be made: git {how_it_ended(code)} and said:\n{said}"
        )
    return tree


def _build(request: Revision, guard: Guard, build: str, venv: Venv, tree: Path) -> None:
    scratch = guard.folder / "tmp"
    scratch.mkdir()
    code, said = guard.run(
        ["/bin/sh", "-c", build], cwd=tree, environment=venv.environment(os.environ, scratch)
    )
    if code == 0:
        return
    submodules = (
        " It has submodules, which a worktree does not hold: begin the command with `git submodule update "
        "--init --recursive &&`."
        if (tree / ".gitmodules").exists()
        else ""
    )
    raise UsageError(
        f"{request.role}: check.build failed in a worktree of it: `{build}` {how_it_ended(code)}."
        f"{submodules} " + (f"The end of what it said:\n{said}" if said else "It said nothing.")
    )


def _plugins(request: Revision, tree: Path) -> tuple[tuple[Path, ...], list[str]]:
    """The plug-ins as the revision has them, and notes on those that it lacks.

    One that is in no revision (outside of the checkout, or not under version control) is common to both.
    """
    found: list[Path] = []
    notes: list[str] = []
    for path in request.plugins:
        there = _moved(path, request.checkout.root, tree)
        if there is not None and there.is_file():
            found.append(there)
        elif there is not None and request.checkout.tracks(path):
            notes.append(f"{request.title} has no {path.relative_to(request.checkout.root)}")
        else:
            found.append(path)
    return tuple(found), notes


def _moved(path: Path, root: Path, tree: Path) -> Path | None:
    """Where in `tree` that is which lies at `path` in `root`; None if it does not lie there."""
    real = path.resolve()
    return tree / real.relative_to(root) if real.is_relative_to(root) else None


def _instead(request: Revision, entries: Sequence[str], tree: Path) -> dict[Path, Path]:
    """The folders of the checkout that Python imports from, with those of the revision.

    What is in no revision stays what it is: a virtual environment within the checkout, say.
    """
    found = {}
    for path in (Path(entry).resolve() for entry in entries):
        there = tree / path.relative_to(request.checkout.root)
        if there.exists() or request.checkout.tracks(path):
            found[path] = there
    return found


def _redirected(modules: Mapping[str, str], root: Path, tree: Path) -> dict[str, Path]:
    """Modules that an editable install leads into the checkout, as the revision has them."""
    found = {}
    for name, target in modules.items():
        moved = _moved(Path(target), root, tree)
        if moved is not None and name != HARNESS:
            file = moved.with_suffix(".py")
            if moved.exists() or file.exists():
                found[name] = moved if moved.exists() else file
    return found


def _project(root: Path) -> str | None:
    """The name of the distribution that the checkout makes, where its pyproject.toml says so."""
    try:
        with open(root / "pyproject.toml", "rb") as file:
            name = tomllib.load(file)["project"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name.lower().replace("_", "-").replace(".", "-") if isinstance(name, str) else None


def _require_led(request: Revision, installed: Installed, present: Facts, build: str | None) -> None:
    """Refuse to measure the head twice: what was installed from the checkout must come from the revision.

    Where a distribution was copied from the checkout, or is led there by means that are not known here, the
    same code would be measured on both sides, which passes every gate.
    """
    modules = {name: [each for each in names if each != HARNESS] for name, names in present.installed.items()}
    wanted = [each for names in modules.values() for each in names]
    if not wanted:
        return
    found = ask(
        installed.python, request.role, path=installed.path, instead=installed.instead, names=wanted
    ).found
    for name, names in modules.items():
        origins = [origin for each in names if (origin := found.get(each))]
        if origins and not any(_lies_in(origin, installed.own) for origin in origins):
            did = "check.build did not install the base's" if build else "the base would be the same code"
            raise UsageError(
                f"{request.role}: {name} was installed from this checkout, and is imported from {origins[0]} "
                f"on both sides: {did}. Install the checkout editable (pip install -e .), or have the "
                "revision built and installed: set check.build (to `pip install .`, say)"
            )


def _lies_in(path: str, folders: Sequence[Path]) -> bool:
    return any(Path(path).resolve().is_relative_to(folder) for folder in folders)
