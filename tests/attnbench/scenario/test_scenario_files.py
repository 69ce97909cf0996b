"""Where scenario files are found, and those that are shipped."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from attnbench.errors import ScenarioError, UsageError
from attnbench.protocol import ImplementationInfo
from attnbench.scenario import files, json_schema, parse, read, resolve, shipped
from builders import make_info

ROOT = Path(__file__).parents[3]
MINIMAL = "name: t\noperation: attention\nimplementations: [a]\nmatrix: {heads: 1, head_dim: 1, seq_len: 1}\n"


def anything(*names: str) -> list[ImplementationInfo]:
    return [make_info(name, {"block": 128}) for name in names]


BUILT_IN = anything("naive", "chunked", "sdpa", "sdpa_math", "sdpa_flash", "numpy")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bare_names_are_found_in_the_checkout(elsewhere: Path) -> None:
    assert resolve("quick") == ROOT / "scenarios" / "quick.yaml"
    assert {"quick", "smoke"} <= shipped().keys()


def test_a_path_comes_before_a_name_and_the_folder_s_own_before_the_checkout(elsewhere: Path) -> None:
    (elsewhere / "scenarios").mkdir()
    (elsewhere / "scenarios" / "quick.yaml").write_text(MINIMAL)
    assert resolve("quick") == Path("scenarios/quick.yaml")
    assert read("quick").name == "t"
    (elsewhere / "quick").write_text(MINIMAL)
    assert resolve("quick") == Path("quick")


def test_a_folder_does_not_hide_a_shipped_name(elsewhere: Path) -> None:
    (elsewhere / "quick").mkdir()
    assert resolve("quick").name == "quick.yaml"


def test_the_packaged_copy_is_the_last_place(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = elsewhere / "site-packages" / "attnbench"
    (package / "scenarios").mkdir(parents=True)
    (package / "scenarios" / "packaged.yaml").write_text(MINIMAL)
    monkeypatch.setattr(files.attnbench, "__file__", str(package / "__init__.py"))
    assert list(shipped()) == ["packaged"]
    assert read("packaged").path == package / "scenarios" / "packaged.yaml"


@pytest.mark.parametrize("name", ["quik", "quick.yml", "scenarios/quik.yaml"])
def test_a_missing_scenario_names_the_nearest(name: str, elsewhere: Path) -> None:
    with pytest.raises(UsageError, match=r"no scenario .*quick, smoke.*did you mean 'quick'\?"):
        resolve(name)


def test_a_path_without_its_suffix_is_suggested_with_it(elsewhere: Path) -> None:
    Path("s").mkdir()
    Path("s/ex.yaml").write_text(MINIMAL)
    with pytest.raises(UsageError, match=r"no scenario './s/ex'; did you mean \./s/ex\.yaml\?$"):
        resolve("./s/ex")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "."])
def test_names_that_cannot_be_files(name: str, elsewhere: Path) -> None:
    with pytest.raises(UsageError):
        read(name)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name: \xff\xfe\n", "is not UTF-8 text .byte 6 is 0xff."),
        (b"#" * 300_000, "larger than 256 KiB"),
    ],
)
def test_files_that_are_no_text(content: bytes, expected: str, elsewhere: Path) -> None:
    (elsewhere / "bad.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=expected):
        read("bad.yaml")


def test_an_unreadable_file(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = elsewhere / "mine.yaml"
    path.write_text(MINIMAL)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Not by chmod: root may read everything.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UsageError, match=r"cannot read .*mine\.yaml: Permission denied"):
        read(str(path))


def test_a_pipe_is_read_and_one_that_nobody_writes_to_is_not_waited_for(elsewhere: Path) -> None:
    """The first is what a shell makes of `attnbench plan <(generate)`."""
    reading, writing = os.pipe()
    later = threading.Timer(0.1, lambda: (os.write(writing, MINIMAL.encode()), os.close(writing)))
    later.start()
    assert read(f"/dev/fd/{reading}").name == "t"
    later.join()
    os.close(reading)
    os.mkfifo(elsewhere / "pipe.yaml")
    with pytest.raises(ScenarioError, match="got an empty file"):
        read("pipe.yaml")


def test_a_byte_order_mark_is_no_part_of_the_text(elsewhere: Path) -> None:
    (elsewhere / "mine.yaml").write_text("\ufeff" + MINIMAL, encoding="utf-8")
    assert read("mine.yaml").name == "t"


@pytest.mark.parametrize("name", ["quick", "smoke"])
def test_shipped_scenarios_are_sound(name: str) -> None:
    scenario = read(str(ROOT / "scenarios" / f"{name}.yaml"))
    blocks = scenario.expand(BUILT_IN)
    assert (scenario.name, scenario.anchor) == (name, "naive")
    assert all(block.anchor is not None for block in blocks)
    cases = sum(len(block.cases) for block in blocks)
    assert cases * scenario.measure.max_seconds <= {"quick": 70, "smoke": 3}[name]


def test_quick_shows_grouped_queries_decoding_cross_attention_halves_and_gradients() -> None:
    workloads = [block.workload for block in read(str(ROOT / "scenarios" / "quick.yaml")).expand(BUILT_IN)]
    shapes = [workload.shape for workload in workloads]
    assert any(shape.kv_heads < shape.heads for shape in shapes)
    assert any(shape.q_len == 1 for shape in shapes)
    assert any(1 < shape.q_len != shape.kv_len for shape in shapes)
    assert {"bfloat16", "float32"} == {workload.dtype for workload in workloads}
    assert {"forward", "backward"} == {workload.pass_ for workload in workloads}
    assert {"none", "causal"} == {workload.mask for workload in workloads}


def test_the_published_schema_is_current() -> None:
    published = json.loads((ROOT / "docs" / "scenario.schema.json").read_text(encoding="utf-8"))
    assert published == json.loads(json.dumps(json_schema())), (
        "see docs/scenarios.md for how to write it anew"
    )


def test_every_key_in_the_schema_is_described() -> None:
    schema = json_schema()
    models = [schema, *schema["$defs"].values()]
    assert sum(len(model.get("properties", {})) for model in models) > 50
    for model in models:
        for key, value in model.get("properties", {}).items():
            assert "description" in value or "$ref" in value, key
            assert value.get("default", 0) is not None
        if "properties" in model:
            assert model["additionalProperties"] is False


def test_the_reference_page_s_example_is_sound() -> None:
    page = (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")
    example = parse(page.split("```yaml\n")[1].split("```")[0], "docs/scenarios.md")
    assert example.anchor == "naive"
    assert len(example.expand(BUILT_IN)) == 13


def test_the_reference_page_names_every_key() -> None:
    page = (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")
    for model in json_schema()["$defs"].values():
        for key in model.get("properties", {}):
            assert f"`{key}`" in page
