"""The rows of a prompt among the pieces of the vocabulary: nearest ones, norms, similarity, drift.

Nearest pieces are a description, no explanation: Khashabi et al. 2022, "Prompt Waywardness"
(https://arxiv.org/abs/2112.08348), tune prompts that solve a task while their nearest pieces spell
whatever text one likes, another task's instruction too, within 2 % of the score. Rows are also no
sentence: their order is that of the columns, and what a row does depends on all others.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_jax.backbone.vocabulary import Vocabulary

WARNING = (
    "Nearest pieces do not explain a prompt: prompts can be tuned to solve a task while "
    "their nearest pieces spell any text one likes (Khashabi et al. 2022, Prompt Waywardness, "
    "https://arxiv.org/abs/2112.08348)."
)
COMMON = 5000  # pieces; SentencePiece numbers them by frequency
# No text: control pieces, sentinels, bytes of rare characters, ids that were never given a piece.
_NO_TEXT = re.compile(r"▁?<(pad|/s|s|unk|extra_id_\d+|0x[0-9A-F]{2})>")


def candidates(vocabulary: Vocabulary, table_rows: int, common: int = COMMON) -> np.ndarray:
    """int [N]: ids of the pieces that a row is compared with, at most `common` of them; 0: all.

    They are the commonest pieces of text. Rare ones are left out because a backbone hardly trained
    their embeddings, which stay near their start and are close to anything that is.
    """
    size = min(vocabulary.size, table_rows)
    pieces = vocabulary.pieces(range(size))
    text = [i for i, piece in enumerate(pieces) if not _NO_TEXT.fullmatch(piece)]
    return np.asarray(text[:common] if common else text)


def nearest(
    rows: np.ndarray, table: np.ndarray, ids: np.ndarray, vocabulary: Vocabulary, count: int = 5
) -> list[dict[str, Any]]:
    """For each row its nearest pieces, by cosine and by Euclid.

    Args:
      rows: [P, D]. table: [V, D], the embeddings. ids: [N], which of them are compared.

    Returns:
      P mappings: `norm`, the row's; `cosine` and `euclid`, `[piece, value]` from the nearest on.
    """
    rows, known = np.asarray(rows, np.float32), np.asarray(table, np.float32)[ids]
    norms, lengths = np.linalg.norm(rows, axis=1), np.linalg.norm(known, axis=1)
    products = rows @ known.T
    cosine = products / np.maximum(np.outer(norms, lengths), 1e-12)
    squared = norms[:, None] ** 2 + lengths[None] ** 2 - 2 * products
    euclid = np.sqrt(np.maximum(squared, 0))
    found = []
    for row in range(len(rows)):
        by_cosine, by_euclid = np.argsort(-cosine[row])[:count], np.argsort(euclid[row])[:count]
        found.append(
            {
                "norm": float(norms[row]),
                "cosine": _named(by_cosine, cosine[row], ids, vocabulary),
                "euclid": _named(by_euclid, euclid[row], ids, vocabulary),
            }
        )
    return found


def _named(order, values, ids, vocabulary: Vocabulary) -> list[list[Any]]:
    pieces = vocabulary.pieces(ids[order])
    return [[piece, float(values[n])] for piece, n in zip(pieces, order, strict=True)]


def norms_of(table: np.ndarray, ids: np.ndarray) -> dict[str, float]:
    """Percentiles of the norms of the compared pieces: `5 %`, `50 %`, `95 %`."""
    lengths = np.linalg.norm(np.asarray(table, np.float32)[ids], axis=1)
    return {f"{share} %": float(np.percentile(lengths, share)) for share in (5, 50, 95)}


def similarity(rows: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Cosines of rows with rows, [P, P], or with those of another prompt, [P, Q]."""
    unit = [
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        for x in (rows, rows if others is None else others)
    ]
    return unit[0] @ unit[1].T


def drift(first: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """How far rows are from where they began: mean distance, that by the mean norm of the start,
    mean cosine."""
    distance = np.linalg.norm(rows - first, axis=1)
    start = np.linalg.norm(first, axis=1).mean()
    return {
        "distance": float(distance.mean()),
        "relative": float(distance.mean() / max(start, 1e-12)),
        "cosine": float(np.mean(np.sum(_unit(rows) * _unit(first), axis=1))),
    }


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def described(
    arrays: Mapping[str, np.ndarray],
    table: np.ndarray,
    vocabulary: Vocabulary,
    common: int = COMMON,
    count: int = 5,
) -> dict[str, Any]:
    """What there is to say of a prompt's rows beside the vocabulary, by side, as plain JSON.

    Sides are `encoder` and `decoder`; a method without rows there (a LoRA) has none.
    """
    ids = candidates(vocabulary, len(table), common)
    sides = {}
    for side in ("encoder", "decoder"):
        rows = arrays.get(side)
        if rows is None or rows.ndim != 2 or not len(rows):
            continue
        others = similarity(rows)[~np.eye(len(rows), dtype=bool)]
        sides[side] = {
            "rows": nearest(rows, table, ids, vocabulary, count),
            "mean_cosine_of_rows": float(others.mean()) if len(others) else 1.0,
        }
    return {"compared_pieces": len(ids), "norms_of_pieces": norms_of(table, ids), "sides": sides}
