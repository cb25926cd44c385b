"""EPT: DePT's short prompt and offset, fused by attention and projected into several spaces.

Lan et al. 2025 (https://arxiv.org/abs/2405.11464). With the short prompt P [m, D] and the offset O
= c A B [N, D] of DePT: F = P + softmax(P O^T / sqrt(D)) O; K maps h_k(x) = x U_k V_k of width w,
mixed by a gate g = softmax(mean(F) W), W [D, K]: the rows are F + sum_k g_k h_k(F). No code is
published; the sum with F, the width of the maps and V_k = 0 at first, so that training begins at
the init, are ours.

The maps and the gate are the group `network`, A and B the group `offset`. What is made of them
does not depend on the text: an artefact holds `encoder` [m, D] and `encoder_offset` [N, D].
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam
from prompt_jax.methods.dept import Offset
from prompt_jax.methods.parts.inits import Init, SampledVocabInit
from prompt_jax.methods.parts.networks import uniform
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import above, at_least, settings


@settings
class EPT(PromptMethod):
    """Settings of EPT.

    Attributes:
      length, rank, max_length, alpha, init: as DePT's.
      spaces: K.
      width: w; None: an eighth of the model's.
      fusion: whether the offset is attended to; without it F = P.
    """

    groups: ClassVar = {"offset": "offset", "down": "network", "up": "network", "gate": "network"}
    length: int = 60
    rank: int = 30
    max_length: int = 256
    alpha: float = 8.0
    init: Init = SampledVocabInit()
    spaces: int = 4
    width: int | None = None
    fusion: bool = True

    def check(self):
        sizes = {"length": self.length, "rank": self.rank, "max_length": self.max_length}
        at_least("EPT", 1, sizes | {"spaces": self.spaces, "width": self.width})
        above("EPT", 0, {"alpha": self.alpha})

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length)

    def create(self, key: jax.Array, start: Start) -> "FusedPrompt":
        keys = jax.random.split(key, 4)
        rows = start.one(self.init, keys[0], self.length)
        D = start.config.emb_dim
        offset = Offset(keys[1], self.max_length, self.rank, D, self.alpha)
        return FusedPrompt(self, keys[2:], rows, offset, self._width(D))

    def count(self, config: T5Config) -> int:
        """m D + r (N + D) + 2 K D w + D K."""
        D, K = config.emb_dim, self.spaces
        offset = self.rank * (self.max_length + D)
        return self.length * D + offset + 2 * K * D * self._width(D) + D * K

    def _width(self, D: int) -> int:
        return max(D // 8, 1) if self.width is None else self.width


class FusedPrompt(nnx.Module):
    """Owns the rows [m, D], the offset, the maps [K, D, w] and [K, w, D], and the gate [D, K]."""

    def __init__(self, method: EPT, keys: jax.Array, rows_PD, offset: Offset, width: int):
        rows, K = jnp.asarray(rows_PD, jnp.float32), method.spaces
        D = rows.shape[1]
        self.rows, self.offset, self.fusion = PromptParam(rows), offset, method.fusion
        self.down = uniform(keys[0], (K, D, width), D**-0.5)
        self.up = PromptParam(jnp.zeros((K, width, D), jnp.float32))
        self.gate = uniform(keys[1], (D, K), D**-0.5)

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        rows, offset = self.rows[...], self.offset()
        if self.fusion:
            scores = rows @ offset.T * rows.shape[1] ** -0.5
            rows = rows + jax.nn.softmax(scores, axis=-1) @ offset
        share_K = jax.nn.softmax(jnp.mean(rows, axis=0) @ self.gate[...])
        mapped = jnp.einsum("pd,kdw,kwe,k->pe", rows, self.down[...], self.up[...], share_K)
        return PromptBundle(encoder=(rows + mapped)[None], encoder_offset=offset[None])
