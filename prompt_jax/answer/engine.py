"""Continuous batching: requests take turns in a fixed number of slots of one decoding cache.

A row that has ended gives its slot to a waiting request at once, instead of waiting for the longest
row of its batch (Yu et al. 2022, Orca, https://www.usenix.org/conference/osdi22/presentation/yu).
Requests are prefilled a few at a time, at one of few encoder widths; the slots have the widest. So
as many programs are compiled as there are widths, and one that advances all slots.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from prompt_jax.answer.question import Model, Question, features
from prompt_jax.errors import UserError
from prompt_jax.model import cache, decode, sharding
from prompt_jax.model.decode import Rows, Sampling
from prompt_jax.model.t5 import T5Config, encoder_segments
from prompt_jax.prompt.layout import PromptLayout

PREFILLED = 4  # one in so many slots is prefilled at a time


class Request(NamedTuple):
    """A question, the number that its output goes by, and the most tokens that it may have."""

    number: int
    question: Question
    max_length: int


class Output(NamedTuple):
    """What a request got: its ids int32 [n], EOS included if it came, and `decode`'s score."""

    number: int
    ids: np.ndarray
    score: float


class Rule(NamedTuple):
    """How tokens are chosen: greedily, or with `sampling` drawn by `seed`; and what scores are."""

    sampling: Sampling | None = None
    seed: int = 0
    alpha: float = 0.6


