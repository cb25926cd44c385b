"""The thread that runs the model: admits what waits, advances the slots, ranks and embeds.

Everything on the device is done here, one turn after the other, so that nothing has to be locked
but the queue. A turn is short: what is cancelled, late or new is seen between two of them.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from prompt_jax.backbone.load import Backbone
from prompt_jax.errors import RunError
from prompt_jax.model import sharding
from prompt_jax.prompt.layout import encoder_slots, place
from prompt_jax.serve.programs import Programs, placed, programs
from prompt_jax.serve.requests import Ask, Busy
from prompt_jax.serve.table import Frame

STEPS = 4  # tokens of a turn
PREFILLED = 4  # one in so many slots is prefilled at a time, or one alone
NARROWEST = 32  # columns of the narrowest batch; each next width is twice as wide
FEATURES = ("encoder_input_tokens", "encoder_segment_ids", "encoder_prompt_slots")


class Shape:
    """The shapes that are compiled for a frame.

    Attributes:
      frame: what the prompts of a batch are padded to.
      slots: rows that are decoded at a time, on one device only `rows` where no others are taken;
        rows: how many are prefilled, ranked or embedded.
      widths: encoder columns, text and prompt rows together.
      tokens: the most of an output.
    """

    def __init__(self, frame: Frame, slots: int, shards: int, input_length: int, tokens: int):
        self.frame, self.tokens = frame, tokens
        most = -(-max(1, slots // PREFILLED) // shards) * shards
        self.slots = max(-(-slots // shards) * shards, most)
        self.rows = tuple(sorted({shards, most}))
        widest = -(-(input_length + frame.rows) // NARROWEST) * NARROWEST
        narrower = [NARROWEST << n for n in range(32) if NARROWEST << n < widest]
        self.widths = (*narrower, widest)

    def width(self, asks: Sequence[Ask]) -> int:
        longest = max(len(ask.inputs) + ask.entry.layout.columns for ask in asks)
        return next(width for width in self.widths if width >= longest)

    def batch(self, asks: Sequence[Ask], rows: int, width: int) -> dict[str, np.ndarray]:
        """The encoder's features of `rows` rows; those without an ask are empty."""
        batch = {name: np.zeros((rows, width), np.int32) for name in FEATURES}
        for row, ask in enumerate(asks):
            slots = encoder_slots(ask.inputs, ask.entry.layout)
            values = (place(ask.inputs, slots), np.ones_like(slots), slots)
            for name, value in zip(FEATURES, values, strict=True):
                batch[name][row, : len(slots)] = value
        return batch


