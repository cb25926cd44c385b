"""The contract of a method: a few settings, a module of its own parameters, a bundle for the T5."""

import abc
import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.errors import UserError
from prompt_jax.methods.parts.start import Shapes, Start
from prompt_jax.model.bundle import NO_PROMPT, PromptBundle, Visibility, named
from prompt_jax.model.t5 import T5, T5Config, encoder_segments
from prompt_jax.prompt.artefact import Prompt, save_prompt
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.recipe.registered import known

AttentionName = Literal["encoder", "decoder", "cross"]
Attentions = tuple[AttentionName, ...]
PLAIN = "SoftPrompt"  # what manifests call rows that stand as they are


def depth_of(attention: str, config: T5Config) -> int:
    """In how many layers there is such an attention."""
    return config.num_encoder_layers if attention == "encoder" else config.num_decoder_layers


def plain(value: Any) -> Any:
    """Settings as plain JSON values, nested settings with their class's name."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: plain(vars(value)[f.name]) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    return [plain(v) for v in value] if isinstance(value, tuple) else value


def plain_rows(length: int) -> dict[str, Any]:
    """What a manifest says of the method and settings of rows that came from elsewhere: that they
    are prompt tuning's."""
    return {"method": PLAIN, "settings": {"class": PLAIN, "length": length}}


class PromptParam(nnx.Variable):
    """A prompt's parameter. Not a subclass of nnx.Param: the two filters must never overlap.

    One that holds what every layer has, with the layers' axis first, is made with
    `axes=("layers",)`, so that optimizers look at each layer (`objective/per_layer.py`).
    """


class TermParam(nnx.Variable):
    """A parameter that a term of the objective owns. It trains beside the method's, whatever the
    method trains, and is no part of what is saved as a prompt."""


class FixedParam(nnx.Variable):
    """What a method reads beside the T5 and does not train."""


class PromptMethod(abc.ABC):
    """One way to adapt a frozen T5; concrete methods are settings classes, never subclassed.

    `create` builds the module that owns the method's parameters; calling that module with the
    `Context` of a forward pass gives its `PromptBundle`, without one that of evaluation.
    `trainable` is the variable type that training changes; it is said here and nowhere else.
    `groups` names those of the module's parameters that may learn at a rate of their own
    (`Train.group_rates`): {their path in the module, `mlp` or `encoder.mlp`: group}; all others are
    `prompt`. `dropout_rate`: of what the
    module itself drops while it trains.
    """

    trainable: type[nnx.Variable] = PromptParam
    visibility: Visibility = Visibility()
    groups: ClassVar[Mapping[str, str]] = {}
    dropout_rate: float = 0.0

    @property
    @abc.abstractmethod
    def layout(self) -> PromptLayout:
        """How many prompt rows an example carries, and where."""

    @property
    def trains_model(self) -> bool:
        """Whether training changes the model's own parameters."""
        return self.trainable is nnx.Param

    @abc.abstractmethod
    def create(self, key: jax.Array, start: Start) -> nnx.Module:
        """The module, from what `start` offers: sizes, embeddings, vocabulary, labels, prompts."""

    def shapes(self, config: T5Config) -> nnx.Module:
        """The module as `create` would build it, of shapes: nothing is read or allocated."""
        return nnx.eval_shape(lambda: self.create(jax.random.key(0), Shapes(config)))

    @classmethod
    def restored(cls, prompt: Prompt) -> nnx.Module:
        """The trained module, with nothing to train, of an artefact that does not fold."""
        raise UserError(f"prompt {prompt.path!r}", f"{cls.__name__} has no arrays of its own")

    @abc.abstractmethod
    def count(self, config: T5Config) -> int:
        """Number of trainable parameters, as the paper's formula."""

    def begun_from(self, path: str, length: int | None = None) -> "PromptMethod | None":
        """The method with rows that begin with those of a saved prompt, as many as there are, or
        `length` where the prompt is still to be made; None where its rows do not begin so."""
        return None

    def with_keys(self, keys: int) -> "PromptMethod | None":
        """The method with so many keys and values in each attention; None where it has none."""
        return None

    def continued(self, path: str) -> "PromptMethod | None":
        """The method going on from a saved prompt of its own kind, which may still be to be made;
        None where it cannot."""
        return self.begun_from(path)

    def behind(self, prompt: str, rows: PromptLayout) -> "PromptMethod":
        """The method with a saved prompt before the text, after those that stand there already;
        most put none there."""
        return self

    def check_stage(self, stage: str) -> None:  # noqa: B027 (most need nothing)
        """UserError where the stages before this one were to leave something and did not."""

    def check_tasks(self, tasks: Sequence[str]) -> None:  # noqa: B027 (most take any)
        """UserError where the method cannot serve these tasks, numbered in this order."""

    def fold(self, module: Any) -> dict[str, np.ndarray]:
        """The arrays of the trained method's bundle by name, float32: `encoder` [P, D] and
        `decoder` [P', D] are plain prompts, all others stand for what happens inside the layers."""
        return {name: np.asarray(x, np.float32) for name, x in named(module()).items()}

    def save(self, directory, model: "PromptedT5", backbone: Any, facts: dict[str, Any]) -> None:
        """Writes the artefact of a trained model: by default the folded prompt and its manifest."""
        arrays, manifest = self.fold(model.prompt), {**self.manifest(), **self.seen()}
        save_prompt(directory, arrays, {**manifest, **facts})

    def seen(self) -> dict[str, Any]:
        """What the artefact says of where the rows stand, what they see, and whose they are."""
        visibility: dict[str, Any]
        visibility = {"input": self.visibility.input, "prompt": self.visibility.prompt}
        if self.visibility.computed_once:
            visibility["computed_once"] = True
        seen: dict[str, Any] = {"placement": self.layout.placement, "visibility": visibility}
        if self.layout.marks:
            seen["marks"] = list(self.layout.marks)
        if self.layout.factors:
            seen["factors"] = plain(self.layout.factors)
        return seen

    def manifest(self) -> dict[str, Any]:
        """What the artefact says of the method: its name and settings."""
        return {"method": type(self).__name__, "settings": plain(self)}


