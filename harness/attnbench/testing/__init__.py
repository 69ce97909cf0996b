"""For test suites of your own: is a kernel right? It runs in the process of the tests.

    from attnbench.testing import assert_attention_close, conformance_test
    from my_package import function, mine

    test_mine = conformance_test(mine)

    def test_function():
        assert_attention_close(function, heads=8, head_dim=64, seq_len=512)

`attnbench conformance` checks the same in processes of its own, where a kernel that crashes, hangs or eats
memory costs a case and not the suite.
"""

from __future__ import annotations

from attnbench.testing.closeness import assert_attention_close
from attnbench.testing.conformance import NotRun, assert_conforms, conformance_test, supported_grid

__all__ = ["NotRun", "assert_attention_close", "assert_conforms", "conformance_test", "supported_grid"]
