"""Optimizers and schedules, all optax's, with the defaults of prompt tuning."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from prompt_jax.errors import Setting, UserError
from prompt_jax.objective.per_layer import clip_by_rms, scale_by_param_rms
from prompt_jax.settings import above, at_least, fractions, settings, shares


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
        least = {"learning_rate": self.learning_rate, "warmup_steps": self.warmup_steps}
        at_least("Schedule", 0, least)
        at_least("Schedule", 1, {"total_steps": self.total_steps})

    def build(self, rate: jax.Array | None = None) -> optax.Schedule:
        """A function of the step (int32 scalar) that gives the rate (float32 scalar).

        `rate`: float32 scalar, in place of `learning_rate`, where one program serves several.
        """
        peak: ArrayLike = self.learning_rate if rate is None else rate
        warmup = self.warmup_steps
        after = max((self.total_steps or 0) - warmup, 1)
        decays = {
            "constant": optax.constant_schedule(peak),
            "linear": optax.linear_schedule(peak, 0.0, after),
            "cosine": optax.cosine_decay_schedule(peak, after),
            "rsqrt": lambda step: peak * jnp.sqrt(max(warmup, 1) / (step + max(warmup, 1))),
        }
        if warmup == 0:
            return decays[self.decay]
        ramp = optax.linear_schedule(0.0, peak, warmup)
        return optax.join_schedules([ramp, decays[self.decay]], [warmup])


@settings
class Adafactor:
    """optax's Adafactor with T5X's meaning of every setting; the defaults are prompt tuning's.

    Attributes:
      weight_decay: fraction of a parameter removed at each step, not multiplied by the rate.
      factored: whether second moments of large matrices are factored. Never for prompts: T5X
        factors a prompt of 128 rows and more although its rules say not to.
      clipping_threshold: the largest root mean square of an array's update, layer by layer.
      multiply_by_parameter_scale: updates relative to the root mean square of each array, layer by
        layer; for whole models, and for scales that begin at 1 (T-Few).
      optimizer_start_step: the step count before the first update. T5X continued at the restored
        backbone's step (1,100,000 for LM-adapted T5), which makes the second moment an average of
        all the past and clips every update to RMS 1; released prompts were made so.
      clip_global_norm: gradients are scaled down to this norm first; None: never. What a norm of
        1 means depends on what the loss is divided by: `Loss.loss_normalizing_factor`.

    Source: Shazeer & Stern 2018; Lester et al. 2021.
    """

    schedule: Schedule
    decay_rate: float = 0.8
    clipping_threshold: float = 1.0
    weight_decay: float = 1e-5
    factored: bool = False
    multiply_by_parameter_scale: bool = False
    optimizer_start_step: int = 0
    clip_global_norm: float | None = None

    def check(self):
        check_clip("Adafactor", self.clip_global_norm)
        above("Adafactor", 0, {"clipping_threshold": self.clipping_threshold})
        fractions("Adafactor", {"decay_rate": self.decay_rate})
        shares("Adafactor", {"weight_decay": self.weight_decay})
        at_least("Adafactor", 0, {"optimizer_start_step": self.optimizer_start_step})

    def build(self, rate: jax.Array | None = None) -> optax.GradientTransformation:
        return optax.chain(*self.links(rate))

    def links(self, rate: jax.Array | None = None) -> list[optax.GradientTransformation]:
        """What happens to a gradient, in order; names in checkpoints count them."""
        schedule = self.schedule.build(rate)
        links = [
            self._second_moments(),
            clip_by_rms(self.clipping_threshold),
            optax.scale_by_learning_rate(schedule, flip_sign=False),
        ]
        if self.multiply_by_parameter_scale:
            links.append(scale_by_param_rms())
        if self.weight_decay:
            links.append(optax.add_decayed_weights(self.weight_decay))
        return [*clipped(self.clip_global_norm), *links, optax.scale(-1)]

    def _second_moments(self) -> optax.GradientTransformation:
        moments = optax.scale_by_factored_rms(
            factored=self.factored, decay_rate=self.decay_rate, epsilon=1e-30
        )

        def init(params):
            state: Any = moments.init(params)
            count = state.count + self.optimizer_start_step
            return state._replace(count=jnp.asarray(count, state.count.dtype))

        return optax.GradientTransformation(init, moments.update)


@settings
class AdamW:
    """optax's AdamW; weight decay is multiplied by the rate, as in torch.

    Attributes:
      clip_global_norm: as Adafactor's.
      multiply_by_parameter_scale: each array's update is multiplied by its root mean square, layer
        by layer, as Adafactor does it. T5's arrays differ in scale by 60 (embeddings 1, queries
        1/64), so whole models want it.
    """

    schedule: Schedule
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_global_norm: float | None = None
    multiply_by_parameter_scale: bool = False

    def check(self):
        check_clip("AdamW", self.clip_global_norm)
        shares("AdamW", {"b1": self.b1, "b2": self.b2})
        at_least("AdamW", 0, {"eps": self.eps, "weight_decay": self.weight_decay})

    def build(self, rate: jax.Array | None = None) -> optax.GradientTransformation:
        return optax.chain(*self.links(rate))

    def links(self, rate: jax.Array | None = None) -> list[optax.GradientTransformation]:
        """What happens to a gradient, in order; names in checkpoints count them."""
        links = [
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.schedule.build(rate)),
        ]
        if self.multiply_by_parameter_scale:
            links.insert(1, scale_by_param_rms())
        return [*clipped(self.clip_global_norm), *links]


def clipped(norm: float | None) -> list[optax.GradientTransformation]:
    """The link that scales gradients down to a global norm; none where there is no limit."""
    return [] if norm is None else [optax.clip_by_global_norm(norm)]


def check_clip(owner: str, norm: float | None) -> None:
    """UserError for a norm that lets nothing through."""
    if norm is not None and norm <= 0:
        raise UserError(
            Setting(owner, "clip_global_norm", norm), remedy="give more than 0, or None: no limit"
        )


OTHERS = "prompt"  # the group of parameters of which a method says nothing


def check_groups(rates: Mapping[str, float], method: Any, terms: Iterable[str] = ()) -> None:
    """UserError for a group that neither the method nor a term has, or a rate below 0."""
    known = sorted({OTHERS, *method.groups.values(), *terms})
    for name, rate in rates.items():
        if name not in known:
            groups = f"{type(method).__name__} has {', '.join(known)}"
            raise UserError("Train.group_rates", f"no group {name!r}", groups)
        if rate < 0:
            raise UserError(f"Train.group_rates[{name!r}] = {rate}", remedy="give 0 or more")


def by_group(
    tx: optax.GradientTransformation, rates: Mapping[str, float], groups: Mapping[str, str]
) -> optax.GradientTransformation:
    """`tx`, its updates times the rate of each parameter's group; without rates `tx` itself."""
    return optax.chain(tx, group_scale(rates, groups)) if rates else tx


