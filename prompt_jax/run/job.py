"""What a run is made of, once its settings are read."""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from prompt_jax import hosts
from prompt_jax.backbone.load import Backbone
from prompt_jax.backbone.settings import BackboneSettings
from prompt_jax.data import named
from prompt_jax.data.columns import with_columns
from prompt_jax.data.digests import BatchDigests
from prompt_jax.evaluate.contract import Evaluator
from prompt_jax.evaluate.expected import metrics_of
from prompt_jax.evaluate.scorer import write_predictions
from prompt_jax.hosts.stop import Stop
from prompt_jax.methods.base import PromptedT5
from prompt_jax.methods.parts.start import Start
from prompt_jax.model import activations, quantised, sharding
from prompt_jax.objective.pieces import InPieces
from prompt_jax.objective.terms import (
    columns_of,
    exported,
    minimised,
    modules_of,
    teacher_digests,
)
from prompt_jax.progress import elapsed
from prompt_jax.prompt import computed
from prompt_jax.prompt.artefact import save_beside
from prompt_jax.recipe.user_code import CODE
from prompt_jax.run.identity import FILE, compare, identity, write
from prompt_jax.run.log import Meter, MetricsLog, Screen, check_best_metric
from prompt_jax.run.observe import Observer, Opened
from prompt_jax.run.settings import Train
from prompt_jax.run.speed import Speed, platform
from prompt_jax.run.state import RunCheckpoints
from prompt_jax.run.step import TrainState, make_train_step, split
from prompt_jax.splits import readable

T = TypeVar("T")


def dropout_key(run: Train) -> jax.Array | None:
    """The key of all that is random in a run's steps; None where nothing is."""
    drops = run.backbone.dropout_rate or run.method.dropout_rate
    return jax.random.fold_in(jax.random.key(run.seed), 1) if drops else None


def rule_key(run: Train) -> jax.Array:
    """The key of what a rule for gradients draws."""
    return jax.random.fold_in(jax.random.key(run.seed), 2)


def loss_of(run: Train, vocabulary: Any = None) -> Callable:
    """What a run minimises."""
    layout = run.method.layout
    loss = minimised(run.loss, run.terms, run.rule.apart, vocabulary, layout, run.accumulate)
    alone = loss is run.loss and not run.method.trains_model
    return InPieces(run.loss) if alone else loss


def build_step(run: Train, graphdef: Any, state: TrainState, vocabulary: Any = None) -> Any:
    """The compiled step of a run; `state`, arrays or shapes, says where it stays."""
    places = jax.tree.map(lambda x: x.sharding, state)
    loss = activations.within(places.step.mesh, loss_of(run, vocabulary))
    parts = (run.transform(), dropout_key(run), places, run.accumulate)
    return make_train_step(graphdef, loss, *parts, run.rule, run.loss.count, rule_key(run))


def opt_shardings(opt_state: Any, trainable: Any, everywhere: Any) -> Any:
    """The slots of an optimizer or a rule lie as the trainable array does whose path theirs ends
    with and whose shape they have; counts and factored moments `everywhere`."""
    paths = jax.tree_util.tree_leaves_with_path(trainable)
    places = {path: (x.shape, x.sharding) for path, x in paths}

    def place(path: tuple, x: Any) -> Any:
        owners = (places[path[n:]] for n in range(len(path)) if path[n:] in places)
        shape, sharding = next(owners, (None, everywhere))
        return sharding if shape == x.shape else everywhere

    return jax.tree_util.tree_map_with_path(place, opt_state)


def term_modules(run: Train, start: Start) -> nnx.Dict:
    """What the terms of a run own, and their teachers."""
    key = jax.random.fold_in(jax.random.key(run.seed), 3)
    return modules_of(run.terms, key, start, run.method.layout, run.packed)


class Setup:
    """What runs share: a mesh, and what has been read, a backbone above all.

    `devices`: those that the mesh is built of; None: all.
    """

    def __init__(self, settings: Train, devices: Sequence[Any] | None = None):
        self.mesh = settings.mesh.build(devices)
        self._read: list[tuple[Any, Any]] = []

    def read(self, what: Any, make: Callable[[], T]) -> T:
        """What `make` reads, once for every `what` (settings that say what it is)."""
        for known, value in self._read:
            if known == what:
                return value
        self._read.append((what, make()))
        return self._read[-1][1]

    def backbone(self, settings: BackboneSettings) -> Backbone:
        return self.read(settings, lambda: settings.load(self.mesh))


def _files(run: Train) -> list[str]:
    """The files of tasks that are named by them, a line for each task."""
    scored = "" if run.evaluation is None else run.evaluation.scored(run.data).get("task", "")
    names = dict.fromkeys(name for name in (run.data.task, scored) if name)
    return [line for name in names if (line := named.files_of(name))]


