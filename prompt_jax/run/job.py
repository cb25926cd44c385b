"""What a run is made of, once its settings are read."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from prompt_jax import hosts
from prompt_jax.data.digests import BatchDigests
from prompt_jax.data.source import Data, TaskText
from prompt_jax.evaluate.scorer import TaskScorer, write_predictions
from prompt_jax.hosts.stop import Stop
from prompt_jax.methods.base import PromptedT5
from prompt_jax.methods.parts.start import Start
from prompt_jax.model import activations, quantised, sharding
from prompt_jax.objective.terms import minimised
from prompt_jax.run.identity import data_fact, identity
from prompt_jax.run.log import MetricsLog, Screen, check_best_metric
from prompt_jax.run.settings import Train
from prompt_jax.run.speed import Speed, platform
from prompt_jax.run.step import TrainState, make_train_step, split


def build_step(run: Train, graphdef: Any, state: TrainState, vocabulary: Any = None) -> Any:
    """The compiled step of a run; `state`, arrays or shapes, says where it stays."""
    drops = run.backbone.dropout_rate or run.method.dropout_rate
    key = jax.random.fold_in(jax.random.key(run.seed), 1) if drops else None
    places = jax.tree.map(lambda x: x.sharding, state)
    tx, layout = run.transform(), run.method.layout
    rule, after = run.grad_rule, run.post_update
    loss = minimised(run.loss, run.terms, rule is not None, vocabulary, layout, run.accumulate)
    loss = activations.within(places.step.mesh, loss)
    count = run.loss.count
    return make_train_step(graphdef, loss, tx, key, places, run.accumulate, rule, after, count)


def opt_shardings(opt_state: Any, trainable: Any, everywhere: Any) -> Any:
    """An optimizer's slots lie as the trainable array of their shape does, counts `everywhere`."""
    places = {x.shape: x.sharding for x in jax.tree.leaves(trainable)}
    return jax.tree.map(lambda x: places.get(x.shape, everywhere), opt_state)


