"""The contract of a method: a few settings, a module of its own parameters, a bundle for the T5."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx

from prompt_jax.model.bundle import NO_PROMPT, PromptBundle, named
from prompt_jax.model.t5 import T5, T5Config
from prompt_jax.prompt.layout import PromptLayout

AttentionName = Literal["encoder", "decoder", "cross"]
Attentions = tuple[AttentionName, ...]
ATTENTIONS: dict[str, str] = {  # and where each is in a bundle
    "encoder": "encoder_layers/attention",
    "decoder": "decoder_layers/attention",
    "cross": "decoder_layers/cross",
}


def depth_of(attention: str, config: T5Config) -> int:
    """In how many layers there is such an attention."""
    return config.num_encoder_layers if attention == "encoder" else config.num_decoder_layers


def plain(value: Any) -> Any:
    """Settings as plain JSON values, nested settings with their class's name."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: plain(vars(value)[f.name]) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    return [plain(v) for v in value] if isinstance(value, tuple) else value


class PromptParam(nnx.Variable):
    """A prompt's parameter. Not a subclass of nnx.Param: the two filters must never overlap."""


class FixedParam(nnx.Variable):
    """What a method reads beside the T5 and does not train."""


class PromptMethod(abc.ABC):
    """One way to adapt a frozen T5; concrete methods are settings classes, never subclassed.

    `create` builds the module that owns the method's parameters; calling that module with the
    `Context` of a forward pass gives its `PromptBundle`, without one that of evaluation.
    `trainable` is the variable type that training changes; it is said here and nowhere else.
    `groups` names those of the module's parameters that may learn at a rate of their own
    (`Train.group_rates`): {attribute: group}; all others are `prompt`. `dropout_rate`: of what the
    module itself drops while it trains.
    """

    trainable: type[nnx.Variable] = PromptParam
    groups: ClassVar[Mapping[str, str]] = {}
    dropout_rate: float = 0.0

    @property
    @abc.abstractmethod
    def layout(self) -> PromptLayout:
        """How many prompt rows an example carries, and where."""

    @abc.abstractmethod
    def create(self, key: jax.Array, backbone: Any, choices: tuple[str, ...]) -> nnx.Module:
        """The module; `backbone` gives embeddings and vocabulary, `choices` the task's labels."""

    @abc.abstractmethod
    def shapes(self, config: T5Config) -> nnx.Module:
        """The module as `create` would build it, of shapes: nothing is read or allocated."""

    @abc.abstractmethod
    def count(self, config: T5Config) -> int:
        """Number of trainable parameters, as the paper's formula."""

    def check_tasks(self, tasks: Sequence[str]) -> None:  # noqa: B027 (most take any)
        """UserError where the method cannot serve these tasks, numbered in this order."""

    def fold(self, module: Any) -> dict[str, np.ndarray]:
        """The arrays of the trained method's bundle by name, float32: `encoder` [P, D] and
        `decoder` [P', D] are plain prompts, all others stand for what happens inside the layers."""
        return {name: np.asarray(x, np.float32) for name, x in named(module()).items()}

    def save(self, directory, model: "PromptedT5", backbone: Any, facts: dict[str, Any]) -> None:
        """Writes the artefact of a trained model: by default the folded prompt and its manifest."""
        from prompt_jax.prompt.artefact import save_prompt

        seen = {"placement": self.layout.placement, "visibility": plain(model.bundle().visibility)}
        if self.layout.factors:
            seen["factors"] = plain(self.layout.factors)
        save_prompt(directory, self.fold(model.prompt), {**self.manifest(), **seen, **facts})

    def manifest(self) -> dict[str, Any]:
        """What the artefact says of the method: its name, settings, placement and visibility."""
        return {"method": type(self).__name__, "settings": plain(self)}


class Context(NamedTuple):
    """What a forward pass tells a method's module.

    `key`: of what is random while it trains; None: nothing is, as in evaluation.
    """

    key: jax.Array | None = None


STILL = Context()
OWN_KEY = 2**16  # folded into the step's key, which the T5 splits for itself


class PromptedT5(nnx.Module):
    """A T5 and a method's module, called as one model."""

    def __init__(self, t5: T5, prompt: nnx.Module):
        self.t5 = t5
        self.prompt = prompt

    def bundle(self, dropout_key=None) -> PromptBundle:
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, OWN_KEY)
        return self.prompt(Context(key))

    def __call__(self, batch, dropout_key=None) -> jax.Array:
        """Logits float32 [B, S, V] of a batch that carries the method's prompt slots."""
        return self.t5(batch, self.bundle(dropout_key), dropout_key)


class FixedPrompt(nnx.Module):
    """A saved prompt as a module, or none: nothing in it trains."""

    def __init__(self, saved: Any | None):
        bundle = NO_PROMPT if saved is None else saved.bundle()
        leaves, self.structure = jax.tree.flatten(bundle)
        self.leaves = nnx.List([nnx.Variable(leaf) for leaf in leaves])

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        return jax.tree.unflatten(self.structure, [leaf[...] for leaf in self.leaves])
