"""Full training: every parameter of the T5, no prompt. For pretraining and as a baseline."""

import json
import math
from typing import Any

import jax
from etils import epath
from flax import nnx

from prompt_jax.backbone.formats import files
from prompt_jax.backbone.weights import arrays_of, t5x_shapes
from prompt_jax.methods.base import STILL, Context, PromptedT5, PromptMethod
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import NO_PROMPT, PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import NO_ROWS, PromptLayout
from prompt_jax.settings import settings


@settings
class FullTuning(PromptMethod):
    """Trains the model's own parameters; the backbone must be held in float32."""

    trainable = nnx.Param

    @property
    def layout(self) -> PromptLayout:
        return NO_ROWS

    def create(self, key: jax.Array, start: Start) -> "NoPrompt":
        return NoPrompt()

    def count(self, config: T5Config) -> int:
        return sum(math.prod(shape) for shape in t5x_shapes(config).values())

    def save(self, directory, model: PromptedT5, backbone: Any, facts: dict[str, Any]) -> None:
        """Writes the whole model as a backbone (`files:DIRECTORY` reads it), facts beside it."""
        words = backbone.vocabulary
        path = None if words is None else words.path or "bytes"
        files.write(str(directory), model.t5.config, arrays_of(model.t5), path)
        manifest = {**self.manifest(), **facts}
        (epath.Path(directory) / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


class NoPrompt(nnx.Module):
    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        return NO_PROMPT
