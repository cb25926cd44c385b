"""Prompt recycling: a prompt of one backbone as a start for another, without its data.

Lester et al. 2022 (https://arxiv.org/abs/2208.05577): a map between the embeddings of pieces that
both vocabularies have is applied to the rows of a prompt. With n fitted pieces, source embeddings
S [n, D] and target embeddings T [n, D']:

    linear       argmin_W |S W - T|, rows become P W (their v2v-lin)
    combination  P as C S, rows become C T (their lin-comb). C has n unknowns a row and D equations:
                 the one of least norm gives linear's rows, a ridge others; `ridge` is relative to
                 the mean square of S
    mlp          a hidden layer of 4 D' and ReLU, Adam at 3e-4, batches of 50, 25 epochs (v2v-nn)

The paper skips the 1,000 commonest pieces and fits 4,000; the next tenth as many are held out here.

    relative     no map: rows are sought that lie among the target's pieces as those of the prompt
                 lie among the source's (`relative.py`, PTfer); of several prompts, each of its own
                 backbone, as they lie in the mean
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prompt_jax.backbone.load import Backbone, load_backbone
from prompt_jax.errors import UserError
from prompt_jax.evaluate.opening import opening
from prompt_jax.evaluate.prompts import evaluate_prompts
from prompt_jax.methods.base import plain_rows
from prompt_jax.methods.parts.start import embedding_of
from prompt_jax.prompt.artefact import SIDES, Prompt, check_backbone, load_prompt, save_prompt
from prompt_jax.transfer import relative

HOWS = ("linear", "combination", "mlp", "relative")
RATE, BATCH, EPOCHS = 3e-4, 50, 25

# Rows [n, D] of the source to rows [n, D'] of the target.
Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Fit:
    """How a map is fitted.

    Attributes:
      how: which map.
      skip: commonest shared pieces that are left out.
      pieces: shared pieces that are fitted.
      ridge: of `combination`.
      seed: of `mlp` and `relative`.
      search: of `relative`.
      scored_on: (task, split) that chooses among the candidates of `relative`; None: the
        cosine of their profiles does.
      max_examples: of that split.
    """

    how: str = "linear"
    skip: int = 1000
    pieces: int = 4000
    ridge: float = 0.1
    seed: int = 0
    search: relative.Search = relative.Search()  # noqa: RUF009 (frozen)
    scored_on: tuple[str, str] | None = None
    max_examples: int | None = None


def recycle(
    prompts: Sequence[str], sources: Sequence[str], target: str, output: str, fit: Fit
) -> dict[str, Any]:
    """Writes the artefact of a prompt for `target`; what was fitted, and how well.

    `prompts` were tuned for the `sources`, in this order; only `relative` takes several. Errors are
    root mean squares relative to the target's embeddings; 1 is no better than zeros.

    Raises:
      UserError: a prompt with more than rows, prompts of different rows, or vocabularies that share
        too little.
    """
    if fit.how not in HOWS:
        raise UserError(f"--how={fit.how}", remedy=f"give one of {', '.join(HOWS)}")
    if len(prompts) != len(sources):
        given = f"{len(prompts)} prompts and {len(sources)} backbones"
        raise UserError("--from", given, "give one for each --prompt, in their order")
    if len(prompts) > 1 and fit.how != "relative":
        raise UserError(f"--how={fit.how}", "takes one prompt", "give one, or --how=relative")
    several = [load_prompt(prompt) for prompt in prompts]
    for prompt in several:
        _check_rows(prompt, several[0])
    *olds, new = (load_backbone(name, "float32") for name in (*sources, target))
    for prompt, old in zip(several, olds, strict=True):
        check_backbone(prompt, old, remedy="give the former to --from")
    pairs, held_out = shared_rows([*olds, new], fit)
    if fit.how == "relative":
        return _sought(several, olds, new, pairs, output, fit)
    saved, old = several[0], olds[0]
    mapped = fitted(fit, *pairs)
    arrays = {side: mapped(rows) for side, rows in saved.arrays.items()}
    record = {
        "how": fit.how,
        "from": old.name,
        "pieces": len(pairs[0]),
        "fit_error": error_of(mapped, *pairs),
        "held_out_error": error_of(mapped, *held_out) if len(held_out[0]) else None,
    }
    save_prompt(output, arrays, manifest_of(saved, new, record))
    return record


def _check_rows(prompt: Prompt, first: Prompt) -> None:
    """UserError for a prompt that is more than rows, or other rows than the first one's."""
    where = f"prompt {prompt.path!r}"
    if inside := sorted(set(prompt.arrays) - set(SIDES)):
        raise UserError(where, f"has {inside[0]}: only rows of the input are recycled")
    own, of_first = ({s: len(rows) for s, rows in p.arrays.items()} for p in (prompt, first))
    if own != of_first:
        problem = f"has rows {own}, {first.path!r} has {of_first}"
        raise UserError(where, problem, "give prompts of as many rows")


