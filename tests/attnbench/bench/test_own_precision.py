"""What declares a lower precision than its dtype is judged by that, where conformance is the question."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attnbench.bench.accuracy import assess
from attnbench.bench.kernel import load_case
from attnbench.workload import DTYPES
from plugins.module_workloads import SMALL, workload
from plugins.modules import MHA_MUTANTS, Mha, implementation


def judged(kernel, precision="int8", dtype="float32", *, own_precision=True):
    asked = workload("mha", seq_len=20, dtype=dtype, **SMALL)
    case = load_case(implementation("mha", kernel, precision=precision), {}, asked, "cpu", 0)
    return assess(case, own_precision=own_precision)


def coarse(x, workload):
    """Right, but for weights of 255 values a row."""
    weights = {}
    for name, weight in x.parameters.items():
        step = weight.abs().amax(dim=-1, keepdim=True) / 127
        weights[name] = (weight / step).round() * step
    return Mha()(replace(x, parameters=weights), workload)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_int8_is_right_by_its_own_precision_and_wrong_by_its_dtype(dtype):
    reply = judged(coarse, dtype=dtype)
    assert (reply["accuracy"], reply["reason"]) == ("pass", None)
    assert 0 < reply["error_ratio"] < 1
    by_dtype = judged(coarse, dtype=dtype, own_precision=False)
    assert by_dtype["accuracy"] == "fail"
    assert by_dtype["error_ratio"] > 100
    assert by_dtype["error_rel_l2"] == reply["error_rel_l2"], "the errors themselves are the same"
    assert judged(coarse, "", dtype)["accuracy"] == "fail", "only what is declared counts"


@pytest.mark.parametrize("name", ["zeros", "heads permuted", "NaN in the last row"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_wrong_is_wrong_in_int8_too(name, dtype):
    reply = judged(MHA_MUTANTS[name][1], dtype=dtype)
    assert reply["accuracy"] == "fail"
    assert reply["reason"].endswith("judged by int8, in which it computes")


def test_what_is_remembered_is_wrong_in_int8_too():
    remembered = {}

    def kernel(x, workload):
        return remembered.setdefault("o", Mha()(x, workload))

    reply = judged(kernel)
    assert "does not follow its inputs" in reply["reason"]


def test_a_finer_precision_than_the_dtype_excuses_nothing():
    mutant = MHA_MUTANTS["zeros"][1]
    coarse_dtype = [judged(mutant, precision, "bfloat16") for precision in ("", "float16")]
    assert coarse_dtype[0]["error_ratio"] == coarse_dtype[1]["error_ratio"]


def test_a_precision_is_one_that_there_is():
    with pytest.raises(ValueError, match=r"precision must be one of tf32, .*; got 'int9'"):
        implementation("mha", Mha(), precision="int9")
