"""Context-aware prompt tuning whole: demonstrations whose labels stay, and the rest moves a little.

Blau et al. 2024 (https://arxiv.org/abs/2410.17222). The rows are the embeddings of solved examples,
each an input template, an input, an output template and a label, one after the other, plus a
trained delta that begins at 0:

    rows = E(context) + delta,   |delta_i| <= radius * room_i   (`NormBall`, after each step)

A label's rows have no room: they stay as the vocabulary has them. Inputs and templates have rooms
of their own. `ContextLabels` is the loss on the labels of the context. `ContextPrompt` is the same
without kinds of rows and without that loss. P = length, D = model width.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, FixedParam, PromptMethod, PromptParam
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import at_least, settings

Demonstrations = tuple[tuple[str, str], ...]  # inputs and targets


@settings
class CPT(PromptMethod):
    """Settings of context-aware prompt tuning.

    Attributes:
      demonstrations: (inputs, targets) of solved examples, in their order (the paper: 2 to 6).
      length: the pieces of all of them with their templates; an error says how many there are.
      input_template, output_template: before each input and each label; "": none.
      input_room, template_room: what `NormBall.radius` is times for rows of each kind.
    """

    demonstrations: Demonstrations
    length: int
    input_template: str = ""
    output_template: str = "answer:"
    input_room: float = 1.0
    template_room: float = 1.0

    def check(self):
        at_least("CPT", 1, {"length": self.length})
        for name, room in (("input_room", self.input_room), ("template_room", self.template_room)):
            if room < 0:
                raise UserError(Setting("CPT", name, room), remedy="give 0 or more")
        if not self.demonstrations:
            raise UserError(Setting("CPT", "demonstrations", ()), remedy="give at least one")

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length)

    @property
    def parts(self) -> list[tuple[float, str]]:
        """The texts of the context in their order, each with the room of its rows."""
        return [
            (room, text)
            for inputs, target in self.demonstrations
            for room, text in zip(self.rooms, self.texts(inputs, target), strict=True)
            if text
        ]

    @property
    def rooms(self) -> tuple[float, ...]:
        """Of input template, input, output template and label."""
        return self.template_room, self.input_room, self.template_room, 0.0

    def texts(self, inputs: str, target: str) -> tuple[str, ...]:
        """A demonstration in four parts."""
        return self.input_template, inputs, self.output_template, target

    def create(self, key: jax.Array, start: Start) -> "Demonstrated":
        rooms, texts = zip(*self.parts, strict=True)
        rows, counts = start.parts(texts, self.length, "CPT.demonstrations")
        of_rows = [room for room, count in zip(rooms, counts, strict=False) for _ in range(count)]
        return Demonstrated(rows, of_rows or [1.0] * self.length)

    def count(self, config: T5Config) -> int:
        """P D, of which the rows of labels stay 0."""
        return self.length * config.emb_dim


class Demonstrated(nnx.Module):
    """Owns delta float32 [P, D], zeros at first; the context's rows [P, D] stay, and so does delta
    where `rooms`, P numbers, are 0."""

    def __init__(self, rows_PD: np.ndarray, rooms: Sequence[float]):
        self.text = FixedParam(jnp.asarray(rows_PD, jnp.float32))
        self.moves = FixedParam(jnp.asarray(rooms, jnp.float32)[:, None] > 0)
        self.delta = PromptParam(jnp.zeros(rows_PD.shape, jnp.float32), rooms=tuple(rooms))

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        delta = jnp.where(self.moves[...], self.delta[...], 0.0)
        return PromptBundle(encoder=(self.text[...] + delta)[None])
