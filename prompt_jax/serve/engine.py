"""One resident backbone that answers with many prompts at once; usable without a server.

Requests of different prompts, of any kinds and lengths, share batches: a request whose output has
ended gives its slot to the next (Yu et al. 2022, Orca,
https://www.usenix.org/conference/osdi22/presentation/yu), and every row has its own prompt, as
S-LoRA's rows have their adapters (Sheng et al. 2023, https://arxiv.org/abs/2311.03285).
"""

import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from prompt_jax.backbone.load import Backbone, load_backbone
from prompt_jax.errors import UserError
from prompt_jax.evaluate.opening import trained
from prompt_jax.model import cache, sharding
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.serve.inputs import Input, choice_ids, choices_of, input_ids
from prompt_jax.serve.requests import Ask, Decoding, Generation, Ranking, ranking, vector
from prompt_jax.serve.table import NOBODY, Entry, Frame, make_entry, read_entry
from prompt_jax.serve.warm_up import blank_batches
from prompt_jax.serve.worker import Shape, Worker

SLOTS = 32

PromptNames = str | None | Sequence[str | None]


class Engine:
    """Answers with a backbone and a table of prompts, from any number of threads.

    Args:
      backbone: its string, or a loaded one.
      prompts: name -> artefact, `.npy` or PEFT folder, local or in a bucket.
      slots: how many outputs are written at a time; None: as many as `cache_bytes` holds, else 32.
      cache_bytes: the most bytes of the decoding cache with what slots hold of prompts; None: no
        limit.
      input_length, max_tokens: the most tokens of an input (EOS included) and of an output; None:
        the most that a prompt was trained with, else 512 and 64.
      dtype, weights_dtype, vocabulary: of a backbone given by its string; None: as the prompts were
        trained.
      queue_size: how many requests may wait; `submit` refuses more, the other methods wait.
      allow_other_backbone: take prompts that were tuned for other weights of the same width.
      mesh: rows are shared out over its data and fsdp axes, weights as in training.

    Raises:
      UserError: a prompt that cannot be read or is not of this backbone; a cache too small.

    >>> with Engine("random:nano?seed=0", vocabulary="bytes", input_length=30, max_tokens=4) as e:
    ...     [output] = e.generate(["hello"], max_tokens=3)
    >>> len(output.ids) <= 3, output.finish_reason in ("stop", "length")
    (True, True)
    """

    def __init__(
        self,
        backbone: str | Backbone,
        prompts: Mapping[str, str] | None = None,
        slots: int | None = None,
        cache_bytes: int | None = None,
        *,
        input_length: int | None = None,
        max_tokens: int | None = None,
        dtype: str | None = None,
        weights_dtype: str | None = None,
        vocabulary: str | None = None,
        queue_size: int = 1024,
        allow_other_backbone: bool = False,
        mesh: Mesh | None = None,
    ):
        for name, value in (
            ("slots", slots),
            ("queue_size", queue_size),
            ("max_tokens", max_tokens),
        ):
            if value is not None and value < 1:
                raise UserError(f"{name} = {value}", remedy="give at least 1")
        if input_length is not None and input_length < 2:
            raise UserError(f"input_length = {input_length}", remedy="give at least 2")
        saved = {name: read_entry(path) for name, path in (prompts or {}).items()}
        self.mesh = sharding.MeshShape().build() if mesh is None else mesh
        if isinstance(backbone, str):
            each = list(saved.values())
            backbone = load_backbone(
                backbone,
                dtype or trained(each, "dtype", "bfloat16"),
                vocabulary or trained(each, "vocabulary", None),
                self.mesh,
                weights_dtype or trained(each, "weights_dtype", None),
            )
        self.backbone, self.allow_other = backbone, allow_other_backbone
        self.input_length = input_length or _most(saved, "input_length", 512)
        self.max_tokens = max_tokens or _most(saved, "target_length", 64)
        self.asked_slots, self.cache_bytes = slots, cache_bytes
        self.shards = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        self.table = {name: self._entry(prompt) for name, prompt in saved.items()}
        frame = Frame()
        for entry in self.table.values():
            frame = frame.grown(entry)
        self.shape_of(frame)  # a cache too small is refused before anything runs
        self.worker = Worker(backbone, self.mesh, queue_size, frame, self.shape_of)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread; what is not answered yet fails."""
        self.worker.close()

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self.worker.thread.is_alive() and self.worker.error is None

    # Prompts

    def load(self, name: str, path: str) -> dict[str, Any]:
        """Reads a prompt and answers with it from now on, in place of one of that name.

        Requests that have the old one keep it. A prompt of a kind or length that was not there
        before makes the engine compile anew, once all that is being answered has ended; any other
        compiles nothing. Returns what `prompts()` says of it.

        Raises:
          UserError: it cannot be read, is not of this backbone, or needs a larger cache.
        """
        return self.put(name, read_entry(path))

    def put(self, name: str, prompt: Prompt) -> dict[str, Any]:
        """As `load`, of a prompt that is read already."""
        if not name:
            raise UserError("prompt ''", "has no name", "give one")
        entry = self._entry(prompt)
        with self.worker.turns:
            frame = self.worker.wanted.grown(entry)
            self.shape_of(frame)
            self.table = {**self.table, name: entry}
            self.worker.wanted = frame
        return entry.facts

    def unload(self, name: str) -> None:
        """Forgets a prompt; requests that have it are answered. UserError where there is none."""
        with self.worker.turns:
            self.find(name)
            self.table = {other: entry for other, entry in self.table.items() if other != name}

    def prompts(self) -> dict[str, dict[str, Any]]:
        """name -> {method, task, metric, rows, decoder_rows, bytes} of every prompt."""
        return {name: dict(entry.facts) for name, entry in self.table.items()}

    def find(self, name: str | None) -> Entry:
        """The prompt of that name; None: none. UserError where it is not loaded."""
        if name is None:
            return NOBODY
        if name not in self.table:
            raise UserError(f"prompt {name!r}", "is not loaded", "load it, or see which are")
        return self.table[name]

    def _entry(self, prompt: Prompt) -> Entry:
        return make_entry(prompt, self.backbone, self.allow_other)

    # Answers

    def generate(
        self,
        inputs: Sequence[Input],
        prompt: PromptNames = None,
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        timeout: float | None = None,
    ) -> list[Generation]:
        """The outputs of texts, or of token ids, in their order.

        `prompt`: a name for all, one (or None) for each, or None: the bare backbone. Temperature 0
        is greedy search, else tokens are drawn; input i draws as if it were alone with the seed
        `seed` + i. After `timeout` seconds outputs end where they are, for the reason `deadline`.

        Raises:
          UserError: an input too long, a prompt that is not loaded, a setting out of its range.
          RunError: the engine is closed or has failed.
        """
        asks = self.asks(inputs, prompt, timeout)
        decoding = Decoding(
            self.max_tokens if max_tokens is None else max_tokens,
            temperature,
            top_k,
            top_p,
            seed,
            tuple(stop),
        )
        for number, ask in enumerate(asks):
            ask.decoding = self.checked(decoding._replace(seed=seed + number))
        self.worker.feed(asks)
        return [ask.result() for ask in asks]

    def stream(
        self,
        text: Input,
        prompt: str | None = None,
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        timeout: float | None = None,
    ) -> Iterator[str]:
        """The output of one input, piece by piece as it is written; joined, they are its text.

        An iterator that is closed early cancels the request. Raises: as `generate`.
        """
        limit = self.max_tokens if max_tokens is None else max_tokens
        decoding = Decoding(limit, temperature, top_k, top_p, seed, tuple(stop))
        box: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        [ask] = self.asks([text], prompt, timeout)
        ask.decoding, ask.listener = self.checked(decoding), box.put
        self.worker.feed([ask])
        try:
            while (piece := box.get()) is not None:
                yield piece
            ask.wait()
        finally:
            ask.cancel()

    def rank(
        self,
        inputs: Sequence[Input],
        choices: Sequence[str] | Sequence[Sequence[str]],
        prompt: PromptNames = None,
        *,
        length_normalised: bool = False,
        timeout: float | None = None,
    ) -> list[Ranking]:
        """The likeliest of the choices for every input; the encoder runs once for each.

        `choices`: one list for all, or one for each input. Scores are sums of log-probabilities,
        EOS included; `length_normalised`: per token.

        Raises: as `generate`; UserError also for no choices, or one too long.
        """
        asks = self.rank_asks(inputs, choices, prompt, timeout)
        self.worker.feed(asks)
        names = choices_of(choices, len(asks))
        return [
            ranking(ask, each, length_normalised) for ask, each in zip(asks, names, strict=True)
        ]

    def rank_asks(self, inputs, choices, prompt: PromptNames, timeout: float | None) -> list[Ask]:
        """Asks of `rank`, not submitted yet."""
        asks = self.asks(inputs, prompt, timeout)
        for ask, each in zip(asks, choices_of(choices, len(asks)), strict=True):
            ask.choices = tuple(
                choice_ids(self.backbone, choice, self.max_tokens) for choice in each
            )
        return asks

    def embed(
        self, inputs: Sequence[Input], prompt: PromptNames = None, *, timeout: float | None = None
    ) -> np.ndarray:
        """float32 [len(inputs), D]: the mean of the encoder's states over the columns of text.

        Raises: as `generate`.
        """
        asks = self.asks(inputs, prompt, timeout)
        self.worker.feed(asks)
        for ask in asks:
            ask.wait()
        width = self.backbone.config.emb_dim
        return np.stack([vector(ask) for ask in asks]) if asks else np.zeros((0, width), np.float32)

    def warm_up(self, kinds: Sequence[str] = ("generate", "rank", "embed")) -> None:
        """Compiles the shapes that there are for the prompts now loaded, those of ranking for two
        and for four short choices, by answering requests of them."""
        shape = self.shape_of(self.worker.wanted)
        entries = [NOBODY, *self.table.values()]
        for asks in blank_batches(shape, entries, kinds, self.input_length):
            self.worker.push(asks)
            for ask in asks:
                ask.wait()

    # Requests

    def asks(
        self, inputs: Sequence[Input], prompt: PromptNames, timeout: float | None = None
    ) -> list[Ask]:
        """An `Ask` of each input, not submitted yet; they embed until told otherwise."""
        if isinstance(inputs, str):
            raise UserError("inputs", "one text", "give a list of texts")
        names = [prompt] * len(inputs) if prompt is None or isinstance(prompt, str) else [*prompt]
        entries = [self.find(name) for name in names]
        if len(names) != len(inputs):
            problem = f"{len(names)} names for {len(inputs)} inputs"
            raise UserError("prompt", problem, "give one, or one for each")
        deadline = None if timeout is None else time.monotonic() + timeout
        return [
            Ask(
                input_ids(self.backbone, text, number, self.input_length),
                entry,
                deadline=deadline,
                vocabulary=self.backbone.vocabulary,
            )
            for number, (text, entry) in enumerate(zip(inputs, entries, strict=True))
        ]

    def checked(self, decoding: Decoding) -> Decoding:
        """`decoding`; UserError where it asks for what there is not."""
        decoding.check(self.max_tokens)
        if decoding.stop and self.backbone.vocabulary is None:
            raise UserError("stop", "strings need a vocabulary", "give one to the backbone")
        return decoding

    # Shapes

    def shape_of(self, frame: Frame) -> Shape:
        """The shapes for a frame; UserError where the cache would take more than its bytes."""
        if self.cache_bytes is None:
            return self._shape(frame, self.asked_slots or SLOTS)
        slots = self.asked_slots
        if slots is None:
            each = self.bytes_of(self._shape(frame, self.shards)) / self.shards
            slots = max(int(self.cache_bytes / each), 1)
        shape = self._shape(frame, slots)
        if self.asked_slots is None:  # rounded up to the shards and to the rows of a prefill
            while shape.slots > self.shards and self.bytes_of(shape) > self.cache_bytes:
                slots -= 1
                shape = self._shape(frame, slots)
        if (needed := self.bytes_of(shape)) > self.cache_bytes:
            raise UserError(
                f"cache_bytes = {self.cache_bytes}",
                f"{shape.slots} slots take {needed} bytes",
                "give more, fewer slots, or smaller input_length and max_tokens",
            )
        return shape

    def _shape(self, frame: Frame, slots: int) -> Shape:
        return Shape(frame, slots, self.shards, self.input_length, self.max_tokens)

    def bytes_of(self, shape: Shape) -> int:
        """The bytes of the slots of a shape."""
        columns = shape.frame.decoder_rows + shape.tokens
        width = shape.widths[-1]
        size = cache.cache_bytes(self.backbone.config, shape.slots, width, columns)
        return size + shape.frame.own_bytes(shape.slots)


def _most(saved: Mapping[str, Prompt], name: str, default: int) -> int:
    runs = [prompt.manifest.get("run") or {} for prompt in saved.values()]
    return max((run[name] for run in runs if name in run), default=default)
