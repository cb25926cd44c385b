"""The fixture `kinds`: a saved prompt of every kind for the backbone of `tiny`."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

NOISE = 0.7  # so much that every prompt changes what the model says


@pytest.fixture(scope="session")
def kinds(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """name -> folder of an artefact, of noise. Made once per session."""
    from prompt_jax.backbone.load import load_backbone
    from prompt_jax.methods.deep import DeepPrompt
    from prompt_jax.methods.dept import DePT
    from prompt_jax.methods.ia3 import IA3
    from prompt_jax.methods.lora import LoRA
    from prompt_jax.methods.parts.inits import UniformInit
    from prompt_jax.methods.parts.start import Shapes
    from prompt_jax.methods.prefix import PrefixTuning
    from prompt_jax.methods.soft import SoftPrompt
    from prompt_jax.prompt.artefact import save_prompt

    methods = {
        "prefix": PrefixTuning(length=3, hidden=None),
        "short_prefix": PrefixTuning(length=2, hidden=None, attentions=("encoder", "cross")),
        "lora": LoRA(rank=2),
        "ia3": IA3(),
        "plain": SoftPrompt(length=4, init=UniformInit()),
        "both": SoftPrompt(length=2, init=UniformInit(), placement="suffix", decoder_length=3),
        "deep": DeepPrompt(length=3, sides=("encoder", "decoder")),
        "offset": DePT(length=2, rank=1, max_length=5, init=UniformInit()),
        "added": DeepPrompt(length=2, combine="add"),
    }
    backbone = load_backbone(f"files:{tiny}/backbone", "float32")
    folder, rng, paths = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0), {}
    for name, method in methods.items():
        module: Any = method.create(jax.random.key(0), Shapes(backbone.config))
        arrays = {
            n: (x + NOISE * rng.normal(size=x.shape)).astype(np.float32)
            for n, x in method.fold(module).items()
        }
        facts = {
            "backbone": {"name": backbone.name, "digest": backbone.digest},
            "placement": method.layout.placement,
            "visibility": {"input": True, "prompt": "all"},
            **dict.fromkeys(("tokenizer", "task", "metric", "step", "seed")),
        }
        save_prompt(folder / name, arrays, {**method.manifest(), **facts})
        paths[name] = str(folder / name)
    return paths
