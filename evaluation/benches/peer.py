"""The work of examples/million.rs in numpy, both in one run.

    cargo build --release -p margay-evaluation --example million
    python evaluation/benches/peer.py target/release/examples/million

with tests/fixtures/requirements.txt installed. The peer knows the trick too: it sorts once, resamples by counts, and gets every
number from cumulative sums. It takes fewer numbers than Rust does (no hull, no bands), and of its resamples only a few are
timed, since each takes as long as the next.
"""

import os
import subprocess
import sys
import time

import numpy as np
from sklearn.metrics import roc_auc_score

N = 1_000_000
RESAMPLES = 1000
TIMED = 12
random = np.random.default_rng(0)
score = random.random(N)
coin = random.random(N)
small = (coin < score).astype(float)
large = (coin < 0.9).astype(float)
order = np.argsort(score, kind="stable")
gain, right = (large - small)[order], small[order] >= 0.5
no_benefit = right | (large[order] < 0.5)


def auroc(weight, positive):
    """Without ties, as there are none."""
    negatives = np.cumsum(weight * ~positive)
    weight = weight * positive
    return weight @ negatives / (weight.sum() * negatives[-1])


def numbers(weight):
    deferred = np.cumsum(weight)
    gained = np.cumsum(weight * gain)
    audc = (weight @ (gained - weight * gain / 2)) / N**2
    cpt = [deferred[np.argmax(gained >= share * gained[-1])] / N for share in (0.2, 0.5, 0.8)]
    return [audc, auroc(weight, right), auroc(weight, no_benefit), *cpt]


def resample(_):
    return numbers(np.bincount(random.integers(0, N, N), minlength=N))


assert abs(auroc(np.ones(N), right) - roc_auc_score(small, score)) < 1e-9
started = time.perf_counter()
for i in range(TIMED):
    resample(i)
one = (time.perf_counter() - started) / TIMED
cores = os.cpu_count()
peer = one * RESAMPLES / cores  # as if it used every core without a loss
print(f"numpy: {1000 * one:.1f} ms a resample, {peer:.1f} s for {RESAMPLES} on {cores} cores")
if len(sys.argv) > 1:
    printed = subprocess.run([sys.argv[1], str(RESAMPLES)], check=True, capture_output=True, text=True).stdout
    print(printed, end="")
    ours = float(next(line.split()[1] for line in printed.splitlines() if line.startswith("resamples_s")))
    print(f"numpy takes {peer / ours:.1f} times as long")
