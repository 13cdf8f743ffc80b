"""The work of examples/million.rs in numpy and scikit-learn, both in one run: the same list of numbers from the same kind of data.

    cargo build --release -p margay-evaluation --example million
    python evaluation/benches/peer.py target/release/examples/million

with tests/fixtures/requirements.txt installed. The peer knows the tricks too: it sorts once, resamples by counts, gets every
number from cumulative sums, and builds the hull only of points above that of every thousandth one. Of its resamples a few are
timed, since each takes as long as the next, and their time is divided by the cores, as if it used every core without a loss.
"""

import os
import resource
import subprocess
import sys
import time

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

N = 1_000_000
RESAMPLES = 1000
TIMED = 12
SMALL_COST, LARGE_COST = 1e9, 1e12
RATES = np.linspace(0, 1, 51)
random = np.random.default_rng(0)
score = random.random(N)
coin = random.random(N)
small = (coin < score).astype(float)
large = (coin < 0.9).astype(float)


def auroc(weight, positive):
    """Of answers by ascending score, without ties, as there are none."""
    negatives = np.cumsum(weight * ~positive)
    weight = weight * positive
    return weight @ negatives / (weight.sum() * negatives[-1])


def chain(x, y):
    """Corners of the upper hull, by ascending x, y never falling (Andrew's monotone chain)."""
    hull = []
    for point in zip(x.tolist(), y.tolist()):
        if hull and point[1] <= hull[-1][1]:
            continue
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (point[0] - hull[-2][0]) <= (point[1] - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append(point)
    return np.array(hull).T


def mean_height(x, y, low, high):
    """Of straight lines between points that span the interval, level after the last."""
    return (np.trapezoid(y, x) + (high - x[-1]) * y[-1]) / (high - low)


def curve_numbers(weight):
    """Everything that a resample gives."""
    deferred = np.cumsum(weight)
    gained = np.cumsum(weight * gain)
    small_quality, all_gain = weight @ small_sorted / N, gained[-1]
    audc = small_quality + weight @ (gained - weight * gain / 2) / N**2
    # The oracle defers gains, then what changes nothing, then losses: a trapezoid of three lines.
    wins, losses = weight @ (gain > 0), weight @ (gain < 0)
    ideal = small_quality + (wins * wins / 2 + wins * (N - wins) - losses * losses / 2) / N**2
    cpt = [deferred[np.argmax(gained >= share * all_gain)] / N for share in (0.2, 0.5, 0.8)]
    quality_at = small_quality + np.interp(RATES * N, deferred, gained) / N
    cost, quality = SMALL_COST + deferred * (LARGE_COST / N), small_quality + gained / N
    low, high = SMALL_COST, SMALL_COST + LARGE_COST
    error_cost = 1 - mean_height(cost, quality, low, high)
    corners = chain(cost[::1000], quality[::1000])
    above = quality > np.interp(cost, *corners)
    x, y = np.concatenate([corners[0], cost[above]]), np.concatenate([corners[1], quality[above]])
    order = np.argsort(x, kind="stable")
    aiq = mean_height(*chain(x[order], y[order]), low, high)
    numbers = [small_quality, small_quality + all_gain / N, audc, ideal, auroc(weight, right), auroc(weight, no_benefit)]
    return numbers + [error_cost, aiq, *cpt, *quality_at]


def confidence_numbers():
    """Everything that is said of the score once."""
    fpr, tpr, _ = roc_curve(small, score)
    loss = 1 - small
    kept = np.arange(1, N + 1)
    lost = np.cumsum(loss[order][::-1])
    best = np.cumsum(np.sort(loss))
    coverage = kept / N
    aurc, least = np.trapezoid(lost / kept, coverage), np.trapezoid(best / kept, coverage)
    augrc = np.trapezoid(lost / N, coverage)
    gaps = []
    for edges in (np.linspace(0, 1, 16), np.quantile(score, np.linspace(0, 1, 16))):
        at = np.searchsorted(edges[1:-1], score)
        count = np.bincount(at, minlength=15)
        gap = np.abs(np.bincount(at, small, 15) - np.bincount(at, score, 15)) / count
        gaps += [count @ gap / N, gap.max()]
    clipped = np.clip(score, 2**-52, 1 - 2**-52)
    nll = -np.log(np.where(small > 0, clipped, 1 - clipped)).mean()
    brier = np.mean((score - small) ** 2)
    return [roc_auc_score(small, score), fpr[np.argmax(tpr >= 0.95)], aurc, aurc - least, augrc, *gaps, brier, nll]


started = time.process_time()
order = np.argsort(score, kind="stable")
small_sorted = small[order]
gain, right = (large - small)[order], small_sorted >= 0.5
no_benefit = right | (large[order] < 0.5)
whole = curve_numbers(np.ones(N))
confidence_numbers()
measures = time.process_time() - started
assert abs(whole[4] - roc_auc_score(small, score)) < 1e-9
started = time.process_time()
for i in range(TIMED):
    curve_numbers(np.bincount(random.integers(0, N, N), minlength=N))
one = (time.process_time() - started) / TIMED
cores = os.cpu_count()
peer = measures + one * RESAMPLES / cores
print(f"numpy: {measures:.1f} s for curve and measures, {1000 * one:.0f} ms a resample: {peer:.1f} s for {RESAMPLES} on {cores} cores")
if len(sys.argv) > 1:
    printed = subprocess.run([sys.argv[1], str(RESAMPLES)], check=True, capture_output=True, text=True).stdout
    print(printed, end="")
    said = dict(line.split(maxsplit=1) for line in printed.splitlines())
    ours = float(said["measures_s"]) + float(said["resamples_s"])
    print(f"by the clock numpy takes {peer / ours:.1f} times as long")
    # On a machine that others use too: processor time, ours with making the data.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime
    print(f"processor time: {measures + one * RESAMPLES:.1f} s against {seconds:.1f} s, {(measures + one * RESAMPLES) / seconds:.1f} times as much")
