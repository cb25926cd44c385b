"""What a model says to tokenised questions: written texts, ranked choices, or vectors.

Questions are put into batches of few shapes (`buckets`), answered on the mesh, and come back in
their order. Each row may have a prompt of its own, of any kind and length: `Question.prompt`
travels as `prompt_ids`, by which the T5 picks among the prompts of a bundle.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from prompt_jax.answer.buckets import plan
from prompt_jax.answer.engine import Engine, Request, Rule
from prompt_jax.answer.question import Model, Question, features
from prompt_jax.answer.tries import Tries
from prompt_jax.errors import Setting, UserError
from prompt_jax.model import decode, sharding
from prompt_jax.model.decode import Sampling
from prompt_jax.model.logprobs import EOS
from prompt_jax.model.trie import Trie
from prompt_jax.objective.heads import head_of
from prompt_jax.progress import Counter
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import at_least, settings


def nothing() -> None:
    """What happens between batches by default."""


@settings
class Answering:
    """How a question is answered.

    Attributes:
      mode: `generate` writes a text; `rank` takes the likeliest of the given choices, for which the
        encoder runs once; `retrieve` and `mine` find a target by its vector (`retrieval`); `head`
        takes the labels to which the head of a run's term gives more than even odds, else the
        likeliest.
      beams: hypotheses of beam search; 1: greedy.
      alpha: of its length penalty.
      length_normalised: ranks by log-likelihood per token in place of the sum.
      sampling: draws in place of searching.
      seed: of what is drawn.
      continuous: `generate`: a row that has ended gives its place to the next (`engine`), instead
        of waiting for the longest of its batch. The answers are the same.
      constrained: `generate`: nothing but the given choices is written.
      separator: of `constrained`, between several choices that are one answer; None: one choice.
    """

    mode: Literal["generate", "rank", "retrieve", "mine", "head"] = "generate"
    beams: int = 1
    alpha: float = 0.6
    length_normalised: bool = False
    sampling: Sampling | None = None
    seed: int = 0
    continuous: bool = False
    constrained: bool = False
    separator: str | None = None

    def check(self):
        if self.constrained and (self.mode != "generate" or self.continuous):
            raise UserError(
                Setting("Answering", "constrained", self.constrained),
                f"does not go with mode {self.mode!r}{' and continuous' * self.continuous}",
                "take the mode 'generate' without continuous",
            )
        if self.separator is not None and not (self.separator and self.constrained):
            raise UserError(
                Setting("Answering", "separator", self.separator),
                "separates the choices of a constrained answer",
                "give a text and constrained = True, or leave it out",
            )
        if self.continuous and (self.mode != "generate" or self.beams > 1):
            raise UserError(
                Setting("Answering", "continuous", self.continuous),
                f"with mode {self.mode!r} and {self.beams} beams: only the mode 'generate' with "
                "one beam has it",
                "leave --continuous out",
            )
        at_least("Answering", 1, {"beams": self.beams})
        at_least("Answering", 0, {"alpha": self.alpha})
        if self.sampling is not None and self.beams > 1:
            raise UserError(
                Setting("Answering", "beams", self.beams), "sampling draws one", "leave beams out"
            )

    def record(self) -> dict[str, Any]:
        """The settings that answers depend on."""
        record = {k: v for k, v in dataclasses.asdict(self).items() if k != "continuous"}
        return record if self.constrained else {k: v for k, v in record.items() if k not in NEWER}


NEWER = ("constrained", "separator")  # settings that older records do not have


class Answer(NamedTuple):
    """A text and its score: the log-likelihood (see `decode.generate`), or a cosine.

    `scores`: those of all choices, where there are choices. `target_score`: the log-likelihood of
    the example's target, where a metric asks for it.
    """

    text: str
    score: float
    scores: dict[str, float] | None = None
    target_score: float | None = None


class Answerer:
    """Answers questions with any model of one architecture.

    `layouts`: where the rows of each prompt stand, by its number; one serves all numbers. `limits`:
    tokens of input and of output; `batch_size` is rounded up to the devices of the mesh.
    """

    def __init__(
        self,
        vocabulary,
        layouts: PromptLayout | Sequence[PromptLayout],
        mesh: Mesh,
        limits: tuple[int, int],
        batch_size: int,
        how: Answering = Answering(),  # noqa: B008 (frozen)
    ):
        self.vocabulary, self.mesh = vocabulary, mesh
        self.layouts = (layouts,) if isinstance(layouts, PromptLayout) else tuple(layouts)
        self.limits, self.how = limits, how
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        self.batch_size = -(-batch_size // shards) * shards
        self._tokens: dict[str, np.ndarray] = {}  # of choices
        self._tries = Tries(self._encode, how.separator)

    def __call__(
        self, model: Model, questions: Sequence[Question], between: Callable[[], None] = nothing
    ) -> list[Answer]:
        """Answers in the order of the questions; `between` is called before each batch."""
        answers: dict[int, Answer] = {}
        counter = Counter("answering", len(questions), "rows")
        for rows, some in self.stream(model, questions, between):
            answers |= dict(zip(rows, some, strict=True))
            counter.add(len(rows))
        return [answers[i] for i in range(len(questions))]

    def stream(
        self, model: Model, questions: Sequence[Question], between: Callable[[], None] = nothing
    ) -> Iterator[tuple[list[int], list[Answer]]]:
        """The answers as they come, some at a time, with the numbers of their questions; groups
        ascend."""
        if self.how.continuous:
            yield from self._continuous(model, questions, between)
            return
        answer = {"rank": self._rank, "head": self._by_head}.get(self.how.mode, self._generate)
        for rows, batch in self._batches(questions, between):
            yield rows, answer(model, [questions[i] for i in rows], batch)

    def embed(
        self, model: Model, questions: Sequence[Question], between: Callable[[], None] = nothing
    ) -> np.ndarray:
        """float32 [len(questions), D]: the mean-pooled encoder states."""
        by_row: dict[int, np.ndarray] = {}
        for rows, batch in self._batches(questions, between):
            vectors = sharding.fetch(_embed(model[0], model[1], model[2], self._put(batch)))
            by_row |= {i: vector for i, vector in zip(rows, vectors, strict=False)}
        return np.stack([by_row[i] for i in range(len(questions))])

    def _batches(self, questions, between) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        lengths = [len(question.inputs) for question in questions]
        groups = [question.group for question in questions]
        for bucket in plan(lengths, self.batch_size, self.limits[0], groups):
            between()
            yield bucket.rows, self.batch([questions[i] for i in bucket.rows], bucket.width)

    def batch(self, questions: Sequence[Question], width: int) -> dict[str, np.ndarray]:
        """Encoder features of `batch_size` rows for texts of up to `width` tokens."""
        return features(questions, self.layouts, self.batch_size, width)

    def _put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return sharding.put_all(batch, self.mesh)

    def _generate(self, model: Model, questions, batch) -> list[Answer]:
        static, trie = (model[0], self.limits[1], self.how), None
        if self.how.constrained:
            trie, roots = self._tries(questions, self.batch_size)
            batch = {**batch, "trie_roots": roots}
        outputs = generate_text(*static, model[1], model[2], self._put(batch), trie)
        ids, scores = map(sharding.fetch, outputs)
        return [
            Answer(self.vocabulary.decode(ids[row].tolist()), float(scores[row]))
            for row in range(len(questions))
        ]

    def _continuous(self, model: Model, questions, between):
        """As `stream`, by an engine of `batch_size` slots. The batches that would be are admitted
        in their order; those of one group are answered before the next begins."""
        lengths = [len(question.inputs) for question in questions]
        groups = [question.group for question in questions]
        batches = plan(lengths, self.batch_size, self.limits[0], groups)
        if not batches:
            return
        engine = Engine(
            model,
            self.layouts,
            self.mesh,
            slots=self.batch_size,
            widths=sorted({batch.width for batch in batches}),
            max_length=self.limits[1],
            rule=Rule(self.how.sampling, self.how.seed, self.how.alpha),
        )
        order = [row for batch in batches for row in batch.rows]
        for _, rows in itertools.groupby(order, lambda row: groups[row]):
            for row in rows:
                engine.submit(Request(row, questions[row], self.limits[1]))
            while engine.busy:
                between()
                if outputs := engine.turn():
                    texts = [self.vocabulary.decode(output.ids.tolist()) for output in outputs]
                    yield (
                        [output.number for output in outputs],
                        [
                            Answer(text, output.score)
                            for text, output in zip(texts, outputs, strict=True)
                        ],
                    )

    def _rank(self, model: Model, questions, batch) -> list[Answer]:
        tokens = self._choices([question.choices for question in questions])
        batch = {**batch, "choices": tokens}
        scores = sharding.fetch(_rank(model[0], self.how, model[1], model[2], self._put(batch)))
        answers = []
        for question, row in zip(questions, scores, strict=False):
            by_choice = dict(zip(question.choices, map(float, row), strict=False))
            best = max(by_choice, key=by_choice.__getitem__)  # the first of equals
            answers.append(Answer(best, by_choice[best], by_choice))
        return answers

    def _by_head(self, model: Model, questions, batch) -> list[Answer]:
        head = head_of(nnx.merge(model[0], model[1], model[2]).terms)
        logits = sharding.fetch(_head(model[0], model[1], model[2], self._put(batch)))
        answers = []
        for _, row in zip(questions, logits, strict=False):
            chosen = [label for label, x in zip(head.labels, row, strict=True) if x > 0]
            text = head.separator.join(chosen or [head.labels[int(row.argmax())]])
            by_label = dict(zip(head.labels, map(float, row), strict=True))
            answers.append(Answer(text, max(by_label.values()), by_label))
        return answers

    def _choices(self, rows: Sequence[tuple[str, ...]]) -> np.ndarray:
        """int32 [batch_size, C, T], zeros where there is no choice.

        The shape is exact where all rows share their choices, else rounded up, to be met again.
        """
        tokens = [[self._encode(choice) for choice in row] for row in rows]
        C, T = max(map(len, tokens)), max(len(ids) for row in tokens for ids in row)
        if len(set(rows)) > 1:
            C, T = 1 << (C - 1).bit_length(), min(-(-T // 8) * 8, self.limits[1])
        array = np.zeros((self.batch_size, C, T), np.int32)
        for row, choices in enumerate(tokens):
            for c, ids in enumerate(choices):
                array[row, c, : len(ids)] = ids
        return array

    def _encode(self, choice: str) -> np.ndarray:
        if choice not in self._tokens:
            ids = [*self.vocabulary.encode(choice), EOS]
            if len(ids) > self.limits[1]:
                raise UserError(
                    f"choice {choice!r}",
                    f"has {len(ids)} tokens, TARGET_LENGTH is {self.limits[1]}",
                    f"give {len(ids)} or more",
                )
            self._tokens[choice] = np.asarray(ids, np.int32)
        return self._tokens[choice]


@partial(jax.jit, static_argnums=(0, 1, 2))
def generate_text(
    graphdef,
    max_length: int,
    answering: Answering,
    trainable,
    frozen,
    batch,
    trie: Trie | None = None,
):
    """Ids int32 [B, N] and scores float32 [B] of the best outputs; see `decode.generate`."""
    model = nnx.merge(graphdef, trainable, frozen)
    ids, scores = decode.generate(
        model.t5,
        batch,
        model.bundle(batch),
        max_length=max_length,
        beams=answering.beams,
        alpha=answering.alpha,
        sampling=answering.sampling,
        key=jax.random.key(answering.seed),
        trie=trie,
    )
    return ids[:, 0], scores[:, 0]


@partial(jax.jit, static_argnums=(0, 1))
def _rank(graphdef, answering: Answering, trainable, frozen, batch) -> jax.Array:
    """float32 [B, C]: log-likelihoods, -inf where there is no choice."""
    model = nnx.merge(graphdef, trainable, frozen)
    scores = decode.score(model.t5, batch, model.bundle(batch), batch["choices"])
    return rank_scores(scores, batch["choices"], answering.length_normalised)


def rank_scores(scores_BC: jax.Array, choices_BCT: jax.Array, length_normalised: bool) -> jax.Array:
    """float32 [B, C]: log-likelihoods, per token (EOS included) if asked, -inf for no choice."""
    length = jnp.sum(choices_BCT > 0, axis=-1)
    scores = scores_BC / jnp.maximum(length, 1) if length_normalised else scores_BC
    return jnp.where(length > 0, scores, -jnp.inf)


@partial(jax.jit, static_argnums=0)
def _head(graphdef, trainable, frozen, batch) -> jax.Array:
    """float32 [B, K]: logits of the labels of a run's head."""
    model = nnx.merge(graphdef, trainable, frozen)
    state = decode.first_state(model.t5, batch, model.bundle(batch))
    return head_of(model.terms)(state)


@partial(jax.jit, static_argnums=0)
def _embed(graphdef, trainable, frozen, batch) -> jax.Array:
    """float32 [B, D]."""
    model = nnx.merge(graphdef, trainable, frozen)
    return decode.embed(model.t5, batch, model.bundle(batch))
