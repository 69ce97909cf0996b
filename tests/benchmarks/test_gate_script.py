"""`benchmarks/gate.py`: what is played when, what is kept of a gate, and the page that is made of it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import gate
from gate_parts import (
    DataError,
    Store,
    _rules_section,
    exact_interval,
    gates,
    kernels,
    page,
    share,
    simulation,
)
from gate_parts._gates_section import Gates, robust_spread
from gate_parts.kernels import DEFECTS, HEADS, Version
from gate_parts.resampled import resampled

CHECKOUT = Path(page.__file__).parents[2]
DATA = sorted((CHECKOUT / "results" / "reference").glob("*/gate"))


# The kernels -----------------------------------------------------------------------------------------------


def loaded(version: Version, folder: Path) -> Any:
    """The kernel's function, as the plug-in file defines it."""
    import importlib.util

    path = kernels.write(version, folder / "plugin.py")
    spec = importlib.util.spec_from_file_location("plugin", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def attention(version: Version, folder: Path) -> tuple[Any, Any]:
    """What a version computes, and what is right."""
    import torch

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, 8, 4) for _ in range(3))
    kernel = loaded(version, folder).kernel
    found = kernel(q, k, v, mask=None, scale=0.5)
    return found, torch.softmax(0.5 * q @ k.transpose(-1, -2), dim=-1) @ v


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_more_heads_are_more_work_and_no_other_answer(extra: int, tmp_path: Path) -> None:
    import torch

    found, right = attention(Version(extra=extra), tmp_path)
    torch.testing.assert_close(found, right)
    assert Version(extra=extra).work == 1 + extra / 20


def test_each_defect_is_what_it_is_called(tmp_path: Path) -> None:
    import torch

    found, right = attention(Version(defect="error"), tmp_path)
    torch.testing.assert_close(found, 1.001 * right)
    found, right = attention(Version(defect="nan"), tmp_path)
    assert found[0, -1, -1].isnan().all()
    assert int(found.isnan().sum()) == 4
    found, right = attention(Version(defect="bytes"), tmp_path)
    torch.testing.assert_close(found, right)
    assert set(DEFECTS) == {kind.head.defect for kind in gates.KINDS.values() if kind.head.defect}


def test_a_plug_in_defines_as_many_names_as_it_is_told(tmp_path: Path) -> None:
    source = Version(names=("one", "two")).source()
    assert re.findall(r'attention\("(\w+)"', source) == ["one", "two"]
    assert source.count("import attnbench\n") == 1
    compile(source, "plugin.py", "exec")


# What is played when ---------------------------------------------------------------------------------------


