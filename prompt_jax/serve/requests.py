"""What is asked of an engine, and what comes back: one `Ask` an input, whoever sent it."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.errors import RunError, UserError
from prompt_jax.serve.table import Entry

FinishReason = Literal["stop", "length", "cancelled", "deadline"]


class Busy(RunError):
    """More waits than an engine's queue holds; ask again later."""


class Generation(NamedTuple):
    """One output.

    Attributes:
      text: without EOS, and without the stop string that ended it.
      ids: int32 [n], EOS included if it came; those up to the token that completed a stop string.
      score: the sum of their log-probabilities, by the model's own distribution.
      finish_reason: `stop` (EOS or a stop string), `length` (max_tokens), `cancelled`, `deadline`.
    """

    text: str
    ids: np.ndarray
    score: float
    finish_reason: FinishReason


class Ranking(NamedTuple):
    """The likeliest choice, and the scores of all: sums of log-probabilities, EOS included, or
    their means."""

    choice: str
    scores: dict[str, float]


class Decoding(NamedTuple):
    """How one request is decoded.

    Attributes:
      max_tokens: at most so many, EOS among them.
      temperature: 0: greedy; else as `decode.Sampling`, as are top_k (0: all) and top_p.
      seed: what a request draws depends on it alone, as `decode.generate` does with
        `jax.random.key(seed)`.
      stop: the output ends before the first of these strings.
    """

    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def check(self, most: int) -> None:
        """UserError for a value out of its range."""
        wrong: dict[str, tuple[bool, object, str]] = {
            "max_tokens": (not 1 <= self.max_tokens <= most, self.max_tokens, f"1 to {most}"),
            "temperature": (
                not 0 <= self.temperature <= 1000,
                self.temperature,
                "0 (greedy) to 1000",
            ),
            "top_k": (not 0 <= self.top_k < 2**31, self.top_k, "0 (all) or more"),
            "top_p": (not 0 < self.top_p <= 1, self.top_p, "0 < top_p <= 1"),
            "seed": (not 0 <= self.seed < 2**32, self.seed, "0 to 4294967295"),
            "stop": ("" in self.stop, list(self.stop), "strings that are not empty"),
        }
        for name, (bad, value, remedy) in wrong.items():
            if bad:
                raise UserError(f"{name} = {value}", remedy=f"give {remedy}")


Listener = Callable[[str | None], None]


