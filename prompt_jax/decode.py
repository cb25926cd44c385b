"""Decoding over a cache: greedy, beam search, and the scores of given choices.

Beam search is T5X's (Wu et al. 2016, https://arxiv.org/abs/1609.08144, for the length penalty):
a hypothesis that has ended, its EOS counted among its n tokens, scores log P / ((5+n)/6)^alpha.

Shapes: B rows, K beams, C choices, T columns of the encoder or of a choice, N = max_length,
P' rows of a decoder prompt, D model width, V vocabulary. All functions are pure and may be jitted.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from prompt_jax.bundle import NO_PROMPT, PromptBundle
from prompt_jax.layout import EOS
from prompt_jax.loss import token_losses
from prompt_jax.t5 import T5, encoder_segments

START = 0  # T5's first decoder input
NOTHING = -1e7  # the score where there is no hypothesis: T5X's value


def generate(
    t5: T5,
    batch,
    bundle: PromptBundle = NO_PROMPT,
    *,
    max_length: int,
    beams: int = 1,
    alpha: float = 0.6,
) -> tuple[jax.Array, jax.Array]:
    """The best outputs for every row of a batch, best first.

    `batch` holds T5's encoder features, one example per row, and may hold `decoder_task_ids`
    [B, 1], which pick among the decoder prompts of the bundle.

    Returns ids int32 [B, K, N], without the start token and 0 after EOS, and scores float32
    [B, K]. One beam is greedy search. A row in which nothing ended within N tokens gives what it
    has, scored by log P alone; where fewer than K hypotheses ended, the others are zeros with
    score -1e7. Both are T5X's rules.
    """
    step, cache = _start(t5, batch, bundle, max_length)
    if beams == 1:
        ids, scores = _greedy(step, cache, len(batch["encoder_input_tokens"]), max_length, alpha)
        return ids[:, None], scores[:, None]
    return beam_search(step, cache, max_length=max_length, beams=beams, alpha=alpha)


def score(t5: T5, batch, bundle: PromptBundle, choices_BCT: jax.Array) -> jax.Array:
    """float32 [B, C]: the log-likelihood of each tokenised choice, int32 [B, C, T] (0 = padding).

    `batch` is that of `generate`. The encoder runs once per example.
    """
    encoded = t5.encode(batch, bundle)

    def one(targets_BT):
        decoder = _teacher_forced(batch, bundle, targets_BT)
        logits = t5.decode_logits(encoded, {**batch, **decoder}, bundle)
        logits = logits[:, -targets_BT.shape[1] :]
        losses, _ = token_losses(logits, targets_BT, z_loss=0.0, label_smoothing=0.0)
        return -jnp.sum(losses * (targets_BT > 0), axis=-1)

    return jax.vmap(one, in_axes=1, out_axes=1)(choices_BCT)


def _teacher_forced(batch, bundle: PromptBundle, targets_BT) -> dict[str, jax.Array]:
    """The decoder's features of a batch of targets, after the columns of the decoder's prompt."""
    B, T = targets_BT.shape
    length = 0 if bundle.decoder is None else bundle.decoder.shape[1]
    inputs_BT = jnp.pad(targets_BT[:, :-1], ((0, 0), (1, 0)), constant_values=START)
    slots = jnp.concatenate([jnp.arange(1, length + 1), jnp.zeros(T, int)]).astype(jnp.int32)
    features = {
        "decoder_input_tokens": jnp.pad(inputs_BT, ((0, 0), (length, 0))),
        "decoder_target_tokens": jnp.pad(targets_BT, ((0, 0), (length, 0))),
        "decoder_prompt_slots": jnp.broadcast_to(slots, (B, length + T)),
    }
    if "decoder_task_ids" in batch:
        tasks = batch["decoder_task_ids"][:, :1]
        features["decoder_task_ids"] = jnp.broadcast_to(tasks, (B, length + T))
    return features


def _start(t5: T5, batch, bundle: PromptBundle, max_length: int) -> tuple[Callable, dict]:
    """Encodes the batch and writes the decoder's prompt into a new cache.

    Returns `step(tokens int32 [R], cache, i) -> (log-probabilities float32 [R, V], cache)`, which
    writes column i and serves B rows or K copies of each (R = B * K), and the cache of B rows.
    """
    encoded = t5.encode(batch, bundle)
    mask_BT = encoder_segments(batch) > 0
    rows = _decoder_rows(batch, bundle, encoded)
    cache = t5.start_cache(encoded, rows.shape[1] + max_length)
    if rows.shape[1]:
        _, cache = t5.decode_step(rows, cache, 0, mask_BT)

    def step(tokens, cache, i):
        mask = jnp.repeat(mask_BT, len(tokens) // len(mask_BT), axis=0)
        x = t5.embed(tokens[:, None])
        logits, cache = t5.decode_step(x, cache, rows.shape[1] + i, mask)
        return jax.nn.log_softmax(logits[:, 0]), cache

    return step, cache


def _decoder_rows(batch, bundle: PromptBundle, encoded) -> jax.Array:
    """[B, P', D]: every row's decoder prompt, of its own task where there are several."""
    B, _, D = encoded.shape
    if bundle.decoder is None:
        return jnp.zeros((B, 0, D), encoded.dtype)
    prompts = bundle.decoder.astype(encoded.dtype)
    if len(prompts) == 1 or "decoder_task_ids" not in batch:
        return jnp.broadcast_to(prompts[:1], (B, *prompts.shape[1:]))
    return prompts[jnp.maximum(batch["decoder_task_ids"][:, 0], 0)]


def _length_penalty(length, alpha) -> jax.Array:
    return ((5.0 + length) / 6.0) ** alpha


class _Greedy(NamedTuple):
    i: jax.Array  # int32 [], tokens chosen so far
    ids: jax.Array  # int32 [B, N]
    last: jax.Array  # int32 [B], what the decoder reads next
    logp: jax.Array  # float32 [B]
    ended: jax.Array  # bool [B]
    cache: dict


def _greedy(step, cache, B: int, N: int, alpha) -> tuple[jax.Array, jax.Array]:
    """int32 [B, N] and float32 [B]; stops when every row has ended."""

    def going_on(s: _Greedy):
        return (s.i < N) & ~jnp.all(s.ended)

    def advance(s: _Greedy):
        logp_BV, cache = step(s.last, s.cache, s.i)
        token = jnp.where(s.ended, 0, jnp.argmax(logp_BV, axis=-1).astype(jnp.int32))
        gain = jnp.where(s.ended, 0.0, jnp.max(logp_BV, axis=-1))
        ids = s.ids.at[:, s.i].set(token)
        return _Greedy(s.i + 1, ids, token, s.logp + gain, s.ended | (token == EOS), cache)

    last = jnp.full(B, START, jnp.int32)
    ids, logp, ended = jnp.zeros((B, N), jnp.int32), jnp.zeros(B), jnp.zeros(B, bool)
    s = jax.lax.while_loop(going_on, advance, _Greedy(jnp.int32(0), ids, last, logp, ended, cache))
    length = jnp.sum(s.ids > 0, axis=-1)
    return s.ids, jnp.where(s.ended, s.logp / _length_penalty(length, alpha), s.logp)


class _Beams(NamedTuple):
    i: jax.Array  # int32 [], tokens chosen so far
    live: jax.Array  # int32 [B, K, N]: hypotheses without EOS, best first
    live_logp: jax.Array  # float32 [B, K]
    done: jax.Array  # int32 [B, K, N]: hypotheses with EOS, best first
    done_score: jax.Array  # float32 [B, K]; NOTHING where the place is free
    cache: dict


def beam_search(
    step: Callable, cache, *, max_length: int, beams: int, alpha
) -> tuple[jax.Array, jax.Array]:
    """T5X's beam search: int32 [B, K, N] and float32 [B, K], best first, as `generate` says.

    `step` and the cache of B rows are those of `_start`. Of the 2K best continuations, those with
    EOS compete with what ended before, the K best others live on. The search stops when in no row
    a live hypothesis could still beat the worst that ended.
    """
    K, N = beams, max_length
    cache = jax.tree.map(lambda x: jnp.repeat(x, K, axis=1), cache)
    B = cache["self"][0].shape[1] // K

    def going_on(s: _Beams):
        best_hope = s.live_logp[:, 0] / _length_penalty(N + 1, alpha)  # T5X counts the start token
        return (s.i < N) & ~jnp.all(jnp.min(s.done_score, axis=-1) > best_hope)

    def advance(s: _Beams):
        last = jnp.where(s.i == 0, START, s.live[:, :, s.i - 1])
        logp, cache = step(last.reshape(B * K), s.cache, s.i)
        logp = s.live_logp[:, :, None] + logp.reshape(B, K, -1)
        V = logp.shape[-1]
        logp, flat = jax.lax.top_k(logp.reshape(B, K * V), 2 * K)
        parent, token = flat // V, flat % V
        ids = _pick(s.live, parent).at[:, :, s.i].set(token)
        ended = token == EOS
        live_logp, kept = jax.lax.top_k(jnp.where(ended, NOTHING, logp), K)
        real = ended & (logp > NOTHING / 2)  # false for what follows a place without a hypothesis
        score = jnp.where(real, logp / _length_penalty(s.i + 1, alpha), NOTHING)
        all_score = jnp.concatenate([s.done_score, score], axis=1)
        done_score, best = jax.lax.top_k(all_score, K)
        done = _pick(jnp.concatenate([s.done, ids], axis=1), best)
        rows = (jnp.arange(B)[:, None] * K + _pick(parent, kept)).reshape(B * K)
        # Beams of one example share what they see of the encoder: only "self" is reordered.
        cache = {**cache, "self": jax.tree.map(lambda x: x[:, rows], cache["self"])}
        return _Beams(s.i + 1, _pick(ids, kept), live_logp, done, done_score, cache)

    empty, free = jnp.zeros((B, K, N), jnp.int32), jnp.full((B, K), NOTHING)
    start = _Beams(jnp.int32(0), empty, free.at[:, 0].set(0.0), empty, free, cache)
    s = jax.lax.while_loop(going_on, advance, start)
    any_done = s.done_score[:, :1] > NOTHING
    ids = jnp.where(any_done[:, :, None], s.done, s.live)
    return ids, jnp.where(any_done, s.done_score, s.live_logp)


def _pick(x: jax.Array, index_BJ: jax.Array) -> jax.Array:
    """x [B, I, ...] -> [B, J, ...]: in every row b, the entries index[b]."""
    return jax.vmap(lambda row, index: row[index])(x, index_BJ)