def test_kinds_take_turns_however_many_there_are_of_each() -> None:
    order = gates.plan({"aa": 300, "plus10": 40, "nan": 5})
    assert sorted(order) == sorted({*order})
    assert len(order) == 345
    half = [kind for kind, _ in order[: len(order) // 2]]
    assert [half.count(kind) for kind in ("aa", "plus10")] == pytest.approx([150, 20], abs=1)
    assert [number for kind, number in order if kind == "plus10"] == list(range(40))


def test_there_are_enough_gates_to_say_what_is_asked() -> None:
    assert gates.KINDS["aa"].count >= 300
    assert exact_interval(0, 300, 0.90)[1] < 0.01


@pytest.mark.parametrize(
    ("part", "expected"),
    [(None, {"aa": 300, "nan": 5}), ("gates", {"aa": 300, "nan": 5}), ("nan", {"nan": 5}), ("duration", {})],
)
def test_a_part_is_all_of_its_kinds_or_one(part: str | None, expected: dict[str, int]) -> None:
    assert gate.chosen({"aa": 300, "nan": 5}, "gates", part, None) == expected
    assert gate.chosen({"aa": 300, "nan": 5}, "gates", part, 2) == dict.fromkeys(expected, 2)


def test_a_time_of_day_that_has_passed_is_tomorrows() -> None:
    soon, past = (datetime.now() + timedelta(minutes=minutes) for minutes in (2, -2))
    assert gate.until(None)()
    assert gate.until(f"{soon:%H:%M}")()
    assert gate.until(f"{past:%H:%M}")()


def test_nothing_begins_when_the_time_is_over(tmp_path: Path) -> None:
    gates.measure(tmp_path, {"aa": 1}, go_on=lambda: False)
    assert len(Store.read(tmp_path, "gates")) == 0


@pytest.mark.rehearsal
def test_a_rehearsal_plays_a_gate_and_writes_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate.main(["--out", str(tmp_path), "--part", "nan", "--count", "1"]) == 0
    (entry,) = Store.read(tmp_path, "gates").values()
    assert entry["outcome"] == "FAIL"
    assert ["accuracy", "FAIL"] in entry["changes"]
    assert entry["latency"] is None
    assert "| NaN in the last row | by_head" in (tmp_path / "gate.md").read_text()
    assert "nan/0: FAIL" in capsys.readouterr().out


# What is made of it ----------------------------------------------------------------------------------------


def above(base: int, d: float) -> list[int]:
    """Three times around the base's, and the head's, as they are above the base's."""
    times = (base, base + 4, base - 4)
    return [time - base for time in (*times, *(round(time * (1 + d)) for time in times))]


def entry(kind: str, outcome: str, d: list[float], base: int = 4_000) -> dict[str, Any]:
    """A gate as it is kept, whose heads take exp(d) times as long as its bases."""
    first = {"verdict": outcome, "slower": 0, "within": 0, "d": d}
    latency = {"outcome": outcome, "reason": None, "base_us": 400, "head_us": 400}
    return {
        "kind": kind,
        "began": "2026-01-01T00:00:00+00:00",
        "wall_s": 7.0,
        "outcome": outcome,
        "text": f"{kind}: {outcome}",
        "timed_s": 3.0,
        "changes": [],
        "latency": {**latency, "first": first, "again": None, "control": None},
        "times": {"least": base, "above": [above(base, x) for x in d]},
    }


NOISE = [0.001 * number for number in range(-10, 10)]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Data of gates made up here: A/A and +10%, quiet, and a gate before them on a faster machine."""
    store = Store.open(tmp_path, "gates", gates.SETTINGS)
    store.append("aa/0", entry("aa", "PASS", NOISE, base=2_000))
    for number in range(1, 4):
        store.append(f"aa/{number}", entry("aa", "PASS", NOISE))
    store.append("plus10/0", entry("plus10", "FAIL", [0.1 + x for x in NOISE]))
    return tmp_path


def test_rates_are_told_with_exact_intervals() -> None:
    assert share(0, 300) == "0 of 300: 0.0% (0.0–1.2)"
    assert share(0, 0) == "–"


def test_a_stored_baseline_is_that_of_the_gate_before(made: Path) -> None:
    table = _rules_section.judged(Gates(Store.read(made, "gates")))
    stored, same = (table["mean > 5%", baseline, "aa"] for baseline in ("stored", "same"))
    assert (stored.alarms, stored.gates) == (1, 3)  # the machine became slower after the first gate
    assert (same.alarms, same.gates) == (0, 4)
    assert table["pyperf (t-test)", "same", "plus10"].alarms == 1
    assert table["asv (factor 1.1 and Mann-Whitney)", "same", "plus10"].alarms == 0
    assert table["mean > 5%", "stored", "aa-loaded"].gates == 0


def test_the_page_tells_rates_and_aims_of_what_there_is(made: Path) -> None:
    markdown, figures = page.assembled(made)
    assert (
        "| +10% work caught in at least 95% on a quiet machine | 1 of 1: 100.0% (2.5–100.0) | yes |"
        in markdown
    )
    assert "Not measured yet: duration, simulation." in markdown
    assert set(figures) == {"power", "streams", "rules"}
    assert set(re.findall(r"\]\(gate-([\w-]+)\.png\)", markdown)) == set(figures)


def test_too_few_equal_gates_meet_no_aim(made: Path) -> None:
    markdown, _ = page.assembled(made)
    (aim,) = (line for line in markdown.splitlines() if line.startswith("| no false FAIL"))
    assert aim.endswith("| – |")


def test_one_false_failure_misses_the_aim(made: Path) -> None:
    Store.open(made, "gates", gates.SETTINGS).append("aa/4", entry("aa", "FAIL", NOISE))
    markdown, _ = page.assembled(made)
    (aim,) = (line for line in markdown.splitlines() if line.startswith("| no false FAIL"))
    assert aim.endswith("| **no** |")


def test_a_spread_is_that_of_most_pairs() -> None:
    assert robust_spread([-0.02, -0.01, 0.0, 0.01, 9.0]) == pytest.approx(1.4826 * 0.01)


def test_real_pairs_drawn_anew_pass_what_is_equal_and_fail_what_is_slower() -> None:
    streams = [[x + bias for x in NOISE] for bias in (-0.01, 0.0, 0.01)]
    equal, slower = resampled(streams, simulation.rule_of(0.10, 1), [0.0, 0.15], gates=50, seed=1)
    assert (equal.fails, equal.undecided, equal.pairs) == (0, 0, 20)
    assert (slower.fails, slower.first_fails) == (50, 50)


def test_a_control_that_fails_acquits() -> None:
    """One real gate of which the head was 20% slower, as if its arms were not equal: so is the control."""
    (found,) = resampled([[0.2 + x for x in NOISE]], simulation.rule_of(0.10, 1), [0.0], gates=50, seed=1)
    assert (found.first_fails, found.fails, found.undecided) == (50, 0, 50)


def test_a_small_simulation_fills_its_section(tmp_path: Path) -> None:
    settings = {
        **simulation.SETTINGS,
        "cases": {"1": 20, "3": 20},
        "gates": (0.10,),
        "effects": (0.0, 0.02, 0.1),
    }
    store = Store.open(tmp_path, "simulation", settings)
    for job in simulation._jobs(settings):
        store.append(job.key, simulation.tally(job))
    markdown, figures = page.assembled(tmp_path)
    assert set(figures) == {"simulation"}
    assert "simulated: equal arms fail in at most 1%" in markdown
    assert len(store) == 8 * 2 * 3


def test_without_data_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"benchmarks/gate\.py"):
        page.assembled(tmp_path)


def test_the_committed_page_is_what_the_committed_data_give() -> None:
    committed = CHECKOUT / "docs" / f"{page.NAME}.md"
    if not DATA:
        assert not committed.exists(), "a page without the data that it is made of"
        return
    (data,) = DATA  # one machine's: whose page would it be else?
    markdown, figures = page.assembled(data)
    assert committed.read_text() == markdown, "run `python benchmarks/gate.py --page`"
    shown = set(re.findall(r"\]\((gate-[\w-]+\.png)\)", markdown))
    assert shown == {f"gate-{name}.png" for name in figures}
    assert shown == {path.name for path in (CHECKOUT / "docs").glob("gate-*.png")}
