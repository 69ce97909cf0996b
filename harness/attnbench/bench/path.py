"""Other folders in the place of some that Python imports from: another revision's, say."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

__all__ = ["put_instead"]


def put_instead(pairs: Iterable[tuple[str, str]]) -> None:
    """Have `sys.path` name the second folder of each pair where it names the first, links followed.

    In its place and not before it, because code of the first must not be found where the second lacks it,
    and because what comes early on the path may hide modules of Python's own.
    """
    others = {os.path.realpath(folder): other for folder, other in pairs}
    sys.path[:] = [others.get(os.path.realpath(entry), entry) if entry else entry for entry in sys.path]
