"""Module operations: every mutant is refused in float32, no right kernel in any dtype."""

from __future__ import annotations

import pytest

from attnbench.bench.accuracy import assess
from attnbench.bench.kernel import load_case
from attnbench.bench.poison import poisoned
from attnbench.workload import DTYPES
from plugins.module_workloads import SMALL, random_workload, workload, workload_of
from plugins.modules import LAYER_MUTANTS, MHA_MUTANTS, EncoderLayer, Mha, by_torch, implementation


def assessed(kernel, workload, seed=0, **settings):
    under_test = implementation(workload.operation, kernel, **settings)
    return assess(load_case(under_test, {}, workload, "cpu", seed))


@pytest.mark.parametrize("name", MHA_MUTANTS)
def test_a_mutant_of_mha_is_refused(name):
    needs, mutant = MHA_MUTANTS[name]
    asked = workload_of("mha", needs)
    reply = assessed(mutant, asked)
    assert reply["accuracy"] == "fail"
    assert reply["error_ratio"] is None or reply["error_ratio"] > 10
    assert assessed(Mha(), asked)["reason"] is None


@pytest.mark.parametrize("name", LAYER_MUTANTS)
def test_a_mutant_of_a_layer_is_refused(name):
    needs, mutant = LAYER_MUTANTS[name]
    asked = workload_of("encoder_layer", needs)
    assert assessed(mutant, asked)["accuracy"] == "fail"
    assert assessed(EncoderLayer(), asked)["reason"] is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "name", ["zeros", "heads permuted", "one row off", "NaN in the last row", "a key dropped"]
)
def test_gross_mutants_show_in_halves(name, dtype):
    asked = workload("mha", dtype=dtype, seq_len=20, **SMALL)
    assert assessed(MHA_MUTANTS[name][1], asked)["accuracy"] == "fail"


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_s_modules_pass(dtype):
    for seed in range(6):
        asked = random_workload(seed, dtype)
        reply = assessed(by_torch, asked, seed)
        assert reply["accuracy"] == "pass", (seed, asked.label, reply["reason"])
        assert reply["error_floor"] <= reply["error_rel_l2"]


def test_what_is_remembered_fails():
    kept = {}

    def remembering(x, asked):
        if "o" not in kept:
            kept["o"] = by_torch(x, asked)
        return kept["o"].clone()

    reply = assessed(remembering, workload("mha", seq_len=20, **SMALL))
    assert reply["accuracy"] == "fail"
    assert "as if answered from memory" in reply["reason"]
    assert reply["bitwise_repeatable"] is True


def test_remembered_attention_weights_fail_without_a_bias_too():
    """Negated queries and keys alone would have the same scores."""
    kept = {}

    class Remembering(Mha):
        def seen(self, scores, mask):
            return kept.setdefault("scores", scores)

    asked = workload("mha", seq_len=20, bias=False, **SMALL)
    assert "as if answered from memory" in assessed(Remembering(), asked)["reason"]


def test_a_cache_of_the_past_passes_and_one_of_more_fails():
    def caching(positions):
        def kernel(x, asked):
            past = x.kept("past", lambda: x.key[:, :positions].clone())
            keys = past.new_empty(x.key.shape)
            keys[:, :positions], keys[:, positions:] = past, x.key[:, positions:]
            s = asked.shape
            return Mha().attend(x.query, keys, keys, x.parameters, x.mask, s.heads, s.kv_heads, 16, s)[0]

        return kernel

    asked = workload("mha", q_len=4, kv_len=20, mask="causal", **SMALL)
    assert assessed(caching(16), asked)["reason"] is None
    assert "as if answered from memory" in assessed(caching(17), asked)["reason"]


def test_what_is_random_is_unchecked_but_must_be_finite():
    asked = workload("mha", seq_len=8, dropout=0.5, training=True, **SMALL)
    reply = assessed(by_torch, asked)
    assert reply["accuracy"] == "unchecked"
    assert reply["reason"] == asked.shape.why_random()
    assert assessed(MHA_MUTANTS["NaN in the last row"][1], asked)["accuracy"] == "fail"
    with poisoned():
        assert assessed(by_torch, asked)["accuracy"] == "pass"


def test_a_failure_in_less_precision_is_explained():
    reply = assessed(MHA_MUTANTS["scaled by 1.01"][1], workload("mha", seq_len=20, **SMALL), precision="int8")
    assert reply["reason"].endswith("it computes in int8 by its nature")
    assert assessed(Mha(), workload("mha", seq_len=20, **SMALL), precision="int8")["reason"] is None
