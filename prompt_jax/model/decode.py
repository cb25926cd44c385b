"""Decoding over a cache: greedy, sampling, beam search; scores of given choices; text vectors.

Beam search is T5X's (Wu et al. 2016, https://arxiv.org/abs/1609.08144, for the length penalty):
a hypothesis that has ended, its EOS counted among its n tokens, scores log P / ((5+n)/6)^alpha.

Shapes: B rows, K beams, C choices, T columns of the encoder or of a choice, N = max_length,
P' rows of a decoder prompt, D model width, V vocabulary. All functions are pure and may be jitted.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prompt_jax.errors import Setting, UserError
from prompt_jax.model import cache
from prompt_jax.model.bundle import NO_PROMPT, PromptBundle
from prompt_jax.model.cache import Cache
from prompt_jax.model.logprobs import EOS, token_losses
from prompt_jax.model.t5 import T5, encoder_segments
from prompt_jax.model.trie import Trie
from prompt_jax.settings import settings

START = 0  # T5's first decoder input
NOTHING = -1e7  # the score where there is no hypothesis: T5X's value
MOST_LOGITS = 2**27  # float32 numbers (512 MB) that choices are scored with at a time


@settings
class Sampling:
    """How tokens are drawn: from the tempered distribution, cut to its head.

    Attributes:
      temperature: logits are divided by it.
      top_k: only the so many likeliest tokens; 0: all.
      top_p: only the likeliest tokens that together reach this probability (Holtzman et al. 2020,
        https://arxiv.org/abs/1904.09751), after temperature and `top_k`.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def check(self):
        if self.temperature <= 0:
            raise UserError(
                Setting("Sampling", "temperature", self.temperature),
                remedy="give a value above 0 (greedy: none)",
            )
        if self.top_k < 0:
            raise UserError(Setting("Sampling", "top_k", self.top_k), remedy="give 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(Setting("Sampling", "top_p", self.top_p), remedy="give 0 < top_p <= 1")


def generate(
    t5: T5,
    batch,
    bundle: PromptBundle = NO_PROMPT,
    *,
    max_length: int,
    beams: int = 1,
    alpha: float = 0.6,
    sampling: Sampling | None = None,
    key: jax.Array | None = None,
    trie: Trie | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The best outputs for every row of a batch, best first; with `sampling`, K drawn ones.

    `batch` holds T5's encoder features, one example per row, and may hold `prompt_ids` int32 [B],
    which pick among the prompts of the bundle. With a `trie`, outputs are texts in it, of which
    `trie_roots` int32 [B] of the batch say where each row begins; scores stay the model's own.

    Returns ids int32 [B, K, N], without the start token and 0 after EOS, and scores float32
    [B, K]. One beam is greedy search. A row in which nothing ended within N tokens gives what it
    has, scored by log P alone; where fewer than K hypotheses ended, the others are zeros with
    score -1e7. Both are T5X's rules. Sampled outputs come in the order of drawing, scored by the
    model's own P, whatever temperature and cuts are. Decoding ends when all rows have; rows
    without input do not wait, and give zeros.

    `key` is a typed key for sampling. Every row folds in its number, `sampling_seeds` int32 [B] of
    the batch or its place in it, so that what a row draws does not depend on its neighbours.
    """
    step, start = start_decoding(t5, batch, bundle, max_length)
    empty = ~jnp.any(encoder_segments(batch) > 0, axis=1)
    within = anything if trie is None else _within(trie, jnp.repeat(batch["trie_roots"], beams))
    if sampling is None and beams > 1:
        sizes = {"max_length": max_length, "beams": beams, "alpha": alpha}
        return beam_search(step, start, **sizes, blank=empty, within=within)
    assert sampling is None or key is not None, "sampling needs a key"
    B = len(empty)
    seeds = batch.get("sampling_seeds", jnp.arange(B))
    keys = row_keys(jax.random.key(0) if key is None else key, seeds, beams)
    limits = jnp.full(B * beams, max_length, jnp.int32)
    start, empty = cache.repeat(start, beams), jnp.repeat(empty, beams)
    rows = start_rows(start, empty, limits, keys, max_length)
    choose = likeliest if sampling is None else sampler(sampling)
    ids, scores = _one_by_one(step, choose, rows, alpha, within)
    return ids.reshape(B, beams, max_length), scores.reshape(B, beams)


def greedy(
    t5: T5, batch, bundle: PromptBundle = NO_PROMPT, *, max_length: int
) -> tuple[jax.Array, jax.Array]:
    """Greedy ids int32 [B, N] and their log P, float32 [B]; B and the columns may be symbolic."""
    step, start = start_decoding(t5, batch, bundle, max_length)
    empty = ~jnp.any(encoder_segments(batch) > 0, axis=1)
    limits = jnp.full(empty.shape, max_length, jnp.int32)
    rows = start_rows(start, empty, limits, jnp.zeros_like(limits), max_length)
    return _one_by_one(step, likeliest, rows, 0.0)


def score(t5: T5, batch, bundle: PromptBundle, choices_BCT: jax.Array) -> jax.Array:
    """float32 [B, C]: the log-likelihood of each tokenised choice, int32 [B, C, T] (0 = padding).

    `batch` is that of `generate`. The encoder runs once per example.
    """
    bundle = t5.computed_once(bundle)
    return score_encoded(t5, t5.encode(batch, bundle), batch, bundle, choices_BCT)


def score_encoded(
    t5: T5, encoded: jax.Array, batch, bundle: PromptBundle, choices_BCT: jax.Array
) -> jax.Array:
    """`score` of a batch that is encoded already."""

    def one(targets_BT):
        decoder = teacher_forced(batch, bundle, targets_BT)
        logits = t5.decode_logits(encoded, {**batch, **decoder}, bundle)
        logits = logits[:, -targets_BT.shape[1] :]
        losses, _ = token_losses(logits, targets_BT, z_loss=0.0, label_smoothing=0.0)
        return -jnp.sum(losses * (targets_BT > 0), axis=-1)

    B, C, T = choices_BCT.shape
    at_once = max(1, MOST_LOGITS // (B * T * t5.config.vocab_size))
    if at_once >= C:
        return jax.vmap(one, in_axes=1, out_axes=1)(choices_BCT)
    return jax.lax.map(one, choices_BCT.swapaxes(0, 1), batch_size=at_once).T


def embed(t5: T5, batch, bundle: PromptBundle = NO_PROMPT) -> jax.Array:
    """float32 [B, D]: the mean of the encoder's output over the columns of text, EOS included."""
    return mean_of_text(t5.encode(batch, t5.computed_once(bundle)), batch)


def mean_of_text(encoded: jax.Array, batch) -> jax.Array:
    """`embed` of a batch that is encoded already."""
    encoded = encoded.astype(jnp.float32)
    text = encoder_segments(batch) > 0
    if "encoder_prompt_slots" in batch:
        text = text & (batch["encoder_prompt_slots"] == 0)
    total = jnp.sum(jnp.where(text[:, :, None], encoded, 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(text, axis=1, keepdims=True), 1)


def first_state(t5: T5, batch, bundle: PromptBundle = NO_PROMPT) -> jax.Array:
    """[B, D]: the decoder's output at its first token, which has read the whole text."""
    targets = jnp.full((len(batch["encoder_input_tokens"]), 1), EOS, jnp.int32)
    seen = {**batch, **teacher_forced(batch, bundle, targets)}
    return t5.decoded(seen, bundle)[:, -1]


def teacher_forced(batch, bundle: PromptBundle, targets_BT) -> dict[str, jax.Array]:
    """The decoder's features of a batch of targets, after the columns of the decoder's prompt."""
    T = targets_BT.shape[1]
    slots = cache.decoder_slots(bundle, len(targets_BT), batch.get("prompt_ids"))
    length = slots.shape[1]
    inputs_BT = jnp.pad(targets_BT[:, :-1], ((0, 0), (1, 0)), constant_values=START)
    return {
        "decoder_input_tokens": jnp.pad(inputs_BT, ((0, 0), (length, 0))),
        "decoder_target_tokens": jnp.pad(targets_BT, ((0, 0), (length, 0))),
        "decoder_prompt_slots": jnp.pad(slots, ((0, 0), (0, T))),
    }


def start_decoding(t5: T5, batch, bundle: PromptBundle, max_length: int) -> tuple[Callable, Cache]:
    """`step(tokens int32 [R], cache) -> (log-probabilities float32 [R, V], cache)`, and the cache
    of the B rows of the batch, which `step` takes as it is or repeated (R = B * K)."""
    bundle = t5.computed_once(bundle)

    def step(tokens, rows):
        return cache.step(t5, rows, tokens, bundle)

    return step, cache.prefill(t5, batch, bundle, columns=max_length)


def _length_penalty(length, alpha) -> jax.Array:
    return ((5.0 + length) / 6.0) ** alpha


@struct.dataclass
class Rows:
    """What greedy search and sampling know of rows that may stand at different tokens.

    Attributes:
      cache: of R rows.
      ids: int32 [R, N], the tokens chosen so far, 0 behind.
      counts: int32 [R], how many they are.
      limits: int32 [R], how many they may be, at most N.
      last: int32 [R], what the decoder reads next.
      logp: float32 [R], the log-probability of the tokens.
      ended: bool [R], after EOS or the last token that the limit allows.
      keys: typed keys [R], that the row draws with.
    """

    cache: Cache
    ids: jax.Array
    counts: jax.Array
    limits: jax.Array
    last: jax.Array
    logp: jax.Array
    ended: jax.Array
    keys: jax.Array


def places(mesh: Mesh) -> tuple[Rows, Any, Any]:
    """Where `Rows` live on a mesh: rows over its data and fsdp axes.

    Returns:
      (the shardings of `Rows`, of one array [B, ...], of one array [L, B, ...]).
    """
    row: Any = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    layered: Any = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    rows = Rows(
        cache=cache.Cache(row, row, row, attention=layered, cross=layered),
        ids=row,
        counts=row,
        limits=row,
        last=row,
        logp=row,
        ended=row,
        keys=row,
    )
    return rows, row, layered


def start_rows(cache: Cache, empty_R: jax.Array, limits_R: jax.Array, keys_R, N: int) -> Rows:
    """Rows before their first token; those that are `empty`, bool [R], have ended."""
    R = empty_R.shape[0]
    return Rows(
        cache=cache,
        ids=jnp.zeros((R, N), jnp.int32),
        counts=jnp.zeros(R, jnp.int32),
        limits=limits_R,
        last=jnp.full(R, START, jnp.int32),
        logp=jnp.zeros(R),
        ended=empty_R,
        keys=keys_R,
    )


def anything(logp_RV: jax.Array, ids_RN: jax.Array, counts_R: jax.Array) -> jax.Array:
    """What may follow the tokens of each row where nothing limits it: all."""
    return logp_RV


def _within(trie: Trie, roots_R: jax.Array) -> Callable:
    """`anything`, but -inf for what the trie does not have."""

    def within(logp_RV, ids_RN, counts_R):
        allowed = trie.allowed(roots_R, ids_RN, counts_R, logp_RV.shape[-1])
        return jnp.where(allowed, logp_RV, -jnp.inf)

    return within


def advance(step: Callable, choose: Callable, rows: Rows, within: Callable = anything) -> Rows:
    """One more token for every row that has not ended: `choose(logp [R, V], counts, keys)`."""
    logp_RV, grown = step(rows.last, rows.cache)
    shown = within(logp_RV, rows.ids, rows.counts)
    chosen = choose(shown, rows.counts, rows.keys).astype(jnp.int32)
    token = jnp.where(rows.ended, 0, chosen)
    gain = jnp.take_along_axis(logp_RV, token[:, None], axis=-1)[:, 0]
    here = jnp.arange(rows.ids.shape[1])[None] == rows.counts[:, None]
    counts = jnp.where(rows.ended, rows.counts, rows.counts + 1)
    return dataclasses.replace(
        rows,
        cache=grown,
        ids=jnp.where(here & ~rows.ended[:, None], token[:, None], rows.ids),
        counts=counts,
        last=token,
        logp=rows.logp + jnp.where(rows.ended, 0.0, gain),
        ended=rows.ended | (token == EOS) | (counts >= rows.limits),
    )


def row_scores(rows: Rows, alpha: float) -> jax.Array:
    """float32 [R]: as `generate` says; log P alone where the limit came before EOS."""
    length = jnp.sum(rows.ids > 0, axis=-1)
    with_eos = jnp.any(rows.ids == EOS, axis=-1)
    return jnp.where(with_eos, rows.logp / _length_penalty(length, alpha), rows.logp)


def insert(rows: Rows, new: Rows, slots_R: jax.Array) -> Rows:
    """`rows` with others in the slots int32 [R]; see `cache.insert`."""

    def put(old, new):
        return old.at[slots_R].set(new, mode="drop")

    grown = cache.insert(rows.cache, new.cache, slots_R)
    rest = [dataclasses.replace(x, cache=None) for x in (rows, new)]
    return dataclasses.replace(jax.tree.map(put, *rest), cache=grown)


def first(rows: Rows, count: int) -> Rows:
    """The first rows of some."""
    few = jax.tree.map(lambda x: x[:count], dataclasses.replace(rows, cache=None))
    return dataclasses.replace(few, cache=cache.first(rows.cache, count))


def with_first(rows: Rows, advanced: Rows) -> Rows:
    """`rows`, of which the first have become those in `advanced`."""
    grown = cache.with_first(rows.cache, advanced.cache)
    old, new = (dataclasses.replace(x, cache=None) for x in (rows, advanced))
    put = lambda old, new: old.at[: len(new)].set(new)  # noqa: E731
    return dataclasses.replace(jax.tree.map(put, old, new), cache=grown)


def _one_by_one(
    step: Callable, choose: Callable, rows: Rows, alpha, within: Callable = anything
) -> tuple[jax.Array, jax.Array]:
    """int32 [R, N] and float32 [R]. Stops when every row has ended."""
    go_on = lambda s: advance(step, choose, s, within)  # noqa: E731
    rows = jax.lax.while_loop(lambda s: ~jnp.all(s.ended), go_on, rows)
    return rows.ids, row_scores(rows, alpha)


def likeliest(logp_RV: jax.Array, counts_R, keys_R) -> jax.Array:
    return jnp.argmax(logp_RV, axis=-1)


def row_keys(key: jax.Array, seeds_B: jax.Array, K: int) -> jax.Array:
    """Keys [B * K]: of each row's number and the number of its sample."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys_B = fold(key, seeds_B)
    return jax.vmap(lambda row: fold(row, jnp.arange(K)))(keys_B).reshape(-1)


def sampler(sampling: Sampling) -> Callable:
    """`(logp [R, V], counts [R], keys [R]) -> tokens [R]`, drawn as `sampling` says."""

    def draw(logp_RV, counts_R, keys_R):
        keys = jax.vmap(jax.random.fold_in)(keys_R, counts_R)
        return jax.vmap(jax.random.categorical)(keys, truncated(logp_RV, sampling))

    return draw


def drawn_or_likeliest(temperature_R, top_k_R, top_p_R, logp_RV, counts_R, keys_R) -> jax.Array:
    """int32 [R]: tokens drawn as `Sampling` says, each row by numbers of its own; the likeliest
    where its temperature is 0. A row draws as `sampler` does for it alone."""
    greedy = temperature_R == 0
    heat, V = jnp.where(greedy, 1.0, temperature_R)[:, None], logp_RV.shape[-1]
    tempered = logp_RV / heat
    ordered = jnp.sort(tempered, axis=-1)[:, ::-1]
    inside = jnp.arange(V)[None] < jnp.where(top_k_R > 0, top_k_R, V)[:, None]
    logits = _head(tempered, jnp.where(inside, ordered, -jnp.inf), top_p_R[:, None])
    keys = jax.vmap(jax.random.fold_in)(keys_R, counts_R)
    drawn = jax.vmap(jax.random.categorical)(keys, logits)
    return jnp.where(greedy, likeliest(logp_RV, counts_R, keys_R), drawn)


def truncated(logp_RV: jax.Array, sampling: Sampling) -> jax.Array:
    """Tempered logits float32 [R, V], -inf outside the head; tokens that tie with its last stay."""
    x = logp_RV / sampling.temperature
    ordered = jnp.sort(x, axis=-1)[:, ::-1]
    if sampling.top_k:
        inside = jnp.arange(x.shape[-1]) < sampling.top_k
        ordered = jnp.where(inside[None], ordered, -jnp.inf)
    return _head(x, ordered, sampling.top_p)


def _head(x: jax.Array, ordered: jax.Array, top_p) -> jax.Array:
    """x [R, V] with -inf below the last of those `ordered`, descending, that reach `top_p`."""
    p = jax.nn.softmax(ordered, axis=-1)
    head = (jnp.cumsum(p, axis=-1) - p < top_p) & (ordered > -jnp.inf)
    last = jnp.min(jnp.where(head, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(x >= last, x, -jnp.inf)


class _Beams(NamedTuple):
    i: jax.Array  # int32 [], tokens chosen so far
    live: jax.Array  # int32 [B, K, N]: hypotheses without EOS, best first
    live_logp: jax.Array  # float32 [B, K]
    done: jax.Array  # int32 [B, K, N]: hypotheses with EOS, best first
    done_score: jax.Array  # float32 [B, K]; NOTHING where the place is free
    cache: Cache


def beam_search(
    step: Callable,
    start: Cache,
    *,
    max_length: int,
    beams: int,
    alpha,
    blank: Any = False,
    within: Callable = anything,
) -> tuple[jax.Array, jax.Array]:
    """T5X's beam search: int32 [B, K, N] and float32 [B, K], best first, as `generate` says.

    `step` and the cache of B rows are from `start_decoding`. Of the 2K best continuations, those
    with EOS compete with what ended before, the K best others live on. The search stops when in no
    row a live hypothesis could still beat the worst that ended; `blank` rows, bool [B], do not
    count. `within(logp [B * K, V], ids, counts)` leaves what may come next.
    """
    K, N = beams, max_length
    B = len(start.lengths)

    def going_on(s: _Beams):
        best_hope = s.live_logp[:, 0] / _length_penalty(N + 1, alpha)  # T5X counts the start token
        return (s.i < N) & ~jnp.all((jnp.min(s.done_score, axis=-1) > best_hope) | blank)

    def advance(s: _Beams):
        last = jnp.where(s.i == 0, START, s.live[:, :, s.i - 1])
        logp, grown = step(last.reshape(B * K), s.cache)
        logp = within(logp, s.live.reshape(B * K, N), jnp.full(B * K, s.i))
        logp = s.live_logp[:, :, None] + logp.reshape(B, K, -1)
        V = logp.shape[-1]
        logp, flat = jax.lax.top_k(logp.reshape(B, K * V), 2 * K)
        parent, token = flat // V, flat % V
        ids = _pick(s.live, parent).at[:, :, s.i].set(token)
        ended = token == EOS
        live_logp, chosen = jax.lax.top_k(jnp.where(ended, NOTHING, logp), K)
        real = ended & (logp > NOTHING / 2)  # false for what follows a place without a hypothesis
        score = jnp.where(real, logp / _length_penalty(s.i + 1, alpha), NOTHING)
        all_score = jnp.concatenate([s.done_score, score], axis=1)
        done_score, best = jax.lax.top_k(all_score, K)
        done = _pick(jnp.concatenate([s.done, ids], axis=1), best)
        rows = (jnp.arange(B)[:, None] * K + _pick(parent, chosen)).reshape(B * K)
        grown = cache.continue_from(grown, rows)
        return _Beams(s.i + 1, _pick(ids, chosen), live_logp, done, done_score, grown)

    empty, free = jnp.zeros((B, K, N), jnp.int32), jnp.full((B, K), NOTHING)
    first = free.at[:, 0].set(0.0)
    s = _Beams(jnp.int32(0), empty, first, empty, free, cache.repeat(start, K))
    s = jax.lax.while_loop(going_on, advance, s)
    any_done = s.done_score[:, :1] > NOTHING
    ids = jnp.where(any_done[:, :, None], s.done, s.live)
    ids = jnp.where(jnp.reshape(blank, (-1, 1, 1)), 0, ids)
    return ids, jnp.where(any_done, s.done_score, s.live_logp)


def _pick(x: jax.Array, index_BJ: jax.Array) -> jax.Array:
    """x [B, I, ...] -> [B, J, ...]: in every row b, the entries index[b]."""
    return jax.vmap(lambda row, index: row[index])(x, index_BJ)
