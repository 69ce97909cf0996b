"""The kernels that gates are tried on: attention head by head, and what can be wrong with its next version.

Each head is so much work, so more heads are more work of the same kind: with two heads more than the twenty
that are asked for, whose output is thrown away, 10% more. Nothing sleeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

__all__ = ["DEFECTS", "DTYPE", "HEADS", "HEAD_DIM", "NAMES", "SEQ_LEN", "Version", "write"]

#: The workload: batch 1, so many heads, of so many queries and keys, of so many dimensions.
HEADS, SEQ_LEN, HEAD_DIM = 20, 48, 32
DTYPE = "float32"

#: What the plug-in's implementations are called; a scenario of one case uses the first.
NAMES = ("by_head",)

_TEMPLATE = '''"""Attention, one head after another."""

import attnbench


@attnbench.attention("{name}", dtypes={{"float32"}}, devices={{"cpu"}})
def kernel(q, k, v, *, mask, scale):
    """q, k, v [1, H, L, D] -> [1, H, L, D], on one thread; {extra} heads are computed for nothing."""
    import torch

    heads = q.shape[1]
    out = torch.empty_like(q)
    spare = torch.empty_like(q)
    for head in range(heads + {extra}):
        at = head % heads
        scores = torch.matmul(q[0, at], k[0, at].transpose(0, 1)).mul_(scale)
        weights = torch.softmax(scores, dim=-1)
        torch.matmul(weights, v[0, at], out=(out if head < heads else spare)[0, at])
{defect}    return out
'''

#: What is done to the output, by the name of the defect.
DEFECTS: Mapping[str, str] = {
    "bytes": "kept = torch.zeros(1 << 18)  # a temporary of 1 MiB\nout[0, 0, 0, 0] += kept[0]\n",
    "error": "out.mul_(1.001)\n",
    "nan": 'out[0, -1, -1] = float("nan")\n',
    "crash": "import os\nimport signal\n\nos.kill(os.getpid(), signal.SIGSEGV)\n",
}


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the plug-in: `extra` heads of work more, perhaps a defect, and the names it defines."""

    extra: int = 0
    defect: str | None = None
    names: tuple[str, ...] = NAMES

    @property
    def work(self) -> float:
        """The work of its heads, as a share of what is asked for."""
        return 1 + self.extra / HEADS

    def source(self) -> str:
        """The plug-in's text."""
        defect = indent(DEFECTS[self.defect], "    ") if self.defect else ""
        made = [_TEMPLATE.format(name=name, extra=self.extra, defect=defect) for name in self.names]
        return made[0] + "".join(text[text.index("\n\n@attnbench") :] for text in made[1:])


def write(version: Version, path: Path) -> Path:
    """Write the plug-in of `version` to `path`, and return that."""
    path.write_text(version.source())
    return path
