"""Forward passes that the terms of an objective name, each made once a step whoever asks.

    Forward()                    the run's own: its prompt, dropout, gradients
    Forward(prompt=None)         the frozen model without the prompt
    Forward(artefact="DIR")      the frozen model with a saved prompt, a teacher
    Forward(batch="clean")       another view of the rows (`columns.View`), with the run's prompt
    Forward(batch="choices_64")  other targets of the same inputs (`columns.Choices`)

Of a pass, `encoded`, `decoded` and `logits` are computed when they are first asked for. What is not
the run's own has no dropout and no gradient, but for a view with the run's prompt.

Shapes: B rows, T encoder columns, S decoder columns, D emb_dim, V vocab_size, P and P' prompt rows.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.errors import UserError
from prompt_jax.methods.base import FixedPrompt, PromptedT5, method_named
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.activations import unsplit
from prompt_jax.model.bundle import NO_PROMPT, PromptBundle
from prompt_jax.model.layers import split_keys
from prompt_jax.model.logprobs import EOS
from prompt_jax.prompt.layout import PromptLayout

Batch = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Forward:
    """A forward pass by what goes into it.

    Attributes:
      prompt: `own`, the run's; None: none.
      artefact: a saved prompt in place of the run's; it was tuned for the same backbone.
      batch: the view of the rows; None: what the run trains on.
    """

    prompt: Literal["own"] | None = "own"
    artefact: str | None = None
    batch: str | None = None


OWN, BARE = Forward(), Forward(prompt=None)
INPUTS = "encoder_input_tokens"  # what a view of other inputs has


class Pass:
    """One forward pass over a batch; each of its values is computed at most once.

    Attributes:
      batch: the features that the T5 sees, as this pass has them.
      bundle: the prompt.
    """

    def __init__(self, model: PromptedT5, batch: Batch, bundle: PromptBundle, key):
        self.batch, self.bundle = batch, bundle
        self._t5, self._key, self._keys = model.t5, key, split_keys(key, 2)

    @cached_property
    def _seen(self) -> PromptBundle:
        """The bundle as columns see it: rows that are computed once are keys and values."""
        return self._t5.computed_once(self.bundle, self._key)

    @cached_property
    def encoded(self) -> jax.Array:
        """The encoder's output [B, T, D]."""
        return self._t5.encode(self.batch, self._seen, self._keys[0])

    @cached_property
    def decoded(self) -> jax.Array:
        """The decoder's output [B, S, D] under teacher forcing, normed."""
        return self._t5.decode(self.encoded, self.batch, self._seen, self._keys[1])

    @cached_property
    def logits(self) -> jax.Array:
        """float32 [B, S, V]."""
        return self._t5.logits(self.decoded)

    @cached_property
    def text(self) -> jax.Array:
        """bool [B, T]: the encoder columns that are text, neither prompt nor padding."""
        return is_text(self.batch, "encoder")


class OfSameText(Pass):
    """A pass over other targets of the inputs of another pass, which encodes them."""

    def __init__(self, model: PromptedT5, batch: Batch, encoding: Pass, key):
        super().__init__(model, batch, encoding.bundle, key)
        self._encoding = encoding

    @cached_property
    def _seen(self) -> PromptBundle:
        return self._encoding._seen

    @cached_property
    def encoded(self) -> jax.Array:
        return self._encoding.encoded


class Beside(Pass):
    """A pass over a few rows beside the batch, which are not split among chips."""

    @cached_property
    def encoded(self) -> jax.Array:
        with unsplit():
            return self._t5.encode(self.batch, self._seen, self._keys[0])

    @cached_property
    def decoded(self) -> jax.Array:
        with unsplit():
            return self._t5.decode(self.encoded, self.batch, self._seen, self._keys[1])


