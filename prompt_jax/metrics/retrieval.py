"""Retrieval by sentence vectors: Tatoeba's nearest neighbour and BUCC's mined pairs.

The vectors are mean-pooled encoder states (`answers.Answerer.embed`). N queries, M candidates, D
width; similarities are cosines in float64. Values are percentages.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from prompt_jax.metrics.text import check_lengths

Pair = tuple[int, Any]  # an input and its target
Margin = Literal["ratio", "distance", "absolute"]
NEIGHBOURS = 4  # XTREME's
BLOCK = 1024  # rows of the matrix of similarities that are held at a time


def nearest(queries: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int [N] and float64 [N]: the candidate of the greatest cosine, the first of equals."""
    neighbours, cosines = _neighbours(queries, candidates, 1)
    return neighbours[:, 0], cosines[:, 0]


def retrieval_accuracy(queries: np.ndarray, candidates: np.ndarray) -> dict[str, float]:
    """{"retrieval_accuracy"}: the share of queries whose nearest candidate has their own number.

    Tatoeba as XTREME scores it: queries are the foreign sentences, candidates the English ones.
    """
    neighbours, _ = nearest(queries, candidates)
    return {"retrieval_accuracy": 100.0 * float(np.mean(neighbours == np.arange(len(neighbours))))}


def mine(
    source: np.ndarray, target: np.ndarray, margin: Margin = "ratio", k: int = NEIGHBOURS
) -> dict[Pair, float]:
    """Pairs (source, target) with their scores; every sentence is in at most one of them.

    Each sentence proposes the best of its k nearest neighbours, and proposals are taken from the
    best down (Artetxe and Schwenk 2019, https://arxiv.org/abs/1811.01136, "max"). `ratio` divides
    the cosine by the mean of both sentences' cosines with their k neighbours, `distance` subtracts
    that mean.
    """
    proposals = []
    forward, backward = _neighbours(source, target, k), _neighbours(target, source, k)
    means = forward[1].mean(axis=1), backward[1].mean(axis=1)
    sides = ((forward, means[0], means[1], 1), (backward, means[1], means[0], -1))
    for (neighbours, cosines), own, others, direction in sides:
        scores = _margin(margin, cosines, (own[:, None] + others[neighbours]) / 2)
        best = scores.argmax(axis=1)
        for i, at in enumerate(best):
            pair = (i, int(neighbours[i, at]))[::direction]
            proposals.append((float(scores[i, at]), pair))
    taken: dict[Pair, float] = {}
    seen: tuple[set[int], set[int]] = (set(), set())
    for score, pair in sorted(proposals, key=lambda proposal: -proposal[0]):
        if pair[0] not in seen[0] and pair[1] not in seen[1]:
            taken[pair] = score
            seen[0].add(pair[0])
            seen[1].add(pair[1])
    return taken


def best_threshold(mined: Mapping[Pair, float], gold: Collection[Pair]) -> float:
    """The score that gives the best F1 on labelled pairs: half-way to the next pair below."""
    ranked = sorted(mined.items(), key=lambda item: -item[1])
    hits = np.cumsum([pair in gold for pair, _ in ranked])
    scores = np.array([score for _, score in ranked])
    if not len(hits) or not hits[-1]:
        return float("inf")
    # F1 = 2 hits / (mined + gold).
    best = int(np.argmax(2 * hits / (np.arange(1, len(hits) + 1) + len(gold))))
    return float(scores[best : best + 2].mean())


def mining_f1(
    mined: Mapping[Pair, float], gold: Collection[Pair], threshold: float
) -> dict[str, float]:
    """{"mining_precision", "mining_recall", "mining_f1"} of pairs that score at least `threshold`.

    BUCC takes the threshold that is best on the same pairs where it has no others (XTREME).
    """
    chosen = {pair for pair, score in mined.items() if score >= threshold}
    hits = len(chosen & set(gold))
    values = {
        "precision": hits / max(len(chosen), 1),
        "recall": hits / max(len(gold), 1),
        "f1": 2 * hits / max(len(chosen) + len(gold), 1),
    }
    return {f"mining_{name}": 100.0 * value for name, value in values.items()}


def mined_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """{"mining_precision", "mining_recall", "mining_f1"} of texts, "" where there is none: BUCC's.

    A target is an input's translation, a prediction what the mode `mine` found for it. Use
    `mining_target` as the task's postprocessing: a row without an input only offers its target.
    """
    check_lengths(targets, predictions)
    answered = {(i, text): 1.0 for i, text in enumerate(predictions) if text}
    return mining_f1(answered, {(i, text) for i, text in enumerate(targets) if text}, 1.0)


def mining_target(text: str, example: Mapping, is_target: bool = False) -> str:
    """SeqIO's postprocessing of mined pairs: the target of a row without an input is none."""
    return text if example["inputs"] or not is_target else ""


def _margin(margin: Margin, cosines: np.ndarray, means: np.ndarray) -> np.ndarray:
    if margin == "ratio":
        return cosines / means
    return cosines - means if margin == "distance" else cosines


def _neighbours(queries: np.ndarray, candidates: np.ndarray, k: int):
    """int [N, k] and float64 [N, k]: the k candidates of the greatest cosine, best first."""
    queries, candidates = _unit(queries), _unit(candidates)
    k = min(k, len(candidates))
    neighbours, cosines = [], []
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK] @ candidates.T
        if k == 1:
            order = block.argmax(axis=1)[:, None]  # the first of equals
        else:
            some = np.argpartition(-block, k - 1, axis=1)[:, :k]
            some.sort(axis=1)
            best = np.argsort(-np.take_along_axis(block, some, axis=1), axis=1, kind="stable")
            order = np.take_along_axis(some, best, axis=1)
        neighbours.append(order)
        cosines.append(np.take_along_axis(block, order, axis=1))
    return np.concatenate(neighbours), np.concatenate(cosines)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
