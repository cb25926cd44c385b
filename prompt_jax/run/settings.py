"""The settings of a run: what a recipe builds."""

import dataclasses

import optax

from prompt_jax.backbone.settings import BackboneSettings
from prompt_jax.data.contract import Source
from prompt_jax.errors import Setting, UserError
from prompt_jax.evaluate.contract import RunEvaluation
from prompt_jax.methods.base import PromptMethod
from prompt_jax.model import quantised, sharding
from prompt_jax.objective.loss import Loss
from prompt_jax.objective.optim import Adafactor, AdamW, by_group, check_groups
from prompt_jax.objective.rules import GradRule, PostUpdate
from prompt_jax.objective.terms import LossTerm, check_terms
from prompt_jax.run.state import Checkpoints
from prompt_jax.settings import at_least, settings


@settings
class Train:
    """A run: what `--gin_file` builds.

    Attributes:
      data: `Data` (a task) or `Corpus` (text, for pretraining).
      terms: what is minimised beside `loss` (`terms.py`).
      grad_rule, post_update: what happens before and after the optimizer (`rules.py`).
      group_rates: {a group of the method's parameters: what its learning rate is times}.
      evaluation: `Evaluation`, `HeldOutLoss` or None.
      best_metric: (name, "max" or "min"): decides `prompt/best`; None keeps the last only.
      patience: training ends after so many evaluations in a row without a better `best_metric`.
      accumulate: parts that a batch is cut into, one after the other, to save memory.
      log_period: steps between records in metrics.jsonl.
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
        check_groups(self.group_rates, self.method)
        if self.patience is not None and (self.patience < 1 or self.selection is None):
            raise UserError(
                Setting("Train", "patience", self.patience),
                remedy="give at least 1, an evaluation and BEST_METRIC",
            )
        check_terms(self.terms, self.grad_rule, self.method.layout, self.method.trains_model)
        split = (self.selection or {}).get("split", "")
        if split.startswith("test"):
            raise UserError(
                Setting("Train", "best_metric", self.best_metric),
                f"the split {split!r} would choose the prompt",
                "take validation for Evaluation.split, or BEST_METRIC=None",
            )

    def transform(self) -> optax.GradientTransformation:
        """The optimizer, with the rates of groups."""
        return by_group(self.optimizer.build(), self.group_rates, self.method.groups)

    @property
    def selection(self) -> dict[str, str] | None:
        """What chooses the checkpoint, for the record: metric, direction, task and split."""
        if self.evaluation is None or self.best_metric is None:
            return None
        metric, direction = self.best_metric
        return {"metric": metric, "direction": direction, **self.evaluation.scored(self.data)}