class FixedPass(Pass):
    """A pass of the frozen model, without dropout or gradient.

    `shift`: by how many columns its decoder's text stands after the run's; outputs of the decoder
    come in the run's columns.
    """

    def __init__(self, model: PromptedT5, batch: Batch, bundle: PromptBundle, shift: int = 0):
        super().__init__(model, batch, bundle, None)
        self._columns = batch["decoder_target_tokens"].shape[1], shift

    @cached_property
    def encoded(self) -> jax.Array:
        return jax.lax.stop_gradient(self._t5.encode(self.batch, self._seen))

    @cached_property
    def decoded(self) -> jax.Array:
        decoded = self._t5.decode(self.encoded, self.batch, self._seen)
        width, shift = self._columns
        if shift:  # the teacher's decoder rows are more, or fewer, than the run's
            columns = jnp.clip(jnp.arange(width - shift) + shift, 0, width - 1)
            decoded = decoded[:, columns]
        return jax.lax.stop_gradient(decoded)

    @cached_property
    def logits(self) -> jax.Array:
        return jax.lax.stop_gradient(self._t5.logits(self.decoded))


class Passes:
    """The passes of one batch, made when they are asked for.

    Attributes:
      batch: the run's batch, with the columns that terms have asked for.
      embedding: the table [V, D].
    """

    def __init__(self, model: PromptedT5, batch: Batch, key, layout: PromptLayout):
        self.batch, self._model, self._key, self._layout = batch, model, key, layout
        self._made: dict[Forward, Pass] = {}

    def __getitem__(self, forward: Forward) -> Pass:
        if forward not in self._made:
            self._made[forward] = self._make(forward)
        return self._made[forward]

    def over(self, name: str, batch: Batch) -> Pass:
        """A pass with the run's prompt over other rows, whole on every chip; `name` is that of its
        dropout."""
        key = _own_key(self._key, name)
        return Beside(self._model, batch, self._model.bundle(batch, key), key)

    def module(self, term: str) -> nnx.Module:
        """The module that the term of that name has made (`LossTerm.create`)."""
        return self._model.terms[term]

    @cached_property
    def embedding(self) -> jax.Array:
        return self._model.t5.token_embedder.embedding[...]

    def _make(self, forward: Forward) -> Pass:
        model, batch = self._model, view(self.batch, forward.batch)
        if forward.artefact is not None:
            teacher = model.terms[teacher_name(forward.artefact)]
            new, shift = teacher.layout, teacher.layout.decoder - self._layout.decoder
            seated = batch if new == self._layout else seat(batch, self._layout, new)
            return FixedPass(model, seated, teacher.prompt(), shift)
        if forward.prompt is None:
            return FixedPass(model, without_prompt(batch), NO_PROMPT)
        key = _own_key(self._key, forward.batch)
        if forward.batch is not None and f"{forward.batch}/{INPUTS}" not in self.batch:
            return OfSameText(model, batch, self[OWN], key)
        return Pass(model, batch, model.bundle(batch, key), key)


def _own_key(key, name: str | None):
    """The key of dropout of the run's own pass, and another for each view."""
    if key is None or name is None:
        return key
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


class Teacher(nnx.Module):
    """A saved prompt with its layout; nothing in it trains."""

    def __init__(self, prompt: nnx.Module, layout: PromptLayout):
        self.prompt, self.layout = prompt, layout


def teacher_name(artefact: str) -> str:
    """The name of a teacher among the modules of terms; paths hold dots, which groups end at."""
    return f"teacher_{zlib.crc32(artefact.encode()):08x}"


def open_teacher(artefact: str, start: Start, own: PromptLayout, packed: bool) -> Teacher:
    """The saved prompt of a `Forward(artefact=...)`.

    Raises:
      UserError: it is of another backbone, or stands elsewhere than the run's prompt in rows that
        hold several examples, or its rows are of several tasks.
    """
    where = f"teacher {artefact!r}"
    if not artefact:
        problem = "a term has no teacher"
        raise UserError(
            "Train.terms", problem, "name a saved prompt, or give an earlier stage @PassTeacher()"
        )
    (prompt,) = start.prompts((artefact,), own, where)
    layout = prompt.layout
    if layout != own and packed:
        raise UserError(
            where,
            f"has {layout.encoder} encoder and {layout.decoder} decoder rows ({layout.placement}), "
            f"the run {own.encoder} and {own.decoder} ({own.placement}), and rows hold several "
            "examples",
            "bind Data.packed=False",
        )
    if layout != own and "infix" in (layout.placement, own.placement):
        problem = "stands elsewhere than the run's prompt, and one of them between fields"
        raise UserError(where, problem, "take a teacher of the same rows and marks")
    if layout != own and layout.factors:
        raise UserError(where, "has rows by task or language", "take a plain prompt")
    if prompt.folds:
        return Teacher(FixedPrompt(prompt.bundle()), layout)
    return Teacher(method_named(prompt.manifest["method"]).restored(prompt), layout)


