"""Keys and values of a prompt that is computed once, saved beside its rows.

`computed.safetensors` in an artefact's folder is what `T5.computed_once` makes of the rows: float32
arrays by their names in `bundle.py`, with X = 1. It says of which prompt, backbone and dtype it is;
for any other the rows go through the encoder again, which gives the same.
"""

import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import nnx

from prompt_jax.backbone.load import Backbone
from prompt_jax.errors import reading
from prompt_jax.model.bundle import PromptBundle, arrays_by_name
from prompt_jax.model.columns import with_keys_values
from prompt_jax.model.t5 import T5
from prompt_jax.prompt.artefact import Prompt, load_prompt

FILE = "computed.safetensors"
OWN, CROSS = "encoder_layers/attention", "decoder_layers/cross"
NAMES = tuple(f"{place}/{what}" for place in (OWN, CROSS) for what in ("keys", "values"))


def weights_of(backbone: Backbone) -> str:
    """What keys and values depend on beside the prompt: the weights, and how they are held."""
    return f"{backbone.digest} {backbone.config.dtype} {backbone.weights_dtype}"


def save(folder: epath.PathLike, backbone: Backbone) -> None:
    """Writes the file of the artefact in a folder, if it is of a prompt that is computed once."""
    prompt = load_prompt(folder)
    if not _of_one(prompt):
        return
    arrays = arrays_by_name(by_encoder(*nnx.split(backbone.model), prompt.bundle()))
    data = {name: np.asarray(arrays[name], np.float32) for name in NAMES}
    made = safetensors.numpy.save(data, _facts(prompt, weights_of(backbone)))
    (epath.Path(folder) / FILE).write_bytes(made)


def _facts(prompt: Prompt, weights: str) -> dict[str, str]:
    """All that keys and values depend on."""
    policy = f"{prompt.layout.placement} {prompt.visibility}"
    return {"prompt": prompt.manifest["sha256"], "policy": policy, "weights": weights}


def bundle(prompt: Prompt, t5: T5, weights: str | None = None) -> PromptBundle:
    """The prompt as the T5 takes it; one that is computed once as keys and values.

    `weights`: `weights_of` the backbone; None: not known, so that what is saved is not taken.

    Raises:
      UserError: the file is damaged.
    """
    rows = prompt.bundle()
    if not rows.visibility.computed_once:
        return rows
    saved = _read(prompt, weights) if weights is not None and _of_one(prompt) else None
    if saved is None:
        return by_encoder(*nnx.split(t5), rows)
    dtype, heads = jnp.dtype(t5.config.dtype), (t5.config.num_heads, t5.config.head_dim)
    pairs = [jnp.asarray(saved[name], dtype) for name in NAMES]
    k, v, cross_k, cross_v = (x.reshape(*x.shape[:3], *heads) for x in pairs)
    return with_keys_values(rows, (k, v), (cross_k, cross_v))


def _of_one(prompt: Prompt) -> bool:
    """Whether a prompt has keys and values of its own: some have a set for each task."""
    return prompt.visibility.computed_once and prompt.folds and not prompt.layout.factors


def _read(prompt: Prompt, weights: str) -> dict[str, np.ndarray] | None:
    """The arrays; None where there are none of this prompt for these weights."""
    path = epath.Path(prompt.path) / FILE
    if not path.exists():
        return None
    data = path.read_bytes()
    with reading(path, "delete it: it is only there to save time"):
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        facts: dict[str, Any] = header.get("__metadata__", {})
        return safetensors.numpy.load(data) if facts == _facts(prompt, weights) else None


@partial(jax.jit, static_argnums=0)
def by_encoder(graphdef: Any, params: Any, rows: PromptBundle) -> PromptBundle:
    """The bundle with keys and values in place of its rows (`T5.computed_once`)."""
    return nnx.merge(graphdef, params).computed_once(rows)
