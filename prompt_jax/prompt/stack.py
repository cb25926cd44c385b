"""Several prompts as one bundle."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from prompt_jax.model.bundle import PromptBundle
from prompt_jax.prompt.artefact import Prompt


@dataclass(frozen=True)
class PromptStack:
    """Prompts of one shape as one bundle; prompt n is that of task id n."""

    prompts: Sequence[Prompt]

    def bundle(self) -> PromptBundle:
        """float32 [N, P, D] and [N, P', D], and the rows that enter layers [L, N, P, D]."""
        bundles = [prompt.bundle() for prompt in self.prompts]
        return jax.tree.map(lambda *rows: jnp.concatenate(rows, axis=-3), *bundles)
