"""FLOPs of a step: the least that its mathematics needs, and what a jaxpr does.

With frozen weights a step is forward and the gradients of activations: 2W + 3A, where W are the
products with weights, forward, and A those of attention, each of whose two products has two
gradients. Full training needs 3W + 3A. A multiply-add is 2 FLOPs; elementwise work is left out.

Shapes: B rows, T encoder columns and S decoder columns (prompts included), D emb_dim, HK heads *
head_dim, F mlp_dim, V vocab_size, L layers of a stack.
"""

import math
from typing import Any

from jax.extend import core

from prompt_jax.model.t5 import T5Config
from prompt_jax.run.settings import Train


def least(run: Train, config: T5Config) -> tuple[float, float]:
    """(forward and gradients, what `config.remat` computes again) of one step of `run`, all rows.

    `full` computes all of a layer again but its last product; `dots` the logits of attention.
    """
    layout, data, c = run.method.layout, run.data, config
    B, T, S = data.batch_size, data.input_length + layout.columns, data.target_length
    S += layout.decoder
    once = layout.encoder - layout.columns  # prompt rows that are no columns: keys of every example
    D, HK = c.emb_dim, c.num_heads * c.head_dim
    matrices = len(c.mlp_activations) + 1
    T_all, S_all = B * T + once, B * S
    encoder = T_all * (4 * D * HK + matrices * D * c.mlp_dim)
    decoder = S_all * (6 * D * HK + matrices * D * c.mlp_dim) + T_all * 2 * D * HK
    layers = 2.0 * (c.num_encoder_layers * encoder + c.num_decoder_layers * decoder)
    last = 2.0 * (c.num_encoder_layers * T_all + c.num_decoder_layers * S_all) * D * c.mlp_dim
    head = 2.0 * B * S * D * c.vocab_size
    attended = c.num_encoder_layers * T * (T + once) + c.num_decoder_layers * S * (S + T + once)
    attention = 4.0 * HK * (B * attended + c.num_encoder_layers * once * once)
    weights = 3 if run.method.trains_model else 2
    again = {"none": 0.0, "full": layers - last + attention}
    return weights * (layers + head) + 3 * attention, again.get(c.remat, attention / 2)


def of_jaxpr(jaxpr: Any) -> float:
    """FLOPs of the products in a closed jaxpr, bodies of `scan` as often as they run; of all
    devices together. A `while` counts once, since a jaxpr does not say how often it runs."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _product(equation)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in core.jaxprs_in_params(equation.params):
            total += times * of_jaxpr(inner)
    return total


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2.0 * math.prod(out) * math.prod(left[d] for d in contracted)
