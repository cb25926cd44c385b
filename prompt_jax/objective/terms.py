"""What a run minimises beside its cross-entropy: terms over forward passes that they share.

A term names its passes (`forwards.py`). A step makes each once, whoever asks for it, and minimises

    loss + sum over terms of weight(step) * term * (target tokens, or 1)

where `loss` is that of `Loss`, a sum over target tokens. A term of predictions is a mean per target
token, so that neither packing nor the size of a batch changes what its weight means; one of
parameters alone is added once, as in T5X. Where `Loss.loss_normalizing_factor` makes the loss a
mean over tokens or examples, terms are added to that mean: loss + sum of weight(step) * term. A run
without terms minimises `Loss` itself. New terms are subclasses of `LossTerm`.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.parts.start import Start
from prompt_jax.objective.columns import Choices, Column, View
from prompt_jax.objective.forwards import OWN, Forward, Passes, open_teacher, teachers
from prompt_jax.objective.loss import Loss, Per
from prompt_jax.objective.optim import Schedule
from prompt_jax.objective.rules import GradRule
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.prompt.library import load_value
from prompt_jax.settings import at_least

Measure = Callable[[Passes, Mapping[str, jax.Array]], jax.Array]  # of passes and batch, a mean


class LossTerm(abc.ABC):
    """A mean that is added to the loss; concrete terms are settings classes.

    Attributes:
      per_token: whether it is multiplied by the batch's target tokens.
      owns_parameters: whether `create` makes parameters; they are a group of `Train.group_rates`
        with the term's name.
      answers: whether its module answers in the decoder's place (`heads.AnsweringHead`).
      weight: a number, or a schedule of the step.
    """

    per_token = True
    owns_parameters = False
    answers = False
    weight: float | Schedule

    def check(self) -> None:
        """UserError for a weight below 0; a term with a check of its own calls this one."""
        if not isinstance(self.weight, Schedule):
            at_least(type(self).__name__, 0, {"weight": self.weight})

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """The passes that it looks at, beside the run's own."""
        return ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it asks of each row of the data, beside inputs and targets."""
        return ()

    def create(self, key: jax.Array, start: Start) -> nnx.Module | None:
        """The module that owns its parameters (`TermParam`); most have none."""
        return None

    def export(self, module: nnx.Module) -> dict[str, np.ndarray]:
        """Arrays of its module that are saved beside the prompt, by name; by default none."""
        return {}

    def taught_by(self, teacher: str) -> Self:
        """The term with a saved prompt as its teacher; most have none, and stay as they are."""
        return self

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
        self,
        loss: Loss,
        terms: Sequence[LossTerm],
        measures: Sequence[Measure],
        layout: PromptLayout,
        pieces: int,
    ):
        self.loss, self.terms, self.measures = loss, tuple(terms), tuple(measures)
        self.layout = layout
        # What a step adds up to 1 over the pieces, also where it divides by a count of the batch.
        self.once = (lambda sums: 1 / pieces) if loss.count is None else itemgetter(loss.count)

    def parts(self, model, batch, key=None, step=0) -> tuple[dict[str, jax.Array], dict]:
        """What is minimised, by the name of each part, and the sums of `Loss`; `term/NAME` among
        them are terms, unweighted, `Per` target token."""
        passes = Passes(model, batch, key, self.layout)
        total, sums = self.loss.of(passes[OWN].logits, batch)
        parts, once = {"Loss": total}, self.once(sums)
        each = sums[self.loss.unit] / self.loss.scale
        for term, measure in zip(self.terms, self.measures, strict=True):
            name = type(term).__name__
            value = measure(passes, batch)
            sums[f"term/{name}"] = Per(value * sums["tokens"])
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
    measures = [term.open(vocabulary, layout) for term in terms]
    whole = Objective(loss, terms, measures, layout, pieces)
    return whole.parts if apart else whole


def modules_of(
    terms: Sequence[LossTerm], key: jax.Array, start: Start, layout: PromptLayout, packed: bool
) -> nnx.Dict:
    """The modules that terms own, by the term's name, and the teachers that they look at."""
    made: dict[str, nnx.Module] = {}
    for n, term in enumerate(terms):
        module = term.create(jax.random.fold_in(key, n), start)
        if module is not None:
            made[type(term).__name__] = module
        for name, artefact in teachers(term.forwards).items():
            made[name] = open_teacher(artefact, start, layout, packed)
    return nnx.Dict(made)


def teacher_digests(terms: Sequence[LossTerm]) -> dict[str, Any]:
    """What decides a run's numbers beside its settings: each teacher's SHA-256, by its path."""
    paths = teachers(forward for term in terms for forward in term.forwards).values()
    return {f"the teacher {path}": load_value(path).digest for path in paths}


def columns_of(terms: Sequence[LossTerm]) -> tuple[Column, ...]:
    """The columns that terms ask for, each once."""
    return tuple(dict.fromkeys(column for term in terms for column in term.columns))


def exported(terms: Sequence[LossTerm], modules: Mapping[str, nnx.Module]) -> dict[str, np.ndarray]:
    """What terms want saved beside the prompt: `NAME/array`."""
    return {
        f"{name}/{key}": value
        for term in terms
        for name in [type(term).__name__]
        if name in modules
        for key, value in term.export(modules[name]).items()
    }


def check_terms(
    terms: Sequence[LossTerm],
    rule: GradRule | None,
    layout: PromptLayout,
    trains_model: bool,
    packed: bool = False,
) -> None:
    """UserError for a term that is there twice, that `rule` lacks, or whose passes or columns the
    run cannot make. `packed`: rows hold several examples."""
    names = [type(term).__name__ for term in terms]
    for name in () if rule is None else rule.needs:
        if name not in names:
            title = type(rule).__name__
            raise UserError(
                Setting("Train", "grad_rule", title), remedy=f"add @{name}() to Train.terms"
            )
    for name, term in zip(names, terms, strict=True):
        if names.count(name) > 1:
            raise UserError("Train.terms", f"{name} is given twice", "leave one out")
        if packed and term.columns:
            wanted = ", ".join(column.name for column in term.columns)
            problem = f"{name} looks at columns of the data ({wanted}), one example to a row"
            raise UserError("Train.terms", problem, "bind Data.packed=False")
        views = {c.name for c in term.columns if isinstance(c, View | Choices)}
        for forward in term.forwards:
            _check_forward(name, forward, layout, trains_model, views)


def _check_forward(
    name: str, forward: Forward, layout: PromptLayout, trains_model: bool, views: set[str]
) -> None:
    if forward.batch is not None and forward.batch not in views:
        raise UserError("Train.terms", f"{name} looks at a view {forward.batch!r} it does not name")
    if forward.prompt is not None and forward.artefact is None:
        return
    if trains_model:
        raise UserError("Train.terms", f"{name} needs a frozen model, this method trains it")
    if forward.artefact is None and layout.encoder and layout.placement not in ("prefix", "suffix"):
        raise UserError(
            "Train.terms",
            (
                f"{name} takes the prompt away; the placement {layout.placement!r} would "
                "leave a gap in the text"
            ),
            "take prefix or suffix",
        )
