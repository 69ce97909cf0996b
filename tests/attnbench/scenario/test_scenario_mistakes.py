"""Every mistake has its position, says what was expected, and none hides another."""

from __future__ import annotations

import pytest

from attnbench.errors import ScenarioError
from attnbench.scenario import parse

HEAD = "name: t\noperation: attention\nimplementations: [naive, {chunked: {block: [64, 256]}}, sdpa]\n"
MATRIX = "matrix: {heads: 8, head_dim: 64, seq_len: [16, 64]}\n"
SIXTY = list(range(1, 61))


def mistakes(text: str) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "s.yaml")
    return str(caught.value).splitlines()


def test_all_at_once_in_the_file_s_order() -> None:
    lines = mistakes(
        """name: 'a/b'
operation: attention
implementations: [naive, {chunked: {block: [.nan, {}]}}, {a: 1, b: 2}, naive, 5]
anchor: naive
devices: [gpu, cpu]
matrix:
  seqlen: [1]
  heads: [true, 1.5, 0, 2147483648, '8']
  mask: [casual, none]
  dtype: fp32
  pass: [foward]
  inputs: []
exclude:
  - {head: 3}
include: 3
measure: {precison: 3, precision: 2, max_seconds: 0, threads: alll, cache: hot, seed: -1, processes: 0,
  cuda_graph: 1}
limits: {memory_fraction: 1.1, seconds_per_case: .inf}
check: {pairs: [3, 2], alpha: '0.1', beta: null}
mesure: {}
"""
    )
    expected = [
        "s.yaml:1:7: name: expected a name",
        "s.yaml:3:45: implementations[1].chunked.block[0]: expected a finite number, got nan",
        "s.yaml:3:51: implementations[1].chunked.block[1]: expected a number, a bool or text, got a mapping",
        "s.yaml:3:58: implementations[2]: expected a name or {name: {option: value}}, got a mapping",
        "s.yaml:3:72: implementations[3]: naive is listed twice; keep one",
        "s.yaml:3:79: implementations[4]: expected a name or {name: {option: value}}, got 5",
        "s.yaml:5:11: devices[0]: expected a device (cpu, cuda, mps, xpu, cuda:0, xpu:0), got 'gpu'; did",
        "s.yaml:7:3: matrix.seqlen: is no key of matrix; the keys are shape, batch,",
        "s.yaml:8:11: matrix.heads[0]: expected a whole number from 1 to 2147483647, got true",
        "s.yaml:8:17: matrix.heads[1]: expected a whole number from 1 to 2147483647, got 1.5",
        "s.yaml:8:22: matrix.heads[2]: expected a whole number from 1 to 2147483647, got 0",
        "s.yaml:8:25: matrix.heads[3]: expected a whole number from 1 to 2147483647, got 2147483648",
        "s.yaml:8:37: matrix.heads[4]: expected a whole number from 1 to 2147483647, got '8'",
        "s.yaml:9:10: matrix.mask[0]: expected a mask, got 'casual'",
        "s.yaml:10:10: matrix.dtype: expected one of float64, float32, bfloat16, float16, got 'fp32'; ",
        "s.yaml:11:10: matrix.pass[0]: expected one of forward, backward, forward_backward, got 'foward'",
        "s.yaml:12:11: matrix.inputs: expected a value or a list of values, got an empty list",
        "s.yaml:14:6: exclude[0].head: is no key of exclude; the keys are implementation, device,",
        "s.yaml:15:10: include: expected a list, got 3",
        "s.yaml:16:11: measure.precison: is no key of measure;",
        "s.yaml:16:35: measure.precision: expected a number above 0 and below 1, got 2",
        "s.yaml:16:51: measure.max_seconds: expected a number above 0, got 0",
        "s.yaml:16:63: measure.threads: expected all or a whole number from 1 to 4096, got 'alll'",
        "s.yaml:16:76: measure.cache: expected one of warm, cold, got 'hot'",
        "s.yaml:16:87: measure.seed: expected a whole number from 0 to 4294967295, got -1",
        "s.yaml:16:102: measure.processes: expected a whole number from 1 to 1000, got 0",
        "s.yaml:17:15: measure.cuda_graph: expected true or false, got 1",
        "s.yaml:18:27: limits.memory_fraction: expected a number above 0 up to 1, got 1.1",
        "s.yaml:18:50: limits.seconds_per_case: expected a number above 0, got inf",
        "s.yaml:19:16: check.pairs: expected ascending numbers, got [3, 2]",
        "s.yaml:19:31: check.alpha: expected a number above 0 and below 0.5, got '0.1'",
        "s.yaml:19:44: check.beta: expected a number above 0 and below 0.5, got nothing",
        "s.yaml:20:1: mesure: is no key of a scenario;",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
    for nearest in ("'cuda'", "'seq_len'", "'causal'", "'float32'", "'forward'", "'precision'", "'measure'"):
        assert f"did you mean {nearest}?" in "\n".join(lines)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("matrix: {}\n", "s.yaml:4:1: matrix: expected at least one axis, got an empty matrix"),
        ("matrix:\n", "s.yaml:5:1: matrix: expected a mapping with keys among shape,"),
        ("", "s.yaml:1:1: matrix: is missing; give a matrix of workloads, or include whole ones"),
        (
            "matrix: {heads: 8, seq_len: 16}\n",
            "s.yaml:4:1: matrix.head_dim: is missing: attention needs heads",
        ),
        (
            "matrix: {heads: 8, head_dim: 64, seq_len: 16, q_len: 4}\n",
            "s.yaml:4:54: matrix.q_len: give either seq_len or q_len and kv_len, not both",
        ),
        (
            "matrix: {heads: [8, 12], kv_heads: [4, 8], head_dim: 64, seq_len: 16}\n",
            "s.yaml:4:40: matrix.kv_heads[1]: expected a divisor of heads (12), got 8",
        ),
        (
            "matrix: {heads: 8, head_dim: 64, seq_len: [4, 16], mask: [none, document(8)]}\n",
            "s.yaml:4:65: matrix.mask[1]: document(8) needs at least 8 keys, got kv_len 4",
        ),
        (
            "include: [{heads: 8, head_dim: 64, seq_len: 4, mask: causal+document(8)}]\n",
            "s.yaml:4:54: include[0].mask: document(8) needs at least 8 keys, got kv_len 4",
        ),
        (
            "matrix:\n  shape: [{heads: 8, head_dim: 64, kv_heads: 3}]\n  seq_len: 16\n",
            "s.yaml:5:46: matrix.shape[0].kv_heads: expected a divisor of heads (8), got 3",
        ),
        (
            "matrix:\n  shape: [{heads: 8, head_dim: 64}]\n  heads: 8\n  seq_len: 16\n",
            "s.yaml:6:3: matrix.heads: is given in matrix.shape too; keep one of them",
        ),
        (
            "matrix: {heads: 8, head_dim: 64, seq_len: [16, 64, 16]}\n",
            "s.yaml:4:52: matrix.seq_len[2]: 16 is given twice; keep one",
        ),
        (
            "matrix:\n  shape: [{heads: 8, head_dim: 4}, {heads: 8, kv_heads: 8, head_dim: 4}]\n  q_len: 9\n"
            "  kv_len: 9\n",
            "s.yaml:4:1: matrix: makes the shape B1-H8-L9-D4 twice",
        ),
        (
            f"matrix: {{heads: {SIXTY}, head_dim: {SIXTY}, seq_len: {SIXTY}}}\n",
            "s.yaml:4:1: matrix: makes 864000 cases; at most 100000 are allowed",
        ),
        (
            MATRIX + "anchor: chunked\n",
            "s.yaml:5:9: anchor: chunked is listed with several options; expected one",
        ),
        (
            MATRIX + "anchor: {chunked: {block: 1}}\n",
            "s.yaml:5:9: anchor: expected one of the implementations",
        ),
        (
            MATRIX + "anchor: nave\n",
            "s.yaml:5:9: anchor: expected one of the implementations listed",
        ),
        (MATRIX + "devices: [cpu, cpu]\n", "s.yaml:5:16: devices[1]: cpu is listed twice; keep one"),
        (
            MATRIX + "exclude: [{seq_len: [16, 4]}]\n",
            "s.yaml:5:26: exclude[0].seq_len[1]: no case has seq_len 4; ",
        ),
        (
            MATRIX + "exclude: [{implementation: nave}]\n",
            "s.yaml:5:28: exclude[0].implementation: no case has",
        ),
        (MATRIX + "exclude: [{device: cuda}]\n", "s.yaml:5:20: exclude[0].device: no case has device cuda"),
        (MATRIX + "exclude: [{}]\n", "s.yaml:5:11: exclude[0]: expected at least one key"),
        (MATRIX + "exclude: [{heads: 8}]\n", "s.yaml:5:1: exclude: nothing left to measure"),
        (
            "matrix: {shape: [{heads: 8, seq_len: 3}, {heads: 4, seq_len: 5}], head_dim: 2}\n"
            "exclude: [{heads: 8, seq_len: 5}]\n",
            "s.yaml:5:11: exclude[0]: matches no case: none of the matrix has all of this at once",
        ),
        ("include: [{heads: 3, q_len: 3, head_dim: 1}]\n", "s.yaml:4:11: include[0].kv_len: is missing"),
        (
            "include: [{heads: 3, head_dim: 1, seq_len: [1, 2]}]\n",
            "s.yaml:4:44: include[0].seq_len: expected a whole number from 1 to 2147483647, got a list",
        ),
        (
            "include: [{heads: 3, head_dim: 1, seq_len: 1, implementation: numpy}]\n",
            "s.yaml:4:63: include[0].implementation: no case has implementation numpy; the scenario ",
        ),
    ],
)
def test_keys_against_one_another(rest: str, expected: str) -> None:
    (line,) = mistakes(HEAD + rest)
    assert line.startswith(expected)


