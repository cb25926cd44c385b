"""Prompt tuning for frozen T5 and mT5 models in JAX.

The public functions below are imported on first use, so `import prompt_jax` costs nothing.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from prompt_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from prompt_jax.api import (
        Engine,
        embed,
        generate,
        load_prompt,
        logits,
        loss_and_prompt_grad,
        score,
        text,
        train,
    )
    from prompt_jax.backbone.load import load_backbone

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow only reads data here

__all__ = [
    "Engine",
    "embed",
    "generate",
    "load_backbone",
    "load_prompt",
    "logits",
    "loss_and_prompt_grad",
    "score",
    "text",
    "train",
]

_HOMES = {name: "prompt_jax.api" for name in __all__} | {
    "load_backbone": "prompt_jax.backbone.load"
}


def __getattr__(name: str) -> Any:
    """The public function `name`, imported from its module; AttributeError for any other name."""
    if name not in _HOMES:
        raise AttributeError(f"module 'prompt_jax' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