def _sought(
    several: Sequence[Prompt],
    olds: Sequence[Backbone],
    new: Backbone,
    tables: Sequence[np.ndarray],
    output: str,
    fit: Fit,
) -> dict[str, Any]:
    """Writes the artefact that `relative` finds; what was found. `tables`: the embeddings of shared
    pieces in the olds, then in the new backbone."""
    saved, *_ = several
    by_side = {}
    for side in saved.arrays:
        rows = [prompt.arrays[side] for prompt in several]
        sources = list(zip(rows, tables[:-1], strict=True))
        by_side[side] = relative.candidates(fit.search, sources, tables[-1], fit.seed)
    each = [dict(zip(by_side, made, strict=True)) for made in zip(*by_side.values(), strict=True)]
    arrays = [{side: rows for side, (rows, _) in made.items()} for made in each]
    names = ", ".join(old.name for old in olds)
    record: dict[str, Any] = {"how": fit.how, "from": names, "pieces": len(tables[-1])}
    alike = [float(np.mean([one for _, one in made.values()])) for made in each]
    number = relative.best_of(alike, "max")
    if fit.scored_on is not None:
        scores, record["metric"], direction = _scores(saved, new, arrays, fit)
        number = relative.best_of(scores, direction)
        record |= {"scores": scores, "scored_on": "/".join(fit.scored_on)}
    record["step"] = min((number + 1) * fit.search.every, fit.search.steps)
    record["cosine"] = alike[number]
    save_prompt(output, arrays[number], manifest_of(saved, new, record))
    return record


def _scores(
    saved: Prompt, new: Backbone, arrays: Sequence[dict[str, np.ndarray]], fit: Fit
) -> tuple[list[float], str, str]:
    """Each candidate's score, by the metric that chose the prompt's own checkpoint."""
    chosen_by = saved.manifest.get("selection")
    if not chosen_by or fit.scored_on is None:
        raise UserError("--task", f"{saved.path!r} does not say by which metric", "leave it out")
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{n}" for n in range(len(arrays))]
        for path, some in zip(paths, arrays, strict=True):
            save_prompt(path, some, manifest_of(saved, new, {"how": fit.how}))
        asked = opening(new.name, paths)
        report, _ = evaluate_prompts(asked, *fit.scored_on, max_examples=fit.max_examples)
    rows = report.get("prompts", [report])
    metric = chosen_by["metric"]
    if metric not in rows[0]:
        raise UserError(
            f"--task={fit.scored_on[0]}",
            f"has no {metric!r}, by which {saved.path!r} was chosen",
            "give the prompt's own task",
        )
    return [float(row[metric]) for row in rows], metric, chosen_by["direction"]


