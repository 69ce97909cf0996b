"""Which value should a speed-up have: the median over all rounds, or the median of the processes' medians?

Simulates logarithms of ratios whose truth is 0: an offset a process, noise a round, rounds that are
disturbed, processes that are disturbed. Prints the root mean square error of both values, in per cent.

    python benchmarks/speedup_value.py
"""

from __future__ import annotations

import numpy as np

TRIALS = 4000
PROCESSES = 5
ROUNDS = (3, 8, 40)

#: Spread of offsets, spread of noise, share of rounds and of processes that are disturbed.
SITUATIONS = {
    "quiet": (0.03, 0.03, 0.0, 0.0),
    "noisy rounds": (0.03, 0.10, 0.1, 0.0),
    "disturbed rounds": (0.00, 0.10, 0.2, 0.0),
    "disturbed processes": (0.05, 0.02, 0.05, 0.1),
    "unequal processes": (0.08, 0.02, 0.0, 0.0),
    "all at once": (0.02, 0.15, 0.3, 0.1),
}

#: Spread of what disturbs a round, and a process.
DISTURBED_ROUND, DISTURBED_PROCESS = 0.7, 0.5


def drawn(rng: np.random.Generator, rounds: int, situation: tuple[float, float, float, float]) -> np.ndarray:
    """Logarithms of ratios `[trials, processes, rounds]`."""
    between, within, bad_rounds, bad_processes = situation
    processes, all_rounds = (TRIALS, PROCESSES, 1), (TRIALS, PROCESSES, rounds)
    offsets = rng.normal(0, between, processes)
    offsets += (rng.random(processes) < bad_processes) * rng.normal(0, DISTURBED_PROCESS, processes)
    noise = rng.normal(0, within, all_rounds)
    noise += (rng.random(all_rounds) < bad_rounds) * rng.normal(0, DISTURBED_ROUND, all_rounds)
    return offsets + noise


def rms_percent(values: np.ndarray) -> float:
    return 100 * float(np.sqrt(np.mean(values**2)))


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"{'situation':22}{'rounds':>7}{'over all rounds':>17}{'median of medians':>19}{'ratio':>7}")
    for name, situation in SITUATIONS.items():
        for rounds in ROUNDS:
            ratios = drawn(rng, rounds, situation)
            pooled = rms_percent(np.median(ratios.reshape(TRIALS, -1), axis=1))
            of_medians = rms_percent(np.median(np.median(ratios, axis=2), axis=1))
            print(f"{name:22}{rounds:7}{pooled:16.2f}%{of_medians:18.2f}%{pooled / of_medians:7.2f}")


if __name__ == "__main__":
    main()
