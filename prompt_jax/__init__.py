"""Prompt tuning for frozen T5 and mT5 models in JAX.

The public functions below are imported on first use, so `import prompt_jax` costs nothing.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prompt_jax.api import (
        generate,
        load_prompt,
        logits,
        loss_and_prompt_grad,
        score,
        train,
    )
    from prompt_jax.backbone import load_backbone

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow only reads data here

__version__ = "0.1.0"

__all__ = [
    "generate",
    "load_backbone",
    "load_prompt",
    "logits",
    "loss_and_prompt_grad",
    "score",
    "train",
]

_HOMES = {name: "prompt_jax.api" for name in __all__} | {"load_backbone": "prompt_jax.backbone"}


def __getattr__(name: str) -> Any:
    """The public function `name`, imported from its module; AttributeError for any other name."""
    if name not in _HOMES:
        raise AttributeError(f"module 'prompt_jax' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `prompt_jax.train` the function although a submodule has the same name.

    Importing a submodule sets it as an attribute of its package, which would hide the function.
    Write `from prompt_jax.train import ...` to reach the submodule.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
