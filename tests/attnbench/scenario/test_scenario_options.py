"""`--set`, `--impl` and `--device`."""

from __future__ import annotations

from typing import Any

import pytest

from attnbench.case import Variant
from attnbench.errors import ScenarioError, UsageError
from attnbench.scenario import Scenario, parse
from attnbench.scenario.variants import parse_label

TEXT = """name: t
operation: attention
implementations: [naive, {chunked: {block: [64, 256]}}, sdpa]
matrix: {heads: 8, head_dim: 64, seq_len: [16, 64]}
exclude: [{implementation: naive, seq_len: 64}]
"""


def scenario(**options: Any) -> Scenario:
    return parse(TEXT, "s.yaml", **options)


def labels(read: Scenario) -> list[str]:
    return [variant.label for variant in read.implementations]


def test_set_overrides_and_adds() -> None:
    read = scenario(
        sets=[
            "measure.precision=1e-3",
            "measure.threads=all",
            "matrix.seq_len=[16, 256]",
            "matrix.mask=causal",
            "anchor=chunked(block=64)",
            "name=other",
            "limits.memory_fraction=1",
        ]
    )
    assert read.measure.precision == 0.001
    assert read.matrix == {"heads": (8,), "head_dim": (64,), "seq_len": (16, 256), "mask": ("causal",)}
    assert (read.anchor, read.name, read.limits.memory_fraction) == ("chunked(block=64)", "other", 1.0)
    assert read.source_text == TEXT


def test_null_goes_back_to_the_default() -> None:
    read = scenario(sets=["matrix.seq_len=null", "matrix.q_len=1", "matrix.kv_len=[8, 16]"])
    assert list(read.matrix) == ["heads", "head_dim", "q_len", "kv_len"]


def test_an_exclude_may_match_nothing_after_set() -> None:
    assert scenario(sets=["matrix.seq_len=[8]"]).matrix["seq_len"] == (8,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("measure.precison=1", "measure has no key 'precison'; the keys are precision, max_seconds,"),
        ("measure.precison=1", "did you mean 'precision'?"),
        ("mesure.precision=1", "--set does not change 'mesure'; it changes name, description, anchor,"),
        ("measure.precision=5", "expected a number above 0 and below 1, got 5"),
        ("measure=1", "expected measure.KEY=VALUE; the keys are precision,"),
        ("measure.precision.x=1", "expected measure.KEY=VALUE"),
        ("measure.precision", "expected PATH=VALUE"),
        ("=1", "expected PATH=VALUE"),
        ("devices=cpu", "use --device"),
        ("implementations=[sdpa]", "use --impl"),
        ("matrix.seq_len=[1, true]", "expected a whole number from 1 to 2147483647, got true"),
        ("matrix.seq_len=[]", "got an empty list"),
        ("matrix.seq_len=[", "is no valid YAML"),
        ("matrix.seq_len=*x", "aliases are not allowed"),
        ("matrix.q_len=4", "give either seq_len or q_len and kv_len, not both"),
        ("matrix.kv_heads=3", "expected a divisor of heads (8), got 3"),
        ("anchor=numpy", "expected one of the implementations listed"),
        ("name=a b", "expected a name"),
        ("name.x=a", "name has no keys of its own"),
        ("matrix.heads=null", "matrix.heads: is missing"),
        ("matrix.shape=[{heads: 3}]", "s.yaml:4:10: matrix.heads: is given in matrix.shape too"),
    ],
)
def test_mistakes_in_set_are_the_command_line_s(text: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        scenario(sets=[text])
    assert str(caught.value).startswith(f"--set {text}: ")
    assert expected in str(caught.value)


def test_all_mistakes_of_the_command_line_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        scenario(
            sets=["measure.seed=-1", "limits.memory_fraction=0"], devices=["gpu"], implementations=["a("]
        )
    assert len(str(caught.value).splitlines()) == 4


def test_the_file_s_mistakes_come_first() -> None:
    with pytest.raises(ScenarioError, match=r"^s\.yaml:6:1: mesure: is no key"):
        parse(TEXT + "mesure: {}\n", "s.yaml", sets=["measure.seed=-1"])


def test_impl_keeps_the_options_that_the_file_gives() -> None:
    read = scenario(implementations=["sdpa", "chunked", "sdpa", "mine(block=3)"])
    assert labels(read) == ["sdpa", "chunked(block=64)", "chunked(block=256)", "mine(block=3)"]
    assert read.anchor == "sdpa"


def test_impl_with_options_means_these_options() -> None:
    assert labels(scenario(implementations=["chunked(block=128)"])) == ["chunked(block=128)"]


def test_the_anchor_stays_while_it_is_chosen() -> None:
    assert scenario(implementations=["sdpa", "naive"]).anchor == "naive"


def test_an_anchor_of_the_command_line_must_be_chosen() -> None:
    assert scenario(implementations=["sdpa", "mine"], sets=["anchor=mine"]).anchor == "mine"
    with pytest.raises(UsageError, match="expected one of the implementations listed"):
        scenario(implementations=["sdpa"], sets=["anchor=naive"])


def test_what_leaves_nothing_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=r"--impl naive: nothing left to measure"):
        scenario(implementations=["naive"], sets=["matrix.seq_len=64"])


def test_device_replaces() -> None:
    assert scenario(devices=["cuda:1", "cpu", "cuda:1"]).devices == ("cuda:1", "cpu")
    with pytest.raises(UsageError, match=r"^--device gpu: expected a device .*did you mean 'cuda'\?$"):
        scenario(devices=["cpu", "gpu"])


@pytest.mark.parametrize("options", [{}, {"block": 256}, {"a": 1.5, "b": True, "c": "fast/er", "d": -1}])
def test_labels_are_read_back(options: dict[str, Any]) -> None:
    for name in ("chunked", "flash-attn_2.8"):
        variant = Variant.of(name, options)
        assert parse_label(variant.label) == variant


def test_names_may_have_dots_and_dashes() -> None:
    assert labels(scenario(implementations=["my.flash-2(block=3)"])) == ["my.flash-2(block=3)"]
    text = TEXT.replace("implementations: [", "implementations: [{a-b.c: {x: 1}}, ")
    assert "a-b.c(x=1)" in labels(parse(text, "s.yaml"))


@pytest.mark.parametrize(
    "text", ["", "a b", "a(", "a(b)", "a(b=)", "a(b=1,b=2)", "a(b=c d)", "a(=1)", "1a", "a(b=.nan)"]
)
def test_what_is_no_label(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|twice"):
        parse_label(text)


def test_cuda_graphs_need_a_gpu_among_the_devices() -> None:
    mixed = scenario(sets=["measure.cuda_graph=true"], devices=["cpu", "cuda:1"])
    assert mixed.measure.cuda_graph is True
    with pytest.raises(UsageError) as error:
        scenario(sets=["measure.cuda_graph=true"])
    assert "measure.cuda_graph=true: is for NVIDIA GPUs, and devices names none (cpu)" in str(error.value)
    of_gpus = TEXT + "devices: [cuda]\nmeasure: {cuda_graph: true}\n"
    assert parse(of_gpus, "s.yaml").measure.cuda_graph is True
    with pytest.raises(UsageError, match="add cuda to devices, or set it to false"):
        parse(of_gpus, "s.yaml", devices=["cpu"])
    assert parse(of_gpus, "s.yaml", devices=["cpu"], sets=["measure.cuda_graph=false"]).devices == ("cpu",)
