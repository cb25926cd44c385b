"""Evaluation: decode a task's split, score it with the task's own SeqIO metrics, keep predictions.

The same `TaskScorer` serves the evaluations within a run and the `eval` verb, so that both print
the same numbers for the same prompt.
"""

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from prompt_jax import sharding
from prompt_jax.artefact import Prompt, check_backbone, load_prompt
from prompt_jax.backbone import Backbone, load_backbone
from prompt_jax.data import Data, TaskText, TokenizedTask
from prompt_jax.decode import generate
from prompt_jax.errors import UserError
from prompt_jax.layout import PromptLayout, encoder_slots, place
from prompt_jax.loss import Loss
from prompt_jax.methods.base import FixedPrompt, PromptedT5
from prompt_jax.settings import settings

# An `Evaluator` is `(graphdef, trainable, frozen, between) -> (metrics, predictions)`; it calls
# `between` before each batch, so that a long evaluation can be left.
MOST_LABELS = 64  # a task with more distinct targets is no classification
BUCKET = 32  # encoder lengths are rounded up to a multiple of it, so that few shapes compile


def nothing() -> None:
    """What happens between batches by default."""


@settings
class Evaluation:
    """Periodic evaluation of a run by decoding.

    Attributes:
      period: steps between evaluations; there is also one at step 0 and one at the end.
      task: None: the task trained on.
      split: what is scored.
      batch_size: rows decoded at once.
      max_examples: only the first so many.
    """

    period: int
    task: str | None = None
    split: str = "validation"
    batch_size: int = 64
    max_examples: int | None = None

    def read(self, data: Data) -> TaskText:
        """The examples of the split, cut to the lengths of `data`, the run's."""
        return Data(
            task=self.task or data.task,
            split=self.split,
            input_length=data.input_length,
            target_length=data.target_length,
            batch_size=self.batch_size,
            max_examples=self.max_examples,
        ).read()

    def open(self, text: TaskText, vocabulary, layout: PromptLayout, seed: int, mesh: Mesh):
        """An `Evaluator` of what `read` gave."""
        return TaskScorer(text, vocabulary, layout, mesh)


@settings
class HeldOutLoss:
    """Evaluation of pretraining: the loss of text that is not trained on.

    Attributes:
      period: steps between evaluations.
      corpus: where the text comes from (`Corpus`).
      batches: how many are averaged.
    """

    period: int
    corpus: Any
    batches: int = 8

    def read(self, data: Any) -> Any:
        return self.corpus.read()

    def open(self, text: Any, vocabulary, layout: PromptLayout, seed: int, mesh: Mesh):
        """An `Evaluator` of what `read` gave."""
        sharding.check_rows(mesh, self.corpus.batch_size)
        batches = text.open(vocabulary, layout, seed)
        fixed = [batches.batch(step) for step in range(self.batches)]
        rows = sharding.rows(mesh)

        def evaluate(graphdef, trainable, frozen, between=nothing):
            total = {"loss": 0.0, "z_loss": 0.0, "accuracy": 0.0, "tokens": 0.0}
            for batch in fixed:
                between()
                placed = sharding.put_rows(batch, rows)
                sums = _sums(graphdef, trainable, frozen, placed)
                total = {name: value + float(sums[name]) for name, value in total.items()}
            tokens = total["tokens"]
            metrics = {
                "held_out_loss": (total["loss"] - total["z_loss"]) / tokens,
                "held_out_accuracy": total["accuracy"] / tokens,
            }
            return metrics, []

        return evaluate


@partial(jax.jit, static_argnums=0)
def _sums(graphdef, trainable, frozen, batch):
    return Loss()(nnx.merge(graphdef, trainable, frozen), batch)[1]


