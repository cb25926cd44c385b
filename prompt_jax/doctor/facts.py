"""What the doctor's checks look at, each found once: a checkpoint, the task's text, the mesh."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from prompt_jax.backbone import load as backbones
from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import Checkpoint
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.data.source import Data
from prompt_jax.errors import UserError
from prompt_jax.evaluate.scorer import MOST_LABELS, Evaluation
from prompt_jax.model import quantised, sharding
from prompt_jax.run.settings import Train

SAMPLE = 2000  # examples whose lengths are counted


class BlockedError(Exception):
    """What a check needs could not be had; the argument is the check that says why."""


class Facts:
    """What checks share, each found when first needed and kept, its failure too."""

    def __init__(self, run: Train, model_dir: str):
        self.run, self.model_dir = run, model_dir
        self.checking = ""
        self._found: dict[str, Any] = {}

    def _need(self, name: str, owner: str, find: Callable[[], Any]) -> Any:
        if name not in self._found:
            try:
                self._found[name] = find()
            except UserError as error:
                self._found[name] = error
        found = self._found[name]
        if not isinstance(found, UserError):
            return found
        if self.checking == owner:
            raise found
        raise BlockedError(owner)

    @property
    def checkpoint(self) -> Checkpoint:
        name = self.run.backbone.name
        return self._need("checkpoint", "backbone", lambda: backbones.open_checkpoint(name))

    @property
    def digest(self) -> str:
        return self._need("digest", "backbone", lambda: _read_all(self.run, self.checkpoint))

    @property
    def words(self) -> Vocabulary:
        return self._need("words", "vocabulary", lambda: _open_words(self.run, self.checkpoint))

    @property
    def examples(self) -> dict[str, list[dict[str, Any]]]:
        """The training split by task; {} where the data are no task."""
        return self._need("examples", "task", lambda: _read_task(self.run))

    @property
    def held_out(self) -> dict[str, list[dict[str, Any]]]:
        """The split that is scored, by task; {} where the run scores none."""
        return self._need("held_out", "task", lambda: _read_held_out(self.run))

    @property
    def shortfalls(self) -> list[str]:
        """What of the two splits is less than was published."""
        return _shortfalls(self.run) if self.examples else []

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return self._need("mesh", "mesh", lambda: _build_mesh(self.run, self.checkpoint))

    @property
    def dtype(self) -> str:
        return self._need("dtype", "dtype", lambda: _dtype(self.run))

    @property
    def weights_dtype(self) -> str | None:
        """What the kernels will be held in; None: not quantised."""
        return self._need("weights", "dtype", lambda: _weights_dtype(self.run, self.checkpoint))

    @property
    def sample(self) -> list[dict[str, Any]]:
        return [e for examples in self.examples.values() for e in _spread(examples)]


# What the checks share


def _read_all(run: Train, checkpoint: Checkpoint) -> str:
    """The digest, for which every array is read, unless these very files were read before."""
    return backbones.digest_of(run.backbone.name, checkpoint, checkpoint.arrays)


def _build_mesh(run: Train, checkpoint: Checkpoint) -> jax.sharding.Mesh:
    mesh = run.mesh.build()
    sharding.check_rows(mesh, run.data.batch_size, run.accumulate)
    try:
        sharding.params(mesh, weights.abstract(checkpoint.config)[1])
    except UserError as error:
        raise UserError(error.where, error.problem, "give MeshShape sizes that divide it") from None
    return mesh


def _dtype(run: Train) -> str:
    backbones.check_dtype(run.backbone.dtype)
    return run.backbone.dtype


def _weights_dtype(run: Train, checkpoint: Checkpoint) -> str | None:
    stored = None if checkpoint.quantised is None else checkpoint.quantised.weights_dtype
    held = quantised.held_in(run.backbone.weights_dtype, stored, run.backbone.name)
    if run.method.trains_model:
        quantised.refuse_training(held, type(run.method).__name__)
    return held


def _open_words(run: Train, checkpoint: Checkpoint) -> Vocabulary:
    name = run.backbone.vocabulary or checkpoint.vocabulary
    if name is None:
        raise UserError(f"backbone {run.backbone.name!r}", "has no vocabulary", "bind VOCABULARY")
    return Vocabulary.bytes() if name == "bytes" else Vocabulary.from_file(name)


def _read_task(run: Train) -> dict[str, list[dict[str, Any]]]:
    if not isinstance(run.data, Data):
        return {}
    limit = run.data.max_examples
    return {name: examples[:limit] for name, examples in run.data.read().by_task.items()}


def _read_held_out(run: Train) -> dict[str, list[dict[str, Any]]]:
    if not isinstance(run.evaluation, Evaluation):
        return {}
    limit = run.evaluation.max_examples
    by_task = run.evaluation.read(run.data).by_task
    return {name: examples[:limit] for name, examples in by_task.items()}


def _shortfalls(run: Train) -> list[str]:
    from prompt_jax.tasks.text import shortfalls

    assert isinstance(run.data, Data)
    splits = {(run.data.task, run.data.split): None}
    if isinstance(run.evaluation, Evaluation):
        splits[run.evaluation.task or run.data.task, run.evaluation.split] = None
    return [line for task, split in splits for line in shortfalls(task, split)]


def _spread(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most SAMPLE of them, from all over the split."""
    return examples[:: math.ceil(len(examples) / SAMPLE) or 1]


def pieces(words: Vocabulary, value: Any) -> int:
    """Tokens of a text, or of an array of them, EOS included."""
    return len(words.encode(value) if isinstance(value, str) else value) + 1


def labels_of(examples: Sequence[dict[str, Any]]) -> list[str]:
    """The distinct targets of a classification, [] where there are too many for one."""
    found = {e["targets"] for e in examples if isinstance(e["targets"], str)}
    return sorted(found) if len(found) <= MOST_LABELS else []
