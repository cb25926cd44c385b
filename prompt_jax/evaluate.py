"""Evaluation: decode a task's split, score it with the task's own SeqIO metrics, keep predictions.

The same `TaskScorer` serves the evaluations within a run and the `eval` verb, so that both print
the same numbers for the same prompt.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from prompt_jax import sharding
from prompt_jax.data import Data, TokenizedTask, tokenize
from prompt_jax.decode import generate
from prompt_jax.errors import UserError
from prompt_jax.layout import PromptLayout, encoder_slots, place
from prompt_jax.methods.base import PromptedT5
from prompt_jax.settings import settings

BUCKET = 32  # encoder lengths are rounded up to a multiple of it, so that few shapes compile


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

    def open(self, data: Data, seed: int, vocabulary, layout: PromptLayout, mesh: Mesh):
        """An `Evaluator`: `(graphdef, trainable, frozen) -> (metrics, predictions)`."""
        limits = (data.input_length, data.target_length)
        task = self.task or data.task
        args = (task, self.split, self.max_examples, limits, vocabulary, layout)
        return TaskScorer(*args, self.batch_size, mesh)


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

    def open(self, data, seed: int, vocabulary, layout: PromptLayout, mesh: Mesh):
        batches = self.corpus.open(vocabulary, layout, seed)
        fixed = [batches.batch(step) for step in range(self.batches)]
        rows = sharding.rows(mesh)

        def evaluate(graphdef, trainable, frozen):
            total = {"loss": 0.0, "z_loss": 0.0, "accuracy": 0.0, "tokens": 0.0}
            for batch in fixed:
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
    from prompt_jax.loss import Loss

    return Loss()(nnx.merge(graphdef, trainable, frozen), batch)[1]


class TaskScorer:
    """Decodes one split of a task or mixture greedily and applies the metrics of each task."""

    def __init__(
        self,
        task: str,
        split: str,
        max_examples: int | None,
        limits: tuple[int, int],
        vocabulary,
        layout: PromptLayout,
        batch_size: int,
        mesh: Mesh,
    ):
        from prompt_jax.tasks import text

        self.split, self.limits, self.layout, self.mesh = split, limits, layout, mesh
        self.vocabulary = vocabulary
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        self.batch_size = -(-batch_size // shards) * shards
        data = Data(task=task, input_length=limits[0], target_length=limits[1], batch_size=1)
        by_task = text.load_examples(task, split)
        self.tasks = [
            tokenize(name, examples[:max_examples], vocabulary, data)
            for name, examples in by_task.items()
        ]
        self.seqio = {name: text.get_task(name) for name in by_task}

    def __call__(self, graphdef, trainable, frozen) -> tuple[dict[str, float], list[dict]]:
        """Metrics of all tasks (averages, and `TASK/METRIC` where there are several), predictions
        in the order of the source."""
        metrics, predictions = {}, []
        for number, task in enumerate(self.tasks):
            texts = self._decode(graphdef, trainable, frozen, task, number)
            scores, rows = score_task(self.seqio[task.name], task, texts)
            metrics[task.name], predictions = scores, predictions + rows
        if len(metrics) == 1:
            return next(iter(metrics.values())), predictions
        flat = {f"{task}/{name}": v for task, m in metrics.items() for name, v in m.items()}
        shared = set.intersection(*(set(m) for m in metrics.values()))
        mean = {name: float(np.mean([m[name] for m in metrics.values()])) for name in shared}
        return mean | flat, predictions

    def _decode(self, graphdef, trainable, frozen, task: TokenizedTask, number) -> list[str]:
        order = np.argsort([len(ids) for ids in task.inputs], kind="stable")
        texts = [""] * len(order)
        rows = sharding.rows(self.mesh)
        for start in range(0, len(order), self.batch_size):
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
    predictions = [post(t, example=e, is_target=False) for t, e in zip(texts, examples, strict=True)]
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
    from prompt_jax.artefact import check_backbone, load_prompt
    from prompt_jax.backbone import load_backbone
    from prompt_jax.methods.base import FixedPrompt

    saved = None if prompt is None else load_prompt(prompt)
    facts = {} if saved is None else saved.manifest.get("run", {})
    limits = tuple(
        value or facts.get(name, default)
        for name, value, default in (
            ("input_length", input_length, 512),
            ("target_length", target_length, 64),
        )
    )
    loaded = load_backbone(backbone, dtype=dtype or facts.get("dtype", "bfloat16"))
    if saved is not None:
        check_backbone(saved, loaded, allow_other=allow_other_backbone)
    if loaded.vocabulary is None:
        raise UserError(f"backbone {backbone!r} has no vocabulary: evaluation needs text")
    layout = PromptLayout() if saved is None else saved.layout
    mesh = sharding.MeshShape().build()
    scorer = TaskScorer(
        task, split, max_examples, limits, loaded.vocabulary, layout, batch_size, mesh
    )
    model = PromptedT5(loaded.model, FixedPrompt(saved))
    graphdef, params = nnx.split(model)
    empty = nnx.State({})
    metrics, _ = scorer(graphdef, empty, params)
    examples = sum(len(t.inputs) for t in scorer.tasks)
    return {"task": task, "split": split, "examples": examples, **metrics}
