"""A folder put first on PYTHONPATH, so that another interpreter or another revision runs this harness.

It holds links, never a whole site-packages, which would bring our torch along.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import attnbench

__all__ = ["HARNESS", "add_built_in", "link_modules", "make_shim"]

#: The package that must be the same in both arms.
HARNESS = "attnbench"


def make_shim(folder: Path) -> Path:
    """Make `folder`, which leads to this harness."""
    folder.mkdir()
    (folder / HARNESS).symlink_to(Path(attnbench.__file__).resolve().parent, target_is_directory=True)
    return folder


def link_modules(shim: Path, modules: Mapping[str, Path]) -> None:
    """Lead to modules, given by their dotted names; to one within another only where that is no link."""
    for name, target in sorted(modules.items()):
        link = shim.joinpath(*name.split("."))
        if link.is_symlink() or any(each.is_symlink() for each in link.parents):
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            link.symlink_to(target, target_is_directory=True)
        else:
            link.with_name(target.name).symlink_to(target)


def add_built_in(shim: Path) -> None:
    """Lead to the built-in implementations, and declare them as our own distribution does."""
    from attnbench.registry import ENTRY_POINT_GROUP, OWN_DISTRIBUTION

    own = importlib.metadata.distribution(OWN_DISTRIBUTION)
    points = own.entry_points.select(group=ENTRY_POINT_GROUP)
    for name in dict.fromkeys(point.module.split(".")[0] for point in points):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            file = Path(spec.origin)
            link_modules(shim, {name: file.parent if spec.submodule_search_locations else file})
    metadata = shim / f"{OWN_DISTRIBUTION}-{own.version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {OWN_DISTRIBUTION}\nVersion: {own.version}\n"
    )
    declared = "".join(f"{point.name} = {point.value}\n" for point in points)
    (metadata / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{declared}")