def test_sound_sections_are_checked_beside_unsound_ones() -> None:
    lines = mistakes(
        HEAD + "measure: {precison: 1}\nanchor: nave\n"
        "matrix: {heads: 8, kv_heads: 3, head_dim: 64, seq_len: 16}\n"
        "include: [{heads: 4, kv_heads: 3, head_dim: 64, seq_len: 16}]\n"
    )
    assert [line.split(": ")[1] for line in lines] == [
        "measure.precison",
        "anchor",
        "matrix.kv_heads",
        "include[0].kv_heads",
    ]


@pytest.mark.parametrize(
    "listed",
    [
        "[]",
        "naive",
        "[[naive]]",
        "['a b']",
        "[{chunked: {block: []}}]",
        "[{'': {}}]",
        f"[{{a: {{x: {SIXTY}, y: {SIXTY}}}}}]",
    ],
)
def test_lists_of_implementations_that_are_none(listed: str) -> None:
    (line,) = mistakes(f"name: t\noperation: attention\nimplementations: {listed}\n{MATRIX}")
    assert line.startswith("s.yaml:3:")


def test_several_messages_are_not_repeated() -> None:
    lines = mistakes(HEAD + "matrix: {heads: 8, kv_heads: 3, head_dim: [1, 2, 3], seq_len: [16, 64]}\n")
    assert lines == ["s.yaml:4:30: matrix.kv_heads: expected a divisor of heads (8), got 3"]


