"""ATTEMPT: a prompt that each example mixes for itself out of saved ones and a trained one.

Asai et al. 2022 (https://arxiv.org/abs/2205.11961), section 2: source prompts S_1 .. S_K, tuned on
large tasks, stay as they are; the target's prompt and a small network, which weighs all of them
by the example's text, are trained. Equations 1 to 3: with an example's embeddings x, its pooled
text is max(x), feature by feature; h = LN(SiLU(max(x) down) up), a = softmax over the sources and
the own prompt P of h . max(S_k), and the example carries P + sum_k a_k S_k.

It does not fold to a plain prompt; its artefact holds sources, prompt and network. In place of the
authors' pooling over padding, an example's own tokens alone are pooled: never padding, prompt
columns or the neighbours in a packed row, so that its length in a batch changes nothing.

Shapes: B rows of up to N examples, T columns, K sources, P prompt rows, D model width, r `down`'s.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, FixedParam, PromptMethod, PromptParam
from prompt_jax.methods.parts.examples import Examples
from prompt_jax.methods.parts.inits import Init, SampledVocabInit
from prompt_jax.methods.parts.networks import uniform
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.prompt.layout import Placement, PromptLayout
from prompt_jax.settings import above, at_least, settings


@settings
class Attempt(PromptMethod):
    """Settings of ATTEMPT; the group `network` weighs the prompts.

    Attributes:
      sources: saved prompts of the same backbone and length (the paper: six).
      length: P (the paper: 100).
      hidden: r, the width of the network (the paper: 100).
      temperature: what scores are divided by; None: D e, as the paper.
      init: how the target's prompt begins.
      placement: where the rows stand.
    """

    groups: ClassVar = dict.fromkeys(("down", "up", "scale", "bias"), "network")
    sources: tuple[str, ...] = ()
    length: int = 100
    hidden: int = 100
    temperature: float | None = None
    init: Init = SampledVocabInit()
    placement: Placement = "prefix"

    def check(self):
        if not self.sources:
            raise UserError(
                Setting("Attempt", "sources", ()), remedy="name saved prompts, at least one"
            )
        at_least("Attempt", 1, {"length": self.length, "hidden": self.hidden})
        above("Attempt", 0, {"temperature": self.temperature})

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length, placement=self.placement)

    def create(self, key: jax.Array, start: Start) -> "Mixing":
        lengths, keys = {"encoder": self.length}, jax.random.split(key)
        saved = [start.read(path, lengths, "Attempt.sources") for path in self.sources]
        sources = np.stack([rows["encoder"] for rows in saved])
        rows = start.rows(self.init, keys[0], lengths)["encoder"]
        D, r = rows.shape[1], self.hidden
        net = jax.random.split(keys[1])
        network = {
            "down": uniform(net[0], (D, r), D**-0.5)[...],
            "up": uniform(net[1], (r, D), r**-0.5)[...],
            "scale": jnp.ones((D,), jnp.float32),
            "bias": jnp.zeros((D,), jnp.float32),
        }
        temperature = D * math.e if self.temperature is None else self.temperature
        return Mixing(rows, sources, network, temperature)

    @classmethod
    def restored(cls, prompt: Prompt) -> "Mixing":
        network = {name: prompt.arrays[f"{OWN}/{name}"] for name in NETWORK}
        return Mixing(prompt.arrays["encoder"], prompt.arrays[f"{OWN}/sources"], network, 1.0)

    def fold(self, module: "Mixing") -> dict[str, np.ndarray]:
        """The own rows as `encoder`; sources and network under names of their own, the layer norm's
        divided by the temperature."""
        arrays = {"encoder": module.rows[...]}
        own = {"sources": module.sources[...], **module.network()}
        arrays |= {f"{OWN}/{name}": value for name, value in own.items()}
        return {name: np.asarray(value, np.float32) for name, value in arrays.items()}

    def count(self, config: T5Config) -> int:
        """P D + 2 D r + 2 D."""
        return config.emb_dim * (self.length + 2 * self.hidden + 2)


OWN = "mixture"  # what the names of the artefact's own arrays begin with
NETWORK = ("down", "up", "scale", "bias")
EPSILON = 1e-5  # of the layer norm, PyTorch's


class Mixing(nnx.Module):
    """Owns the target's prompt [P, D] and the network; holds the sources [K, P, D].

    `network`: float32 down [D, r], up [r, D], and scale and bias [D] of the layer norm, which are
    divided by the temperature of the softmax.
    """

    def __init__(self, rows, sources, network: Mapping[str, Any], temperature: float):
        self.rows = PromptParam(jnp.asarray(rows, jnp.float32))
        self.sources = FixedParam(jnp.asarray(sources, jnp.float32))
        self.down, self.up, self.scale, self.bias = (
            PromptParam(jnp.asarray(network[name], jnp.float32)) for name in NETWORK
        )
        self.temperature = temperature

    def network(self) -> dict[str, jax.Array]:
        """The network's arrays, with the temperature in the layer norm."""
        return {
            "down": self.down[...],
            "up": self.up[...],
            "scale": self.scale[...] / self.temperature,
            "bias": self.bias[...] / self.temperature,
        }

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        examples = Examples.of(ctx, len(self.rows[...]))
        if examples is None:
            return PromptBundle(encoder=self.rows[...][None])
        return examples.bundle(self.mixed(examples.greatest()))

    def mixed(self, pooled_BND: jax.Array) -> jax.Array:
        """float32 [B, N, P, D]: the prompt of each example, whose text is pooled to [B, N, D]."""
        own_PD = self.rows[...]
        all_KPD = jnp.concatenate([self.sources[...], own_PD[None]])
        weights = self.attention(all_KPD, pooled_BND)
        return own_PD[None, None] + jnp.einsum("bnk,kpd->bnpd", weights, all_KPD)

    def attention(self, all_KPD: jax.Array, pooled_BND: jax.Array) -> jax.Array:
        """float32 [B, N, K]: how much of each prompt an example gets; sums to 1."""
        net = self.network()
        hidden = jax.nn.silu(pooled_BND @ net["down"]) @ net["up"]
        centred = hidden - jnp.mean(hidden, axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + EPSILON)
        query = normed * net["scale"][None, None] + net["bias"][None, None]
        return jax.nn.softmax(jnp.einsum("bnd,kd->bnk", query, jnp.max(all_KPD, axis=1)))