class Engine:
    """Answers requests that come at any time, in any order, each as if it were alone.

    Args:
      model: graphdef, trainable and frozen arrays of a model with `t5` and `bundle()`.
      layouts: where the rows of each of its prompts stand, by number.
      mesh: the slots are shared out over its data and fsdp axes.
      slots: rows that are decoded at a time; rounded up to what the mesh divides.
      widths: the most tokens of input, ascending; a request is padded to the least that holds it.
      max_length: the most tokens of output.
    """

    def __init__(
        self,
        model: Model,
        layouts: Sequence[PromptLayout],
        mesh: Mesh,
        *,
        slots: int,
        widths: Sequence[int],
        max_length: int,
        rule: Rule = Rule(),  # noqa: B008 (immutable)
    ):
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        self.prefilled = -(-max(1, slots // PREFILLED) // shards) * shards
        self.slots = max(-(-slots // shards) * shards, self.prefilled)
        self.model, self.layouts, self.mesh = model, tuple(layouts), mesh
        self.widths, self.max_length, self.rule = tuple(widths), max_length, rule
        self.waiting: deque[Request] = deque()
        self.live: dict[int, Request] = {}  # by slot
        rows = max(layout.columns for layout in self.layouts)
        shape = (self.slots, rows + self.widths[-1], max_length)
        self.programs = programs(mesh)
        self.rows = self.programs.make_slots(model[0], shape, model[1], model[2])

    def submit(self, request: Request) -> None:
        """Adds a request to those that wait; UserError where it does not fit."""
        tokens, most = len(request.question.inputs), self.widths[-1]
        if tokens > most:
            raise UserError(
                f"request {request.number}",
                f"has {tokens} tokens of input, at most {most} fit",
                "shorten it",
            )
        if not 0 < request.max_length <= self.max_length:
            raise UserError(
                f"request {request.number}",
                f"asks for {request.max_length} tokens of output",
                f"give 1 to {self.max_length}",
            )
        self.waiting.append(request)

    @property
    def busy(self) -> bool:
        """Whether a request waits or is being answered."""
        return bool(self.waiting or self.live)

    def turn(self, steps: int | None = None) -> list[Output]:
        """Admits waiting requests into free slots, advances all slots, and retires what has ended.

        Goes on until there is room to admit more, or all rows have ended; at most `steps` tokens,
        after which requests that came meanwhile can be admitted. None: `max_length`.
        """
        self._admit()
        if not self.live:
            return []
        wanted = min(self.prefilled, len(self.waiting)) or self.slots
        arrays = (self.model[1], self.model[2], self.rows)
        limits = (np.int32(wanted), np.int32(self.max_length if steps is None else steps))
        self.rows, results = self.programs.advance(self.model[0], self.rule, *arrays, *limits)
        ids, counts, scores, ended = map(sharding.fetch, results)
        done = [slot for slot in sorted(self.live) if ended[slot]]
        return [
            Output(self.live.pop(slot).number, ids[slot, : counts[slot]], float(scores[slot]))
            for slot in done
        ]

    def _admit(self) -> None:
        free = [slot for slot in range(self.slots) if slot not in self.live]
        while self.waiting and len(free) >= min(self.prefilled, len(self.waiting)):
            count = min(self.prefilled, len(self.waiting))
            requests = [self.waiting.popleft() for _ in range(count)]
            longest = max(len(request.question.inputs) for request in requests)
            width = next(width for width in self.widths if width >= longest)
            questions = [request.question for request in requests]
            batch = features(questions, self.layouts, self.prefilled, width)
            batch["slots"] = np.full(self.prefilled, self.slots, np.int32)  # none
            batch["limits"] = np.zeros(self.prefilled, np.int32)
            for row, request in enumerate(requests):
                slot = free.pop(0)
                self.live[slot] = request
                batch["slots"][row], batch["limits"][row] = slot, request.max_length
            arrays = (self.model[1], self.model[2], self.rows)
            batch = sharding.put_all(batch, self.mesh)
            self.rows = self.programs.prefill(self.model[0], self.rule, *arrays, batch)


def cache_bytes(
    config: T5Config, layout: PromptLayout, slots: int, width: int, max_length: int
) -> int:
    """The bytes of the cache of an engine whose widest input has `width` tokens."""
    columns = layout.decoder + max_length
    return cache.cache_bytes(config, slots, layout.columns + width, columns)


class Programs(NamedTuple):
    """What is compiled for a mesh. Rows come in and go out in the same shardings."""

    make_slots: Callable
    prefill: Callable
    advance: Callable


@lru_cache
def programs(mesh: Mesh) -> Programs:
    """Made once for every mesh, so that engines share what was compiled."""
    places, row, _ = decode.places(mesh)
    return Programs(
        jax.jit(make_slots, static_argnums=(0, 1), out_shardings=places),
        jax.jit(prefill, static_argnums=(0, 1), out_shardings=places, donate_argnums=4),
        jax.jit(advance, static_argnums=(0, 1), out_shardings=(places, row), donate_argnums=4),
    )


def make_slots(graphdef, shape: tuple[int, int, int], trainable, frozen) -> Rows:
    """Slots in which every row has ended; `shape`: slots, encoder columns, tokens."""
    model = nnx.merge(graphdef, trainable, frozen)
    slots, width, max_length = shape
    decoder = model.bundle().decoder
    columns = max_length + (0 if decoder is None else decoder.shape[1])
    keys = decode.row_keys(jax.random.key(0), jnp.zeros(slots, jnp.int32), 1)
    limits = jnp.zeros(slots, jnp.int32)
    blank = cache.empty(model.t5.config, slots, width, columns)
    rows = decode.start_rows(blank, jnp.ones(slots, bool), limits, keys, max_length)
    return rows


def prefill(graphdef, rule: Rule, trainable, frozen, rows: Rows, batch) -> Rows:
    """`rows` with those of the batch in its `slots`, before their first token."""
    model = nnx.merge(graphdef, trainable, frozen)
    N = rows.ids.shape[1]
    bundle = model.t5.computed_once(model.bundle(batch))
    new = cache.prefill(model.t5, batch, bundle, columns=N)
    keys = decode.row_keys(jax.random.key(rule.seed), batch["sampling_seeds"], 1)
    empty = ~jnp.any(encoder_segments(batch) > 0, axis=1)
    new = decode.start_rows(new, empty, batch["limits"], keys, N)
    return decode.insert(rows, new, batch["slots"])


def advance(graphdef, rule: Rule, trainable, frozen, rows: Rows, ended, steps):
    """The rows, advanced until `ended` of them have ended or for `steps` tokens; and their ids
    int32 [B, N], counts int32 [B], scores float32 [B] and whether they have ended, bool [B]."""
    model = nnx.merge(graphdef, trainable, frozen)
    bundle = model.t5.computed_once(model.bundle())
    choose = decode.likeliest if rule.sampling is None else decode.sampler(rule.sampling)

    def going_on(carry):
        n, rows = carry
        return (n < steps) & (jnp.sum(rows.ended) < ended)

    def go_on(carry):
        n, rows = carry
        return n + 1, decode.advance(partial(_step, model.t5, bundle), choose, rows)

    _, rows = jax.lax.while_loop(going_on, go_on, (jnp.int32(0), rows))
    results = (rows.ids, rows.counts, decode.row_scores(rows, rule.alpha), rows.ended)
    return rows, results


def _step(t5, bundle, tokens, rows):
    return cache.step(t5, rows, tokens, bundle)
