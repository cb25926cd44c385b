"""Decoding within a trie: an output is one of some texts, or several of them with a separator.

Each node of the trie is what has been written so far; the tokens that lead on from it are all that
may be written next. Which node a row stands at follows from its tokens, so that search and sampling
carry nothing more than they do without a trie (after De Cao et al. 2021,
https://arxiv.org/abs/2010.00904, section 3.2).

Shapes: M nodes, C the most tokens that lead on from one, R rows, N columns of output, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from prompt_jax.errors import UserError
from prompt_jax.model.logprobs import EOS


@struct.dataclass
class Trie:
    """Texts as tokens. Node 0 is that of no text: nothing leads on from it.

    Attributes:
      tokens: int32 [M, C], those that lead on from each node; 0 where there are fewer.
      nodes: int32 [M, C], where each of them leads.
    """

    tokens: Any
    nodes: Any

    def reached(self, roots_R: jax.Array, ids_RN: jax.Array, counts_R: jax.Array) -> jax.Array:
        """int32 [R]: the node that each row's first `counts` tokens lead to from its root."""

        tokens, nodes = jnp.asarray(self.tokens), jnp.asarray(self.nodes)

        def walk(n, at_R):
            taken = tokens[at_R] == ids_RN[:, n, None]
            to_R = jnp.sum(jnp.where(taken, nodes[at_R], 0), axis=-1)
            return jnp.where(n < counts_R, to_R, at_R)

        return jax.lax.fori_loop(0, ids_RN.shape[1], walk, roots_R)

    def allowed(self, roots_R, ids_RN, counts_R, vocabulary: int) -> jax.Array:
        """bool [R, V]: the tokens that may follow each row's first `counts`."""
        next_RC = jnp.asarray(self.tokens)[self.reached(roots_R, ids_RN, counts_R)]
        rows_R1 = jnp.arange(len(next_RC))[:, None]
        shown = jnp.zeros((len(next_RC), vocabulary), bool).at[rows_R1, next_RC].set(True)
        return shown.at[:, 0].set(False)


def trie_of(
    sets: Sequence[Sequence[Sequence[int]]], between: Sequence[int] = ()
) -> tuple[Trie, list[int]]:
    """The trie of several sets of texts, each as tokens without EOS, and the root of each set.

    `between`: tokens after which another text of the set may follow; (): an output is one text. The
    arrays are padded to powers of two, so that few shapes are compiled.

    Raises:
      UserError: a text is another one, then `between`, so that two things could follow.
    """
    leads: list[dict[int, int]] = [{}]

    def new() -> int:
        leads.append({})
        return len(leads) - 1

    def written(at: int, ids: Sequence[int]) -> int:
        for token in ids:
            if token not in leads[at]:
                leads[at][token] = new()
            at = leads[at][token]
        return at

    roots, ends = [], {}
    for texts in sets:
        roots.append(new())
        ends[roots[-1]] = [written(roots[-1], ids) for ids in texts]
    for root, of_texts in ends.items():
        for end in of_texts:
            leads[end][EOS] = 0
            if between:
                last = written(end, between[:-1])
                if leads[last].setdefault(between[-1], root) != root:
                    problem = "one of them begins with another and the separator"
                    raise UserError("the choices", problem, "take another separator")
    M, C = (1 << (n - 1).bit_length() for n in (len(leads), max(map(len, leads), default=1)))
    tokens, nodes = np.zeros((2, M, C), np.int32)
    for at, of_node in enumerate(leads):
        tokens[at, : len(of_node)] = list(of_node)
        nodes[at, : len(of_node)] = list(of_node.values())
    return Trie(tokens, nodes), roots
