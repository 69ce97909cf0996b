"""Environment variables that benches would inherit, or that attnbench overrules for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attnbench.inherited import inherited

__all__ = ["POOL_VARIABLES", "Variables", "read_variables"]

#: Variables that say how many threads a pool has; attnbench sets them by `measure.threads`.
POOL_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Variables:
    """What is set here: `overruled`, with what benches get instead (None: nothing), and `kept` by them."""

    overruled: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)


def read_variables(here: Mapping[str, str], benches: Mapping[str, str]) -> Variables:
    """What of the variables set `here` does not reach `benches`, and what of `attnbench.inherited` does.

    Only variables that matter to measuring are looked at: those that benches have other values of, or lack.
    """
    return Variables(
        overruled={
            name: (value, benches.get(name))
            for name, value in sorted(here.items())
            if benches.get(name) != value
        },
        kept={name: value for name, value in inherited(here).items() if benches.get(name) == value},
    )
