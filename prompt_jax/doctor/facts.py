"""What the doctor's checks look at, each found once: a checkpoint, the task's text, the mesh."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from prompt_jax.backbone import load as backbones
from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import Checkpoint
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.data.contract import Text
from prompt_jax.data.rows import Example
from prompt_jax.errors import UserError
from prompt_jax.evaluate import expected
from prompt_jax.evaluate.scorer import MOST_LABELS
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
        self._facts: dict[str, Any] = {}

    def _need(self, name: str, owner: str, find: Callable[[], Any]) -> Any:
        if name not in self._facts:
            try:
                self._facts[name] = find()
            except UserError as error:
                self._facts[name] = error
        fact = self._facts[name]
        if not isinstance(fact, UserError):
            return fact
        if self.checking == owner:
            raise fact
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
    def examples(self) -> Mapping[str, Sequence[Example]]:
        """The training split by task; {} where the data are no task."""
        return self._texts[0].examples

    @property
    def held_out(self) -> Mapping[str, Sequence[Example]]:
        """The split that is scored, by task; {} where the run scores none."""
        return self._texts[1].examples if self._texts[1:] else {}

    @property
    def metrics(self) -> dict[str, float]:
        """What the evaluation reports of right answers; {} where it scores no task."""
        return self._need("metrics", "metric", lambda: _metrics(self.run, self.held_out))

    @property
    def never_equal(self) -> dict[str, str]:
        """{target: what comes back} of targets that no output equals (`expected.never_equal`)."""
        return self._need("never_equal", "labels", lambda: _never_equal(self))

    @property
    def shortfalls(self) -> list[str]:
        """What of the two splits is less than was published."""
        return list(dict.fromkeys(line for text in self._texts for line in text.shortfalls()))

    @property
    def _texts(self) -> list[Text]:
        return self._need("texts", "task", lambda: _texts(self.run))

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
    def sample(self) -> list[Example]:
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
    weights_dtype = quantised.held_in(run.backbone.weights_dtype, stored, run.backbone.name)
    if run.method.trains_model:
        quantised.refuse_training(weights_dtype, type(run.method).__name__)
    return weights_dtype


def _open_words(run: Train, checkpoint: Checkpoint) -> Vocabulary:
    name = run.backbone.vocabulary or checkpoint.vocabulary
    if name is None:
        raise UserError(f"backbone {run.backbone.name!r}", "has no vocabulary", "bind VOCABULARY")
    return Vocabulary.bytes() if name == "bytes" else Vocabulary.from_file(name)


def _texts(run: Train) -> list[Text]:
    """What is trained on, and what is evaluated on where that is a task."""
    text = run.data.read()
    return [text] if run.evaluation is None else [text, run.evaluation.read(run.data)]


def undeclared_in(by_task: Mapping[str, Sequence[Example]]) -> list[str]:
    """The targets that are none of their task's labels."""
    return [target for task, rows in by_task.items() for target in expected.undeclared(task, rows)]


def _metrics(run: Train, held_out: Mapping[str, Sequence[Example]]) -> dict[str, float]:
    if not held_out or run.evaluation is None:
        return {}
    return expected.metrics_of(held_out, run.evaluation.answering)


def _never_equal(facts: Facts) -> dict[str, str]:
    odd: dict[str, str] = {}
    for by_task in (facts.examples, facts.held_out):
        for task, examples in by_task.items():
            odd |= expected.never_equal(task, _spread(examples), facts.words)
    return odd


def _spread(examples: Sequence[Example]) -> Sequence[Example]:
    """At most SAMPLE of them, from all over the split."""
    return examples[:: math.ceil(len(examples) / SAMPLE) or 1]


def pieces(words: Vocabulary, value: Any) -> int:
    """Tokens of a text, or of an array of them, EOS included."""
    return len(words.encode(value) if isinstance(value, str) else value) + 1


def labels_of(examples: Sequence[Example]) -> list[str]:
    """The distinct targets of a classification, [] where there are too many for one."""
    targets = {e["targets"] for e in examples if isinstance(e["targets"], str)}
    return sorted(targets) if len(targets) <= MOST_LABELS else []
