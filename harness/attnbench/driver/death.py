"""How a measuring process ended, and what that says about the case that it was working on."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

__all__ = ["Death", "explain", "last_words"]

LONGEST_WORDS = 160

#: What libraries print before they end a process because memory, or a thread's stack, could not be had.
_OUT_OF_MEMORY = ("bad_alloc", "DefaultCPUAllocator", "Thread creation failed", "Cannot allocate memory")

#: A line of Python's own report of a fatal signal (faulthandler), innermost frame first.
_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>\S+)', re.MULTILINE)

#: A terminal's control sequence: colours and the like.
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended.

    `lingered`: it had closed its socket, lived on and was killed. `orphaned`: nobody saw, because the zygote
    that could have told ended too.
    """

    signal: int | None = None
    exit_code: int | None = None
    lingered: bool = False
    orphaned: bool = False

    def __str__(self) -> str:
        if self.lingered:
            return "closed its connection"
        if self.signal is not None:
            return f"killed by {_signal_name(self.signal)}"
        if self.exit_code is not None:
            return f"exited with status {self.exit_code}"
        return "ended, and its zygote with it" if self.orphaned else "ended"


def explain(death: Death, verb: str, printed: str, oom_killed: bool) -> tuple[str, str]:
    """The status and reason of the case whose `verb` was outstanding.

    `printed` is what came out of the process since the verb began; `oom_killed` tells that the system killed
    a process for want of memory meanwhile.
    """
    if oom_killed and (death.signal == signal.SIGKILL or death.orphaned):
        return "oom", f"killed by the system during {verb}, because memory ran out"
    words = last_words(printed)
    if not death.lingered and any(sign in printed for sign in _OUT_OF_MEMORY):
        line = next(line for line in printed.splitlines() if any(sign in line for sign in _OUT_OF_MEMORY))
        return "oom", f"{death} during {verb}: {_shorten(line)}"
    if fault := _fault(printed):
        return "crashed", f"{death} during {verb}, in {fault}"
    return "crashed", f"{death} during {verb}" + (f"; last words: {words}" if words else "")


def _fault(printed: str) -> str | None:
    """The innermost line of somebody's own code in Python's report of a fatal signal: `f (kernel.py:7)`."""
    _, found, report = printed.partition("Fatal Python error")
    frames = list(_FRAME.finditer(report))
    if not found or not frames:
        return None
    frame = next((each for each in frames if "/lib/python" not in each["file"]), frames[0])
    return f"{frame['function']} ({frame['file'].rsplit('/', 1)[-1]}:{frame['line']})"


def last_words(printed: str) -> str:
    """The last line that is not empty, printable and short."""
    lines = [line for line in printed.splitlines() if line.strip()]
    return _shorten(lines[-1]) if lines else ""


def _shorten(line: str) -> str:
    plain = _ESCAPE.sub("", line)
    text = "".join(character for character in plain.strip() if character.isprintable())
    return text if len(text) <= LONGEST_WORDS else text[: LONGEST_WORDS - 1] + "…"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
