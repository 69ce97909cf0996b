"""What a failed verb is called: one of the protocol's statuses, and a reason that fits on a line."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

__all__ = ["LONGEST_REASON", "BeyondUse", "Failure", "Refusal", "classify", "one_line"]

#: Characters of a reason; the rest would fill a table's cell and tell nobody anything.
LONGEST_REASON = 300

#: Texts by which libraries say, in a plain RuntimeError, that memory could not be had. A thread that cannot
#: be started is one that could not be given a stack.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "Cannot allocate memory",
    "bad_alloc",
    "out of memory",
    "can't start new thread",
    "Thread creation failed",
    "Resource temporarily unavailable",
)

#: Texts by which libraries say that no memory could ever hold so many numbers.
BEYOND_ADDRESSING = (
    "array is too big",
    "Maximum allowed dimension exceeded",
    "Storage size calculation overflowed",
    "integer multiplication overflow",
)

#: What torch puts before its text when a check in C++ fails.
_ENFORCE = re.compile(r"^\[enforce fail at [^\]]*\] [^.]*\. ")


class Refusal(Exception):
    """A case that cannot be run here: `status` is `unsupported` or `unavailable`."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class BeyondUse(RuntimeError):
    """After this error the process is not to be trusted: the bench must be replaced."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A verb's failure; after a `fatal` one the bench must be replaced."""

    status: str
    reason: str
    fatal: bool = False


def one_line(text: str, longest: int = LONGEST_REASON) -> str:
    """The first line of `text` that is not empty, printable, at most `longest` characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = "".join(character if character.isprintable() else "�" for character in line)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def classify(error: BaseException) -> Failure:
    """The failure that an exception out of a kernel, its loader or the harness amounts to."""
    if isinstance(error, Refusal):
        return Failure(error.status, one_line(error.reason))
    text = _text(error)
    torch = sys.modules.get("torch")
    out_of_memory = isinstance(error, MemoryError) or (
        torch is not None and isinstance(error, torch.OutOfMemoryError)
    )
    if (
        out_of_memory
        or (isinstance(error, RuntimeError | OSError) and any(sign in text for sign in OUT_OF_MEMORY))
        or (isinstance(error, RuntimeError | ValueError) and any(sign in text for sign in BEYOND_ADDRESSING))
    ):
        said = _ENFORCE.sub("", text) or "no memory left"
        return Failure("oom", one_line(f"{type(error).__name__}: {said}"))
    reason = one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    if isinstance(error, ImportError):
        if isinstance(error, ModuleNotFoundError) and error.name:
            reason = f"needs the module {error.name}: pip install {error.name.split('.')[0]}"
        return Failure("unavailable", reason)
    # After any other CUDA error the context is unusable, and so is the process.
    fatal = isinstance(error, RuntimeError) and (isinstance(error, BeyondUse) or "CUDA error" in text)
    return Failure("error", reason, fatal)


def _text(error: BaseException) -> str:
    """The error's text; a KeyError's without the quotes that `str` puts around it."""
    try:
        single = isinstance(error, KeyError) and len(error.args) == 1 and isinstance(error.args[0], str)
        text = error.args[0] if single else str(error)
    except BaseException as nested:  # somebody's exception class may fail at telling what happened
        text = f"(its text cannot be had: {type(nested).__name__})"
    return str(text).strip()
