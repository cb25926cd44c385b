"""Retrieval against scikit-learn's nearest neighbours and F1."""

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.neighbors import NearestNeighbors

from prompt_jax.metrics import retrieval as metrics_retrieval
from prompt_jax.metrics.retrieval import (
    best_threshold,
    mine,
    mining_f1,
    nearest,
    retrieval_accuracy,
)


@pytest.fixture
def vectors():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(40, 8))
    return target + 0.8 * rng.normal(size=target.shape), target


@pytest.mark.parametrize("block", [7, 4096])
def test_the_nearest_is_scikit_learns(vectors, monkeypatch, block):
    monkeypatch.setattr(metrics_retrieval, "BLOCK", block)
    source, target = vectors
    oracle = NearestNeighbors(n_neighbors=1, metric="cosine").fit(target)
    distance, index = oracle.kneighbors(source)
    found, cosines = nearest(source, target)
    np.testing.assert_array_equal(found, index[:, 0])
    np.testing.assert_allclose(1 - cosines, distance[:, 0], atol=1e-9)
    expected = 100 * np.mean(index[:, 0] == np.arange(40))
    assert 20 < expected < 100
    told = retrieval_accuracy(source, target)
    assert told == {"retrieval_accuracy": pytest.approx(expected, abs=1e-9)}


@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
def test_mined_pairs_are_those_of_a_slow_search(vectors, margin):
    source, target = vectors
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
    cosine = unit[0] @ unit[1].T
    mean_s = np.sort(cosine, axis=1)[:, -4:].mean(axis=1)
    mean_t = np.sort(cosine, axis=0)[-4:].mean(axis=0)
    mean = (mean_s[:, None] + mean_t[None]) / 2
    score = {"ratio": cosine / mean, "distance": cosine - mean, "absolute": cosine}[margin]
    proposals = []
    for i in range(40):
        near = np.argsort(-cosine[i])[:4]
        j = near[np.argmax(score[i, near])]
        proposals.append((score[i, j], i, int(j)))
        near = np.argsort(-cosine[:, i])[:4]
        j = near[np.argmax(score[near, i])]
        proposals.append((score[j, i], int(j), i))
    wanted, used = {}, (set(), set())
    for value, i, j in sorted(proposals, reverse=True):
        if i not in used[0] and j not in used[1]:
            wanted[i, j] = value
            used[0].add(i)
            used[1].add(j)
    found = mine(source, target, margin)
    assert set(found) == set(wanted)
    assert all(found[pair] == pytest.approx(wanted[pair], abs=1e-12) for pair in wanted)


def test_mining_f1_is_scikit_learns():
    mined = {(0, 0): 0.9, (1, 1): 0.8, (2, 5): 0.7, (3, 3): 0.6, (4, 9): 0.5}
    gold = {(0, 0), (1, 1), (3, 3), (6, 6)}
    threshold = best_threshold(mined, gold)
    assert threshold == pytest.approx(0.55)
    pairs = sorted(set(mined) | gold)
    for cut in (0.55, 0.75, 0.0, 2.0):
        said = [mined.get(pair, -1) >= cut for pair in pairs]
        expected = 100 * f1_score([pair in gold for pair in pairs], said, zero_division=0)
        assert mining_f1(mined, gold, cut)["mining_f1"] == pytest.approx(expected, abs=1e-9)
    scores = [mining_f1(mined, gold, cut)["mining_f1"] for cut in mined.values()]
    assert max(scores) == mining_f1(mined, gold, threshold)["mining_f1"]
    assert best_threshold({(0, 1): 1.0}, gold) == float("inf")