def shared_rows(backbones: Sequence[Backbone], fit: Fit):
    """((S, ..., T), (S', ..., T')): embeddings of fitted and of held-out pieces in each backbone,
    float32, commonest first."""
    tables = [embedding_of(backbone) for backbone in backbones]
    first, *others = (
        {piece: n for n, piece in enumerate(_pieces(*pair))}
        for pair in zip(backbones, tables, strict=True)
    )
    shared = [piece for piece in first if all(piece in other for other in others)]
    common = [[places[piece] for places in (first, *others)] for piece in shared][fit.skip :]
    fitted, rest = common[: fit.pieces], common[fit.pieces :][: fit.pieces // 10]
    if len(fitted) < 2:
        raise UserError(
            " and ".join(backbone.name for backbone in backbones),
            f"share {len(common)} pieces after the first {fit.skip}",
            "give a smaller --skip",
        )
    return tuple(
        tuple(table[[pair[side] for pair in some]] for side, table in enumerate(tables))
        for some in (fitted, rest)
    )


def _pieces(backbone: Backbone, table: np.ndarray) -> list[str]:
    """The pieces that have an embedding, by id."""
    words = backbone.vocabulary
    if words is None:
        raise UserError(f"backbone {backbone.name!r}", "has no vocabulary, so no shared pieces")
    return words.pieces(range(min(words.size, len(table))))


def fitted(fit: Fit, S: np.ndarray, T: np.ndarray) -> Map:
    """The map that takes S [n, D] to about T [n, D']."""
    if fit.how == "mlp":
        return _mlp(S, T, fit.seed)
    if fit.how == "linear":
        W = np.linalg.lstsq(S.astype(np.float64), T.astype(np.float64))[0]
    else:
        gram = S.astype(np.float64).T @ S
        gram += fit.ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
        W = np.linalg.lstsq(gram, S.astype(np.float64).T @ T)[0]  # C = P (S'S + r)^-1 S', then C T
    return lambda rows: (rows @ W).astype(np.float32)


def _mlp(S: np.ndarray, T: np.ndarray, seed: int) -> Map:
    hidden, size = 4 * T.shape[1], min(BATCH, len(S))
    keys = jax.random.split(jax.random.key(seed), 3)
    weights = {
        "a": jax.random.normal(keys[0], (S.shape[1], hidden)) * (2 / S.shape[1]) ** 0.5,
        "b": jnp.zeros(hidden),
        "c": jax.random.normal(keys[1], (hidden, T.shape[1])) * hidden**-0.5,
        "d": jnp.zeros(T.shape[1]),
    }
    tx = optax.adam(RATE)

    def forward(w, x):
        return jax.nn.relu(x @ w["a"] + w["b"][None]) @ w["c"] + w["d"][None]

    def step(carry, rows):
        w, state = carry
        grads = jax.grad(lambda w: jnp.mean((forward(w, S_[rows]) - T_[rows]) ** 2))(w)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(w, updates), state), None

    S_, T_ = jnp.asarray(S), jnp.asarray(T)
    orders = jax.vmap(lambda k: jax.random.permutation(k, len(S)))(
        jax.random.split(keys[2], EPOCHS)
    )
    batches = orders[:, : len(S) // size * size].reshape(-1, size)
    (weights, _), _ = jax.lax.scan(step, (weights, tx.init(weights)), batches)
    return lambda rows: np.asarray(forward(weights, jnp.asarray(rows)), np.float32)


def error_of(mapped: Map, S: np.ndarray, T: np.ndarray) -> float:
    """|map(S) - T| / |T|."""
    return float(np.linalg.norm(mapped(S) - T) / np.linalg.norm(T))


def manifest_of(saved: Prompt, backbone: Backbone, record: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the recycled prompt: its old one, with the new backbone and no score."""
    words = backbone.vocabulary
    manifest = saved.manifest or {
        **plain_rows(saved.layout.encoder),
        "placement": saved.layout.placement,
        "visibility": {"input": True, "prompt": "all"},
        "task": None,
        "step": None,
        "seed": None,
    }
    lengths = {k: v for k, v in manifest.get("run", {}).items() if k.endswith("_length")}
    return {
        **manifest,
        "backbone": {"name": backbone.name, "digest": backbone.digest},
        "tokenizer": words and words.digest,
        "metric": None,
        "run": lengths,
        "recycled": record,
    }
