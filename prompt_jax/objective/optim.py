"""Optimizers and schedules, all optax's, with the defaults of prompt tuning."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from prompt_jax.errors import Setting, UserError
from prompt_jax.settings import settings


@settings
class Schedule:
    """The learning rate at each step.

    Attributes:
      learning_rate: its value after the warm-up.
      warmup_steps: steps of linear growth from 0.
      decay: `constant`; `linear` or `cosine` down to 0 at `total_steps`; `rsqrt`:
        learning_rate * sqrt(max(warmup_steps, 1) / step).
      total_steps: where `linear` and `cosine` end.
    """

    learning_rate: float
    warmup_steps: int = 0
    decay: Literal["constant", "linear", "cosine", "rsqrt"] = "constant"
    total_steps: int | None = None

    def check(self):
        if self.decay in ("linear", "cosine") and not self.total_steps:
            raise UserError(
                Setting("Schedule", "decay", self.decay), remedy="bind Schedule.total_steps as well"
            )
        for name in ("learning_rate", "warmup_steps"):
            if vars(self)[name] < 0:
                raise UserError(
                    Setting("Schedule", name, vars(self)[name]), remedy="give a value >= 0"
                )

    def build(self) -> optax.Schedule:
        """A function of the step (int32 scalar) that gives the rate (float32 scalar)."""
        rate, warmup = self.learning_rate, self.warmup_steps
        after = max((self.total_steps or 0) - warmup, 1)
        decays = {
            "constant": optax.constant_schedule(rate),
            "linear": optax.linear_schedule(rate, 0.0, after),
            "cosine": optax.cosine_decay_schedule(rate, after),
            "rsqrt": lambda step: rate * jnp.sqrt(max(warmup, 1) / (step + max(warmup, 1))),
        }
        if warmup == 0:
            return decays[self.decay]
        ramp = optax.linear_schedule(0.0, rate, warmup)
        return optax.join_schedules([ramp, decays[self.decay]], [warmup])


@settings
class Adafactor:
    """optax's Adafactor with T5X's meaning of every setting; the defaults are prompt tuning's.

    Attributes:
      weight_decay: fraction of a parameter removed at each step, not multiplied by the rate.
      factored: whether second moments of large matrices are factored. Never for prompts: T5X
        factors a prompt of 128 rows and more although its rules say not to.
      multiply_by_parameter_scale: relative updates, for whole models.
      optimizer_start_step: the step count before the first update. T5X continued at the restored
        backbone's step (1,100,000 for LM-adapted T5), which makes the second moment an average of
        all the past and clips every update to RMS 1; released prompts were made so.

    Source: Shazeer & Stern 2018; Lester et al. 2021.
    """

    schedule: Schedule
    decay_rate: float = 0.8
    clipping_threshold: float = 1.0
    weight_decay: float = 1e-5
    factored: bool = False
    multiply_by_parameter_scale: bool = False
    optimizer_start_step: int = 0

    def build(self) -> optax.GradientTransformation:
        adafactor = optax.adafactor(
            learning_rate=self.schedule.build(),
            factored=self.factored,
            decay_rate=self.decay_rate,
            multiply_by_parameter_scale=self.multiply_by_parameter_scale,
            clipping_threshold=self.clipping_threshold,
            weight_decay_rate=self.weight_decay or None,
            eps=1e-30,
        )
        if self.optimizer_start_step == 0:
            return adafactor
        return optax.GradientTransformation(self._late_start(adafactor.init), adafactor.update)

    def _late_start(self, init):
        def shifted(params):
            first, *rest = init(params)
            start = jnp.asarray(self.optimizer_start_step, first.count.dtype)
            return (first._replace(count=start), *rest)

        return shifted


@settings
class AdamW:
    """optax's AdamW; weight decay is multiplied by the rate, as in torch.

    Attributes:
      clip_global_norm: gradients are scaled down to this norm first; None: never.
      multiply_by_parameter_scale: each array's update is multiplied by its root mean square, as
        Adafactor does it. T5's arrays differ in scale by 60 (embeddings 1, queries 1/64), so whole
        models want it.
    """

    schedule: Schedule
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_global_norm: float | None = None
    multiply_by_parameter_scale: bool = False

    def build(self) -> optax.GradientTransformation:
        parts = [
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.schedule.build()),
        ]
        if self.multiply_by_parameter_scale:
            parts.insert(1, optax.scale_by_param_block_rms())
        if self.clip_global_norm is not None:
            parts.insert(0, optax.clip_by_global_norm(self.clip_global_norm))
        return optax.chain(*parts)


OTHERS = "prompt"  # the group of parameters of which a method says nothing


def check_groups(rates: Mapping[str, float], method: Any) -> None:
    """UserError for a group that the method does not have, or a rate below 0."""
    known = sorted({OTHERS, *method.groups.values()})
    for name, rate in rates.items():
        if name not in known:
            told = f"{type(method).__name__} has {', '.join(known)}"
            raise UserError("Train.group_rates", f"no group {name!r}", told)
        if rate < 0:
            raise UserError(f"Train.group_rates[{name!r}] = {rate}", remedy="give 0 or more")


def by_group(
    tx: optax.GradientTransformation, rates: Mapping[str, float], groups: Mapping[str, str]
) -> optax.GradientTransformation:
    """`tx`, its updates times the rate of each parameter's group; without rates `tx` itself.

    `groups`: {path in the method's module, such as `mlp` or `encoder.mlp`: group}.
    """
    if not rates:
        return tx

    def scaled(path, update: jax.Array) -> jax.Array:
        keys = [str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey)]
        owners = keys[1:3]  # the first is the module in a PromptedT5
        group = groups.get(".".join(owners), groups.get(owners[0], OTHERS))
        return update * rates.get(group, 1.0)

    scale = optax.stateless(lambda updates, params: jax.tree.map_with_path(scaled, updates))
    return optax.chain(tx, scale)
