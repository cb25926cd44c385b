"""Where a new backbone's embeddings start: word vectors counted from the corpus it will read.

Levy and Goldberg 2014 (section 3.4 and 5): the matrix of positive pointwise mutual information
between tokens and the tokens around them, factored by a truncated SVD, gives word vectors U S^1/2.
A model of a few million parameters that reads its text once spends most of that reading on what
these counts already say, so it is given them at the start: to its embeddings, and to its logits.
Where some files say the same line by line in several languages, the lines are counted as contexts
too, which draws translations together (Levy, Sogaard and Goldberg 2017).
"""

from pathlib import Path
from typing import Any

import numpy as np

from prompt_jax.data.corpus import Corpus
from prompt_jax.settings import at_least, settings
from prompt_jax.textfiles import read_lines

SMOOTHING = 0.75  # power of the context counts (Levy, Goldberg and Dagan 2015, section 3.1)


@settings
class CountedEmbeddings:
    """Word vectors of a corpus by counting.

    Attributes:
      corpus: whose tokens are counted.
      window: tokens to either side; one at distance d counts 1/d.
      aligned: files of the corpus's folder that say the same, line by line.
    """

    corpus: Corpus
    window: int = 8
    aligned: tuple[str, ...] = ()

    def check(self):
        at_least("CountedEmbeddings", 1, {"window": self.window})

    def start(self, arrays: dict[str, np.ndarray], vocabulary) -> dict[str, np.ndarray]:
        """`arrays` (T5X's names, random) with embeddings and untied logits replaced.

        Each keeps the root mean square of the random array it replaces; tokens that the corpus
        does not have (the sentinels) keep their random rows.
        """
        tokens = self.corpus.tokens(vocabulary)
        embedding = arrays["token_embedder/embedding"]
        size, width = embedding.shape
        contexts = positive_pmi(window_counts(tokens, size, self.window))
        if self.aligned:
            lines = positive_pmi(self._line_counts(vocabulary, size))
            contexts = side_by_side(contexts, lines)
        vectors = word_vectors(contexts, width)
        seen = np.bincount(tokens, minlength=len(embedding)) > 0
        started = dict(arrays)
        started["token_embedder/embedding"] = _scaled(vectors, seen, embedding)
        if (head := arrays.get("decoder/logits_dense/kernel")) is not None:
            started["decoder/logits_dense/kernel"] = _scaled(vectors, seen, head.T).T
        return started

    def _line_counts(self, vocabulary, size: int) -> Any:
        """Sparse [size, n]: how often each token stands in line i of any aligned file."""
        from scipy import sparse

        rows: list[int] = []
        columns: list[int] = []
        for name in self.aligned:
            for number, line in enumerate(read_lines(Path(self.corpus.root) / name)):
                ids = vocabulary.encode(line)
                rows += ids
                columns += [number] * len(ids)
        ones = np.ones(len(rows), np.float32)
        return sparse.csr_matrix((ones, (rows, columns)), shape=(size, max(columns) + 1))


def word_vectors(contexts: Any, width: int) -> np.ndarray:
    """[size, width] float32: U S^1/2 of a matrix of tokens by contexts; about 0 where unseen."""
    from sklearn.utils.extmath import randomized_svd

    left, values, _ = randomized_svd(contexts, width, random_state=0)
    return (left * np.sqrt(values)).astype(np.float32)


def window_counts(tokens: np.ndarray, size: int, window: int) -> Any:
    """Sparse [size, size], symmetric: tokens by the tokens around them, each 1 / its distance."""
    from scipy import sparse

    ids = np.asarray(tokens, np.int64)
    counts: Any = sparse.csr_matrix((size, size), dtype=np.float32)
    for distance in range(1, window + 1):
        pairs, times = np.unique(ids[:-distance] * size + ids[distance:], return_counts=True)
        weights = (times / distance).astype(np.float32)
        counts = counts + sparse.csr_matrix((weights, divmod(pairs, size)), shape=(size, size))
    return counts + counts.T


def positive_pmi(counts: Any) -> Any:
    """Sparse, of the shape of `counts`: max(0, log p(token, c) / (p(token) p(c)^0.75 / Z))."""
    from scipy import sparse

    counts = counts.tocoo()
    tokens = np.bincount(counts.row, counts.data, counts.shape[0])
    contexts = np.bincount(counts.col, counts.data, counts.shape[1]) ** SMOOTHING
    contexts = contexts / contexts.sum()
    pmi = np.log(counts.data / tokens[counts.row] / contexts[counts.col])
    positive = pmi > 0
    return sparse.csr_matrix(
        (pmi[positive], (counts.row[positive], counts.col[positive])),
        shape=counts.shape,
        dtype=np.float32,
    )


def side_by_side(windows: Any, lines: Any) -> Any:
    """Both kinds of context as one matrix, in which each has the same Frobenius norm."""
    from scipy import sparse

    weight = np.sqrt(windows.power(2).sum() / lines.power(2).sum())
    return sparse.hstack([windows, lines * weight]).tocsr()


def _scaled(vectors: np.ndarray, seen: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`vectors` at the root mean square of `like`, whose rows stand where nothing was `seen`."""
    scale = np.sqrt(np.mean(np.square(like)) / np.mean(np.square(vectors[seen])))
    return np.where(seen[:, None], vectors * scale, like).astype(like.dtype)
