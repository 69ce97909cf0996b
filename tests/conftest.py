"""Settings shared by all tests."""

from __future__ import annotations

from hypothesis import settings

# Deterministic: the same examples everywhere, and no clock decides whether a test passes.
settings.register_profile("attnbench", derandomize=True, deadline=None, database=None)
settings.load_profile("attnbench")
