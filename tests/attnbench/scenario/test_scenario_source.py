"""YAML with positions: what is read, where it stands, and what is refused."""

from __future__ import annotations

import math
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.errors import AttnbenchError, ScenarioError
from attnbench.scenario import parse
from attnbench.scenario.source import load, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("off", "off"),
        ("1e-3", 0.001),
        ("-1.5E2", -150.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("+7", 7),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("-.inf", -math.inf),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = scalar(text)
    assert (type(read), read) == (type(value), value)


def test_quotes_make_text() -> None:
    assert load("a: '12'\nb: \"true\"\n", "x").data == {"a": "12", "b": "true"}


def test_folded_text_holds_no_stray_characters() -> None:
    assert load("a: >-\n  one\n  two\n", "x").data == {"a": "one two"}


def test_every_value_and_key_has_its_position() -> None:
    source = load("name: x\nmatrix:\n  seq_len: [16, {a: 1}]\n", "x")
    assert (source.values["name",].line, source.values["name",].column) == (1, 7)
    assert (source.keys["matrix", "seq_len"].line, source.keys["matrix", "seq_len"].column) == (3, 3)
    assert (source.values["matrix", "seq_len", 1].line, source.values["matrix", "seq_len", 1].column) == (
        3,
        17,
    )


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.text("abcdefgh_", min_size=1, max_size=8),
        st.lists(st.integers(-1000, 1000), min_size=1, max_size=4),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_what_is_written_is_found_at_its_position(data: dict[str, list[int]], flow: bool) -> None:
    lines = []
    for key, values in data.items():
        lines.append(f"k{key}: [{', '.join(map(str, values))}]" if flow else f"k{key}:")
        lines.extend([] if flow else [f"    - {value}" for value in values])
    source = load("\n".join(lines) + "\n", "x")
    assert source.data == {f"k{key}": values for key, values in data.items()}
    for key, values in data.items():
        for index, value in enumerate(values):
            place = source.values[f"k{key}", index]
            assert lines[place.line - 1][place.column - 1 :].startswith(str(value))


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", (1, 1), "empty file"),
        ("# only a comment\n", (2, 1), "empty file"),
        ("- a\n- b\n", (1, 1), "expected a mapping with the keys of a scenario, got a list"),
        ("name: a: b\n", (1, 8), "mapping values are not allowed here"),
        ("name: [1, 2\n", (2, 1), "is no valid YAML"),
        ("name: a\n---\nname: b\n", (2, 1), "expected one document, got several"),
        ("%YAML 1.1\n---\nname: a\n", (2, 1), "expected YAML 1.2"),
        ("a: 1\n? [x]\n: 2\n", (2, 3), "expected a name as the key"),
        ("name: x\nname2: \x07\n", (2, 8), "control characters are not allowed"),
    ],
)
def test_what_is_no_scenario_at_all(text: str, where: tuple[int, int], what: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "s.yaml")
    (mistake,) = caught.value.mistakes
    assert (mistake.line, mistake.column) == where
    assert what in mistake.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nname: b\n", "s.yaml:2:1: name: the key 'name' is given twice (first in line 1); keep one"),
        ("name: !!python/object/apply:os.system [ls]\n", "s.yaml:1:7: name: tags are not allowed"),
        ("name: !mine x\n", "s.yaml:1:7: name: tags are not allowed"),
        ("name: &x a\n", "s.yaml:1:7: name: anchors are not allowed; leave out &x"),
        ("a: [*x]\n", "s.yaml:1:5: a[0]: aliases are not allowed; write out what *x stands for"),
    ],
)
def test_duplicates_tags_and_aliases_are_mistakes_beside_others(text: str, expected: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "s.yaml")
    lines = str(caught.value).splitlines()
    assert any(line.startswith(expected) for line in lines)
    assert any("matrix: is missing" in line for line in lines)


def test_the_first_of_two_keys_keeps_its_positions() -> None:
    source = load("a: {b: 1}\na: {b: [2], c: 3}\nd: 4\n", "x")
    assert source.data == {"a": {"b": 1}, "d": 4}
    assert source.values["a", "b"].line == 1
    assert len(source.findings) == 1


def test_an_alias_bomb_is_a_message() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{after}: &{after} [{','.join(['*' + before] * 9)}]\n"
    began = perf_counter()
    with pytest.raises(ScenarioError, match="aliases are not allowed"):
        parse(bomb, "s.yaml")
    assert perf_counter() - began < 2


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "a: [", "? ", "{? ", "[a: {"])
def test_deep_nesting_is_a_message(opening: str) -> None:
    began = perf_counter()
    with pytest.raises(ScenarioError):
        parse(opening * 10_000, "s.yaml")
    assert perf_counter() - began < 3


def test_thousands_of_mistakes_are_counted_not_listed() -> None:
    with pytest.raises(ScenarioError, match=r"and \d+ more mistakes") as caught:
        parse("\n".join(f"key{number}: 1" for number in range(2000)), "s.yaml")
    assert len(caught.value.mistakes) == 101


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text(st.sampled_from(list("ab01 \n\t:-[]{},#&*!|>'\"%@`?.~\\U\x00é\ufeff")), max_size=40))
def test_no_text_whatever_is_a_traceback(text: str) -> None:
    with pytest.raises(AttnbenchError):
        parse(text, "s.yaml")
