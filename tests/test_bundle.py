"""What works inside the layers: named arrays, their shapes, and what they do to a T5."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.backbone import weights
from prompt_jax.backbone.load import Backbone
from prompt_jax.errors import UserError
from prompt_jax.methods.base import PromptedT5
from prompt_jax.methods.parts.start import Shapes
from prompt_jax.methods.prefix import PrefixTuning
from prompt_jax.model import decode, t5
from prompt_jax.model.bundle import axes_of, bundle_of, named, rank_of
from prompt_jax.prompt.artefact import check_backbone, load_prompt, save_prompt
from prompt_jax.prompt.layout import NO_ROWS, PromptLayout, lay_out

PREFIX = [
    "encoder_layers/attention/keys",
    "encoder_layers/attention/values",
    "decoder_layers/attention/keys",
    "decoder_layers/attention/values",
    "decoder_layers/cross/keys",
    "decoder_layers/cross/values",
]
CONFIG = t5.T5Config(40, 12, 2, 4, 16, 2, 3, dropout_rate=0.0, dtype="float32")
P = 3
FREE = {"a": 2, "b": 2}  # r, where a shape leaves an axis to the method
FAMILIES = {
    "prefix": PREFIX,
    "prefix before the text": PREFIX,
    "scales": [
        "encoder_layers/attention/key/output_scale",
        "encoder_layers/wo/input_scale",
        "decoder_layers/attention/value/output_scale",
        "decoder_layers/cross/key/output_scale",
        "decoder_layers/cross/value/output_scale",
    ],
    "low rank": [
        "encoder_layers/attention/query/a",
        "encoder_layers/attention/query/b",
        "decoder_layers/cross/out/a",
        "decoder_layers/cross/out/b",
        "decoder_layers/cross/value/a",
        "decoder_layers/cross/value/b",
        "decoder_layers/wi_0/a",
        "decoder_layers/wi_0/b",
    ],
    "deep": ["encoder", "decoder", "encoder_layers/rows", "decoder_layers/added"],
}


def arrays_of(family: str) -> dict[str, np.ndarray]:
    rng, arrays = np.random.default_rng(0), {}
    for name in FAMILIES[family]:
        free = FREE.get(name.rsplit("/", 1)[-1], P)
        shape = [free if size is None else size for size in axes_of(name, CONFIG)]
        arrays[name] = rng.normal(size=shape).astype(np.float32)
    return arrays


@pytest.fixture(scope="module")
def model() -> t5.T5:
    return weights.init(CONFIG, 0)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Two rows of two segments, and the same four examples a row each."""
    rng = np.random.default_rng(1)
    tokens, targets = rng.integers(2, 40, (4, 5)), rng.integers(2, 40, (4, 3))
    inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    features = {"encoder_input_tokens": tokens, "decoder_input_tokens": inputs}
    features |= {"decoder_target_tokens": targets}
    return {name: value.astype(np.int32) for name, value in features.items()}


def test_a_prefix_reaches_the_encoder(model, batch):
    """PEFT's prefixes of a T5 leave the encoder's output as it is; ours must not."""
    for hidden in (None, 5):
        method = PrefixTuning(length=P, hidden=hidden)
        module = method.create(jax.random.key(0), Shapes(CONFIG))
        plain, prefixed = model.encode(batch), model.encode(batch, module())
        assert plain.shape == prefixed.shape
        assert float(jnp.abs(prefixed - plain).max()) > 0.1


@pytest.mark.slow
def test_a_prefix_drops_keys_and_values_in_training_alone(model, batch):
    method = PrefixTuning(length=40, hidden=None, dropout_rate=0.25)
    module = method.create(jax.random.key(0), Shapes(CONFIG))
    whole = named(module())
    masks = []
    for seed in (1, 1, 2):
        found = named(PromptedT5(model, module).bundle(batch, jax.random.key(seed)))
        masks.append(np.concatenate([np.ravel(found[name] == 0) for name in whole]))
        for name, array in whole.items():
            kept = found[name] != 0
            np.testing.assert_allclose(found[name][kept], array[kept] / 0.75, rtol=1e-6)
    assert 0.2 < masks[0].mean() < 0.3
    assert np.array_equal(masks[0], masks[1]) and not np.array_equal(masks[0], masks[2])
    with pytest.raises(UserError, match=r"PrefixTuning\.dropout_rate = 1\.0: give 0 <= value < 1"):
        PrefixTuning(dropout_rate=1.0)


