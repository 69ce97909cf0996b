"""What the page says of known durations follows from the data, good or bad; a rehearsal measures some."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import fidelity
from fidelity_parts import Store, durations, png


def made_up(folder: Path, *, off_by: float = 0.002, fastest: float = 0.001) -> None:
    """Data in which every median is `off_by` over the truth, and every fastest sample `fastest`."""
    store = Store.open(folder, durations.PART, durations.SETTINGS)
    for us in durations.MICROSECONDS:
        for cache in ("warm", "cold"):
            truth_s = us * 1e-6
            median_s = truth_s * (1 + off_by) + (1e-5 if cache == "cold" else 0)
            case: dict[str, Any] = {
                "status": "ok",
                "reason": None,
                "latency_median_s": median_s,
                "latency_ci_low_s": median_s - 0.001 * truth_s,
                "latency_ci_high_s": median_s + 0.001 * truth_s,
                "latency_min_s": truth_s * (1 + fastest),
            }
            entry = {
                "microseconds": us,
                "cache": cache,
                "cases": [{**case, "framework": "numpy"}, {**case, "framework": "torch"}],
            }
            store.append(f"{us} us/{cache}", entry)


def test_medians_near_the_truth_meet_the_aims(tmp_path: Path) -> None:
    made_up(tmp_path)
    section = durations.section(tmp_path)
    assert [aim.met for aim in section.aims] == [True, True]
    assert "| 100 ms | +0.20% (+0.10% to +0.30%) |" in section.markdown
    assert "| 2 µs | +10.0 µs (+500.20%) |" in section.markdown
    assert "Beyond the aim" not in section.markdown
    # 10 µs and 0.2% are more than 5% below 50 µs, and more than 1% up to 1 ms.
    assert "16 of 28 medians would miss them" in " ".join(section.markdown.split())
    assert png(section.figures["durations"]).startswith(b"\x89PNG")


def test_medians_that_are_off_miss_the_aims_and_interruptions_are_told(tmp_path: Path) -> None:
    made_up(tmp_path, off_by=0.03)
    section = durations.section(tmp_path)
    assert [aim.met for aim in section.aims] == [True, False]
    assert "3.00%" in section.aims[1].measured
    assert "something else had the processor" in " ".join(section.markdown.split())


def test_a_wrong_clock_is_not_put_down_to_interruptions(tmp_path: Path) -> None:
    made_up(tmp_path, off_by=-0.03, fastest=-0.03)
    section = durations.section(tmp_path)
    assert section.aims[1].met is False
    assert "other work does not explain it" in section.markdown


def test_what_could_not_be_measured_is_told(tmp_path: Path) -> None:
    store = Store.open(tmp_path, durations.PART, durations.SETTINGS)
    case = {
        "framework": "numpy",
        "status": "unavailable",
        "reason": "no such clock",
        "latency_median_s": None,
    }
    store.append("2 us/warm", {"microseconds": 2, "cache": "warm", "cases": [case]})
    section = durations.section(tmp_path)
    assert [aim.met for aim in section.aims] == [None, None]
    assert "2 µs, warm, numpy: unavailable: no such clock." in section.markdown


@pytest.mark.rehearsal
@pytest.mark.skipif(sys.platform != "linux", reason="CLOCK_MONOTONIC_RAW")
def test_a_rehearsal_measures_and_resumes(tmp_path: Path) -> None:
    assert fidelity.main(["durations", "--quick", "--out", str(tmp_path)]) == 0
    measured = (tmp_path / "durations.jsonl").read_text()
    assert measured.count("latency_median_s") == 2 * len(durations.REHEARSAL["microseconds"])
    assert fidelity.main(["durations", "--quick", "--out", str(tmp_path)]) == 0
    again = (tmp_path / "durations.jsonl").read_text().splitlines()
    assert again[:-1] == measured.splitlines(), "nothing is measured twice"
    for entry in Store.read(tmp_path, "durations").values():
        for case in entry["cases"]:
            assert case["status"] == "ok"
            assert case["latency_min_s"] == pytest.approx(entry["microseconds"] * 1e-6, rel=0.1)
    assert durations.section(tmp_path).aims
