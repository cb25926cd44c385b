"""Templates and prompts over one frozen backbone, and what each pair of them says of rows."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from prompt_jax.backbone.load import Backbone
from prompt_jax.data.split import TaskText
from prompt_jax.evaluate.evaluation import Evaluation, HeldOutTask
from prompt_jax.evaluate.evidence import Evidence, unit
from prompt_jax.evaluate.prompts import model_of, module_of
from prompt_jax.evaluate.scorer import TaskScorer
from prompt_jax.methods.base import FixedPrompt
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.prompt.layout import PromptLayout

PLACE = "{inputs}"  # where a template has the row's text


@dataclass(frozen=True)
class Members:
    """Templates and prompts over one backbone; each pair of them is a member.

    Attributes:
      prompts: at least one; None: the bare backbone.
    """

    loaded: Backbone
    mesh: Mesh
    templates: Sequence[str]
    prompts: Sequence[Prompt | None]
    evaluation: Evaluation

    @cached_property
    def names(self) -> list[str]:
        """Of each member."""
        paths = ["bare" if prompt is None else prompt.path for prompt in self.prompts]
        return [f"{path} {template!r}" for template in self.templates for path in paths]

    def evidence(self, text: TaskText, labels: Sequence[str]) -> tuple[Evidence, TaskScorer]:
        """What all members say of the rows, and who scores them."""
        (name,) = text.examples
        targets = [str(example["targets"]) for example in text.examples[name]]
        numbers = {label: n for n, label in enumerate(labels)}
        features, scores, scorer = [], [], None
        for template in self.templates:
            rows = templated(text, template)
            for prompt in self.prompts:
                layout = PromptLayout() if prompt is None else prompt.layout
                module: nnx.Module = FixedPrompt()
                if prompt is not None:
                    module = module_of([prompt], self.loaded.model)
                held_out = HeldOutTask(self.evaluation, rows)
                scorer = held_out.scorer(self.loaded.vocabulary, [layout], self.mesh)
                model = model_of(self.loaded, module, self.mesh)
                (answers,) = scorer.answer(model)
                scores.append([[a.scores[label] for label in labels] for a in answers if a.scores])
                asked = scorer.questions([[0]])
                features.append(unit(scorer.answerer.embed(model, asked)))
        assert scorer is not None
        known = np.asarray([numbers.get(target, -1) for target in targets], np.int64)
        return Evidence(np.stack(features), np.asarray(scores, np.float32), known), scorer


def templated(text: TaskText, template: str) -> TaskText:
    """The rows with their inputs in a template."""
    if template == PLACE:
        return text
    examples = {
        name: [{**row, "inputs": template.replace(PLACE, row["inputs"])} for row in rows]
        for name, rows in text.examples.items()
    }
    return dataclasses.replace(text, examples=examples)