class Ask:
    """One input that is being answered, in any thread.

    Attributes:
      inputs: int32 [n], EOS included.
      entry: its prompt, which it keeps although the name may be loaded anew.
      decoding: how it is written; None: it is ranked (`choices`, int32 arrays) or embedded.
      deadline: of `time.monotonic()`; None: never.
      listener: gets every piece of the text as it is written, and None at the end, from the thread
        of the engine.
      scores: float32 [C], of the choices; vector: float32 [D].
    """

    def __init__(
        self,
        inputs: np.ndarray,
        entry: Entry,
        decoding: Decoding | None = None,
        choices: Sequence[np.ndarray] = (),
        deadline: float | None = None,
        vocabulary: Vocabulary | None = None,
        listener: Listener | None = None,
    ):
        self.inputs, self.entry, self.decoding = inputs, entry, decoding
        self.choices, self.deadline, self.vocabulary = tuple(choices), deadline, vocabulary
        self.ids, self.sums = np.zeros(0, np.int32), np.zeros(0, np.float32)
        self.text, self.sent = "", 0
        self.scores = self.vector = np.zeros(0, np.float32)
        self.reason: FinishReason | None = None
        self.error: Exception | None = None
        self.asked = time.monotonic()
        self.first: float | None = None  # when its first token came
        self.cancelled = False
        self.done = threading.Event()
        self.listener = listener
        self.on_done: Callable[[], None] | None = None  # called by the engine's thread

    @property
    def kind(self) -> str:
        """`generate`, `rank` or `embed`."""
        if self.decoding is not None:
            return "generate"
        return "rank" if self.choices else "embed"

    @property
    def late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def cancel(self) -> None:
        """Gives its slot back soon; what it has so far is its result."""
        self.cancelled = True

    def wait(self) -> None:
        """Until it is done; raises what went wrong."""
        self.done.wait()
        if self.error is not None:
            raise self.error

    def result(self) -> Generation:
        """The whole output, once it is there."""
        self.wait()
        assert self.reason is not None
        score = float(self.sums[len(self.ids) - 1]) if len(self.ids) else 0.0
        return Generation(self.text, self.ids, score, self.reason)

    # What the worker tells it.

    def grow(self, ids: np.ndarray, sums: np.ndarray, ended: bool) -> bool:
        """Takes its tokens so far; True where it is done, by itself or by a stop string."""
        assert self.decoding is not None
        if len(ids) and self.first is None:
            self.first = time.monotonic()
        before, self.ids, self.sums = len(self.ids), ids, sums
        stopped = self.decoding.stop and self._stop(before)
        if ended or stopped:
            whole = bool(stopped) or bool(len(ids) and ids[-1] == 1)
            self.finish("stop" if whole else "length", cut=bool(stopped))
            return True
        if self.listener:
            self._send(self._decoded(), last=False)
        return False

    def finish(self, reason: FinishReason, cut: bool = False) -> None:
        if not cut:
            self.text = self._decoded()
        self.reason = reason
        self._send(self.text, last=True)
        self._end()

    def fail(self, error: Exception) -> None:
        self.error = error
        self._end()

    def answer(self, *, scores: np.ndarray | None = None, vector: np.ndarray | None = None) -> None:
        """What ranking or embedding gave."""
        if scores is not None:
            self.scores = scores
        if vector is not None:
            self.vector = vector
        self.reason = "stop"
        self._end()

    def _end(self) -> None:
        self.done.set()
        if self.listener:
            self.listener(None)
        if self.on_done:
            self.on_done()

    def _decoded(self) -> str:
        return "" if self.vocabulary is None else self.vocabulary.decode(self.ids.tolist())

    def _stop(self, before: int) -> bool:
        """Cuts ids and text at the first token with which a stop string is there."""
        assert self.decoding is not None
        if self.vocabulary is None or not self._where(self._decoded()):
            return False
        for count in range(before + 1, len(self.ids) + 1):
            text = self.vocabulary.decode(self.ids[:count].tolist())
            if places := self._where(text):
                self.ids, self.text = self.ids[:count], text[: min(places)]
                return True
        return False

    def _where(self, text: str) -> list[int]:
        assert self.decoding is not None
        return [text.index(stop) for stop in self.decoding.stop if stop in text]

    def _send(self, text: str, last: bool) -> None:
        """What is new and will not change: no half character, no beginning of a stop string."""
        if self.listener is None:
            return
        if not last:
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")
            text = text[: len(text) - self._held_back(text)]
        if piece := text[self.sent :]:
            self.sent += len(piece)
            self.listener(piece)

    def _held_back(self, text: str) -> int:
        assert self.decoding is not None
        ends = [
            size
            for stop in self.decoding.stop
            for size in range(1, len(stop))
            if text.endswith(stop[:size])
        ]
        return max(ends, default=0)


def ranking(ask: Ask, choices: Sequence[str], length_normalised: bool) -> Ranking:
    """What a ranked ask says; waits for it."""
    ask.wait()
    unfinished(ask)
    scores = [float(score) for score in ask.scores]
    if length_normalised:
        scores = [s / len(ids) for s, ids in zip(scores, ask.choices, strict=True)]
    by_choice = dict(zip(choices, scores, strict=True))
    return Ranking(max(by_choice, key=by_choice.__getitem__), by_choice)


def vector(ask: Ask) -> np.ndarray:
    """What an embedded ask says; waits for it."""
    ask.wait()
    unfinished(ask)
    return ask.vector


def unfinished(ask: Ask) -> None:
    """TimeoutError where a ranking or an embedding came to no end."""
    if ask.reason != "stop":
        raise TimeoutError(f"the request ended before it was answered ({ask.reason})")
