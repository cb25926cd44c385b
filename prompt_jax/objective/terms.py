"""What a run minimises beside its cross-entropy: terms over passes that they share.

A term says which passes it needs. A step makes each pass once, whoever asks for it, and minimises

    loss + sum over terms of weight(step) * term * (target tokens, or 1)

where `loss` is that of `Loss`, a sum over target tokens. A term of predictions is a mean per target
token, so that neither packing nor the size of a batch changes what its weight means; one of
parameters alone is added once, as in T5X. Where `Loss.loss_normalizing_factor` makes the loss a
mean over tokens or examples, terms are added to that mean: loss + sum of weight(step) * term. A run
without terms minimises `Loss` itself. New passes are entries of PASSES, new terms subclasses of
`LossTerm`.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal

import jax
import jax.numpy as jnp

from prompt_jax.errors import Setting, UserError
from prompt_jax.objective.loss import Loss
from prompt_jax.objective.optim import Schedule
from prompt_jax.prompt.layout import PromptLayout

PassName = Literal["logits", "frozen_logits", "bundle", "embeddings"]
Passes = Mapping[PassName, Any]
Measure = Callable[[Passes, Mapping[str, jax.Array]], jax.Array]  # of passes and batch, a mean


def frozen_logits(model, batch) -> jax.Array:
    """Logits float32 [B, S, V] of the model without its prompt; no dropout, no gradient.

    Prompt columns become padding, so that the text must stand together (`check_terms`).
    """
    bare = dict(batch)
    for side in ("encoder", "decoder"):
        slots = batch[f"{side}_prompt_slots"]
        bare[f"{side}_segment_ids"] = jnp.where(slots > 0, 0, batch[f"{side}_segment_ids"])
        bare[f"{side}_prompt_slots"] = jnp.zeros_like(slots)
    return jax.lax.stop_gradient(model.t5(bare))


# (model, batch, dropout key, passes made before) -> the pass; every step makes the first two.
PASSES: dict[PassName, Callable[..., Any]] = {
    "bundle": lambda model, batch, key, made: model.bundle(batch, key),
    "logits": lambda model, batch, key, made: model.t5(batch, made["bundle"], key),
    "frozen_logits": lambda model, batch, key, made: frozen_logits(model, batch),
    "embeddings": lambda model, batch, key, made: model.t5.token_embedder.embedding[...],
}


class LossTerm(abc.ABC):
    """A mean that is added to the loss; concrete terms are settings classes.

    Attributes:
      needs: the passes that it looks at.
      per_token: whether it is multiplied by the batch's target tokens.
      weight: a number, or a schedule of the step.
    """

    needs: tuple[PassName, ...]
    per_token = True
    weight: float | Schedule

    @abc.abstractmethod
    def open(self, vocabulary, layout: PromptLayout) -> Measure:
        """What measures the term; texts of the settings become tokens here.

        `vocabulary` is None where a step is only compiled.
        """

    def weight_at(self, step) -> Any:
        return self.weight.build()(step) if isinstance(self.weight, Schedule) else self.weight


class Objective:
    """A loss and its terms, called as `Loss` is, for each of a batch's `pieces`."""

    def __init__(
        self, loss: Loss, terms: Sequence[LossTerm], measures: Sequence[Measure], pieces: int
    ):
        self.loss, self.terms, self.measures = loss, tuple(terms), tuple(measures)
        # What a step adds up to 1 over the pieces, also where it divides by a count of the batch.
        self.once = (lambda sums: 1 / pieces) if loss.count is None else itemgetter(loss.count)
        needed = {name for term in terms for name in term.needs}
        self.plan: tuple[PassName, ...] = tuple(
            name for name in PASSES if name in {"bundle", "logits", *needed}
        )

    def parts(self, model, batch, key=None, step=0) -> tuple[dict[str, jax.Array], dict]:
        """What is minimised, by the name of each part, and the sums of `Loss`; `term/NAME` among
        them are terms times target tokens, unweighted."""
        passes: dict[PassName, Any] = {}
        for name in self.plan:
            passes[name] = PASSES[name](model, batch, key, passes)
        total, sums = self.loss.of(passes["logits"], batch)
        parts, once = {"Loss": total}, self.once(sums)
        each = sums[self.loss.unit] / self.loss.scale
        for term, measure in zip(self.terms, self.measures, strict=True):
            name = type(term).__name__
            value = measure(passes, batch)
            sums[f"term/{name}"] = value * sums["tokens"]
            parts[name] = term.weight_at(step) * value * (each if term.per_token else once)
        return parts, sums

    def __call__(self, model, batch, key=None, step=0) -> tuple[jax.Array, dict]:
        parts, sums = self.parts(model, batch, key, step)
        return sum(parts.values(), start=jnp.float32(0)), sums


def minimised(
    loss: Loss,
    terms: Sequence[LossTerm],
    apart: bool,
    vocabulary,
    layout: PromptLayout,
    pieces: int = 1,
) -> Callable:
    """What a step differentiates: the loss itself where there is nothing else, or an `Objective`;
    with `apart` its parts. `pieces`: of a batch, whose gradients are added up."""
    if not terms and not apart:
        return loss
    whole = Objective(loss, terms, [term.open(vocabulary, layout) for term in terms], pieces)
    return whole.parts if apart else whole


def check_terms(
    terms: Sequence[LossTerm], rule: Any, layout: PromptLayout, trains_model: bool
) -> None:
    """UserError for a term that is there twice, that `rule` (a GradRule or None) lacks, or whose
    passes the run cannot make."""
    names = [type(term).__name__ for term in terms]
    for name in () if rule is None else rule.needs:
        if name not in names:
            title = type(rule).__name__
            raise UserError(
                Setting("Train", "grad_rule", title), remedy=f"add @{name}() to Train.terms"
            )
    for name in names:
        if names.count(name) > 1:
            raise UserError("Train.terms", f"{name} is there twice", "leave one out")
    for name in (n for n, term in zip(names, terms, strict=True) if "frozen_logits" in term.needs):
        if trains_model:
            raise UserError("Train.terms", f"{name} needs a frozen model, this method trains it")
        if layout.encoder and layout.placement not in ("prefix", "suffix"):
            raise UserError(
                "Train.terms",
                (
                    f"{name} takes the prompt away; the placement {layout.placement!r} would "
                    "leave a gap in the text"
                ),
                "take prefix or suffix",
            )