class Text(NamedTuple):
    """The encoder's text of a batch, for methods that make rows from the input.

    Attributes:
      embeddings: [B, T, D], of every column; those of prompt columns mean nothing.
      segments: int32 [B, T], the example of each column from 1, 0 for padding.
      positions: int32 [B, T], the place of each column among those of its example, from 0, prompt
        columns counted; 0 for padding.
      slots: int32 [B, T], 0 where text stands, k where row k - 1 of the prompt does; None: no rows.
    """

    embeddings: jax.Array
    segments: jax.Array
    positions: jax.Array
    slots: jax.Array | None


def positions_of(segments_BT: jax.Array) -> jax.Array:
    """int32 [B, T]: the place of each column in its segment, from 0; 0 for padding."""
    columns_BT = jnp.broadcast_to(
        jnp.arange(segments_BT.shape[1], dtype=jnp.int32), segments_BT.shape
    )
    before_BT = jnp.pad(segments_BT[:, :-1], ((0, 0), (1, 0)))
    first_BT = jax.lax.cummax(jnp.where(segments_BT != before_BT, columns_BT, 0), axis=1)
    return jnp.where(segments_BT > 0, columns_BT - first_BT, 0)


class Context(NamedTuple):
    """What a forward pass tells a method's module.

    Attributes:
      key: of what is random while it trains; None: nothing is, as in evaluation.
      step: int32, the step of the run; 0 in evaluation.
      text: of the batch; None where a prompt is looked at without one.
    """

    key: jax.Array | None = None
    step: jax.Array | int = 0
    text: Text | None = None


STILL = Context()
OWN_KEY = 2**16  # folded into the step's key, which the T5 splits for itself


class PromptedT5(nnx.Module):
    """A T5 and a method's module, called as one model."""

    def __init__(self, t5: T5, prompt: nnx.Module, terms: nnx.Dict | None = None):
        """`terms`: the modules of the terms of an objective, by the term's name."""
        self.t5 = t5
        self.prompt = prompt
        self.terms = nnx.Dict() if terms is None else terms

    def bundle(self, batch=None, dropout_key=None, step=0) -> PromptBundle:
        """What the method gives to a forward pass over `batch`; without one, to steps of the
        decoder, which see no text of the encoder's."""
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, OWN_KEY)
        if batch is None:
            return self.prompt(Context(key, step))
        embeddings = self.t5.embed(batch["encoder_input_tokens"])
        segments = encoder_segments(batch)
        slots = batch.get("encoder_prompt_slots")
        text = Text(embeddings, segments, positions_of(segments), slots)
        return self.prompt(Context(key, step, text))

    def decoded(self, batch, dropout_key=None, step=0) -> jax.Array:
        """The decoder's output [B, S, D], of which `t5.logits` makes logits."""
        return self.t5.decoded(batch, self.bundle(batch, dropout_key, step), dropout_key)

    def __call__(self, batch, dropout_key=None, step=0) -> jax.Array:
        """Logits float32 [B, S, V] of a batch that carries the method's prompt slots."""
        return self.t5(batch, self.bundle(batch, dropout_key, step), dropout_key)


def method_named(name: str) -> type[PromptMethod]:
    """The method of that name, built in or a plug-in's; UserError if there is none."""
    module, _, attribute = known().get(name, "").partition(":")
    method = vars(importlib.import_module(module))[attribute] if module else None
    if not (isinstance(method, type) and issubclass(method, PromptMethod)):
        remedy = "give --methods_module=FILE.py, the file that has it"
        raise UserError(f"method {name!r}", "is not known here", remedy)
    return method


class FixedPrompt(nnx.Module):
    """A bundle as a module: nothing in it trains."""

    def __init__(self, bundle: PromptBundle = NO_PROMPT):
        leaves, self.structure = jax.tree.flatten(bundle)
        self.leaves = nnx.List([nnx.Variable(leaf) for leaf in leaves])

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        return jax.tree.unflatten(self.structure, [leaf[...] for leaf in self.leaves])
