"""The examples of a batch, of which a packed row holds several, for prompts made from their text.

Shapes: B rows of up to N examples, T columns, P prompt rows, D model width.
"""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp

from prompt_jax.methods.base import Context, Text
from prompt_jax.model.bundle import PromptBundle


class Examples(NamedTuple):
    """Which example of its row each column belongs to.

    Attributes:
      text: of the batch.
      number: int32 [B, T], from 0; that of padding means nothing.
      most: N; a row has room for no more, each of which has its prompt and a token.
    """

    text: Text
    number: jax.Array
    most: int

    @classmethod
    def of(cls, ctx: Context, rows: int) -> Self | None:
        """Those of a forward pass whose prompts have so many rows; None where there is no text, as
        in a step of the decoder."""
        if ctx.text is None or ctx.text.slots is None:
            return None
        most = max(ctx.text.slots.shape[1] // (rows + 1), 1)
        return cls(ctx.text, jnp.clip(ctx.text.segments - 1, 0, most - 1), most)

    @property
    def shown(self) -> jax.Array:
        """bool [B, T]: the columns of text, neither prompt nor padding."""
        assert self.text.slots is not None
        return (self.text.segments > 0) & (self.text.slots == 0)

    def greatest(self) -> jax.Array:
        """float32 [B, N, D]: of each feature the greatest among an example's embeddings; 0 for no
        example."""
        seen = jnp.where(self.shown[..., None], self._embeddings, -jnp.inf)
        found = self._over(jax.ops.segment_max, seen)
        return jnp.where(jnp.isfinite(found), found, 0.0)

    def mean(self) -> jax.Array:
        """float32 [B, N, D]: the mean of an example's embeddings; 0 for no example."""
        shown = self.shown[..., None].astype(jnp.float32)
        total = self._over(jax.ops.segment_sum, self._embeddings * shown)
        return total / jnp.maximum(self._over(jax.ops.segment_sum, shown), 1.0)

    def bundle(self, prompts_BNPD: jax.Array) -> PromptBundle:
        """Each example with its own prompt before its text."""
        rows = jnp.arange(len(self.number), dtype=jnp.int32)[:, None]
        flat = prompts_BNPD.reshape(-1, *prompts_BNPD.shape[2:])
        return PromptBundle(encoder=flat, encoder_ids=rows * self.most + self.number)

    @property
    def _embeddings(self) -> jax.Array:
        return self.text.embeddings.astype(jnp.float32)

    def _over(self, reduce, values_BTD: jax.Array) -> jax.Array:
        pool = lambda x_TD, n_T: reduce(x_TD, n_T, num_segments=self.most)  # noqa: E731
        return jax.vmap(pool)(values_BTD, self.number)
