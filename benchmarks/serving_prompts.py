"""Prompts of every kind that a server mixes, of noise, for the benchmarks of serving."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from prompt_jax.backbone.load import Backbone
from prompt_jax.methods.base import PromptMethod
from prompt_jax.methods.deep import DeepPrompt
from prompt_jax.methods.ia3 import IA3
from prompt_jax.methods.lora import LoRA
from prompt_jax.methods.parts.inits import UniformInit
from prompt_jax.methods.parts.start import Shapes
from prompt_jax.methods.prefix import PrefixTuning
from prompt_jax.methods.soft import SoftPrompt
from prompt_jax.prompt.artefact import Prompt

UNIFORM = UniformInit()
ONCE = {"input": False, "prompt": "all", "computed_once": True}


def methods(rows: int) -> dict[str, PromptMethod]:
    """The kinds that fold into arrays, by name, with so many rows where they have any."""
    return {
        "plain": SoftPrompt(length=rows, init=UNIFORM),
        "prefix": PrefixTuning(length=8, hidden=None),
        "lora": LoRA(rank=4),
        "ia3": IA3(),
        "both": SoftPrompt(length=rows, init=UNIFORM, placement="suffix", decoder_length=3),
        "deep": DeepPrompt(length=rows),
        "once": SoftPrompt(length=rows, init=UNIFORM),
        "mixed": SoftPrompt(length=rows, init=UNIFORM),
    }


def prompt_of(backbone: Backbone, kind: str, seed: int, rows: int, noise: float = 0.1) -> Prompt:
    """A prompt of a kind: its method's start, and noise. `once` is computed once; `mixed` mixes its
    rows for each input, as ATTEMPT's."""
    method = methods(rows)[kind]
    module: Any = method.create(jax.random.key(0), Shapes(backbone.config))
    rng, arrays = np.random.default_rng(seed), {}
    for name, x in method.fold(module).items():
        arrays[name] = (x + noise * rng.normal(size=x.shape)).astype(np.float32)
    facts: dict[str, Any] = dict.fromkeys(("tokenizer", "task", "metric", "step", "seed"))
    facts |= {"backbone": {"name": backbone.name, "digest": backbone.digest}}
    facts |= {"placement": method.layout.placement}
    facts |= {"visibility": ONCE if kind == "once" else {"input": True, "prompt": "all"}}
    facts = {**method.manifest(), **facts}
    if kind == "mixed":
        arrays |= _mixture(arrays["encoder"].shape, rng)
        facts["method"] = "Attempt"
    return Prompt(arrays, facts, f"{kind} {seed}")


def _mixture(shape: tuple[int, ...], rng: np.random.Generator) -> Mapping[str, np.ndarray]:
    P, D = shape
    r = 3
    shapes = {"sources": (2, P, D), "down": (D, r), "up": (r, D), "scale": (D,), "bias": (D,)}
    return {
        f"mixture/{name}": rng.normal(size=size).astype(np.float32) for name, size in shapes.items()
    }
