"""Where compilers keep what they compiled: by case, so that no first call profits from another case's.

Cases of different blocks may need the very same kernel (they may differ in how their inputs are drawn), any
two share what a compiler finds out about the machine, and one case may be in several scenarios of a sweep.
The benches that measure one case once share its folder: in the first of them its first call compiles, in the
others it loads what was compiled.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["CACHE_VARIABLES", "FOLDER_VARIABLE", "keep_by_case"]

#: The variable by which measuring processes are told of the folder that holds all of these.
FOLDER_VARIABLE = "ATTNBENCH_COMPILED"

#: By which variables compilers are told where to keep what they compiled, with the name of that folder.
CACHE_VARIABLES: Mapping[str, str] = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}


def keep_by_case(scope: str, case: str) -> None:
    """Lead compilers to the own folder of `case` within `scope` from now on.

    Nothing is done in a process that was given no folder to put it in.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        return
    own = Path(folder) / hashlib.sha256(f"{scope}\n{case}".encode()).hexdigest()[:16]
    for variable, name in CACHE_VARIABLES.items():
        os.environ[variable] = str(own / name)
