"""An arm: everything that is needed to open its source of benches, for as long as it is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attnbench.gate.arms.guard import Guard, guarded
from attnbench.gate.arms.interpreter import ask, require_usable
from attnbench.gate.arms.request import Interpreter, Plugin, Request, Revision
from attnbench.gate.arms.revision import install
from attnbench.gate.arms.shim import add_built_in, make_shim

if TYPE_CHECKING:
    from attnbench.driver import ZygoteSource
    from attnbench.protocol import BenchSource

__all__ = ["Arm", "open_all", "prepared"]

Source = TypeVar("Source", bound="BenchSource")


@dataclass(frozen=True, slots=True)
class Arm:
    """Where the implementations of one side come from.

    `title` says it in words (`main~1 (3f2a91c)`, `old.py`, `this environment`), `role` with the option that
    named it. `kind` is `present`, `plugin`, `interpreter` or `revision`. Benches run `python`, with `path`
    first on their PYTHONPATH, the values of `instead` where their `sys.path` has its keys, and `plugins`.
    What must come from the arm itself lies in the folders `own` (none where nothing must). What compilers
    keep goes to the folder `scratch`. `notes` are for people: what the arm lacks.
    """

    title: str
    kind: str
    role: str
    python: Path
    path: tuple[Path, ...]
    plugins: tuple[Path, ...]
    scratch: Path
    instead: Mapping[Path, Path] = field(default_factory=dict)
    own: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def open(
        self, *, threads: int, malloc: str, memory_limit_bytes: int | None, wait: bool = True
    ) -> ZygoteSource:
        """A fresh source of benches; without `wait` its `hello` waits until it has imported everything.

        Raises:
            PluginError: a plug-in cannot be loaded; without `wait`, `hello` raises it.
            MeasuringError: the source cannot be started; likewise.
        """
        from attnbench.driver import ZygoteSource

        return ZygoteSource(
            self.plugins,
            threads,
            malloc,
            memory_limit_bytes,
            python=self.python,
            path=self.path,
            instead=self.instead,
            # Extensions that torch builds are kept by name: another arm's would be built over ours.
            variables={"TORCH_EXTENSIONS_DIR": str(self.scratch / "extensions")},
            scratch=self.scratch,
            role=self.role,
            wait=wait,
        )


def open_all(openers: Sequence[Callable[[], Source]]) -> list[Source]:
    """The sources that `openers` open, once all have said hello; if one fails, all are closed.

    Openers that do not wait (`Arm.open(…, wait=False)`) import their libraries at the same time.

    Raises:
        PluginError, MeasuringError: as the openers, and the sources' `hello`.
    """
    sources: list[Source] = []
    try:
        for opener in openers:
            sources.append(opener())
        for source in sources:
            _ = source.hello
    except BaseException:
        for source in sources:
            source.close()
        raise
    return sources


@contextmanager
def prepared(request: Request, *, build: str | None = None) -> Iterator[Arm]:
    """What was asked for, ready to be opened; `build` is the command that builds a revision, run by a shell.

    Whatever was made for it is gone afterwards, also when this process is killed.

    Raises:
        UsageError: the revision cannot be checked out or built, or the interpreter cannot be used.
        MeasuringError: there is no temporary folder, or the process that cleans up was ended.
    """
    with guarded() as guard:
        yield _prepare(request, guard, build)


def _prepare(request: Request, guard: Guard, build: str | None) -> Arm:
    arm = partial(Arm, request.title, request.kind, scratch=guard.folder)
    present = Path(sys.executable)
    # Also for the present environment, which needs none: where things lie in memory depends on the lengths
    # of variables and paths, and is worth per cents of a short call. Arms should differ in nothing else.
    shim = make_shim(guard.folder / "shim")
    if isinstance(request, Revision):
        made = install(request, guard, shim, build)
        return arm(
            request.role,
            made.python,
            made.path,
            made.plugins,
            instead=made.instead,
            own=made.own,
            notes=made.notes,
        )
    if isinstance(request, Interpreter):
        facts = ask(request.python, request.role, path=[shim])
        require_usable(facts, request.python, request.role)
        if not facts.brings:
            add_built_in(shim)
        return arm(request.role, request.python, (shim,), request.plugins)
    if isinstance(request, Plugin):
        beside = ", beside the --plugin files of both arms" if request.plugins else ""
        plugins = tuple(dict.fromkeys((*request.plugins, request.file)))
        return arm(request.role + beside, present, (shim,), plugins)
    return arm(request.role, present, (shim,), request.plugins)
