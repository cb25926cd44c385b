"""How much of the encoder's attention goes to each row of a prompt, layer by layer.

Attention is where a layer looks, not why it answers: a row with little of it may carry a lot, and
the other way round (Jain and Wallace 2019, https://arxiv.org/abs/1902.10186).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.answer.question import Question, features
from prompt_jax.backbone.load import Backbone
from prompt_jax.data.rows import Rows
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.columns import enter, insert_rows, picked, visible
from prompt_jax.model.t5 import T5, encoder_segments, encoder_shown
from prompt_jax.prompt.artefact import Prompt


def attention_mass(
    backbone: Backbone, prompt: Prompt, tasks: list[Rows], batch_size: int = 16
) -> np.ndarray:
    """float32 [L, P]: the share of attention that the text's columns give to each row, a mean over
    heads, columns and examples. Rows are the encoder's, or the keys of a prefix.

    Without prompt and with attention spread evenly over n + P columns, a row would get 1 / (n + P).
    """
    questions = [Question(ids, task=task.name) for task in tasks for ids in task.inputs]
    width = max(len(question.inputs) for question in questions)
    graphdef, params = nnx.split(backbone.model)
    sums, columns = 0.0, 0.0
    for at in range(0, len(questions), batch_size):
        batch = features(questions[at : at + batch_size], [prompt.layout], batch_size, width)
        batch = {k: v for k, v in batch.items() if k.startswith("encoder_")}
        rows = len(prompt_rows(prompt))
        mass, count = _mass(graphdef, params, batch, prompt.bundle(), rows)
        sums, columns = sums + np.asarray(mass), columns + float(count)
    return np.asarray(sums / columns, np.float32)


def prompt_rows(prompt: Prompt) -> np.ndarray:
    """What attention can go to: rows in the encoder's columns, or keys of its first layer."""
    keys = prompt.arrays.get("encoder_layers/attention/keys")
    return prompt.arrays["encoder"] if keys is None else keys[0]


@partial(jax.jit, static_argnums=(0, 4))
def _mass(graphdef, params, batch, bundle: PromptBundle, rows: int) -> tuple[jax.Array, jax.Array]:
    """(sums over the columns of text [L, P], how many columns there are)."""
    t5: T5 = nnx.merge(graphdef, params)
    bundle, c = t5.computed_once(bundle), t5.config
    segments, shown = encoder_segments(batch), encoder_shown(batch, bundle)
    x = t5.embed(batch["encoder_input_tokens"])
    x = insert_rows(x, bundle.encoder, shown.slots, shown.columns)
    mask = segments[:, :, None] == segments[:, None, :]
    policy = visible(bundle.visibility, shown.slots)
    mask = (mask if policy is None else mask & policy)[:, None]
    columns = jnp.arange(x.shape[1])
    places = (columns, columns, shown.distances)
    bias = None if c.relpos_per_layer else t5.encoder.relpos_bias.of_text(*places)
    slots = batch["encoder_prompt_slots"]
    text_BT = (segments > 0) & (slots == 0)
    at_BTP = jax.nn.one_hot(slots - 1, rows)
    layers, stacked = nnx.split(t5.encoder.layers)

    def body(x, inputs):
        arrays, edit = inputs
        layer: Any = nnx.merge(layers, arrays)
        x = enter(x, edit, shown.slots, shown.columns)
        edit = picked(edit, shown.rows, shown.columns)
        own = layer.relpos_bias.of_text(*places) if c.relpos_per_layer else bias
        y = layer.pre_attention_layer_norm(x)
        keys_values = layer.attention.keys_values(y, edit.attention)
        weights = layer.attention.weights(y, keys_values, own, mask, edit.attention)
        given = (weights.mean(axis=1) * text_BT[:, :, None]).sum(axis=1)  # [B, P + T] or [B, T]
        before = given.shape[1] - x.shape[1]
        mass = jnp.einsum("bt,btp->p", given[:, before:], at_BTP)
        keys = given[:, :before].sum(axis=0)
        mass = mass + jnp.pad(keys, (0, rows))[:rows]
        return layer(x, bias, mask, edit, places, None)[0], mass

    mass_LP = jax.lax.scan(body, x, (stacked, bundle.encoder_layers))[1]
    return mass_LP, text_BT.sum()