def group_scale(
    rates: Mapping[str, float], groups: Mapping[str, str]
) -> optax.GradientTransformation:
    """Multiplies updates by the rate of each parameter's group.

    `groups`: {path in the method's module, such as `mlp` or `encoder.mlp`, or the name of a term
    that has parameters: group}.
    """

    def scaled(path, update: jax.Array) -> jax.Array:
        keys = [str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey)]
        owners = keys[1:3]  # the first is the module in a PromptedT5
        group = groups.get(".".join(owners), groups.get(owners[0], OTHERS))
        return update * rates.get(group, 1.0)

    return optax.stateless(lambda updates, params: jax.tree.map_with_path(scaled, updates))


def whole_chain(
    links: Sequence[optax.GradientTransformation],
    rates: Mapping[str, float],
    groups: Mapping[str, str],
    last: Sequence[optax.GradientTransformation] = (),
) -> optax.GradientTransformationExtraArgs:
    """An optimizer's links, the rates of groups, and what comes after them, as one chain.

    Checkpoints name a link's state by its place: a run without rates has the optimizer's links at
    the top, one with rates a level lower, and links without a state have no name.
    """
    if rates:
        links = [optax.chain(*links), group_scale(rates, groups)]
    return optax.with_extra_args_support(optax.chain(*links, *last))
