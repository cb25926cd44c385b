"""The loss of a large vocabulary, piece by piece: the same numbers in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.backbone import weights
from prompt_jax.methods.base import PromptedT5, PromptParam
from prompt_jax.methods.soft import SoftPromptModule
from prompt_jax.model.layers import T5Config
from prompt_jax.objective import pieces
from prompt_jax.objective.loss import Loss
from prompt_jax.objective.pieces import InPieces
from prompt_jax.run.step import make_grad, split

CONFIG = T5Config(20_000, 16, 2, 8, 32, 1, 1, dropout_rate=0.0, dtype="float32")
B, S = 4, 23


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=s) / 4 for name, s in weights.t5x_shapes(CONFIG).items()}
    rows = rng.normal(size=(3, 16)).astype(np.float32)
    return split(PromptedT5(weights.build(CONFIG, arrays), SoftPromptModule(rows)), PromptParam)


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    rng = np.random.default_rng(1)
    slots = np.concatenate([np.tile([1, 2, 3], (B, 1)), np.zeros((B, 5), int)], axis=1)
    targets = rng.integers(2, 20_000, (B, S))
    targets[:, 17:] = 0
    made = {
        "encoder_input_tokens": np.where(slots > 0, 0, rng.integers(2, 20_000, slots.shape)),
        "encoder_prompt_slots": slots,
        "decoder_input_tokens": np.roll(targets, 1, axis=1),
        "decoder_target_tokens": targets,
    }
    return {name: jnp.asarray(value, jnp.int32) for name, value in made.items()}


def compiled(loss, model, batch):
    graphdef, trainable, frozen = model
    arguments = (trainable, frozen, batch, None)
    made = jax.jit(make_grad(graphdef, loss)).lower(*arguments).compile()
    return made(*arguments), made.memory_analysis().temp_size_in_bytes


def test_gradient_and_sums_are_those_of_whole_logits_in_less_memory(model, batch, monkeypatch):
    loss = Loss(label_smoothing=0.1, loss_normalizing_factor=7.0)
    (wanted, sums), memory = compiled(loss, model, batch)
    monkeypatch.setattr(pieces, "WHOLE", 2**18)
    monkeypatch.setattr(pieces, "PIECE", 2**18)
    assert pieces.pieces(B, S, CONFIG.vocab_size) == 8  # of 3 columns, the last padded
    (found, others), less = compiled(InPieces(loss), model, batch)
    for one, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        largest = np.abs(one).max()
        assert largest > 1e-3
        assert np.abs(one - other).max() <= 1e-6 * largest
    assert sums.keys() == others.keys()
    for (path, value), other in zip(
        jax.tree.leaves_with_path(sums), jax.tree.leaves(others), strict=True
    ):
        np.testing.assert_allclose(other, value, rtol=1e-6, err_msg=str(path))
    logits = 4 * B * S * CONFIG.vocab_size
    assert memory > 2 * logits and less < logits / 2


def test_small_logits_are_made_at_once(model, batch):
    graphdef, trainable, frozen = model
    arguments = (trainable, frozen, batch, None)
    texts = [
        str(jax.make_jaxpr(make_grad(graphdef, loss))(*arguments))
        for loss in (Loss(), InPieces(Loss()))
    ]
    assert texts[0] == texts[1]
