"""The model is trained behind prompts that stay: the second stage of ProMoT.

Wang et al. 2024 (https://arxiv.org/abs/2211.00635): a prompt tuned before takes up the format of
a task, so that the model, fine-tuned with the prompt in front, forgets less of other tasks. The
tuned task is asked with the prompt, all others without it. Of several tasks each has its own
prompt, and an example gets that of its task's number.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from flax import nnx

from prompt_jax.backbone.formats import files
from prompt_jax.backbone.load import digest
from prompt_jax.backbone.weights import arrays_of, t5x_shapes
from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import FixedPrompt, PromptedT5, PromptMethod
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import per_column
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.artefact import load_prompt, save_prompt
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.prompt.stack import PromptStack
from prompt_jax.settings import settings


@settings
class FrozenPrompts(PromptMethod):
    """Trains the model's own parameters with saved prompts in front of the text.

    Attributes:
      prompts: artefacts of plain prompts: one, or one of each task, in the order of the tasks'
        names. `FoldAndFreeze` gives those of the stages before.
      rows: how many rows they have, and where; None: as the first of them says.
    """

    trainable = nnx.Param
    prompts: tuple[str, ...] = ()
    rows: PromptLayout | None = None

    @property
    def layout(self) -> PromptLayout:
        if self.rows is not None or not self.prompts:
            return self.rows or PromptLayout()
        return load_prompt(self.prompts[0]).layout

    def behind(self, prompt: str, rows: PromptLayout) -> "FrozenPrompts":
        return dataclasses.replace(self, prompts=(*self.prompts, prompt), rows=rows)

    def check_stage(self, stage: str) -> None:
        if not self.prompts:
            raise UserError(
                stage,
                "has no prompt",
                "give @FoldAndFreeze() to Stage.on_end of the stage that tunes it, or bind "
                "FrozenPrompts.prompts",
            )

    def create(self, key: jax.Array, start: Start) -> FixedPrompt:
        saved = start.prompts(self.prompts, self.layout, "FrozenPrompts.prompts")
        for prompt in saved:
            first = (saved[0].layout, saved[0].visibility, saved[0].arrays.keys())
            if (prompt.layout, prompt.visibility, prompt.arrays.keys()) != first:
                raise UserError(
                    "FrozenPrompts.prompts",
                    f"{prompt.path!r} differs from {saved[0].path!r} in rows or placement",
                    "tune them alike",
                )
            if not all(per_column(name) for name in prompt.arrays):
                raise UserError("FrozenPrompts.prompts", f"{prompt.path!r} is not a plain prompt")
        if not saved or saved[0].layout != self.layout:
            raise UserError(
                Setting("FrozenPrompts", "prompts", self.prompts), f"not of {self.layout}"
            )
        return FixedPrompt(PromptStack(saved).bundle())

    def count(self, config: T5Config) -> int:
        """All of the model's."""
        return sum(math.prod(shape) for shape in t5x_shapes(config).values())

    def manifest(self) -> dict[str, Any]:
        """The prompts by their contents, wherever they lie."""
        saved = [load_prompt(path) for path in self.prompts]
        contents = [prompt.manifest["sha256"] for prompt in saved]
        return {"method": type(self).__name__, "prompts": contents}

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Each of several prompts must stand at its own task's number."""
        tuned = [load_prompt(path).manifest["task"] for path in self.prompts]
        if len(tuned) > 1 and tuned != list(tasks):
            raise UserError(
                "FrozenPrompts.prompts",
                f"they are of {', '.join(map(str, tuned))}, the data of {', '.join(tasks)}",
                "give one prompt of each task, in this order",
            )

    def save(self, directory, model: PromptedT5, backbone: Any, facts: dict[str, Any]) -> None:
        """Writes the tuned model as a backbone (`files:DIRECTORY`), and in `prompts/NUMBER` the
        prompts, unchanged but for their manifests, which name the tuned model as theirs."""
        words = backbone.vocabulary
        path = None if words is None else words.path or "bytes"
        arrays = arrays_of(model.t5)
        files.write(str(directory), model.t5.config, arrays, path)
        folder = epath.Path(directory)
        manifest = json.dumps({**self.manifest(), **facts}, indent=2)
        (folder / "manifest.json").write_text(manifest + "\n")
        tuned = {"backbone": {"name": f"files:{directory}", "digest": digest(arrays)}}
        for number, source in enumerate(self.prompts, start=1):
            prompt = load_prompt(source)
            facts_of = {**prompt.manifest, "tuned_with": prompt.manifest["backbone"], **tuned}
            save_prompt(folder / "prompts" / str(number), prompt.arrays, facts_of)
