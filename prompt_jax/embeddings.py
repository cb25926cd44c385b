"""Where a new backbone's embeddings start: word vectors counted from the corpus it will read.

Levy and Goldberg 2014 (section 3.4 and 5): the matrix of positive pointwise mutual information
between tokens and the tokens around them, factored by a truncated SVD, gives word vectors U S^1/2.
A model of a few million parameters that reads its text once spends most of that reading on what
these counts already say, so it is given them at the start: to its embeddings, and to its logits.
"""

from typing import Any

import numpy as np

from prompt_jax.corpus import Corpus
from prompt_jax.settings import settings

SMOOTHING = 0.75  # power of the context counts (Levy, Goldberg and Dagan 2015, section 3.1)


@settings
class CountedEmbeddings:
    """Word vectors of a corpus by counting.

    Attributes:
      corpus: whose tokens are counted.
      window: tokens to either side; one at distance d counts 1/d.
    """

    corpus: Corpus
    window: int = 8

    def start(self, arrays: dict[str, np.ndarray], vocabulary) -> dict[str, np.ndarray]:
        """`arrays` (T5X's names, random) with embeddings and untied logits replaced.

        Each keeps the root mean square of the random array it replaces; tokens that the corpus
        does not have (the sentinels) keep their random rows.
        """
        tokens = self.corpus.tokens(vocabulary)
        embedding = arrays["token_embedder/embedding"]
        size, width = embedding.shape
        vectors = word_vectors(tokens, size, width, self.window)
        seen = np.bincount(tokens, minlength=len(embedding)) > 0
        started = dict(arrays)
        started["token_embedder/embedding"] = _scaled(vectors, seen, embedding)
        if (head := arrays.get("decoder/logits_dense/kernel")) is not None:
            started["decoder/logits_dense/kernel"] = _scaled(vectors, seen, head.T).T
        return started


def word_vectors(tokens: np.ndarray, size: int, width: int, window: int) -> np.ndarray:
    """[size, width] float32: U S^1/2 of the tokens' positive PMI matrix; about 0 where unseen."""
    from sklearn.utils.extmath import randomized_svd

    left, values, _ = randomized_svd(positive_pmi(tokens, size, window), width, random_state=0)
    return (left * np.sqrt(values)).astype(np.float32)


def positive_pmi(tokens: np.ndarray, size: int, window: int) -> Any:
    """Sparse [size, size]: max(0, log p(a, b) / (p(a) p(b)^0.75 / Z))."""
    from scipy import sparse

    ids = np.asarray(tokens, np.int64)
    counts: Any = sparse.csr_matrix((size, size), dtype=np.float32)
    for distance in range(1, window + 1):
        pairs, found = np.unique(ids[:-distance] * size + ids[distance:], return_counts=True)
        weights = (found / distance).astype(np.float32)
        counts = counts + sparse.csr_matrix((weights, divmod(pairs, size)), shape=(size, size))
    counts = (counts + counts.T).tocoo()
    totals = np.bincount(counts.row, counts.data, size)
    context = totals**SMOOTHING / (totals**SMOOTHING).sum()
    pmi = np.log(counts.data / totals[counts.row] / context[counts.col])
    kept = pmi > 0
    return sparse.csr_matrix(
        (pmi[kept], (counts.row[kept], counts.col[kept])), shape=(size, size), dtype=np.float32
    )


def _scaled(vectors: np.ndarray, seen: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`vectors` at the root mean square of `like`, whose rows stand where nothing was `seen`."""
    scale = np.sqrt(np.mean(np.square(like)) / np.mean(np.square(vectors[seen])))
    return np.where(seen[:, None], vectors * scale, like).astype(like.dtype)
