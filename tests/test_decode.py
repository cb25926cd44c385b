"""Decoding against T5X's and transformers' ids, teacher forcing, and enumeration."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.backbone import weights
from prompt_jax.backbone.load import load_backbone
from prompt_jax.errors import UserError
from prompt_jax.model import decode, t5
from prompt_jax.model.bundle import NO_PROMPT, PromptBundle
from prompt_jax.prompt.layout import PromptLayout, lay_out

TINY = t5.T5Config(50, 16, 2, 8, 24, 2, 2, num_buckets=8, max_distance=12, dtype="float32")
RELU = {"mlp_activations": ("relu",), "logits_via_embedding": True, "scale_logits": True}
KINDS = {"t5_1_1": {}, "t5_1_0": RELU, "umt5": {"relpos_per_layer": True}}
INPUTS = {"encoder_input_tokens": jnp.array([[7, 8, 9, 1], [5, 1, 0, 0], [3, 4, 1, 0]])}


def random_t5(**changes):
    config = dataclasses.replace(TINY, **changes)
    rng = np.random.default_rng(3)
    shapes = weights.t5x_shapes(config)
    return weights.build(config, {k: rng.normal(0, s[0] ** -0.5, s) for k, s in shapes.items()})


@partial(jax.jit, static_argnames=("max_length", "beams"))
def generate(model, batch, bundle=NO_PROMPT, *, max_length=12, beams=1, alpha=0.6):
    found = decode.generate(model, batch, bundle, max_length=max_length, beams=beams, alpha=alpha)
    return jax.tree.map(jnp.asarray, found)


@jax.jit
def beam_1(model, batch):
    step, cache = decode.start_decoding(model, batch, NO_PROMPT, 12)
    return decode.beam_search(step, cache, max_length=12, beams=1, alpha=0.6)


score = jax.jit(decode.score)


@pytest.fixture(scope="module")
def v10(golden):
    return load_backbone(f"t5x:{golden}/t5x/v10_t5x/checkpoint_1000", "float32").model, golden


@pytest.fixture(scope="module")
def v11(shared):
    folder = shared / "golden" / "t5x"
    return load_backbone(f"t5x:{folder}/v11_t5x/checkpoint_1000", "float32").model, folder


def check_beam_4(found, peer):
    """T5X lists the worst first."""
    np.testing.assert_array_equal(found[0][:, ::-1], peer["dec/beam4_ids"])
    np.testing.assert_allclose(found[1][:, ::-1], peer["dec/beam4_scores"], atol=1e-4)


@pytest.mark.parametrize("name", ["v11", "v10"])
def test_ids_and_scores_equal_t5x(request, name):
    model, folder = request.getfixturevalue(name)
    peer = np.load(folder / f"{name}_forward.npz")
    batch = {"encoder_input_tokens": peer["dec/encoder_input_tokens"]}
    check_beam_4(generate(model, batch, beams=4), peer)
    ids, scores = beam_1(model, batch)
    np.testing.assert_array_equal(ids, peer["dec/beam1_ids"])
    np.testing.assert_allclose(scores, peer["dec/beam1_scores"], atol=1e-4)

    greedy_ids, greedy_scores = generate(model, batch)
    np.testing.assert_array_equal(greedy_ids, peer["dec/greedy_ids"])
    same = np.all(greedy_ids == ids, axis=(1, 2))
    assert same.sum() >= 7
    np.testing.assert_allclose(greedy_scores[same], scores[same], atol=1e-4)


def test_prompted_ids_and_scores_equal_t5x(v11):
    model, folder = v11
    peer = np.load(folder / "v11_prompted.npz")
    tokens = {"encoder_input_tokens": peer["dec/encoder_input_tokens"]}
    batch = lay_out(tokens, PromptLayout(encoder=5))
    bundle = PromptBundle(encoder=jnp.asarray(peer["prompt"])[None])
    check_beam_4(generate(model, batch, bundle, beams=4), peer)
    np.testing.assert_array_equal(generate(model, batch, bundle)[0], peer["dec/beam1_ids"])


def test_greedy_ids_equal_transformers(v11, shared):
    peer = np.load(shared / "golden" / "hf" / "t5_v11_outputs.npz")
    batch = {"encoder_input_tokens": peer["dec/encoder_input_tokens"]}
    ids = np.asarray(generate(v11[0], batch)[0])[:, 0]
    wanted = peer["dec/greedy_ids"][:, 1:]  # theirs begin with the start token
    np.testing.assert_array_equal(ids, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_cache_equals_teacher_forcing(kind):
    model = random_t5(**KINDS[kind])
    prompts = jax.random.normal(jax.random.key(0), (2, 3, 16))
    bundle = PromptBundle(encoder=prompts[:1], decoder=prompts)
    batch = lay_out(INPUTS, PromptLayout(encoder=3))
    batch["prompt_ids"] = jnp.array([0, 1, 1])
    targets = jnp.array([[4, 5, 6, 7], [9, 8, 3, 2], [2, 2, 5, 1]])
    features = batch | decode.teacher_forced(batch, bundle, targets)
    wanted = jax.nn.log_softmax(jax.jit(model.__call__)(features, bundle)[:, 3:])

    @jax.jit
    def stepwise(model):
        step, cache = decode.start_decoding(model, batch, bundle, 4)
        found = []
        for i in range(4):
            last = targets[:, i - 1] if i else jnp.zeros(3, jnp.int32)
            logp, cache = step(last, cache)
            found.append(logp)
        return jnp.stack(found, axis=1)

    np.testing.assert_allclose(stepwise(model), wanted, atol=2e-5)


def test_each_task_has_its_decoder_prompt():
    model = random_t5()
    prompts = 3 * jax.random.normal(jax.random.key(1), (2, 3, 16))
    both = PromptBundle(decoder=prompts)
    tasks = {"prompt_ids": jnp.array([0, 1, 0])}
    ids, scores = map(np.asarray, generate(model, INPUTS | tasks, both, max_length=4))
    for task, rows in ((0, [0, 2]), (1, [1])):
        alone = PromptBundle(decoder=prompts[task][None])
        wanted_ids, wanted_scores = map(np.asarray, generate(model, INPUTS, alone, max_length=4))
        np.testing.assert_array_equal(ids[rows, 0], wanted_ids[rows, 0])
        np.testing.assert_allclose(scores[rows], wanted_scores[rows], atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_wide_beam_search_finds_the_best_of_all(alpha):
    V, N = 5, 3
    model = random_t5(vocab_size=V)
    tokens = jnp.array([[3, 1, 0], [2, 4, 1]])
    batch = {"encoder_input_tokens": tokens}
    ended = [
        (*body, 1, *[0] * (N - 1 - n))
        for n in range(N)
        for body in itertools.product([0, 2, 3, 4], repeat=n)
    ]
    # Without 0 inside, padding and the token 0 cannot be confused; the search may still use it.
    choices = np.array([c for c in ended if 0 not in c[: c.index(1)]])
    total = score(model, batch, NO_PROMPT, jnp.asarray(np.stack([choices] * 2)))
    length = (choices > 0).sum(axis=-1)
    wanted = total / ((5 + length)[None] / 6) ** alpha
    ids, scores = generate(model, batch, max_length=N, beams=60, alpha=alpha)
    for row in range(2):
        hypotheses = [tuple(h) for h in np.asarray(ids[row]).tolist()]
        found = dict(zip(hypotheses, scores[row], strict=True))
        for choice, value in zip(choices.tolist(), wanted[row], strict=True):
            assert found[tuple(choice)] == pytest.approx(float(value), abs=1e-4)
        assert np.all(np.diff(scores[row]) <= 0)


def test_greedy_scores_are_those_of_the_ids():
    model = random_t5(vocab_size=6)
    rng = np.random.default_rng(0)
    batch = {"encoder_input_tokens": rng.integers(2, 6, (16, 5))}
    ids, scores = generate(model, batch, max_length=6)
    ids, scores = np.asarray(ids)[:, 0], np.asarray(scores)[:, 0]
    ended = (ids == 1).any(axis=-1)
    clean = ended & ((ids > 0).sum(axis=-1) == np.argmax(ids == 1, axis=-1) + 1)
    assert clean.any() and not ended.all()
    total = np.asarray(score(model, batch, NO_PROMPT, jnp.asarray(ids)[:, None]))[:, 0]
    length = (ids > 0).sum(axis=-1)
    np.testing.assert_allclose(
        scores[clean], (total / ((5 + length) / 6) ** 0.6)[clean], rtol=1e-5, atol=1e-5
    )
    unended = ~ended & (ids > 0).all(axis=-1)
    np.testing.assert_allclose(scores[unended], total[unended], rtol=1e-5, atol=1e-5)
    for row in ids[ended]:
        assert not row[np.argmax(row == 1) + 1 :].any()


def test_choices_are_scored_as_alone_and_encoded_once(monkeypatch):
    model = random_t5()
    prompts = jax.random.normal(jax.random.key(0), (2, 3, 16))
    bundle = PromptBundle(encoder=prompts[:1], decoder=prompts)
    batch = lay_out(INPUTS, PromptLayout(encoder=3))
    batch["prompt_ids"] = jnp.array([0, 1, 1])
    choices = jnp.array([[[4, 5, 1], [6, 1, 0]], [[7, 1, 0], [8, 9, 1]], [[2, 2, 1], [3, 1, 0]]])

    forward = jax.jit(model.__call__)
    for c in range(2):
        features = batch | decode.teacher_forced(batch, bundle, choices[:, c])
        logp = jax.nn.log_softmax(forward(features, bundle))[:, 3:]
        picked = jnp.take_along_axis(logp, choices[:, c, :, None], axis=-1)[..., 0]
        wanted = jnp.sum(picked * (choices[:, c] > 0), axis=-1)
        found = score(model, batch, bundle, choices)[:, c]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)

    calls = []
    encode = t5.T5.encode
    monkeypatch.setattr(t5.T5, "encode", lambda *args: calls.append(1) or encode(*args))
    jax.eval_shape(lambda *args: decode.score(*args), model, batch, bundle, choices)
    assert calls == [1]


def test_padding_of_choices_costs_nothing():
    model = random_t5()
    choices = jnp.array([[[4, 5, 1]]] * 3)
    wider = jnp.pad(choices, ((0, 0), (0, 0), (0, 3)))
    np.testing.assert_allclose(
        score(model, INPUTS, NO_PROMPT, wider), score(model, INPUTS, NO_PROMPT, choices), rtol=1e-5
    )


def test_decoding_runs_in_bf16():
    model = weights.reconfigured(random_t5(), dataclasses.replace(TINY, dtype="bfloat16"))
    ids, scores = generate(model, INPUTS, max_length=4, beams=2)
    assert ids.shape == (3, 2, 4) and ids.dtype == jnp.int32
    assert scores.dtype == jnp.float32 and np.isfinite(scores).all()


@partial(jax.jit, static_argnames=("sampling", "beams", "max_length"))
def sample(model, batch, key, sampling, beams=1, max_length=3):
    return decode.generate(
        model, batch, max_length=max_length, beams=beams, sampling=sampling, key=key
    )


def test_samples_follow_the_tempered_and_cut_distribution():
    """4,000 samples of one distribution against its probabilities."""
    logp = np.log([0.05, 0.4, 0.1, 0.25, 0.15, 0.05]).astype(np.float32)
    keys = decode.row_keys(jax.random.key(1), jnp.arange(40), 100)
    for rule in (decode.Sampling(), decode.Sampling(temperature=2.0, top_k=4, top_p=0.8)):
        draw = jax.jit(decode.sampler(rule))
        drawn = draw(jnp.tile(logp, (4000, 1)), jnp.zeros(4000, int), keys)
        found = np.bincount(drawn, minlength=6) / 4000
        p = np.exp(logp / rule.temperature)
        order = np.argsort(-p)
        p[order[rule.top_k or 6 :]] = 0
        p /= p.sum()
        p[order[np.cumsum(p[order]) - p[order] >= rule.top_p]] = 0
        np.testing.assert_allclose(found, p / p.sum(), atol=0.03)
        assert (found[p == 0] == 0).all()


def test_top_1_is_greedy():
    logits = jax.random.normal(jax.random.key(0), (5, 9))
    cut = decode.truncated(logits, decode.Sampling(top_k=1))
    np.testing.assert_array_equal(jnp.argmax(logits, axis=1), jnp.argmax(cut, axis=1))
    assert int(jnp.sum(cut > -jnp.inf)) == 5


@pytest.mark.slow
def test_a_row_draws_the_same_in_any_company():
    model, rule, key = random_t5(), decode.Sampling(temperature=1.5), jax.random.key(0)
    ids, scores = sample(model, INPUTS, key, rule, beams=2)
    seeds = {"sampling_seeds": jnp.array([2, 0, 1])}
    turned = {"encoder_input_tokens": INPUTS["encoder_input_tokens"][jnp.array([2, 0, 1])]} | seeds
    np.testing.assert_array_equal(sample(model, turned, key, rule, beams=2)[0][1], ids[0])
    again, _ = sample(model, INPUTS, jax.random.key(1), rule, beams=2)
    assert not np.array_equal(ids, again)
    assert not np.array_equal(ids[:, 0], ids[:, 1])
    unended = ~np.any(np.asarray(ids) < 2, axis=-1)
    assert unended.sum() > 2, "their score is the model's own log P"
    logp = np.asarray(score(model, INPUTS, NO_PROMPT, ids))
    np.testing.assert_allclose(np.asarray(scores)[unended], logp[unended], rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 2])
def test_decoding_does_not_wait_for_rows_without_input(monkeypatch, beams):
    model, steps = random_t5(), []
    start = decode.start_decoding

    def counted(*args):
        step, cache = start(*args)

        def told(tokens, cache):
            jax.debug.callback(lambda i: steps.append(int(i)), cache.lengths[0])
            logp, cache = step(tokens, cache)
            sure = jnp.where(jnp.arange(logp.shape[1]) == 1, 0.0, -1e6)  # EOS
            has_input = jnp.repeat(jnp.arange(3) < 2, len(tokens) // 3)[:, None]
            return jnp.where(has_input, jnp.broadcast_to(sure[None], logp.shape), logp), cache

        return told, cache

    monkeypatch.setattr(decode, "start_decoding", counted)
    batch = {"encoder_input_tokens": jnp.array([[7, 8, 1], [5, 1, 0], [0, 0, 0]])}
    ids, _ = jax.jit(lambda m: decode.generate(m, batch, max_length=9, beams=beams))(model)
    jax.effects_barrier()
    assert max(steps) < 3
    assert np.asarray(ids)[:2, 0, 0].tolist() == [1, 1]
    assert not np.asarray(ids)[2].any()


def test_many_choices_are_scored_a_few_at_a_time(monkeypatch):
    model = random_t5()
    choices = jnp.asarray(np.random.default_rng(0).integers(2, 50, (3, 5, 2)))
    wanted = score(model, INPUTS, NO_PROMPT, choices)
    monkeypatch.setattr(decode, "MOST_LOGITS", 2 * 3 * 2 * 50)
    found = jax.jit(lambda m: decode.score(m, INPUTS, NO_PROMPT, choices))(model)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_texts_vector_is_the_mean_over_its_tokens():
    model = random_t5()
    bundle = PromptBundle(encoder=jnp.ones((1, 2, 16)))
    batch = lay_out(INPUTS, PromptLayout(encoder=2, placement="suffix"))
    encoded = np.asarray(jax.jit(lambda m: m.encode(batch, bundle))(model))
    text = np.asarray((batch["encoder_input_tokens"] > 0) & (batch["encoder_prompt_slots"] == 0))
    wanted = [row[mask].mean(axis=0) for row, mask in zip(encoded, text, strict=True)]
    found = jax.jit(lambda m: decode.embed(m, batch, bundle))(model)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}])
def test_sampling_out_of_range_is_refused(wrong):
    with pytest.raises(UserError, match=f"Sampling.{next(iter(wrong))} = "):
        decode.Sampling(**wrong)
