"""Per-layer prompts: P trained rows that enter every layer, not the first alone.

After the per-layer prompts of Lester et al.'s released code (google-research/prompt-tuning, 2022)
and VPT-deep (Jia et al. 2022, https://arxiv.org/abs/2203.12119, equation 6). With prompt columns
h_P and rows P_l, what enters layer l is [P_l; h] (`replace`) or [h_P + P_l; h] (`add`). The rows
pass through the layer's own queries, keys and values, so this is not prefix tuning.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam, depth_of
from prompt_jax.methods.parts.inits import Init, UniformInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import LayerEdit, PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import at_least, settings

Side = Literal["encoder", "decoder"]
SIDES: tuple[Side, ...] = ("encoder", "decoder")


@settings
class DeepPrompt(PromptMethod):
    """Settings of per-layer prompts.

    Attributes:
      length: P, the same in every layer.
      sides: `encoder`, `decoder` or both.
      combine: `replace` the prompt columns of the layer before, or `add` to them.
      init: how the rows of each layer begin.
    """

    length: int = 20
    sides: tuple[Side, ...] = ("encoder",)
    combine: Literal["replace", "add"] = "replace"
    init: Init = UniformInit()

    def check(self):
        at_least("DeepPrompt", 1, {"length": self.length})
        if not self.sides:
            raise UserError(
                Setting("DeepPrompt", "sides", ()), remedy="give encoder, decoder or both"
            )

    @property
    def layout(self) -> PromptLayout:
        rows: dict[str, Any] = {side: self.length for side in self.sides}
        return PromptLayout(**rows)

    def create(self, key: jax.Array, start: Start) -> "DeepRows":
        rows = {}
        for n, side in enumerate(self.sides):
            keys = jax.random.split(jax.random.fold_in(key, n), depth_of(side, start.config))
            rows[side] = np.stack([start.one(self.init, k, self.length) for k in keys])
        return DeepRows(self, rows)

    def count(self, config: T5Config) -> int:
        """L P D, summed over the sides."""
        return sum(depth_of(side, config) for side in self.sides) * self.length * config.emb_dim


class DeepRows(nnx.Module):
    """Owns float32 [L, P, D] of each side."""

    def __init__(self, method: DeepPrompt, rows: dict[Side, np.ndarray]):
        self.adds = method.combine == "add"
        self.encoder, self.decoder = (
            _stack(rows[side]) if side in rows else None for side in SIDES
        )

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        fields: dict[str, Any] = {}
        for side, param in zip(SIDES, (self.encoder, self.decoder), strict=True):
            if param is None:
                continue
            rows = param[...]
            edit = LayerEdit(rows=rows[:, None])
            if self.adds:  # the first layer's rows are there already
                edit = LayerEdit(added=rows.at[0].set(0.0)[:, None])
            fields |= {side: rows[:1], f"{side}_layers": edit}
        return PromptBundle(**fields)


def _stack(rows_LPD: np.ndarray) -> PromptParam:
    return PromptParam(jnp.asarray(rows_LPD, jnp.float32), axes=("layers",))
