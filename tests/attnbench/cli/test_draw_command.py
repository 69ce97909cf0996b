"""`attnbench draw`: on scripted benches what is asked, written and said, and once as users start it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from attnbench import driver
from attnbench.cli import main
from attnbench.cli import weights as asking
from attnbench.protocol import BenchFailed, BenchLost
from scripted import Script, ScriptedBench, ScriptedSource, failing

SCENARIO = """\
name: small
operation: attention
implementations: [naive, sdpa]
matrix: {batch: 2, heads: 4, head_dim: 8, seq_len: [6, 12], mask: [none, causal]}
"""

UNSUPPORTED = failing("prepare", BenchFailed("unsupported", "not my shape"))


class Weighing(ScriptedBench):
    """A scripted bench that knows weights: 1 / (1 + head) on the diagonal, 0 elsewhere."""

    def _weights(self, script: Script, parameters: Mapping[str, Any], sample: int) -> dict[str, Any]:
        workload = next(each for each in self.source.prepared if each["case"] == parameters["case"])[
            "workload"
        ]
        queries, keys = workload["shape"]["q_len"], workload["shape"]["kv_len"]
        self.source.asked.append((parameters["element"], parameters["heads"]))
        weights = np.zeros((len(parameters["heads"]), queries, keys), dtype="<f4")
        weights[:] = np.eye(queries, keys) / (1 + np.array(parameters["heads"]))[:, None, None]
        causal = workload["mask"] == "causal"
        return {
            "weights": b64encode(weights.tobytes()).decode(),
            "shape": list(weights.shape),
            "start": [0] * queries,
            "stop": [row + 1 if causal else keys for row in range(queries)],
            "appended": 0,
        }

    def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        if verb == "prepare":
            self.source.prepared.append(dict(parameters))
        return super().request(verb, parameters, deadline_s)


class Source(ScriptedSource):
    def __init__(self, scripts: Mapping[str, Script]) -> None:
        super().__init__(scripts)
        self.prepared: list[dict[str, Any]] = []
        self.asked: list[tuple[int, list[int]]] = []

    def bench(self) -> ScriptedBench:
        self.benches.append(Weighing(self, len(self.benches)))
        return self.benches[-1]


class Stage:
    def __init__(self) -> None:
        self.scripts = {"naive": Script(), "sdpa": Script()}
        self.sources: list[Source] = []
        self.operation = "attention"

    def open(self, **settings: Any) -> Source:
        self.sources.append(Source(self.scripts))
        for info in self.sources[-1].hello["catalogue"]:
            info["operation"] = self.operation
        return self.sources[-1]

    @property
    def asked(self) -> list[tuple[int, list[int]]]:
        return [each for source in self.sources for each in source.asked]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage()
    monkeypatch.setattr(driver, "ZygoteSource", stage.open)
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SCENARIO)
    yield stage
    assert all(source.closed for source in stage.sources)
    assert all(bench.closed for source in stage.sources for bench in source.benches)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["draw", *arguments])
    assert "Traceback" not in result.output
    assert result.exit_code == code, result.output
    return result


def texts(path: str) -> list[str]:
    return ["".join(each.itertext()) for each in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_the_first_case_is_drawn_as_png_and_svg(stage: Stage) -> None:
    result = run("weights", "small.yaml")
    assert result.stdout.split() == ["small-weights.png", "small-weights.svg"]
    assert Path("small-weights.png").read_bytes().startswith(b"\x89PNG")
    said = texts("small-weights.svg")
    assert "attention/B2-H4-L6-D8/float32/none/forward/cpu/naive" in said
    assert [text for text in said if text.startswith("head ")] == [f"head {number}" for number in range(4)]
    assert "masked" not in said
    assert "Element 0 of a batch of 2." in said
    assert stage.asked == [(0, [0, 1, 2, 3])]


def test_json_answers_with_what_was_drawn(stage: Stage) -> None:
    result = run(
        "weights", "small.yaml", "--case", "causal", "--impl", "sdpa", "--element", "1", "--heads", "3,1,3",
        "-o", "one.svg", "--json",
    )  # fmt: skip
    assert json.loads(result.stdout) == {
        "exit_code": 0,
        "exit_reason": "drawn",
        "case_id": "attention/B2-H4-L6-D8/float32/causal/forward/cpu/sdpa",
        "shape": [2, 6, 6],
        "element": 1,
        "heads": [3, 1],
        "pictures": ["one.svg"],
    }
    assert stage.asked == [(1, [3, 1])]
    said = texts("one.svg")
    assert {"head 3", "head 1", "masked", "2 of 4 heads. Element 1 of a batch of 2."} <= set(said)
    assert not Path("small-weights.png").exists()


def test_a_case_is_named_by_its_id_or_a_part_of_it(stage: Stage) -> None:
    case_id = "attention/B2-H4-L12-D8/float32/causal/forward/cpu/sdpa"
    document = json.loads(run("weights", "small.yaml", "--case", case_id, "-o", "x.svg", "--json").stdout)
    assert document["case_id"] == case_id


def test_a_wrong_case_is_told_with_near_ones(stage: Stage) -> None:
    case_id = "attention/B2-H4-L12-D8/float32/causl/forward/cpu/sdpa"
    result = run("weights", "small.yaml", "--case", case_id, code=2)
    assert result.stderr.splitlines()[0].startswith(
        f"Error: --case {case_id}: no case of small has this in its id"
    )
    assert result.stderr.splitlines()[1].strip() == case_id.replace("causl", "causal")
    assert stage.asked == []


def test_what_cannot_run_gives_way_to_the_next(stage: Stage) -> None:
    stage.scripts["naive"] = Script(fails=UNSUPPORTED)
    document = json.loads(run("weights", "small.yaml", "-o", "x.svg", "--json").stdout)
    assert document["case_id"].endswith("none/forward/cpu/sdpa")


def test_where_none_can_run_each_reason_is_told_once(stage: Stage) -> None:
    stage.scripts |= {"naive": Script(fails=UNSUPPORTED), "sdpa": Script(fails=UNSUPPORTED)}
    result = run("weights", "small.yaml", code=1)
    assert result.stderr.count("unsupported: not my shape") == 1
    assert "no case can be drawn here" in result.stderr
    assert not list(Path().glob("*.png"))


@pytest.mark.parametrize(
    "failure",
    [
        BenchLost("crashed", "killed by SIGSEGV in \x1b[31mnaive"),
        BenchFailed("oom", "MemoryError: no memory left"),
    ],
)
@pytest.mark.parametrize("verb", ["prepare", "weights"])
def test_a_kernel_that_fails_is_told_and_exits_1(stage: Stage, verb: str, failure: BenchFailed) -> None:
    stage.scripts["naive"] = Script(fails=failing(verb, failure))
    result = run("weights", "small.yaml", "--json", code=1)
    document = json.loads(result.stdout)
    assert document["exit_code"] == 1
    assert document["pictures"] == []
    assert document["exit_reason"] == f"{failure.status}: {failure.reason}"
    assert f"naive: {failure.status}: " in result.stderr
    assert "\x1b" not in result.stderr
    assert not list(Path().glob("*.svg"))


def test_many_weights_come_in_several_answers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MOST_WEIGHTS", 100)  # two heads of 6 × 6 in an answer, not three
    document = json.loads(run("weights", "small.yaml", "-o", "x.svg", "--json").stdout)
    assert [heads for _, heads in stage.asked] == [[0, 1], [2, 3]]
    assert document["shape"] == [4, 6, 6]


def test_too_many_weights_for_a_picture_name_the_way_out(stage: Stage) -> None:
    result = run("weights", "small.yaml", "--set", "matrix.seq_len=2048", code=2)
    assert "4 heads of 2048 queries × 2048 keys are more weights than a picture holds" in result.stderr
    assert "--set matrix.seq_len=512" in result.stderr
    result = run("weights", "small.yaml", "--set", "matrix.seq_len=1400", "--set", "matrix.heads=32", code=2)
    assert "--heads 0,1" in result.stderr
    # Where another case is small enough, that one is drawn.
    Path("small.yaml").write_text(SCENARIO.replace("[6, 12]", "[4096, 12]"))
    assert "L12" in json.loads(run("weights", "small.yaml", "-o", "x.svg", "--json").stdout)["case_id"]


def test_of_many_heads_the_first_are_drawn_and_that_is_said(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asking.MOST_HEADS == 32
    monkeypatch.setattr(asking, "MOST_HEADS", 3)
    run("weights", "small.yaml", "-o", "x.svg")
    assert stage.asked == [(0, [0, 1, 2])]
    assert any("3 of 4 heads." in text for text in texts("x.svg"))


def test_of_a_backward_pass_the_forward_pass_is_drawn(stage: Stage) -> None:
    result = run("weights", "small.yaml", "--set", "matrix.pass=backward", "-o", "x.svg", "--json")
    assert "/backward/" in json.loads(result.stdout)["case_id"]
    (parameters,) = [each for source in stage.sources for each in source.prepared]
    assert parameters["workload"]["pass"] == "forward"
    assert any("The weights are those of the forward pass." in text for text in texts("x.svg"))


def test_an_operation_without_weights_is_refused_before_anything_runs(stage: Stage) -> None:
    stage.operation = "encoder_layer"
    Path("layer.yaml").write_text(
        "name: layer\noperation: encoder_layer\nimplementations: [naive]\n"
        "matrix: {embed_dim: 16, heads: 2, seq_len: 8}\n"
    )
    result = run("weights", "layer.yaml", code=2)
    assert "encoder_layer has no attention weights to draw" in result.stderr
    assert "a scenario of attention or mha" in result.stderr
    assert stage.asked == []


def test_mha_is_asked_for_weights_per_head(stage: Stage) -> None:
    stage.operation = "mha"
    Path("mha.yaml").write_text(
        "name: mha\noperation: mha\nimplementations: [naive]\nmatrix: {embed_dim: 16, heads: 2, seq_len: 8}\n"
    )
    document = json.loads(run("weights", "mha.yaml", "-o", "x.svg", "--json").stdout)
    assert document["case_id"] == "mha/B1-L8-E16-H2/float32/none/forward/cpu/naive"
    (parameters,) = [each for source in stage.sources for each in source.prepared]
    assert parameters["workload"]["shape"]["need_weights"] == "per_head"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--element", "2"], "has 2 batch elements, counted from 0"),
        (["--element", "-1"], "--element"),
        (["--heads", "0,4"], "has the heads 0 to 3"),
        (["--heads", "a"], "such as 0,1,5; got 'a'"),
        (["--heads", ""], "such as 0,1,5; got ''"),
        (["-o", "x.pdf"], "-o x.pdf: a picture ends in .png or .svg"),
        (["-o", "nowhere/x.png"], "nowhere: there is no such folder"),
        (["--impl", "nope"], "nope"),
    ],
)
def test_wrong_use_exits_2_before_anything_is_asked(stage: Stage, arguments: list[str], told: str) -> None:
    result = run("weights", "small.yaml", *arguments, code=2)
    assert told in result.stderr
    assert stage.asked == []


def test_existing_pictures_are_kept_unless_forced(stage: Stage) -> None:
    Path("small-weights.svg").write_text("mine")
    result = run("weights", "small.yaml", code=2)
    assert "small-weights.svg: exists; name another file, or overwrite it with --force" in result.stderr
    assert stage.asked == []
    assert Path("small-weights.svg").read_text() == "mine"
    assert not Path("small-weights.png").exists()
    run("weights", "small.yaml", "-o", "small-weights.svg", "--force")
    assert Path("small-weights.svg").read_text() != "mine"


def test_a_folder_gets_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("positions", "--length", "2", "--embed-dim", "2")
    expected = ["new/folder/positions.png", "new/folder/positions.svg"]
    assert run(*small, "-o", "new/folder").stdout.split() == expected
    (tmp_path / "v1.0").mkdir()  # a folder, whatever its name ends in
    assert run(*small, "-o", "v1.0").stdout.split()[0] == "v1.0/positions.png"


def test_positions_are_drawn_without_any_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "ZygoteSource", None)
    document = json.loads(
        run("positions", "--length", "20", "--embed-dim", "8", "-o", "p.svg", "--json").stdout
    )
    assert (document["shape"], document["pictures"]) == ([20, 8], ["p.svg"])
    said = texts("p.svg")
    assert "dimensions 0, 1: wavelength 2π = 6.28" in said
    assert "20 positions × 8 dimensions" in said
    assert "--length" in run("positions", "--length", "0", code=2).stderr


@pytest.mark.slow
def test_a_plugins_own_weights_as_users_start_it(tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(
        "import torch, attnbench\n"
        "@attnbench.attention('leaky', masks={'causal'})\n"
        "def leaky(q, k, v, *, mask, scale):\n"
        "    '''Forgets its mask.'''\n"
        "    return torch.softmax(q @ k.mT * scale, -1) @ v\n"
    )
    (tmp_path / "small.yaml").write_text(SCENARIO.replace("[none, causal]", "causal"))
    arguments = [
        "draw",
        "weights",
        "small.yaml",
        "--plugin",
        "leaky.py",
        "--impl",
        "leaky",
        "--impl",
        "naive",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "attnbench", *arguments, "--case", "leaky", "-o", "leaky.svg"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wrong: a weight where attention is not allowed" in texts(str(tmp_path / "leaky.svg"))


def test_the_pages_python_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "draw.md").read_text(encoding="utf-8")
    plugin, functions = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(plugin, "leaky.py", "exec"), {})
    exec(compile(functions, "draw.md", "exec"), {})
    assert Path("weights.png").read_bytes().startswith(b"\x89PNG")
    assert Path("positions.svg").stat().st_size > 0
