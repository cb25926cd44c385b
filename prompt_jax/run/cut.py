"""Neurons and heads cut out of the matrices of a T5, by T5X's names for each layer."""

import numpy as np

from prompt_jax.model.t5 import T5Config

Chosen = dict[str, np.ndarray]  # int [L, n]: what stays of each layer, by its place in a bundle
OURS = {  # the same in T5X's names
    "encoder_layers/attention": "attention",
    "decoder_layers/attention": "self_attention",
    "decoder_layers/cross": "encoder_decoder_attention",
}


def cut_out(
    arrays: dict[str, np.ndarray], chosen: Chosen, whole: T5Config
) -> dict[str, np.ndarray]:
    """A T5's arrays, by T5X's names for each layer, with the chosen neurons and heads alone."""
    cut = dict(arrays)
    for place, numbers in chosen.items():
        stack, mlp = place.split("_")[0], place.endswith("wo")
        for layer, some in enumerate(numbers):
            at = f"{stack}/layers_{layer}/{'mlp' if mlp else OURS[place]}"
            if not mlp:  # the columns of each head
                some = (some[:, None] * whole.head_dim + np.arange(whole.head_dim)).ravel()
            for name in [name for name in arrays if name.startswith(f"{at}/")]:
                into = name.endswith(("/wo/kernel", "/out/kernel"))
                cut[name] = arrays[name][some] if into else arrays[name][:, some]
        if place.endswith("_layers/attention"):
            for name in arrays:
                if name.startswith(f"{stack}/") and name.endswith("relpos_bias/rel_embedding"):
                    cut[name] = arrays[name][numbers[0]]
    return cut
