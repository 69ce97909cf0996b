"""What an interpreter has, found out by asking it: whether benches can run in it, and where modules are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnbench.errors import UsageError

__all__ = ["Facts", "ask", "require_usable"]

#: The script that interpreters run.
PROBE = Path(__file__).with_name("probe.py")

#: How long it may take; it imports nothing heavy, but site-packages may be on a slow disk.
PROBE_S = 60.0

OLDEST = (3, 11)


@dataclass(frozen=True, slots=True)
class Facts:
    """An interpreter's answer; fields as `probe` has them. Of one too old only the version is known."""

    version: tuple[int, ...]
    missing: Sequence[str] = ()
    brings: bool = False
    sites: Sequence[str] = ()
    found: Mapping[str, str | None] = field(default_factory=dict)
    path: Sequence[str] = ()
    redirected: Mapping[str, str] = field(default_factory=dict)
    installed: Mapping[str, Sequence[str]] = field(default_factory=dict)


def ask(
    python: Path,
    role: str,
    *,
    path: Sequence[Path] = (),
    checkout: Path | None = None,
    project: str | None = None,
    names: Sequence[str] = (),
    instead: Mapping[Path, Path] | None = None,
) -> Facts:
    """What `python` has with `path` first on its PYTHONPATH and some folders instead of others on sys.path.

    The rest of what is asked for is as `probe` has it; errors begin with `role`.

    Raises:
        UsageError: it cannot be started, hangs, or is no Python.
    """
    asked = {
        "checkout": str(checkout or ""),
        "project": project,
        "names": list(names),
        "instead": {str(folder): str(other) for folder, other in (instead or {}).items()},
    }
    inherited = os.environ.get("PYTHONPATH")
    first = os.pathsep.join([*map(str, path), *([inherited] if inherited else [])])
    try:
        code, said, complained = _run([str(python), str(PROBE), json.dumps(asked)], first)
    except OSError as error:
        raise UsageError(f"{role}: {python} cannot be started: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{role}: {python} did not tell what it has within {PROBE_S:g} s") from error
    told = _parsed(said)
    if code != 0 or told is None:
        from attnbench.driver.death import last_words

        words = last_words(complained or said)
        raise UsageError(
            f"{role}: {python} is no Python that can be asked what it has (status {code}; last "
            f"words: {words or 'none'}); expected an interpreter, or a folder with bin/python. If a git "
            "revision of this name was meant, write refs/heads/<name>"
        )
    return Facts(**{**told, "version": tuple(told["version"])})


def _run(command: Sequence[str], first: str) -> tuple[int, str, str]:
    """How a command ended, and its two outputs; `first` is its PYTHONPATH, where that is not empty."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **({"PYTHONPATH": first} if first else {})},
        start_new_session=True,
    )
    with process:
        try:
            said, complained = process.communicate(timeout=PROBE_S)
        except BaseException:  # with all that it started, which could hold its outputs open
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, said.decode(errors="replace"), complained.decode(errors="replace")


def _parsed(said: str) -> dict[str, Any] | None:
    """The probe's answer, its last line; what it imports (a sitecustomize) may print before."""
    try:
        told = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return told if isinstance(told, dict) and "version" in told else None


def require_usable(facts: Facts, python: Path, role: str) -> None:
    """Refuse an interpreter in which no bench can run.

    Raises:
        UsageError: it is too old, or lacks NumPy or torch.
    """
    if facts.version < OLDEST:
        raise UsageError(
            f"{role}: {python} is Python {'.'.join(map(str, facts.version))}; benches need "
            f"{'.'.join(map(str, OLDEST))} or newer"
        )
    if facts.missing:
        raise UsageError(
            f"{role}: {python} has no {' and no '.join(facts.missing)}; benches need NumPy and torch (and "
            f"nothing else): install them there"
        )