class TaskScorer:
    """Decodes one split of a task or mixture greedily and applies the metrics of each task."""

    def __init__(self, text: TaskText, vocabulary, layout: PromptLayout, mesh: Mesh):
        from prompt_jax.tasks.text import get_task

        self.vocabulary, self.layout, self.mesh = vocabulary, layout, mesh
        self.limits = (text.data.input_length, text.data.target_length)
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        self.batch_size = -(-text.data.batch_size // shards) * shards
        self.tasks = text.tokenized(vocabulary)
        self.seqio = {task.name: get_task(task.name) for task in self.tasks}

    def __call__(
        self, graphdef, trainable, frozen, between: Callable[[], None] = nothing
    ) -> tuple[dict[str, float], list[dict]]:
        """Metrics of all tasks (averages, and `TASK/METRIC` where there are several), predictions
        in the order of the source."""
        decode = partial(self._decode, graphdef, trainable, frozen, between)
        texts = [decode(task, number) for number, task in enumerate(self.tasks)]
        return self._score(texts)

    def majority(self) -> dict[str, float]:
        """The metrics of answering every example of a task with its commonest target: what a
        classifier must beat. {} where there are too many targets for one."""
        counts = [Counter(e["targets"] for e in task.examples) for task in self.tasks]
        if any(len(count) > MOST_LABELS for count in counts):
            return {}
        common = [count.most_common(1)[0][0] for count in counts]
        pairs = zip(common, self.tasks, strict=True)
        return self._score([[text] * len(task.inputs) for text, task in pairs])[0]

    def _score(self, texts: list[list[str]]) -> tuple[dict[str, float], list[dict]]:
        metrics, predictions = {}, []
        for task, outputs in zip(self.tasks, texts, strict=True):
            scores, rows = score_task(self.seqio[task.name], task, outputs)
            metrics[task.name], predictions = scores, predictions + rows
        if len(metrics) == 1:
            return next(iter(metrics.values())), predictions
        flat = {f"{task}/{name}": v for task, m in metrics.items() for name, v in m.items()}
        shared = set.intersection(*(set(m) for m in metrics.values()))
        mean = {name: float(np.mean([m[name] for m in metrics.values()])) for name in shared}
        return mean | flat, predictions

    def _decode(
        self, graphdef, trainable, frozen, between, task: TokenizedTask, number: int
    ) -> list[str]:
        order = np.argsort([len(ids) for ids in task.inputs], kind="stable")
        texts = [""] * len(order)
        rows = sharding.rows(self.mesh)
        for start in range(0, len(order), self.batch_size):
            between()
            chosen = order[start : start + self.batch_size]
            batch = self._batch([task.inputs[i] for i in chosen], number)
            placed = sharding.put_rows(batch, rows)
            ids = np.asarray(_greedy(graphdef, self.limits[1], trainable, frozen, placed))
            for i, tokens in zip(chosen, ids, strict=False):
                texts[i] = self.vocabulary.decode(tokens.tolist())
        return texts

    def _batch(self, inputs: list[np.ndarray], number: int) -> dict[str, np.ndarray]:
        """Padded encoder features of `batch_size` rows; rows without an example are empty."""
        longest = max(len(ids) for ids in inputs)
        width = min(-(-longest // BUCKET) * BUCKET, self.limits[0]) + self.layout.encoder
        names = ("encoder_input_tokens", "encoder_segment_ids", "encoder_prompt_slots")
        batch = {name: np.zeros((self.batch_size, width), np.int32) for name in names}
        for row, ids in enumerate(inputs):
            slots = encoder_slots(ids, self.layout)
            values = (place(ids, slots), np.ones_like(slots), slots)
            for name, value in zip(names, values, strict=True):
                batch[name][row, : len(slots)] = value
        batch["encoder_task_ids"] = np.full((self.batch_size, width), number, np.int32)
        batch["decoder_task_ids"] = np.full((self.batch_size, 1), number, np.int32)
        return batch


@partial(jax.jit, static_argnums=(0, 1))
def _greedy(graphdef, max_length: int, trainable, frozen, batch) -> jax.Array:
    """int32 [B, max_length]."""
    model = nnx.merge(graphdef, trainable, frozen)
    return generate(model.t5, batch, model.bundle(), max_length=max_length)[0][:, 0]


def score_task(task, tokenized: TokenizedTask, texts: list[str]):
    """The task's metrics of decoded texts, and one row per example for people to read."""
    examples = tokenized.examples
    post: Callable = task.postprocess_fn
    pairs = zip(texts, examples, strict=True)
    predictions = [post(text, example=e, is_target=False) for text, e in pairs]
    targets = [post(e["targets"], example=e, is_target=True) for e in examples]
    metrics: dict[str, float] = {}
    for metric in task.predict_metric_fns:
        metrics |= {name: float(value) for name, value in metric(targets, predictions).items()}
    rows = [
        {"task": tokenized.name, "inputs": e["inputs"], "targets": e["targets"], "prediction": t}
        for e, t in zip(examples, texts, strict=True)
    ]
    return metrics, rows


def write_predictions(folder: epath.Path, name: str, rows: list[dict]) -> None:
    """`predictions/NAME.jsonl`, one example per line."""
    if rows:
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "predictions" / f"{name}.jsonl").write_text(text)


def evaluate_prompt(
    *,
    backbone: str,
    prompt: str | None,
    task: str,
    split: str,
    batch_size: int = 64,
    max_examples: int | None = None,
    input_length: int | None = None,
    target_length: int | None = None,
    dtype: str | None = None,
    allow_other_backbone: bool = False,
) -> dict[str, Any]:
    """Metrics of a saved prompt (or of the bare backbone) on a split; what the `eval` verb prints.

    Lengths and dtype are by default those the prompt was trained with.
    """
    saved = None if prompt is None else load_prompt(prompt)
    trained = {} if saved is None else saved.manifest.get("run", {})
    text = Data(
        task=task,
        split=split,
        input_length=input_length or trained.get("input_length", 512),
        target_length=target_length or trained.get("target_length", 64),
        batch_size=batch_size,
        max_examples=max_examples,
    ).read()
    held = dtype or str(trained.get("dtype", "bfloat16"))
    loaded = load_backbone(backbone, held, trained.get("vocabulary"))
    if saved is not None:
        check_backbone(saved, loaded, allow_other=allow_other_backbone)
        check_tokenizer(saved, loaded)
    layout = PromptLayout() if saved is None else saved.layout
    scorer = TaskScorer(text, loaded.vocabulary, layout, sharding.MeshShape().build())
    graphdef, params = nnx.split(PromptedT5(loaded.model, FixedPrompt(saved)))
    metrics, _ = scorer(graphdef, nnx.State({}), params)
    examples = sum(len(t.inputs) for t in scorer.tasks)
    return {"task": task, "split": split, "examples": examples, **metrics}


def check_tokenizer(prompt: Prompt, backbone: Backbone) -> None:
    """Refuses a prompt that was tuned on the pieces of another tokenizer."""
    words = backbone.vocabulary
    tuned = prompt.manifest["tokenizer"] if prompt.manifest else None
    if tuned and words and tuned != words.digest:
        raise UserError(
            f"prompt {prompt.path!r} was tuned with tokenizer {tuned[:12]}, backbone "
            f"{backbone.name!r} has {words.digest[:12]}: load the backbone with the former"
        )