def packed(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wide = {name: value.reshape(2, -1) for name, value in batch.items()}
    for side, name in (("encoder", "encoder_input_tokens"), ("decoder", "decoder_target_tokens")):
        wide[f"{side}_segment_ids"] = np.repeat([[1, 2]], 2, 0).repeat(batch[name].shape[1], 1)
    return {name: value.astype(np.int32) for name, value in wide.items()}


def layout_of(family: str) -> PromptLayout:
    return PromptLayout(encoder=P, decoder=P) if family == "deep" else NO_ROWS


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bundle_is_its_named_arrays(family, tmp_path):
    arrays = arrays_of(family)
    bundle = bundle_of({name: jnp.asarray(value) for name, value in arrays.items()})
    assert named(bundle).keys() == arrays.keys()
    for name, value in named(bundle).items():
        assert value.ndim == rank_of(name) == len(axes_of(name, CONFIG))
        np.testing.assert_array_equal(value, arrays[name])


QUICK = ("prefix before the text", "low rank")


@pytest.mark.parametrize(
    "family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_packed_cached_and_gradient(family, model, batch):
    """One compilation: packed logits are those of rows apart, decoding over the cache scores as
    teacher forcing does, every array has an effect and a gradient."""
    layout = layout_of(family)
    positions = "before" if family == "prefix before the text" else "none"
    placed = functools.partial(bundle_of, prefix_positions=positions)
    apart, together = lay_out(batch, layout), lay_out(packed(batch), layout)
    arrays = {name: jnp.asarray(value) for name, value in arrays_of(family).items()}

    @jax.jit
    def all_of_it(model, arrays, apart, together, targets):
        def total(arrays):
            return jnp.sum(model(apart, placed(arrays)) ** 2)

        bundle = placed(arrays)
        scores = decode.score(model, apart, bundle, targets[:, None])
        step, cache = decode.start_decoding(model, apart, bundle, 3)
        last, cached = jnp.zeros(4, jnp.int32), 0.0
        for i in range(3):
            logp, cache = step(last, cache)
            last = targets[:, i]
            cached += jnp.take_along_axis(logp, last[:, None], axis=-1)[:, 0]
        logits = model(apart, bundle), model(together, bundle)
        return logits, (scores[:, 0], cached), jax.grad(total)(arrays)

    targets = jnp.asarray(batch["decoder_target_tokens"])
    logits, scores, grads = all_of_it(model, arrays, apart, together, targets)
    real = [np.asarray(b["decoder_target_tokens"]) > 0 for b in (apart, together)]
    one, other = (np.asarray(x)[r] for x, r in zip(logits, real, strict=True))
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-5, atol=2e-5)
    for name, grad in grads.items():
        replaced = name == "encoder"  # by the first of the rows of its layers
        assert (np.abs(np.asarray(grad)).max() > 1e-4) != replaced, name


def manifest(digest: str) -> dict:
    seen = {"placement": "prefix", "visibility": {"input": True, "prompt": "all"}}
    told = dict.fromkeys(("method", "settings", "tokenizer", "task", "metric", "step", "seed"))
    return {**told, **seen, "backbone": {"name": "toy", "digest": digest}}


def test_arrays_of_layers_are_saved_and_fit_one_backbone(model, tmp_path):
    arrays = arrays_of("low rank") | arrays_of("scales")
    save_prompt(tmp_path / "p", arrays, manifest("0" * 64))
    prompt = load_prompt(tmp_path / "p")
    assert prompt.arrays.keys() == arrays.keys() and prompt.layout == NO_ROWS
    check_backbone(prompt, Backbone(CONFIG, model, "toy", "0" * 64, None))
    deeper = t5.T5Config(40, 12, 2, 4, 16, 3, 3)
    wanted = r"has encoder_layers/\S+ \[2, .*backbone 'toy' takes \[3, .*that it was tuned for"
    with pytest.raises(UserError, match=wanted):
        check_backbone(prompt, Backbone(deeper, model, "toy", "0" * 64, None))
    with pytest.raises(UserError, match="has arrays inside the layers only; use arrays"):
        _ = prompt.array


@pytest.mark.parametrize("name", ["encoder_layers", "encoder_layers/middle/keys", "encoder/keys"])
def test_an_array_that_no_part_takes(name, tmp_path):
    with pytest.raises(UserError, match=r"arrays \[.*\]; a prompt has 'encoder', .* the layers"):
        save_prompt(tmp_path / "p", {name: np.ones((2, 2), "f")}, manifest("0"))
