from __future__ import annotations

import numpy as np
import pytest
import torch

from attnbench.bench.failures import LONGEST_REASON, Failure, Refusal, classify, one_line


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ValueError("must have shape X, got Y\nmore"), ("error", "ValueError: must have shape X, got Y")),
        (SystemExit(3), ("error", "SystemExit: 3")),
        (KeyboardInterrupt(), ("error", "KeyboardInterrupt")),
        (KeyError("no such case"), ("error", "KeyError: no such case")),
        (RuntimeError("mat1 and mat2"), ("error", "RuntimeError: mat1 and mat2")),
        (NotImplementedError("halves"), ("error", "NotImplementedError: halves")),
        (MemoryError(), ("oom", "MemoryError: no memory left")),
        (np.exceptions.AxisError("axis"), ("error", "AxisError: axis")),
        (torch.OutOfMemoryError("CUDA is full"), ("oom", "OutOfMemoryError: CUDA is full")),
        (RuntimeError("can't start new thread"), ("oom", "RuntimeError: can't start new thread")),
        (RuntimeError("Resource temporarily unavailable"),
         ("oom", "RuntimeError: Resource temporarily unavailable")),
        (RuntimeError("std::bad_alloc"), ("oom", "RuntimeError: std::bad_alloc")),
        (RuntimeError("Storage size calculation overflowed"),
         ("oom", "RuntimeError: Storage size calculation overflowed")),
        (ValueError("bad_alloc is a word"), ("error", "ValueError: bad_alloc is a word")),
        (ModuleNotFoundError("x", name="a.b"), ("unavailable", "needs the module a.b: pip install a")),
        (ImportError("cannot import name 'f'"), ("unavailable", "ImportError: cannot import name 'f'")),
        (Refusal("unsupported", "no masks"), ("unsupported", "no masks")),
    ],
)  # fmt: skip
def test_what_an_exception_amounts_to(error: BaseException, failure: tuple[str, str]) -> None:
    assert classify(error) == Failure(*failure)


def test_torchs_allocator_means_out_of_memory_and_says_how_much() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    failure = classify(caught.value)
    assert failure.status == "oom"
    assert failure.reason.startswith("RuntimeError: DefaultCPUAllocator")
    assert str(2**60) in failure.reason


@pytest.mark.parametrize("sides", [(2**40, 2**40), (2**65,)])
def test_more_numbers_than_can_be_addressed_are_out_of_memory(sides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"array is too big|dimension exceeded") as caught:
        np.empty(sides)
    assert classify(caught.value).status == "oom"


def test_after_a_cuda_error_the_bench_is_beyond_use() -> None:
    assert classify(RuntimeError("CUDA error: an illegal memory access was encountered")).fatal
    assert not classify(torch.OutOfMemoryError("CUDA out of memory")).fatal


def test_an_exception_that_cannot_be_told_is_still_an_answer() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert classify(Mute()) == Failure("error", "Mute: (its text cannot be had: RuntimeError)")


def test_a_reason_is_one_short_printable_line() -> None:
    text = one_line("\n\n  a\x00b\x1b" + "c" * 1000 + "\nd")
    assert text.startswith("a�b�c")
    assert len(text) == LONGEST_REASON
    assert text.endswith("…")
    assert one_line("") == ""
