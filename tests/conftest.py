"""Settings shared by all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
from unittest import mock

import pytest
from hypothesis import settings

# Deterministic: the same examples everywhere, and no clock decides whether a test passes.
settings.register_profile("attnbench", derandomize=True, deadline=None, database=None)
settings.load_profile("attnbench")


def pytest_configure() -> None:
    """Ctrl-C means what it does, also where the suite was started with it ignored, as by nohup.

    What is ignored is inherited, and processes that are interrupted by tests would live on.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS="1"):  # as torch, see below
        import numpy  # noqa: F401  # it reads the variable now, and what tests start does not inherit it


def pytest_collection_finish(session: pytest.Session) -> None:
    """One thread for torch in the tests' own process: on tensors this small, two wait for one another."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _what_is_there_is_no_garbage() -> None:
    """As in a bench: what was imported is not searched for garbage, as each sample and each reading begins.

    With all that a session of tests imports, every search would take 0.1 to 0.4 s.
    """
    gc.collect()
    gc.freeze()
