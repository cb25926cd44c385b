"""What a prompt method hands to the T5: arrays, and who may see whom.

The T5 consumes a `PromptBundle` and never imports a method. Where the rows of a prompt stand in a
sequence is data, not code: the batch carries `*_prompt_slots` (0 = an ordinary column, k = row k-1
of the prompt), laid out by `layout.py`, so that padded rows, packed rows, prefixes and suffixes all
take the same path.

Shapes: G prompts (one per task, or 1), P prompt rows, D model width, B rows of a batch, T columns.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from prompt_jax.settings import settings


@settings
class Visibility:
    """Which columns a prompt's rows may attend to (input columns always see the prompt).

    Attributes:
      input: whether prompt rows attend to the columns of their own example.
      prompt: among prompt rows, `all` see all, each sees the `causal` past, or only it`self`.

    Source: the attention masks of Lester et al.'s released code; `all` with `input` is the paper.
    """

    input: bool = True
    prompt: Literal["all", "causal", "self"] = "all"


@struct.dataclass
class PromptBundle:
    """The prompt of one forward pass; every field is optional.

    Attributes:
      encoder: float32 [G, P, D], rows for the encoder's prompt columns.
      decoder: float32 [G, P', D], rows for the decoder's prompt columns.
      visibility: the attention policy of the encoder's prompt columns.
    """

    encoder: jax.Array | None = None
    decoder: jax.Array | None = None
    visibility: Visibility = struct.field(pytree_node=False, default=Visibility())


NO_PROMPT = PromptBundle()


def insert_rows(
    x_BTD: jax.Array, rows_GPD: jax.Array | None, slots_BT: jax.Array | None, tasks_BT
) -> jax.Array:
    """Puts prompt rows into their columns: x where slots are 0, row `slots - 1` elsewhere.

    Rows are cast to x's dtype here and nowhere else; the gradient of a row is the sum over every
    column that shows it, which is what packing needs. `tasks_BT` (int32) picks among G prompts;
    None means prompt 0.
    """
    if rows_GPD is None or slots_BT is None:
        return x_BTD
    num_tasks, length, width = rows_GPD.shape
    if num_tasks == 1 or tasks_BT is None:
        index_BT = jnp.maximum(slots_BT - 1, 0)
    else:
        index_BT = jnp.maximum(tasks_BT, 0) * length + jnp.maximum(slots_BT - 1, 0)
    table = rows_GPD.reshape(num_tasks * length, width).astype(x_BTD.dtype)
    return jnp.where(slots_BT[..., None] > 0, table[index_BT], x_BTD)


def visible(policy: Visibility, slots_BT: jax.Array | None) -> jax.Array | None:
    """The policy as a mask, bool [B, T, T] (query, key), or None where everything is visible."""
    if slots_BT is None or policy == Visibility():
        return None
    query, key = slots_BT[:, :, None], slots_BT[:, None, :]
    to_prompt = {"all": key > 0, "causal": key <= query, "self": key == query}[policy.prompt]
    from_prompt = jnp.where(key > 0, to_prompt, policy.input)
    return jnp.where(query > 0, from_prompt, True)