class Run:
    """One prompt's training: settings, data stream, compiled step, evaluation, log and best.

    `setup` is shared by several; None: one of its own, over `devices` (None: all). `begin` opens
    the records and checkpoints of its folder, and `close` closes them.
    """

    log: MetricsLog
    meter: Meter
    screen: Screen
    checkpoints: RunCheckpoints

    def __init__(
        self,
        settings: Train,
        folder: epath.Path,
        devices: Sequence[Any] | None = None,
        setup: Setup | None = None,
    ):
        run = settings
        self.settings, self.folder = settings, folder
        self.digests: BatchDigests | None = None
        setup = setup or Setup(run, devices)
        self.mesh = setup.mesh
        self._open = contextlib.ExitStack()
        sharding.check_rows(self.mesh, run.data.batch_size, run.accumulate)
        text = setup.read(run.data, run.data.read)
        held_out, evaluation = None, run.evaluation
        if evaluation is not None:
            reading = (evaluation, run.data)
            held_out = setup.read(reading, lambda: evaluation.read(run.data))
        texts = [text] if held_out is None else [text, held_out]
        for read in texts:
            if read.examples:
                run.method.check_tasks(list(read.examples))
        self.shortfalls = dict.fromkeys(line for read in texts for line in read.shortfalls())
        self.files = _files(run)
        if held_out is not None and held_out.examples and run.best_metric:
            asked = None if evaluation is None else evaluation.answering
            check_best_metric(run.best_metric, metrics_of(held_out.examples, asked))
        self.backbone = setup.backbone(run.backbone)
        if run.method.trains_model:
            quantised.refuse_training(self.backbone.weights_dtype, type(run.method).__name__)
        layout, vocabulary = run.method.layout, self.backbone.vocabulary
        rows = text.open(vocabulary, layout, run.seed)
        self.data = with_columns(rows, columns_of(run.terms), vocabulary)
        self.evaluator: Evaluator | None = None
        if held_out is not None:
            self.evaluator = held_out.open(vocabulary, layout, run.seed, self.mesh)
        key = jax.random.key(run.seed)
        beginning = Start(self.backbone, run.data.choices())
        module = run.method.create(jax.random.fold_in(key, 0), beginning)
        terms = term_modules(run, beginning)
        model = PromptedT5(self.backbone.model, module, terms)
        self.graphdef, trainable, frozen = split(model, run.method.trainable)
        self.frozen = jax.device_put(frozen, sharding.params(self.mesh, frozen))
        self.trainable = jax.device_put(trainable, sharding.params(self.mesh, trainable))
        if run.targets:
            run.check_exports(self.first_prompt(), f"EXPORT_TO = {run.export_to!r}")
        self.speed = Speed.of(run, self.backbone.config, self.mesh)
        self.tx = run.transform()
        self.facts = {
            "seed": run.seed,
            "batch_size": run.data.batch_size,
            "method": run.method.manifest(),
            "backbone": self.backbone.digest,
            "Backbone.dtype": run.backbone.dtype,
            "Backbone.weights_dtype": self.backbone.weights_dtype,
            "data": run.data.fact(),
        }
        contents = {"the backbone": self.backbone.digest, "the training data": text.digest()}
        contents |= teacher_digests(run.terms)
        contents |= {f"the prompt {path}": digest for path, digest in beginning.saved.items()}
        contents |= {f"the module {name}": digest for name, digest in CODE.items()}
        if vocabulary is not None:
            contents["the tokenizer"] = vocabulary.digest
        if held_out is not None:
            contents["the evaluation's data"] = held_out.digest()
        self.identity = identity(run, contents)

    @cached_property
    def train_step(self) -> Callable:
        """The compiled step, of this run alone."""
        state = self.first_state()
        return build_step(self.settings, self.graphdef, state, self.backbone.vocabulary)

    def first_state(self) -> TrainState:
        """Step 0, in the shardings that every later state has; copied, since steps donate it."""
        trainable = jax.tree.map(jnp.copy, self.trainable)
        everywhere = sharding.replicated(self.mesh)
        slots = (self.tx.init(trainable), self.settings.rule.build().init(trainable))
        slots = jax.device_put(slots, opt_shardings(slots, trainable, everywhere))
        return TrainState(jax.device_put(jnp.int32(0), everywhere), trainable, *slots)

    def first_prompt(self) -> dict[str, np.ndarray]:
        """The arrays of the prompt at step 0, folded as an artefact's."""
        model: Any = nnx.merge(self.graphdef, self.trainable, self.frozen)
        return self.settings.method.fold(model.prompt)

    def batch(self, step: int) -> tuple[dict[str, jax.Array], tuple[int, int]]:
        """A step's rows as global arrays, and how many examples and tokens of text they hold."""
        size, places = self.settings.data.batch_size, sharding.rows(self.mesh)
        batch, counts = self.rows(step)
        here = sharding.local_rows(places, size)
        return sharding.put_rows(batch, places, here, size), counts

    def rows(
        self, step: int, here: slice | None = None
    ) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
        """The same on this host: the rows `here`, None: those of its own devices.

        This process assembles the rows of its own devices alone; of several processes, each takes
        those of the others to be as full as its own.
        """
        size, places = self.settings.data.batch_size, sharding.rows(self.mesh)
        here = here or sharding.local_rows(places, size)
        batch = self.data.batch(step, here)
        if self.digests is not None:
            self.digests.write(step, here.start, batch)
        texts = (batch["encoder_input_tokens"], batch["decoder_target_tokens"])
        tokens = sum(int(np.count_nonzero(text)) for text in texts) * size // max(len(texts[0]), 1)
        return batch, (self.data.examples(step), tokens)

    def begin(
        self,
        operative: str = "",
        observers: Sequence[Observer] = (),
        show: bool = False,
        name: str = "",
    ) -> TrainState:
        """The first state, or that of the latest checkpoint; opens log, checkpoints and screen.

        `name`: of the folder, as the user gave it.

        Raises:
          UserError: the folder holds another run.
        """
        known = (self.folder / FILE).exists()
        changes = compare(self.folder, self.identity)
        run, opened = self.settings, self._open
        self.checkpoints = RunCheckpoints(self.folder, run.checkpoints, self.facts)
        opened.callback(self.checkpoints.close)
        state = self.checkpoints.restore(self.first_state(), same_run=known)
        start = int(state.step)
        if hosts.writes():
            write(self.folder, self.identity)
            keep_config(self.folder, operative, start)
        scored = {} if run.evaluation is None else run.evaluation.scored(run.data)
        self.log = MetricsLog(self.folder, start, scored, observers)
        self.meter = Meter(self.speed)
        hosts.check_same("records in metrics.jsonl", len(self.log.records))
        self.screen = Screen(show, start, run.steps)
        opened.callback(self.screen.close)
        self.screen.say(self.opening(start, name or str(self.folder)))
        for change in changes:
            self.screen.say(f"changed since the run began: {change}")
        self.log.start(
            Opened(
                run=run,
                folder=self.folder,
                start=start,
                operative=operative,
                records=self.log.records,
                say=self.screen.say,
                backbone=self.backbone,
                lengths=self.data.lengths(),
                begin=self.first_prompt,
            )
        )
        opened.callback(self.log.close)
        return state

    def close(self) -> None:
        self._open.close()

    def after(self, step: int, state: Callable[[], TrainState], stop: Stop) -> bool:
        """What is due once a step is done: records, an evaluation, a checkpoint; `state()` is that
        after the step. Returns whether the run is over.

        Raises:
          Stopped: in the midst of an evaluation.
        """
        evaluating, saving = self.evaluation_due(step), self.saving_due(step)
        if self.due(step):
            self.report(step)
        if evaluating:
            self.evaluate(state(), stop)
        over = self.over(step)
        if saving or over:
            self.save(state())
        if evaluating or saving:
            self.meter.restart_clock()
        return over

    def report(self, step: int) -> None:
        """Writes the record of the steps since the last one, if there were some."""
        record = self.meter.record(step)
        if record is not None:
            self.log.write(record)
            self.screen.step(record)

    def save(self, state: TrainState) -> None:
        """The prompt as it is, then a checkpoint."""
        self.log.flush()
        self.save_prompt(state, "last", self.log.evaluation_at(int(state.step)))
        self.checkpoints.save(state)

    def due(self, step: int) -> bool:
        """Whether something is to be done after a step."""
        logging = step % self.settings.log_period == 0
        return logging or self.evaluation_due(step) or self.saving_due(step)

    def saving_due(self, step: int) -> bool:
        """At the end, and every `period` steps."""
        run = self.settings
        return step % run.checkpoints.period == 0 or step == run.steps

    def evaluation_due(self, step: int) -> bool:
        """At step 0, at the end, and every `period` steps."""
        run = self.settings
        due = run.evaluation is not None and step % run.evaluation.period == 0
        return due or (run.evaluation is not None and step == run.steps)

    def over(self, step: int) -> bool:
        """Whether all steps are done, or `patience` evaluations were no better than the best."""
        run, log = self.settings, self.log
        if run.patience is None or run.best_metric is None:
            return step >= run.steps
        return step >= run.steps or log.evaluations_since_best(*run.best_metric) >= run.patience

    def evaluate_first(self, state: TrainState, stop: Stop) -> None:
        """The evaluation at the step that the run begins or goes on at, where one is missing."""
        step = int(state.step)
        if self.evaluation_due(step) and self.log.evaluation_at(step) is None:
            self.evaluate(state, stop)

    def evaluate(self, state: TrainState, stop: Stop) -> None:
        """Evaluates; the record is written last, when all that belongs to it is on disk.

        Raises:
          Stopped: between two batches, with nothing written.
        """
        assert self.evaluator is not None and self.settings.evaluation is not None
        began, step = time.perf_counter(), int(state.step)
        inputs = (self.graphdef, state.trainable, self.frozen)
        with elapsed(f"evaluation at step {step}"):
            metrics, rows = self.evaluator(*inputs, stop.check)
        best = self.settings.best_metric
        if best:
            check_best_metric(best, metrics)
        write_predictions(self.folder, f"step_{step}", rows)
        if best and self.log.beats(metrics[best[0]], *best):
            self.save_prompt(state, "best", metrics)
        seconds = time.perf_counter() - began
        scored = self.settings.evaluation.scored(self.settings.data)
        record = {"step": step, "kind": "eval", **scored, **metrics, "seconds": seconds}
        self.log.evaluation(record, rows)
        shown = "  ".join(f"{k} {v:.3f}" for k, v in metrics.items())
        shown = readable(shown, self.settings.data.task or "")
        self.screen.say(f"evaluation at step {step}: {shown}  ({seconds:.0f} s)")

    def origin(self) -> dict[str, Any]:
        """Task, backbone and tokenizer, as a prompt's manifest names them."""
        run, backbone = self.settings, self.backbone
        return {
            "task": run.data.task,
            "backbone": {"name": backbone.name, "digest": backbone.digest},
            "tokenizer": backbone.vocabulary and backbone.vocabulary.digest,
        }

    def save_prompt(self, state: TrainState, name: str, metrics: dict[str, Any] | None) -> None:
        """Writes the artefact `prompt/NAME`; `metrics`: the evaluation at this step, if any."""
        run, best = self.settings, self.settings.best_metric
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
                **run.data.demonstrated(),
            },
        }
        trainable = sharding.whole(state.trainable)
        if hosts.writes():
            model: Any = nnx.merge(self.graphdef, trainable, self.frozen)
            folder = self.folder / "prompt" / name
            run.method.save(folder, model, self.backbone, facts)
            if run.method.visibility.computed_once and not hosts.several():
                computed.save(folder, self.backbone)
            if beside := exported(run.terms, model.terms):
                save_beside(folder, beside)

    def opening(self, start: int, model_dir: str) -> str:
        run = self.settings
        described = "  ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in self.data.describe().items()
        )
        described = readable(described, run.data.task or "")
        count = run.method.count(self.backbone.config)
        notes = "".join(f"\ndata  {line}" for line in (*self.files, *self.shortfalls))
        return (
            f"backbone {self.backbone.name} {self.backbone.digest[:12]}  "
            f"{type(run.method).__name__}: {count:,} trainable parameters\n"
            f"data  {described}{notes}\n"
            f"platform {platform()}  devices {dict(self.mesh.shape)}  "
            f"steps {start} to {run.steps}  model_dir {model_dir}"
        )

    def closing(self) -> dict[str, Any]:
        """Says what came out and where it is; returns the last metrics ({} if none are left)."""
        log, screen = self.log, self.screen
        screen.close()
        evals = [r for r in log.records if r["kind"] == "eval"]
        last = [{}, *log.records, *evals][-1]
        best = self.settings.best_metric
        if best and evals and (chosen := log.best(*best)):
            name, (value, step) = best[0], chosen
            majority = {} if self.evaluator is None else self.evaluator.majority()
            always = f"; always the commonest answer: {majority.get(name, 0):.2f}"
            text = always if name in majority else ""
            screen.say(
                f"{name}: {evals[0][name]:.2f} before, {last[name]:.2f} after, "
                f"best {value:.2f} at step {step}{text}"
            )
        compiled = [r for r in log.records if r.get("compiled_programs")]
        if compiled:
            count, at = sum(r["compiled_programs"] for r in compiled), compiled[-1]["step"]
            screen.say(f"compiled {count} programs, the last of them by step {at}")
        for name in ("prompt/best", "prompt/last", "metrics.jsonl", "checkpoints", "predictions"):
            if (self.folder / name).exists():
                screen.say(f"  {self.folder / name}")
        return last


def keep_config(folder: epath.Path, operative: str, start: int) -> None:
    """Writes `config.gin`; one that says something else stays as `config.STEP.gin`."""
    path = folder / "config.gin"
    if path.exists() and path.read_text() != operative:
        (folder / f"config.{start}.gin").write_text(path.read_text())
    path.write_text(operative)
