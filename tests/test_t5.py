"""The T5 against T5X and transformers, and what its settings change."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.backbone.load import load_backbone
from prompt_jax.model import layers, sizes, t5
from prompt_jax.model.bundle import NO_PROMPT, PromptBundle, Visibility
from prompt_jax.objective.loss import Loss
from prompt_jax.prompt.layout import PromptLayout, lay_out

TINY = t5.T5Config(
    50, 16, 2, 8, 24, 2, 2, num_buckets=8, max_distance=12, dropout_rate=0.5, dtype="float32"
)


@pytest.fixture(scope="module")
def v10(golden):
    """T5X's T5 1.0 and the folder of what it computed."""
    return load_backbone(f"t5x:{golden}/t5x/v10_t5x/checkpoint_1000", "float32").model, golden


@pytest.fixture(scope="module")
def v11(shared):
    """T5X's T5 1.1 and the folder of what it computed."""
    folder = shared / "golden" / "t5x"
    return load_backbone(f"t5x:{folder}/v11_t5x/checkpoint_1000", "float32").model, folder


@pytest.fixture
def peer(request):
    """(name, model, folder) of the peer that the test names."""
    return request.param, *request.getfixturevalue(request.param)


both_peers = pytest.mark.parametrize("peer", ["v11", "v10"], indirect=True)


@pytest.fixture(scope="module")
def tiny():
    rng = np.random.default_rng(3)
    shapes = weights.t5x_shapes(TINY).items()
    return weights.build(
        TINY, {name: rng.normal(0, shape[0] ** -0.5, shape) for name, shape in shapes}
    )


@jax.jit
def call(model, batch, bundle=NO_PROMPT, key=None):
    return model(batch, bundle, key)


@jax.jit
def encode(model, batch, bundle):
    return model.encode(batch, bundle)


def read_batch(path, name):
    """Features and results under one name of a file of the peers."""
    arrays = np.load(path)
    found = {k.split("/")[1]: arrays[k] for k in arrays.files if k.startswith(f"{name}/")}
    return {k: v for k, v in found.items() if v.dtype == np.int32}, found


def tiny_batch():
    rng = np.random.default_rng(0)
    encoder = rng.integers(2, 50, (2, 7)).astype(np.int32)
    targets = rng.integers(2, 50, (2, 5)).astype(np.int32)
    encoder[1, 5:], targets[1, 3:] = 0, 0
    inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    return {
        "encoder_input_tokens": encoder,
        "decoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
    }


def worst(found, wanted, batch):
    """The largest difference where targets are real."""
    return np.abs(np.asarray(found) - wanted)[batch["decoder_target_tokens"] > 0].max()


@pytest.mark.parametrize("name", ["basic", "long", "packed"])
@both_peers
def test_logits_equal_t5x(peer, name):
    size, model, folder = peer
    batch, wanted = read_batch(folder / f"{size}_forward.npz", name)
    assert worst(call(model, batch), wanted["logits"], batch) < 2e-5


@both_peers
def test_bf16_activations_are_as_close_as_t5x_are(peer):
    size, model, folder = peer
    batch, wanted = read_batch(folder / f"{size}_forward.npz", "basic")
    config = dataclasses.replace(model.config, dtype="bfloat16")
    found = call(weights.reconfigured(model, config), batch)
    theirs = worst(wanted["logits_bf16act"], wanted["logits"], batch)
    assert found.dtype == jnp.float32
    assert 0 < worst(found, wanted["logits"], batch) < 1.5 * theirs


def test_logits_equal_transformers(shared):
    folder = shared / "golden" / "hf"
    model = load_backbone(f"hf:{folder}/t5_v11", "float32").model
    batch, wanted = read_batch(folder / "t5_v11_outputs.npz", "basic")
    del batch["attention_mask"]
    found = call(model, batch)
    assert worst(found, wanted["logits"], batch) < 2e-5
    _, sums = Loss(z_loss=0.0)(lambda batch, key: found, batch)
    np.testing.assert_allclose(sums["loss"] / sums["tokens"], wanted["loss_mean_ce"], rtol=1e-5)


@pytest.mark.parametrize("name", ["basic", "long"])
def test_prompted_logits_equal_prompt_tuning(v11, name):
    model, folder = v11
    path = folder / "v11_prompted.npz"
    batch, wanted = read_batch(path, name)
    bundle = PromptBundle(encoder=jnp.asarray(np.load(path)["prompt"])[None])
    wide = lay_out(batch, PromptLayout(encoder=5))
    assert worst(call(model, wide, bundle), wanted["logits"], batch) < 2e-5


def test_gradient_of_every_parameter_equals_t5x(v11):
    model, folder = v11
    batch, _ = read_batch(folder / "v11_forward.npz", "basic")
    graphdef, params = nnx.split(model)

    @jax.jit
    @jax.grad
    def gradient(params):
        model = nnx.merge(graphdef, params)
        return Loss()(lambda batch, key: model(batch), batch)[0]

    arrays = weights.arrays_of(nnx.merge(graphdef, gradient(params)))
    norms = {name: float(np.linalg.norm(array)) for name, array in arrays.items()}
    wanted = json.loads((folder / "v11_grad_norms_basic.json").read_text())
    assert norms.keys() == wanted.keys()
    for name, norm in wanted.items():
        assert norms[name] == pytest.approx(norm, rel=1e-4), name