def teachers(forwards: Iterable[Forward]) -> dict[str, str]:
    """{name: artefact} of all teachers among passes."""
    paths = [forward.artefact for forward in forwards if forward.artefact is not None]
    return {teacher_name(path): path for path in paths}


def view(batch: Batch, name: str | None) -> dict[str, jax.Array]:
    """The batch with the features of a view in place of the run's."""
    if name is None:
        return dict(batch)
    mark = f"{name}/"
    return {**batch, **{k.removeprefix(mark): v for k, v in batch.items() if k.startswith(mark)}}


def without_prompt(batch: Batch) -> dict[str, jax.Array]:
    """The batch with prompt columns turned into padding, so that the text must stand together."""
    bare = dict(batch)
    for side in ("encoder", "decoder"):
        slots = batch[f"{side}_prompt_slots"]
        bare[f"{side}_segment_ids"] = jnp.where(slots > 0, 0, batch[f"{side}_segment_ids"])
        bare[f"{side}_prompt_slots"] = jnp.zeros_like(slots)
    return bare


def is_text(batch: Batch, side: str) -> jax.Array:
    """bool [B, T]: the columns of a side that are neither prompt nor padding."""
    return (batch[f"{side}_segment_ids"] > 0) & (batch[f"{side}_prompt_slots"] == 0)


def seat(batch: Batch, old: PromptLayout, new: PromptLayout) -> dict[str, jax.Array]:
    """The batch of one example to a row with the prompt columns of another layout.

    As `prompt.layout.place` lays out an example; the text is that of the batch.
    """
    tokens, text = batch["encoder_input_tokens"], is_text(batch, "encoder")
    count = jnp.sum(text, axis=1)
    last = jnp.max(jnp.where(text, jnp.arange(text.shape[1]), 0), axis=1)
    ends = jnp.take_along_axis(tokens, last[:, None], axis=1)[:, 0] == EOS
    before = {
        "prefix": jnp.zeros_like(count),
        "after_bos": jnp.minimum(count, 1),
        "suffix": count,
        "before_eos": count - ends,
    }[new.placement]
    encoder = _seat_side(batch, "encoder", new.columns, old.columns, before)
    first = jnp.zeros_like(count)
    return {**batch, **encoder, **_seat_side(batch, "decoder", new.decoder, old.decoder, first)}


def _seat_side(batch: Batch, side: str, rows: int, had: int, at: jax.Array) -> dict[str, jax.Array]:
    """The features of one side: its text together, and `rows` prompt columns put in at `at`."""
    text = is_text(batch, side)
    order, count = jnp.argsort(~text, axis=1, stable=True), jnp.sum(text, axis=1)[:, None]
    columns = jnp.arange(text.shape[1] - had + rows)[None]
    slots = columns - at[:, None] + 1
    shown = (slots >= 1) & (slots <= rows) & (count > 0)
    nth = jnp.where(columns < at[:, None], columns, columns - rows)
    real = ~shown & (nth >= 0) & (nth < count)
    source = jnp.take_along_axis(order, jnp.clip(nth, 0, text.shape[1] - 1), axis=1)
    names = [name for name in batch if name.startswith(f"{side}_")]
    seated = {
        name: jnp.where(real, jnp.take_along_axis(batch[name], source, axis=1), 0) for name in names
    }
    seated[f"{side}_segment_ids"] = (shown | real).astype(jnp.int32)
    seated[f"{side}_prompt_slots"] = jnp.where(shown, slots, 0)
    tasks = f"{side}_task_ids"
    seated[tasks] = jnp.where(shown | real, jnp.max(batch[tasks], axis=1)[:, None], 0)
    return seated
