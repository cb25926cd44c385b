"""ZPE: templates or prompts are weighted by how sure they are of rows without labels.

Zero-shot prompt ensembling, Allingham et al. 2023 (https://arxiv.org/abs/2302.06235). Member t has
log-likelihoods l_t of the labels. Its score is the mean over the rows of

    max_c (l_tc - (E_texts l_tc + E_rows l_tc) / 2)

where the expectations, over plain texts and over the rows themselves, take out what a member says
whatever it reads: without them one that always says the same, and loudly, would win. The members'
scores, softmaxed, weigh their log-likelihoods. Nothing is trained and no label is read.

Shapes: T members, n rows, m texts, K labels.
"""

import numpy as np


def scores_of(rows_TnK: np.ndarray, texts_TmK: np.ndarray | None = None) -> np.ndarray:
    """float32 [T]: each member's score; without texts the rows alone say what it says anyway."""
    bias = rows_TnK.mean(axis=1)
    if texts_TmK is not None:
        bias = (bias + texts_TmK.mean(axis=1)) / 2
    return (rows_TnK - bias[:, None]).max(axis=-1).mean(axis=1)


def weights_of(scores_T: np.ndarray, best: bool = False) -> np.ndarray:
    """float32 [T], which add up to 1: softmax(scores), or the best member alone."""
    if best:
        return (np.arange(len(scores_T)) == scores_T.argmax()).astype(np.float32)
    shares = np.exp(scores_T - scores_T.max())
    return (shares / shares.sum()).astype(np.float32)


def combined(rows_TnK: np.ndarray, weights_T: np.ndarray) -> np.ndarray:
    """float32 [n, K]: the members' log-likelihoods, weighted."""
    return np.einsum("tnk,t->nk", rows_TnK, weights_T)
