"""Where scenario files are, and their text."""

from __future__ import annotations

import os
from pathlib import Path

import attnbench
from attnbench.errors import UsageError
from attnbench.scenario.names import join, nearest

__all__ = ["read_text", "resolve", "shipped"]

#: Scenario files are a few kilobytes; what is larger is something else.
LARGEST_BYTES = 256 * 1024


def places() -> list[Path]:
    """The folders in which a bare name is looked up, first to last.

    `./scenarios`, the checkout beside the package (an editable install has no copy of its own), and the
    copy inside the package.
    """
    package = Path(attnbench.__file__).parent
    folders = [Path("scenarios")]
    if package.parent.name == "harness":
        folders.append(package.parent.parent / "scenarios")
    folders.append(package / "scenarios")
    return folders


def shipped() -> dict[str, Path]:
    """Every scenario that can be given by its bare name, sorted; earlier folders win."""
    found: dict[str, Path] = {}
    for folder in places():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def resolve(path_or_name: str) -> Path:
    """The file of a scenario that was given as a path or as the bare name of a shipped one.

    Raises:
        UsageError: there is none; the text lists the names that there are.
    """
    path = Path(path_or_name)
    known = shipped()
    try:
        if path.exists() and not path.is_dir():
            return path
        if path_or_name in known:
            return known[path_or_name]
        directory = path.is_dir()
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, a folder that may not be entered
        raise UsageError(f"cannot read the scenario {path_or_name!r}: {error}") from None
    if directory:
        raise UsageError(f"expected a scenario file, got the folder {path_or_name!r}; name a file in it")
    suffixed = f"{path_or_name}.yaml"
    if os.path.isfile(suffixed):
        raise UsageError(f"no scenario {path_or_name!r}; did you mean {suffixed}?")
    names = f"the shipped ones are {join(known, 30)}" if known else "there are no shipped ones here"
    raise UsageError(
        f"no scenario {path_or_name!r}: expected the path of a YAML file or a bare name; {names}"
        + nearest(path.stem or path_or_name, known)
    )


def _open_at_once(path: str, flags: int) -> int:
    """Open `path`, which may be a pipe; one that nobody writes to is empty, not waited for without end."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(descriptor, True)  # a writer that is there may take its time
    return descriptor


def read_text(path: Path) -> str:
    """The text of a scenario file.

    Raises:
        UsageError: it cannot be read, is too large, or is no UTF-8 text.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > LARGEST_BYTES:
        raise UsageError(f"{path} is larger than {LARGEST_BYTES // 1024} KiB; expected a scenario file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x}); "
            "expected a scenario in YAML"
        ) from None