MODULE = "name: t\nimplementations: [a]\nmatrix: {embed_dim: 64, heads: [4, 5], seq_len: 8}\n"


def test_a_misspelt_operation_is_taken_for_the_nearest() -> None:
    assert mistakes(f"operation: transformers\n{MODULE}") == [
        "s.yaml:1:12: operation: expected one of attention, mha, encoder_layer, decoder_layer, transformer, "
        "positional_encoding, got 'transformers'; did you mean 'transformer'?",
        "s.yaml:4:36: matrix.heads[1]: expected a divisor of embed_dim (64), got 5",
    ]


def test_of_an_unknown_operation_nothing_else_is_called_wrong() -> None:
    (line,) = mistakes(f"operation: convolution\n{MODULE}")
    assert line.endswith("got 'convolution'")


@pytest.mark.parametrize(
    ("axes", "complaint"),
    [
        ("bias: no", "matrix.bias: expected true or false, got 'no'; write false"),
        ("bias: 'True'", "matrix.bias: expected true or false, got 'True'; write true"),
        ("bias: 1", "matrix.bias: expected true or false, got 1"),
        ("bias: [false, false]", "matrix.bias[1]: false is given twice; keep one"),
        ("dropout: 1.5", "matrix.dropout: expected a number of at least 0 and below 1, got 1.5"),
    ],
)
def test_settings_of_modules_say_what_they_expect(axes: str, complaint: str) -> None:
    matrix = f"matrix: {{embed_dim: 64, heads: 4, seq_len: 8, {axes}}}"
    (line,) = mistakes(f"name: t\noperation: mha\nimplementations: [a]\n{matrix}\n")
    assert line.endswith(complaint)


def test_switches_are_told_as_yaml_writes_them() -> None:
    (line,) = mistakes(f"operation: mha\n{MODULE.replace('[4, 5]', '4')}exclude: [{{bias: false}}]\n")
    assert line.endswith("exclude[0].bias: no case has bias false; the matrix has true")
