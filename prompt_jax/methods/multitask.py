"""Multitask prompts: a shared part and a part of each task, trained together on a mixture.

After the multitask prompts of Lester et al.'s released code (google-research/prompt-tuning, 2022),
with shared rows S and the rows T_k of task k:

    separate    P_k = T_k                          nothing is shared
    add         P_k = S + T_k                      S [P, D], T_k [P, D]
    length      P_k = [S; T_k]                     S [P', D], T_k [P - P', D]
    feature     P_k = [S, T_k], feature by feature S [P, w], T_k [P, D - w]
    projection  P_k = S W_k + b_k                  S [P, w], W_k [w, D], b_k [D]
    hadamard    P_k = S * (u_k v_k^T)              S [P, D], u_k [P], v_k [D], ones at first

`hadamard` is MPT's (Wang et al. 2023, https://arxiv.org/abs/2303.02861, section 4.1), not in that
code. MPT also distils each source task's own prompt into it, and then adapts to a target: from the
mean of the source prompts, `FileInit(path='DIR?task=mean')`, with new u and v.

Every P_k is a plain prompt [P, D]; the saved ones are `DIR?task=NAME`. Which rows an example
carries is said by its task's name (`factors.py`), so rows of several tasks are packed together.
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam
from prompt_jax.methods.parts.inits import Init, SampledVocabInit
from prompt_jax.methods.parts.networks import uniform
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.factors import Factor
from prompt_jax.prompt.layout import Placement, PromptLayout
from prompt_jax.settings import at_least, settings

Combine = Literal["separate", "add", "length", "feature", "projection", "hadamard"]


@settings
class MultitaskPrompt(PromptMethod):
    """Settings of multitask prompts; the group `tasks` is what each task has alone.

    Attributes:
      tasks: names of tasks; each also stands for the tasks that begin with it and `_`.
      length: P, rows of every task's prompt.
      combine: how the shared part and the task's make one.
      shared_length: P' of `length`.
      shared_width: w of `feature` and `projection`; None: half of the model's width.
      placement: where the rows stand.
      init: how rows begin; with `add` the tasks' begin at 0, with `projection` at its scale.
    """

    groups: ClassVar = dict.fromkeys(("own", "bias"), "tasks")
    tasks: tuple[str, ...] = ()
    length: int = 100
    combine: Combine = "add"
    shared_length: int = 50
    shared_width: int | None = None
    placement: Placement = "prefix"
    init: Init = SampledVocabInit()

    def check(self):
        if not self.tasks:
            raise UserError(
                Setting("MultitaskPrompt", "tasks", ()), remedy="name the tasks of the mixture"
            )
        sizes = {
            "length": self.length,
            "shared_length": self.shared_length,
            "shared_width": self.shared_width,
        }
        at_least("MultitaskPrompt", 1, sizes)
        if self.combine == "length" and not 0 < self.shared_length < self.length:
            raise UserError(
                Setting("MultitaskPrompt", "shared_length", self.shared_length),
                remedy=f"give 1 to {self.length - 1}, or another length than {self.length}",
            )
        _ = self.layout

    @property
    def layout(self) -> PromptLayout:
        shared = self.shared_length if self.combine == "length" else 0
        factors = [Factor(by="all", rows=shared)] if shared else []
        factors.append(Factor(by="task", rows=self.length - shared, names=self.tasks))
        return PromptLayout(encoder=self.length, placement=self.placement, factors=tuple(factors))

    def create(self, key: jax.Array, start: Start) -> "SharedAndOwn":
        lengths, keys = {"encoder": self.length}, jax.random.split(key, len(self.tasks) + 1)
        rows = np.stack([start.rows(self.init, k, lengths)["encoder"] for k in keys])
        return SharedAndOwn(self, key, jnp.asarray(rows), self.width(start.config))

    def width(self, config: T5Config) -> int:
        """w, within the model's width."""
        width = config.emb_dim // 2 if self.shared_width is None else self.shared_width
        if self.combine == "feature" and width >= config.emb_dim:
            raise UserError(
                Setting("MultitaskPrompt", "shared_width", width),
                f"the model is {config.emb_dim} wide",
                "leave the tasks a part of it",
            )
        return width

    def count(self, config: T5Config) -> int:
        """Of N tasks, in the order of the table above: N P D; (N + 1) P D; (P' + N (P - P')) D;
        P w + N P (D - w); P w + N (w + 1) D; P D + N (P + D)."""
        N, P, D, w = len(self.tasks), self.length, config.emb_dim, self.width(config)
        return {
            "separate": N * P * D,
            "add": (N + 1) * P * D,
            "length": (self.shared_length + N * (P - self.shared_length)) * D,
            "feature": P * w + N * P * (D - w),
            "projection": P * w + N * (w + 1) * D,
            "hadamard": P * D + N * (P + D),
        }[self.combine]


class SharedAndOwn(nnx.Module):
    """Owns the shared part and, with a leading axis N, the tasks'.

    `rows` [N + 1, P, D]: those of the init, the shared part's first.
    """

    def __init__(self, method: MultitaskPrompt, key: jax.Array, rows: jax.Array, width: int):
        self.combine = method.combine
        shared, own = rows[0], rows[1:]
        if method.combine == "add":
            own = jnp.zeros_like(own)
        elif method.combine == "hadamard":
            own = jnp.ones((len(own), method.length + rows.shape[2]))  # u_k, then v_k
        elif method.combine == "length":
            shared, own = shared[: method.shared_length], own[:, method.shared_length :]
        elif method.combine == "feature":
            shared, own = shared[:, :width], own[:, :, width:]
        elif method.combine == "projection":
            keys, D = jax.random.split(key), rows.shape[2]
            bound = jnp.std(rows) * (3 / width) ** 0.5  # so that S W_k is as large as `rows`
            shared = jax.random.uniform(
                keys[0], (method.length, width), jnp.float32, -(3**0.5), 3**0.5
            )
            own = bound * uniform(keys[1], (len(own), width, D), 1.0)[...]
            self.bias = PromptParam(jnp.zeros((len(own), D), jnp.float32))
        if method.combine != "separate":
            self.shared = PromptParam(shared.astype(jnp.float32))
        self.own = PromptParam(own.astype(jnp.float32))

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        return PromptBundle(encoder=self.table()[None])

    def table(self) -> jax.Array:
        """[R, D]: the rows as the factors of the layout have them."""
        own = self.own[...]
        if self.combine == "separate":
            return _flat(own)
        shared = self.shared[...]
        if self.combine == "length":
            return jnp.concatenate([shared, _flat(own)])
        if self.combine == "feature":
            shared = jnp.broadcast_to(shared, (len(own), *shared.shape))
            return _flat(jnp.concatenate([shared, own], axis=-1))
        if self.combine == "projection":
            projected = jnp.einsum("pw,nwd->npd", shared, own)
            return _flat(projected + self.bias[...][:, None])
        if self.combine == "hadamard":
            P = len(shared)
            return _flat(shared[None] * own[:, :P, None] * own[:, None, P:])
        return _flat(shared[None] + own)


def _flat(rows_NPD: jax.Array) -> jax.Array:
    return rows_NPD.reshape(-1, rows_NPD.shape[-1])
