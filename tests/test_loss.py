"""The loss against T5X's numbers, given T5X's logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.model.logprobs import token_losses
from prompt_jax.objective.loss import Loss

SETTINGS = {  # as the arrays are called
    "z0": Loss(z_loss=0.0),
    "z1em4": Loss(z_loss=1e-4),
    "ls01": Loss(z_loss=1e-4, label_smoothing=0.1),
    "lnf100": Loss(z_loss=1e-4, loss_normalizing_factor=100),
}


@pytest.fixture
def folder(request):
    """Where the results of the peer lie that the test names."""
    if request.param == "v10":
        return request.getfixturevalue("golden")
    return request.getfixturevalue("shared") / "golden" / "t5x"


def read_batch(path, name):
    """Features and results under one name of a file of T5X's."""
    arrays = np.load(path)
    prefix = f"{name}/"
    return {k.removeprefix(prefix): arrays[k] for k in arrays.files if k.startswith(prefix)}


@pytest.fixture
def basic(golden):
    return read_batch(golden / "v10_forward.npz", "basic")


@pytest.mark.parametrize("name", ["basic", "long", "packed"])
@pytest.mark.parametrize(("folder", "model"), [("v11",) * 2, ("v10",) * 2], indirect=["folder"])
def test_equals_t5x(folder, model, name):
    batch = read_batch(folder / f"{model}_forward.npz", name)
    for settings, loss in SETTINGS.items():
        total, sums = jax.jit(lambda b, loss=loss: loss(lambda b, key: b["logits"], b))(batch)
        found = [total, sums["z_loss"], sums["tokens"]]
        np.testing.assert_allclose(found, batch[f"loss_{settings}"], rtol=2e-6, err_msg=settings)
        assert sums["loss"] == total
    losses, _ = token_losses(batch["logits"], batch["decoder_target_tokens"], 0.0, 0.0)
    scores = -jnp.sum(losses * batch["decoder_loss_weights"], axis=-1)
    np.testing.assert_allclose(scores, batch["score_batch"], rtol=2e-6)


def test_default_is_the_loss_of_t5x_recipes(basic):
    total, _ = Loss()(lambda batch, key: batch["logits"], basic)
    np.testing.assert_allclose(total, basic["loss"], rtol=2e-6)


def test_weights_default_to_real_targets(basic):
    given = Loss()(lambda batch, key: batch["logits"], basic)[0]
    del basic["decoder_loss_weights"]
    assert Loss()(lambda batch, key: batch["logits"], basic)[0] == given


def test_weights_scale_each_target(basic):
    halves = basic | {"decoder_loss_weights": basic["decoder_loss_weights"] / 2}
    whole, all_sums = Loss()(lambda batch, key: batch["logits"], basic)
    half, half_sums = Loss()(lambda batch, key: batch["logits"], halves)
    np.testing.assert_allclose(half, whole / 2, rtol=1e-6)
    assert half_sums["tokens"] == all_sums["tokens"] / 2


def test_accuracy_counts_right_tokens():
    targets = jnp.array([[2, 1, 0]])
    logits = jax.nn.one_hot(jnp.array([[2, 3, 0]]), 4)
    _, sums = Loss()(lambda batch, key: logits, {"decoder_target_tokens": targets})
    assert sums["accuracy"] == 1 and sums["tokens"] == 2


def test_smoothing_of_a_perfect_model_costs_nothing():
    V, on = 8, 0.9
    logits = jnp.log(jnp.full((1, 1, V), (1 - on) / (V - 1)).at[0, 0, 3].set(on))
    loss, _ = token_losses(logits, jnp.array([[3]]), z_loss=0.0, label_smoothing=1 - on)
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)


def test_dropout_key_reaches_the_model():
    seen = []

    def model(batch, key):
        seen.append(key)
        return jnp.zeros((1, 1, 4))

    Loss()(model, {"decoder_target_tokens": jnp.ones((1, 1), jnp.int32)}, "the key")
    assert seen == ["the key"]


def test_smoothing_out_of_range_is_refused():
    with pytest.raises(UserError, match=r"^Loss.label_smoothing = 1.0: give 0 <= value < 1$"):
        Loss(label_smoothing=1.0)
