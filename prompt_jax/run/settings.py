"""The settings of a run: what a recipe builds."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from prompt_jax.backbone.settings import BackboneSettings
from prompt_jax.data.contract import Source
from prompt_jax.data.source import Data
from prompt_jax.errors import Setting, UserError
from prompt_jax.evaluate.contract import RunEvaluation
from prompt_jax.export.formats import check_targets
from prompt_jax.methods.base import PromptMethod
from prompt_jax.model import quantised, sharding
from prompt_jax.objective.heads import no_head
from prompt_jax.objective.loss import Loss
from prompt_jax.objective.optim import Adafactor, AdamW, check_groups, whole_chain
from prompt_jax.objective.rules import GradRule, NoRule, PostUpdate
from prompt_jax.objective.terms import LossTerm, check_terms
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.run.state import Checkpoints
from prompt_jax.settings import at_least, settings


@settings
class Farm:
    """Many runs of one recipe, side by side over one backbone.

    Attributes:
      grid: {a macro or parameter: its values}; a run for each choice of one value of all. None: the
        recipe is one run.
      at_once: how many train in one step; the others wait for a slot.
      halve_at: successive halving: at this step, and whenever as many again are done, the half
        with the better `best_metric` goes on. None: all go on.
    """

    grid: dict[str, Any] | None = None
    at_once: int = 8
    halve_at: int | None = None

    @property
    def together(self) -> int:
        """How many members train in one step; 1 where the recipe is one run."""
        return min(self.at_once, math.prod(map(len, (self.grid or {}).values())))

    def check(self):
        for name, value in (("at_once", self.at_once), ("halve_at", self.halve_at)):
            if value is not None and value < 1:
                raise UserError(Setting("Farm", name, value), remedy="give at least 1")
        for name, values in (self.grid or {}).items():
            remedy = "give a list of different values, as in {'SEED': [0, 1, 2]}"
            problem = f"{name} has no values, or one of them twice"
            if not isinstance(values, list | tuple):
                problem = f"{name} has {values!r}, which is not a list"
            elif values and len(set(map(repr, values))) == len(values):
                continue
            raise UserError(Setting("Farm", "grid", self.grid), problem, remedy)


@settings
class Train:
    """A run: what `--gin_file` builds.

    Attributes:
      data: `Data` (a task) or `Corpus` (text, for pretraining).
      terms: what is minimised beside `loss` (`terms.py`).
      grad_rule, post_update: what happens before the optimizer and at its end (`rules.py`).
      group_rates: {a group of the method's parameters, or a term that owns some: what its learning
        rate is times}.
      evaluation: `Evaluation`, `HeldOutLoss` or None.
      best_metric: (name, "max" or "min"): decides `prompt/best`; None keeps the last only.
      patience: training ends after so many evaluations in a row without a better `best_metric`.
      accumulate: parts that a batch is cut into, one after the other, to save memory.
      log_period: steps between records in metrics.jsonl.
      farm: many runs in place of one; each has all other settings.
      export_to: formats of `export`, by name: a prompt that one of them cannot hold is refused
        before it is trained, and `export/FORMAT` of the model_dir has them once it is.
    """

    backbone: BackboneSettings
    method: PromptMethod
    data: Source
    optimizer: Adafactor | AdamW
    steps: int
    group_rates: dict[str, float] = dataclasses.field(default_factory=dict)
    seed: int = 0
    loss: Loss = Loss()
    terms: tuple[LossTerm, ...] = ()
    grad_rule: GradRule | None = None
    post_update: PostUpdate | None = None
    evaluation: RunEvaluation | None = None
    best_metric: tuple[str, str] | None = None
    patience: int | None = None
    checkpoints: Checkpoints = Checkpoints()
    mesh: sharding.MeshShape = sharding.MeshShape()
    accumulate: int = 1
    log_period: int = 10
    farm: Farm = Farm()
    export_to: str | tuple[str, ...] = ()

    def check(self):
        counts = {
            "steps": self.steps,
            "accumulate": self.accumulate,
            "log_period": self.log_period,
        }
        at_least("Train", 1, counts)
        at_least("Train", 0, {"seed": self.seed})
        if self.best_metric and self.best_metric[1] not in ("max", "min"):
            raise UserError(
                Setting("Train", "best_metric", self.best_metric), "direction is 'max' or 'min'"
            )
        if self.method.trains_model:
            quantised.refuse_training(self.backbone.weights_dtype, type(self.method).__name__)
        check_groups(self.group_rates, self.method, self.term_groups)
        if self.patience is not None and (self.patience < 1 or self.selection is None):
            raise UserError(
                Setting("Train", "patience", self.patience),
                remedy="give at least 1, an evaluation and BEST_METRIC",
            )
        layout, trains_model = self.method.layout, self.method.trains_model
        check_terms(self.terms, self.grad_rule, layout, trains_model, self.packed)
        answering = None if self.evaluation is None else self.evaluation.answering
        by_head = answering is not None and answering.mode == "head"
        if by_head and not any(term.answers for term in self.terms):
            raise no_head(Setting(type(self.evaluation).__name__, "mode", "head"))
        split = (self.selection or {}).get("split", "")
        if split.startswith("test"):
            raise UserError(
                Setting("Train", "best_metric", self.best_metric),
                f"the split {split!r} would choose the prompt",
                "take validation for Evaluation.split, or BEST_METRIC=None",
            )
        rows = {side: np.zeros((count, 1)) for side, count in layout.plain_rows().items()}
        if rows or trains_model:
            self.check_exports(rows, Setting("Train", "export_to", self.export_to))

    @property
    def targets(self) -> tuple[str, ...]:
        """The formats of `export_to`."""
        return (self.export_to,) if isinstance(self.export_to, str) else self.export_to

    def check_exports(self, arrays: Mapping[str, np.ndarray], where: object) -> None:
        """UserError where a format of `export_to` cannot hold a prompt of these arrays."""
        if self.targets and self.method.trains_model:
            remedy = "leave EXPORT_TO out, and use prompt-jax convert once it is trained"
            raise UserError(where, "the method trains the model, and leaves no prompt", remedy)
        if self.targets and (heads := [type(t).__name__ for t in self.terms if t.answers]):
            remedy = "leave EXPORT_TO out, and answer with prompt-jax infer --mode=head"
            raise UserError(where, f"no format has the head of {heads[0]}", remedy)
        check_targets(self.targets, Prompt(dict(arrays), self.method.seen(), ""), where)

    @property
    def packed(self) -> bool:
        """Whether rows may hold several examples."""
        return isinstance(self.data, Data) and self.data.packed

    @property
    def rule(self) -> GradRule:
        """The rule for gradients; one that changes nothing where none is given."""
        return NoRule() if self.grad_rule is None else self.grad_rule

    def transform(self, rate: jax.Array | None = None) -> optax.GradientTransformationExtraArgs:
        """The optimizer, the rates of groups, and the projection, as one chain; `rate` in place of
        the schedule's."""
        names = self.term_groups
        groups = {**self.method.groups, **dict(zip(names, names, strict=True))}
        last = [] if self.post_update is None else [self.post_update.build()]
        return whole_chain(self.optimizer.links(rate), self.group_rates, groups, last)

    @property
    def term_groups(self) -> list[str]:
        """The terms that own parameters: each is a group of its own, by its name."""
        return [type(term).__name__ for term in self.terms if term.owns_parameters]

    @property
    def selection(self) -> dict[str, str] | None:
        """What chooses the checkpoint, for the record: metric, direction, task and split."""
        if self.evaluation is None or self.best_metric is None:
            return None
        metric, direction = self.best_metric
        return {"metric": metric, "direction": direction, **self.evaluation.scored(self.data)}
