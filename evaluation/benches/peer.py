"""The measurements of outcomes.rs in numpy and scikit-learn: python peer.py, with tests/fixtures/requirements.txt installed."""

import time

import numpy as np
from sklearn.metrics import roc_auc_score

N = 1_000_000
RESAMPLES = 10
random = np.random.default_rng(0)
score = random.random(N)
coin = random.random(N)
small = (coin < score).astype(float)
large = (coin < 0.9).astype(float)


def timed(name, run):
    best = min(_timed(run) for _ in range(3))
    print(f"{name}: {1000 * best:.1f} ms")


def _timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def curve():
    order = np.argsort(score, kind="stable")
    quality = np.concatenate([[0.0], np.cumsum(large[order] - small[order])]) + small.sum()
    return np.trapezoid(quality / N, np.arange(N + 1) / N)


def auroc(score, right):
    """Midranks by sorting: what scipy's rankdata does, without its checks."""
    order = np.argsort(score)
    ranked = score[order]
    first = np.r_[True, ranked[1:] != ranked[:-1]]
    dense = first.cumsum()
    count = np.r_[np.nonzero(first)[0], len(ranked)]
    rank = np.empty(len(score))
    rank[order] = 0.5 * (count[dense] + count[dense - 1] + 1)
    positives = right.sum()
    return (rank[right].sum() - positives * (positives + 1) / 2) / (positives * (len(right) - positives))


def bootstrap():
    right = small >= 0.5
    for _ in range(RESAMPLES):
        drawn = random.integers(0, N, N)
        auroc(score[drawn], right[drawn])


assert abs(auroc(score, small >= 0.5) - roc_auc_score(small, score)) < 1e-12
timed("curve and its area", curve)
timed(f"{RESAMPLES} resamples of the AUROC", bootstrap)