def test_dropout_needs_a_key(tiny):
    batch = tiny_batch()
    still = call(weights.reconfigured(tiny, dataclasses.replace(TINY, dropout_rate=0.0)), batch)
    np.testing.assert_array_equal(call(tiny, batch), still)
    first = call(tiny, batch, key=jax.random.key(1))
    np.testing.assert_array_equal(call(tiny, batch, key=jax.random.key(1)), first)
    assert worst(call(tiny, batch, key=jax.random.key(2)), first, batch) > 0.1
    assert worst(still, first, batch) > 0.1


def test_dropout_keeps_the_mean(tiny):
    x = jnp.ones((200, 3, 100))
    dropped = layers.dropout(x, 0.25, jax.random.key(0))
    assert set(np.unique(np.round(dropped, 4))) == {0.0, np.float32(np.round(1 / 0.75, 4))}
    assert abs(float(dropped.mean()) - 1.0) < 0.02
    np.testing.assert_array_equal(dropped[:, 0], dropped[:, 2])


def prompted(rows, tokens, policy, model):
    """The encoder's output for five prompt rows before the text, and for the text."""
    bundle = PromptBundle(encoder=rows[None], visibility=policy)
    batch = lay_out({"encoder_input_tokens": tokens}, PromptLayout(encoder=5))
    y = np.asarray(encode(model, batch, bundle))
    return y[:, :5], y[:, 5 : 5 + tokens.shape[1]]


def same(a, b):
    return np.abs(a - b).max() < 1e-5


@pytest.mark.parametrize("among", ["all", "causal", "self"])
@pytest.mark.parametrize("sees_input", [True, False])
def test_visibility_says_what_prompt_rows_see(tiny, sees_input, among):
    policy = Visibility(input=sees_input, prompt=among)
    rows = jax.random.normal(jax.random.key(0), (5, TINY.emb_dim))
    tokens = tiny_batch()["encoder_input_tokens"][:1]
    prompt, text = prompted(rows, tokens, policy, tiny)

    other_text, _ = prompted(rows, tokens[:, ::-1].copy(), policy, tiny)
    assert same(prompt, other_text) == (not sees_input)

    other_prompt, seen = prompted(rows.at[2].add(1.0), tokens, policy, tiny)
    assert not same(text, seen)
    # Through the text, every row sees every other; only without it do the rows' own rules show.
    if not sees_input:
        changed = [not same(prompt[:, i], other_prompt[:, i]) for i in range(5)]
        assert (
            changed
            == {
                "all": [True] * 5,
                "causal": [False, False, True, True, True],
                "self": [False, False, True, False, False],
            }[among]
        )


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_no_number(tiny, remat):
    batch = lay_out(tiny_batch(), PromptLayout(encoder=5))
    rows = jax.random.normal(jax.random.key(0), (5, TINY.emb_dim))

    @jax.jit
    @jax.grad
    def gradient(rows, model):
        bundle = PromptBundle(encoder=rows[None])
        return Loss()(lambda batch, key: model(batch, bundle), batch)[0]

    other = weights.reconfigured(tiny, dataclasses.replace(TINY, remat=remat))
    found, wanted = gradient(rows, other), gradient(rows, tiny)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_padding_changes_no_real_column(tiny):
    batch = tiny_batch()
    wide = {name: np.pad(value, ((0, 0), (0, 4))) for name, value in batch.items()}
    assert worst(call(tiny, wide)[:, :5], call(tiny, batch), batch) < 1e-5


def test_arrays_come_back_from_a_built_model(tiny):
    arrays = weights.arrays_of(tiny)
    assert {name: array.shape for name, array in arrays.items()} == weights.t5x_shapes(TINY)
    again = weights.arrays_of(weights.build(TINY, arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_umt5_has_a_bias_per_layer():
    shapes = weights.t5x_shapes(dataclasses.replace(TINY, relpos_per_layer=True))
    biases = {name for name in shapes if "relpos_bias" in name}
    assert biases == {
        f"{side}/layers_{i}/relpos_bias/rel_embedding"
        for side in ("encoder", "decoder")
        for i in range(2)
    }


@pytest.mark.parametrize(
    ("size", "parameters"),
    [  # as transformers counts those of the released models
        ("t5_small", 60_506_624),
        ("t5_base", 222_903_552),
        ("t5_1_1_small", 76_961_152),
        ("t5_1_1_base", 247_577_856),
        ("mt5_small", 300_176_768),
        ("mt5_base", 582_401_280),
        ("byt5_small", 299_637_760),
    ],
)
def test_released_sizes(size, parameters):
    shapes = weights.t5x_shapes(sizes.SIZES[size]).values()
    assert sum(int(np.prod(shape)) for shape in shapes) == parameters
