"""`benchmarks/walkthrough.py`: what is made of its data, and a rehearsal."""

from __future__ import annotations

from pathlib import Path

import pytest

import walkthrough
from published.store import DataError
from walkthrough import ATTENTION, STEPS, WHOLE, Steps, crossing, flops_of, page, share

CHECKOUT = Path(walkthrough.__file__).parents[1]
DATA = sorted((CHECKOUT / "results" / "reference").glob("*/walkthrough"))


@pytest.fixture
def store(tmp_path: Path) -> Steps:
    """Two processes at two lengths: each step takes 10 ms, the layer 100 ms; one round twice as long."""
    made = Steps.open(tmp_path, "steps", {"embed_dim": 512, "heads": 8, "rounds": {"64": 6, "256": 6}})
    for process in range(2):
        for length in ("64", "256"):
            slow = [1, 1, 2, 1, 1, 1]
            seconds = {step: [(0.1 if step == WHOLE else 0.01) * each for each in slow] for step in STEPS}
            made.append(f"{length}/{process}", {"seconds": seconds})
    return made


def test_shares_are_taken_within_rounds(store: Steps) -> None:
    one, both = (share(store, "64", steps) for steps in (ATTENTION[:1], ATTENTION))
    assert one.value == pytest.approx(0.1)
    assert both.value == pytest.approx(0.2)
    assert both.interval is not None
    assert both.interval.low == pytest.approx(both.interval.high)  # a slow round is slow for all
    with pytest.raises(DataError, match="nothing of length 65"):
        share(store, "65", ATTENTION)


def test_what_stands_between_the_markers_is_replaced_and_nothing_else(store: Steps) -> None:
    page_before = (
        "Time: <!-- measured: scores --> old <!-- end -->, <!-- measured: norms --><!-- end -->\n"
        "<!-- measured: layer_sdpa --><!-- end -->\n"
        "<!-- measured: table -->\nold\n<!-- end -->\nafter\n"
    )
    written = page(page_before, store)
    assert "old" not in written
    told = "10% of the whole layer's at length 64, 10% at 256; of its FLOPs 1%, 4%."
    assert f"Time: <!-- measured: scores -->{told}<!-- end -->, " in written
    assert "<!-- measured: norms -->10% of the whole layer's at length 64, 10% at 256.<!-- end -->" in written
    assert "layer_sdpa -->10% of the whole layer's at length 64, 10% at 256.<!-- end -->" in written
    assert "| scores, softmax | 10% (10–10) | 1% | 10% (10–10) | 4% |" in written
    assert "| norms, residuals | 10% (10–10) | – | 10% (10–10) | – |" in written
    assert "| whole layer | 100 ms | 100% | 100 ms | 100% |" in written
    assert "at no length up to 256" in " ".join(written.split())
    assert "in 2 fresh processes" in " ".join(written.split())
    assert written.endswith("<!-- end -->\nafter\n")
    assert page(written, store) == written
    with pytest.raises(DataError, match="known: table, scores"):
        page("<!-- measured: softmax --><!-- end -->", store)


def test_where_a_share_passes_a_half() -> None:
    by_flops = {
        length: (flops_of(length)[ATTENTION[0]] + flops_of(length)[ATTENTION[1]]) / flops_of(length)[WHOLE]
        for length in (64, 1024, 4096)
    }
    assert crossing(by_flops) == 6 * 512  # 4·E·L² = 24·E²·L
    assert crossing({64: 0.1, 256: 0.4}) is None
    assert crossing({64: 0.6, 256: 0.7}) is None
    assert crossing({256: 0.5, 64: 0.1}) == 256


def test_flops_of_the_steps_are_those_of_the_layer() -> None:
    found = flops_of(256)
    scores, weighted_sum, projections, mha, feed_forward, whole, same = found.values()
    assert scores == weighted_sum == 2 * 256**2 * 512
    assert mha == scores + weighted_sum + projections
    assert whole == same == mha + feed_forward
    assert set(STEPS) - set(found) == {"walkthrough_norms"}


def test_the_page_is_from_the_data() -> None:
    written = walkthrough.PAGE.read_text(encoding="utf-8")
    made = [page(written, Steps.read(folder, "steps")) for folder in DATA]
    assert written in made, "run `python benchmarks/walkthrough.py --page`"


def test_a_rehearsal_needs_a_folder_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        walkthrough.main(["--quick"])
    assert "needs an --out of its own" in capsys.readouterr().err


def test_a_page_without_data_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert walkthrough.main(["--page", "--out", str(tmp_path)]) == 2
    assert "not measured yet; run `python benchmarks/walkthrough.py`" in capsys.readouterr().err


@pytest.mark.rehearsal
def test_a_rehearsal_measures_every_step_and_writes_its_page(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text("measured before\n", encoding="utf-8")
    assert walkthrough.main(["--quick", "--out", str(tmp_path)]) == 0
    entries = dict(Steps.read(tmp_path, "steps").items())
    assert set(entries) == {"16/0", "16/1", "64/0", "64/1"}
    for entry in entries.values():
        assert {step: len(seconds) for step, seconds in entry["seconds"].items()} == dict.fromkeys(STEPS, 3)
        assert all(second > 0 for seconds in entry["seconds"].values() for second in seconds)
    assert "2 fresh processes" in (tmp_path / "walkthrough.md").read_text(encoding="utf-8")