class Job:
    """What a run is made of: backbone, method, data, compiled step, evaluation.

    `devices`: those that the mesh is built of; None: all.
    """

    def __init__(self, run: Train, folder: epath.Path, devices: Sequence[Any] | None = None):
        self.run, self.folder = run, folder
        self.digests: BatchDigests | None = None
        self.mesh = run.mesh.build(devices)
        sharding.check_rows(self.mesh, run.data.batch_size, run.accumulate)
        text = run.data.read()
        held_out = None if run.evaluation is None else run.evaluation.read(run.data)
        for read in (text, held_out):
            if isinstance(read, TaskText):
                run.method.check_tasks(list(read.by_task))
        self.backbone = run.backbone.load(self.mesh)
        if run.method.trains_model:
            quantised.refuse_training(self.backbone.weights_dtype, type(run.method).__name__)
        layout, vocabulary = run.method.layout, self.backbone.vocabulary
        self.data = text.open(vocabulary, layout, run.seed)
        self.evaluator: Any = None
        if run.evaluation is not None:
            opening = (held_out, vocabulary, layout, run.seed, self.mesh)
            self.evaluator = run.evaluation.open(*opening)
        key = jax.random.key(run.seed)
        module = run.method.create(
            jax.random.fold_in(key, 0), Start(self.backbone, self._choices())
        )
        model = PromptedT5(self.backbone.model, module)
        self.graphdef, trainable, frozen = split(model, run.method.trainable)
        self.frozen = jax.device_put(frozen, sharding.params(self.mesh, frozen))
        self.trainable = jax.device_put(trainable, sharding.params(self.mesh, trainable))
        self.speed = Speed.of(run, self.backbone.config, self.mesh)
        self.tx = run.transform()
        self.train_step = build_step(run, self.graphdef, self.first_state(), vocabulary)
        self.facts = {
            "seed": run.seed,
            "batch_size": run.data.batch_size,
            "method": run.method.manifest(),
            "backbone": self.backbone.digest,
            "Backbone.dtype": run.backbone.dtype,
            "Backbone.weights_dtype": self.backbone.weights_dtype,
            "data": data_fact(run.data),
        }
        contents = {"the backbone": self.backbone.digest, "the training data": text.digest()}
        if vocabulary is not None:
            contents["the tokenizer"] = vocabulary.digest
        if isinstance(held_out, TaskText):
            contents["the evaluation's data"] = held_out.digest()
        self.identity = identity(run, contents)

    def _choices(self) -> tuple[str, ...]:
        if not isinstance(self.run.data, Data):
            return ()
        from prompt_jax.tasks import text

        return text.CHOICES.get(self.run.data.task, ())

    def _shortfalls(self) -> list[str]:
        """What is trained and scored on that is less than was published."""
        if not isinstance(self.run.data, Data):
            return []
        from prompt_jax.tasks.text import shortfalls

        splits = {(self.run.data.task, self.run.data.split): None}
        if isinstance(self.evaluator, TaskScorer):
            scored = self.run.evaluation.scored(self.run.data)
            splits[scored["task"], scored["split"]] = None
        return [line for task, split in splits for line in shortfalls(task, split)]

    def first_state(self) -> TrainState:
        """Step 0, in the shardings that every later state has; copied, since steps donate it."""
        trainable = jax.tree.map(jnp.copy, self.trainable)
        everywhere = sharding.replicated(self.mesh)
        opt_state = self.tx.init(trainable)
        opt_state = jax.device_put(opt_state, opt_shardings(opt_state, trainable, everywhere))
        return TrainState(jax.device_put(jnp.int32(0), everywhere), trainable, opt_state)

    def batch(self, step: int) -> tuple[dict[str, jax.Array], tuple[int, int]]:
        """A step's rows as global arrays, and how many examples and tokens of text they hold.

        This process assembles the rows of its own devices alone; of several processes, each takes
        those of the others to be as full as its own.
        """
        size, places = self.run.data.batch_size, sharding.rows(self.mesh)
        here = sharding.local_rows(places, size)
        batch = self.data.batch(step, here)
        if self.digests is not None:
            self.digests.write(step, here.start, batch)
        texts = (batch["encoder_input_tokens"], batch["decoder_target_tokens"])
        tokens = sum(np.count_nonzero(text) for text in texts) * size // max(len(texts[0]), 1)
        counts = (self.data.examples(step), tokens)
        return sharding.put_rows(batch, places, here, size), counts

    def evaluation_due(self, step: int) -> bool:
        """At step 0, at the end, and every `period` steps."""
        evaluation = self.run.evaluation
        return evaluation is not None and (step % evaluation.period == 0 or step == self.run.steps)

    def over(self, step: int, log: MetricsLog) -> bool:
        """Whether all steps are done, or `patience` evaluations were no better than the best."""
        run = self.run
        if run.patience is None or run.best_metric is None:
            return step >= run.steps
        return step >= run.steps or log.evaluations_since_best(*run.best_metric) >= run.patience

    def evaluate(self, state: TrainState, log: MetricsLog, screen: Screen, stop: Stop) -> None:
        """Evaluates; the record is written last, when all that belongs to it is on disk.

        Raises:
          Stopped: between two batches, with nothing written.
        """
        began, step = time.perf_counter(), int(state.step)
        inputs = (self.graphdef, state.trainable, self.frozen)
        metrics, rows = self.evaluator(*inputs, stop.check)
        best = self.run.best_metric
        if best:
            check_best_metric(best, metrics)
        write_predictions(self.folder, f"step_{step}", rows)
        if best and log.beats(metrics[best[0]], *best):
            self.save_prompt(state, "best", metrics)
        seconds = time.perf_counter() - began
        scored = self.run.evaluation.scored(self.run.data)
        record = {"step": step, "kind": "eval", **scored, **metrics, "seconds": seconds}
        log.evaluation(record, rows)
        shown = "  ".join(f"{k} {v:.3f}" for k, v in metrics.items())
        screen.say(f"evaluation at step {step}: {shown}  ({seconds:.0f} s)")

    def origin(self) -> dict[str, Any]:
        """Task, backbone and tokenizer, as a prompt's manifest names them."""
        run, backbone = self.run, self.backbone
        return {
            "task": run.data.task if isinstance(run.data, Data) else None,
            "backbone": {"name": backbone.name, "digest": backbone.digest},
            "tokenizer": backbone.vocabulary and backbone.vocabulary.digest,
        }

    def save_prompt(self, state: TrainState, name: str, metrics: dict[str, Any] | None) -> None:
        """Writes the artefact `prompt/NAME`; `metrics`: the evaluation at this step, if any."""
        run, best = self.run, self.run.best_metric
        facts = {
            **self.origin(),
            "step": int(state.step),
            "seed": run.seed,
            "metric": {best[0]: metrics[best[0]]} if best and metrics else None,
            "selection": run.selection,
            "run": {
                "input_length": run.data.input_length,
                "target_length": run.data.target_length,
                "dtype": run.backbone.dtype,
                "weights_dtype": self.backbone.weights_dtype,
                "vocabulary": run.backbone.vocabulary,
            },
        }
        if isinstance(run.data, Data) and run.data.demonstrations:
            named = ("demonstrations", "demonstration_seed")
            facts["run"] |= {key: vars(run.data)[key] for key in named}
        trainable = sharding.whole(state.trainable)
        if hosts.writes():
            model: Any = nnx.merge(self.graphdef, trainable, self.frozen)
            run.method.save(self.folder / "prompt" / name, model, self.backbone, facts)

    def opening(self, start: int, model_dir: str) -> str:
        run = self.run
        told = "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
                         for k, v in self.data.describe().items())  # fmt: skip
        count = run.method.count(self.backbone.config)
        fewer = "".join(f"\ndata  {line}" for line in self._shortfalls())
        return (
            f"backbone {self.backbone.name} {self.backbone.digest[:12]}  "
            f"{type(run.method).__name__}: {count:,} trainable parameters\n"
            f"data  {told}{fewer}\n"
            f"platform {platform()}  devices {dict(self.mesh.shape)}  "
            f"steps {start} to {run.steps}  model_dir {model_dir}"
        )

    def closing(self, log: MetricsLog, screen: Screen) -> dict[str, Any]:
        """Says what came out and where it is; returns the last metrics ({} if none are left)."""
        screen.close()
        evals = [r for r in log.records if r["kind"] == "eval"]
        last = [{}, *log.records, *evals][-1]
        best = self.run.best_metric
        if best and evals and (found := log.best(*best)):
            name, (value, step) = best[0], found
            majority = self.evaluator.majority() if isinstance(self.evaluator, TaskScorer) else {}
            text = f"; always the commonest answer: {majority[name]:.2f}" if majority else ""
            screen.say(f"{name}: {evals[0][name]:.2f} before, {last[name]:.2f} after, "
                       f"best {value:.2f} at step {step}{text}")  # fmt: skip
        for name in ("prompt/best", "prompt/last", "metrics.jsonl", "checkpoints", "predictions"):
            if (self.folder / name).exists():
                screen.say(f"  {self.folder / name}")
        return last
