"""The loss against T5X's numbers, given T5X's logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.model.logprobs import token_losses
from prompt_jax.objective.loss import Loss
from prompt_jax.run.step import accumulated, normalised

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
        found = [total, sums["z_loss"] / loss.scale, sums["tokens"]]
        np.testing.assert_allclose(found, batch[f"loss_{settings}"], rtol=2e-6, err_msg=settings)
        np.testing.assert_allclose(sums["loss"] / loss.scale, total, rtol=1e-6)
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
    assert float(sums["accuracy"]) == 1 and sums["tokens"] == 2


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
    for name, value in {"loss_normalizing_factor": 0.0, "z_loss": -1.0, "weight": -1.0}.items():
        with pytest.raises(UserError, match=rf"^Loss.{name} = {value}: give "):
            Loss(**{name: value})


def whole_batch(rows=4, columns=6, vocab=11):
    """Logits, and targets of two examples to a row, three rows of them shorter than others."""
    logits = jax.random.normal(jax.random.key(0), (rows, columns, vocab))
    targets = jax.random.randint(jax.random.key(1), (rows, columns), 1, vocab)
    segments = jnp.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 2, 0], [1, 2, 2, 2, 2, 2], [1] * 6])
    return {
        "logits": logits,
        "decoder_target_tokens": jnp.where(segments > 0, targets, 0),
        "decoder_segment_ids": segments,
    }


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(
    "factor", ["NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"]
)
def test_a_normaliser_counts_the_whole_batch_however_it_is_cut(factor, pieces):
    """Against means written out example by example; the pieces have unequal numbers of tokens."""
    batch = whole_batch()
    losses, _ = token_losses(batch["logits"], batch["decoder_target_tokens"], 0.0, 0.0)
    segments = np.asarray(batch["decoder_segment_ids"])
    examples = [
        np.asarray(losses)[row][segments[row] == n]
        for row in range(len(segments))
        for n in range(1, segments[row].max() + 1)
    ]
    wanted = {
        "NUM_REAL_TARGET_TOKENS": np.concatenate(examples).mean(),
        "NUM_TOTAL_TARGET_TOKENS": np.concatenate(examples).sum() / segments.size,
        "AVERAGE_PER_SEQUENCE": np.mean([e.mean() for e in examples]),
    }[factor]
    loss = Loss(z_loss=0.0, loss_normalizing_factor=factor)

    def grad(trainable, frozen, batch, key, step):  # d loss / d scale, of a loss times a scale
        def scaled(scale):
            total, sums = loss(lambda b, key: b["logits"], batch)
            return scale * total, sums

        return jax.grad(scaled, has_aux=True)(trainable)

    whole = jax.jit(normalised(accumulated(grad, pieces), loss.count))
    value, sums = whole(jnp.float32(1), None, batch, None, 0)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(sums["loss"], np.concatenate(examples).sum(), rtol=1e-5)


def test_an_unknown_normaliser_is_refused():
    with pytest.raises(UserError, match="NUM_REAL_TARGET_TOKENS"):
        Loss(loss_normalizing_factor="PER_TOKEN")