class Worker:
    """Answers asks in a thread of its own.

    `shape_of(frame)` gives the shapes for a frame. At most `queue` asks wait; more are refused.
    """

    def __init__(
        self,
        backbone: Backbone,
        mesh: Mesh,
        queue: int,
        frame: Frame,
        shape_of: Callable[[Frame], Shape],
    ):
        graphdef, params = nnx.split(backbone.model)
        self.model = (graphdef, jax.device_put(params, sharding.params(mesh, params)))
        self.mesh, self.queue, self.shape_of = mesh, queue, shape_of
        self.wanted = frame  # what `shape` is made for once all that is being answered has ended
        self.shape: Shape | None = None
        self.slots: Any = None
        self.waiting: deque[Ask] = deque()
        self.live: dict[int, Ask] = {}
        self.stopped: set[int] = set()  # slots to be ended on the device
        self.tokens = 0  # written since the start
        self.turns = threading.Condition()
        self.error: Exception | None = None
        self.closing = False
        self.thread = threading.Thread(target=self._run, name="prompt_jax engine", daemon=True)
        self.thread.start()

    # What other threads call.

    def submit(self, asks: Sequence[Ask]) -> None:
        """Adds asks, all or none.

        Raises:
          Busy: so many more do not fit into the queue.
          RunError: the engine is closed, or has failed.
        """
        with self.turns:
            self._check()
            if len(self.waiting) + len(asks) > self.queue:
                raise Busy(f"{len(self.waiting)} requests wait, at most {self.queue} may")
            self.waiting.extend(asks)
            self.turns.notify_all()

    def feed(self, asks: Sequence[Ask]) -> None:
        """Adds any number of asks, and waits where the queue is full."""
        for ask in asks:
            with self.turns:
                while len(self.waiting) >= self.queue and self.error is None and not self.closing:
                    self.turns.wait()
                self._check()
                self.waiting.append(ask)
                self.turns.notify_all()

    def push(self, asks: Sequence[Ask]) -> None:
        """Adds asks at once, however many wait, so that they can be one batch."""
        with self.turns:
            self._check()
            self.waiting.extend(asks)
            self.turns.notify_all()

    def close(self) -> None:
        """Fails what is not done yet, and ends the thread."""
        with self.turns:
            self.closing = True
            self.turns.notify_all()
        self.thread.join()

    def _check(self) -> None:
        if self.error is not None:
            raise RunError(f"the engine has failed: {self.error}") from self.error
        if self.closing:
            raise RunError("the engine is closed")

    # The thread.

    def _run(self) -> None:
        error: Exception = RunError("the engine is closed")
        try:
            while self._awake():
                self._turn()
        except Exception as problem:
            error = self.error = problem
        with self.turns:
            left = [*self.live.values(), *self.waiting]
            self.live.clear()
            self.waiting.clear()
            self.turns.notify_all()
        for ask in left:
            ask.fail(RunError(f"the engine has failed: {error}") if self.error else error)

    def _awake(self) -> bool:
        """Waits until there is something to do; False: to close."""
        with self.turns:
            while not (self.closing or self.waiting or self.live):
                self.turns.wait()
            return not self.closing

    def _turn(self) -> None:
        self._drop()
        if self._ready():
            for kind, run in (("rank", self._rank), ("embed", self._embed)):
                if asks := self._taken(kind, self.shape_now.rows[-1]):
                    run(asks)
            self._admit()
        if self.live:
            self._advance()

    def _drop(self) -> None:
        """Ends what was cancelled or is late."""
        with self.turns:
            gone = [ask for ask in self.waiting if ask.cancelled or ask.late]
            if gone:
                self.waiting = deque(ask for ask in self.waiting if ask not in gone)
                self.turns.notify_all()
        for ask in gone:
            ask.finish("cancelled" if ask.cancelled else "deadline")
        for slot, ask in list(self.live.items()):
            if ask.cancelled or ask.late:
                ask.finish("cancelled" if ask.cancelled else "deadline")
                del self.live[slot]
                self.stopped.add(slot)

    @property
    def shape_now(self) -> Shape:
        assert self.shape is not None
        return self.shape

    @property
    def programs(self) -> Programs:
        return programs(self.mesh, tuple(name for name, _ in self.shape_now.frame.sizes))

    def _ready(self) -> bool:
        """Whether slots of the wanted frame are there; they are made when all others have ended."""
        if self.shape is not None and self.shape.frame == self.wanted:
            return True
        if self.live:
            return False
        self.shape, self.slots = self.shape_of(self.wanted), None  # the old ones go first
        frame = self.shape.frame
        sizes = (self.shape.slots, self.shape.widths[-1], self.shape.tokens, frame.decoder_rows)
        graphdef, params = self.model
        self.slots = self.programs.make_slots(graphdef, sizes, frame.sizes, params)
        self.stopped.clear()
        return True

    def _taken(self, kind: str, most: int) -> list[Ask]:
        """Up to `most` waiting asks of a kind and of one family, in their order."""
        asks: list[Ask] = []
        with self.turns:
            if self.shape_now.frame != self.wanted:  # an ask may have a prompt that needs that one
                return []
            left: deque[Ask] = deque()
            while self.waiting:
                ask = self.waiting.popleft()
                fits = ask.kind == kind and len(asks) < most
                if fits and (not asks or ask.entry.family == asks[0].entry.family):
                    asks.append(ask)
                else:
                    left.append(ask)
            self.waiting = left
            if asks:
                self.turns.notify_all()
        return asks

    def _count(self, kind: str) -> int:
        with self.turns:
            return sum(ask.kind == kind for ask in self.waiting)

    def _rows(self, asks: Sequence[Ask]) -> int:
        return next(rows for rows in self.shape_now.rows if rows >= len(asks))

    def _encoded(self, asks: Sequence[Ask], rows: int):
        """(the encoder's output, its batch, the prompts' arrays) of asks of one family."""
        shape, first = self.shape_now, asks[0].entry
        batch = sharding.put_all(shape.batch(asks, rows, shape.width(asks)), self.mesh)
        graphdef, params = self.model
        arrays = placed(shape.frame.gathered([ask.entry for ask in asks], rows), self.mesh)
        if first.module is not None:
            method, state = first.module
            made = (graphdef, method, params, state, batch, arrays["encoder"])
            arrays["encoder"] = self.programs.made_rows(*made)
        encoded = self.programs.encode(graphdef, first.visibility, params, batch, arrays)
        return encoded, batch, arrays

    def _rank(self, asks: Sequence[Ask]) -> None:
        rows = self._rows(asks)
        C = max(len(ask.choices) for ask in asks)
        T = max(len(ids) for ask in asks for ids in ask.choices)
        choices = np.zeros((rows, 1 << (C - 1).bit_length(), -(-T // 8) * 8), np.int32)
        for row, ask in enumerate(asks):
            for c, ids in enumerate(ask.choices):
                choices[row, c, : len(ids)] = ids
        with self._failing(asks):
            encoded, batch, arrays = self._encoded(asks, rows)
            batch |= sharding.put_all({"choices": choices}, self.mesh)
            scored = self.programs.score(*self.model, encoded, batch, arrays)
            rows_of_scores = sharding.fetch(scored)
        for ask, scores in zip(asks, rows_of_scores, strict=False):
            ask.answer(scores=scores[: len(ask.choices)])

    def _embed(self, asks: Sequence[Ask]) -> None:
        with self._failing(asks):
            encoded, batch, _ = self._encoded(asks, self._rows(asks))
            vectors = sharding.fetch(self.programs.embed(encoded, batch))
        for ask, vector in zip(asks, vectors, strict=False):
            ask.answer(vector=vector)

    def _admit(self) -> None:
        shape = self.shape_now
        free = [slot for slot in range(shape.slots) if slot not in self.live]
        most = shape.rows[-1]
        while free and (waiting := self._count("generate")):
            if len(free) < min(most, waiting):
                return
            asks = self._taken("generate", min(most, len(free)))
            if not asks:
                return
            rows = self._rows(asks)
            whole = np.zeros((3, rows), np.int32)
            where, limits, top_k = whole
            where[:] = shape.slots  # none
            seeds, (temperature, top_p) = np.zeros(rows, np.uint32), np.zeros((2, rows), np.float32)
            taken, free = free[: len(asks)], free[len(asks) :]
            for row, (slot, ask) in enumerate(zip(taken, asks, strict=True)):
                decoding = ask.decoding
                assert decoding is not None
                where[row], limits[row], seeds[row] = slot, decoding.max_tokens, decoding.seed
                temperature[row], top_k[row], top_p[row] = (
                    decoding.temperature,
                    decoding.top_k,
                    decoding.top_p,
                )
            extra = {
                "slots": where,
                "limits": limits,
                "seeds": seeds,
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
            }
            with self._failing(asks):
                encoded, batch, arrays = self._encoded(asks, rows)
                batch |= sharding.put_all(extra, self.mesh)
                self.slots = self.programs.prefill(*self.model, self.slots, encoded, batch, arrays)
            self.live.update(zip(taken, asks, strict=True))
            self.stopped -= set(taken)

    def _advance(self) -> None:
        shape = self.shape_now
        few, last = shape.rows[-1], max([*self.live, *self.stopped])
        count = few if last < few and self.mesh.size == 1 else shape.slots
        wanted = count  # that have ended, before others are let in
        if shape.frame == self.wanted and (waiting := self._count("generate")):
            wanted = min(few, waiting) - (shape.slots - count)
        stopped = np.zeros(count, bool)
        stopped[list(self.stopped)] = True
        self.stopped.clear()
        limits = (np.int32(wanted), np.int32(STEPS))
        self.slots, results = self.programs.advance(*self.model, self.slots, stopped, *limits)
        ids, sums, counts, ended = map(sharding.fetch, results)
        for slot, ask in list(self.live.items()):
            count = counts[slot]
            self.tokens += int(count) - len(ask.ids)
            # Copies: the arrays are those of all slots.
            if ask.grow(ids[slot, :count].copy(), sums[slot, :count].copy(), bool(ended[slot])):
                del self.live[slot]
                if not ended[slot]:
                    self.stopped.add(slot)

    @contextlib.contextmanager
    def _failing(self, asks: Sequence[Ask]):
        """Asks that are in no queue any more get the error that ends the thread."""
        try:
            yield
        except Exception as error:
            for ask in asks:
                ask.fail(RunError(f"the engine has failed: {error}"))
            raise
