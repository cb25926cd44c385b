"""The Python API: arrays in, numpy arrays out, for notebooks and for checks.

A batch is a mapping of T5X's features: `encoder_input_tokens` int32 [B, T], and for teacher forcing
`decoder_input_tokens` and `decoder_target_tokens` int32 [B, S]; optionally `decoder_loss_weights`
float32 [B, S] and, where packed, `*_segment_ids` and `*_positions`. 0 is padding. The columns of a
prompt are added here, never by the caller.

A prompt is None, an array of prefix rows float [P, d], or what `load_prompt` returns. A saved
prompt goes with the backbone it was tuned for; its `.array` goes with any of the same width.

Compiled functions are kept: a call whose shapes have been seen before compiles nothing.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from prompt_jax.answer.arrays import (
    Batch,
    checked_tokens,
    encoder_batch,
    features_of,
    logits,
    prompt_of,
    vocabulary_of,
)
from prompt_jax.backbone.load import Backbone, load_backbone
from prompt_jax.errors import UserError
from prompt_jax.model import decode
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.objective.loss import Loss
from prompt_jax.prompt.artefact import Prompt, load_prompt
from prompt_jax.prompt.layout import lay_out
from prompt_jax.serve.engine import Engine

__all__ = [
    "Engine",
    "embed",
    "generate",
    "load_backbone",
    "load_prompt",
    "logits",
    "loss_and_prompt_grad",
    "score",
    "text",
    "train",
]


def loss_and_prompt_grad(
    backbone: Backbone, batch: Batch, prompt: Prompt | ArrayLike, z_loss: float = 1e-4
) -> tuple[np.ndarray, np.ndarray]:
    """The training loss, float32 [], and its gradient by the encoder's prompt, float32 [P, d].

    The loss is T5X's: summed over weighted target tokens, its z-loss included.

    Raises:
      UserError: as `logits`; a prompt without encoder rows.

    >>> backbone = load_backbone("random:nano?seed=0", vocabulary="bytes")
    >>> batch = {"encoder_input_tokens": [[7, 8, 1]], "decoder_input_tokens": [[0, 9]],
    ...          "decoder_target_tokens": [[9, 1]]}
    >>> loss, gradient = loss_and_prompt_grad(backbone, batch, np.zeros((5, 128)))
    >>> loss.shape, gradient.shape
    ((), (5, 128))
    """
    bundle, layout = prompt_of(backbone, prompt)
    if bundle.encoder is None:
        raise UserError(
            "loss_and_prompt_grad", "the prompt has no encoder rows", "give some [P, d]"
        )
    wide = lay_out(features_of(backbone, batch), layout)
    loss, grad = _loss_and_grad(*nnx.split(backbone.model), Loss(z_loss=z_loss), wide, bundle)
    return np.asarray(loss), np.asarray(grad)


@partial(jax.jit, static_argnums=(0, 2))
def _loss_and_grad(graphdef, params, loss: Loss, batch, bundle: PromptBundle):
    t5 = nnx.merge(graphdef, params)

    def objective(rows):
        changed = dataclasses.replace(bundle, encoder=rows)
        return loss(lambda batch, key: t5(batch, changed, key), batch)[0]

    total, grad = jax.value_and_grad(objective)(bundle.encoder)
    return total, grad[0]


def generate(
    backbone: Backbone,
    encoder_input_tokens: ArrayLike,
    prompt: Prompt | ArrayLike | None = None,
    beams: int = 1,
    alpha: float = 0.6,
    max_length: int = 12,
    *,
    sampling: decode.Sampling | None = None,
    key: jax.Array | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The best outputs of every row: ids int32 [B, beams, max_length], scores float32 [B, beams].

    Best first; ids hold no start token, end in EOS (1), then 0. `max_length` counts EOS. One beam
    is greedy search. With `sampling` (`decode.Sampling`) and a `jax.random.key`, `beams` outputs
    are drawn. Scores: see `decode.generate`.

    Raises:
      UserError: no int array [B, T]; ids without an embedding; a prompt of another width.

    >>> backbone = load_backbone("random:nano?seed=0", vocabulary="bytes")
    >>> ids, scores = generate(backbone, [[7, 8, 1], [9, 1, 0]], beams=2, max_length=4)
    >>> ids.shape, scores.shape
    ((2, 2, 4), (2, 2))
    """
    for name, value in (("beams", beams), ("max_length", max_length)):
        if value < 1:
            raise UserError("generate", f"{name} = {value}", "give at least 1")
    if sampling is not None and key is None:
        raise UserError("generate", "sampling without a key", "give key=jax.random.key(0)")
    bundle, batch = encoder_batch(backbone, encoder_input_tokens, prompt)
    model = nnx.split(backbone.model)
    shape = (beams, max_length, sampling)
    ids, scores = _generate(*model, batch, bundle, np.float32(alpha), key, *shape)
    return np.asarray(ids), np.asarray(scores)


@partial(jax.jit, static_argnums=(0, 6, 7, 8))
def _generate(graphdef, params, batch, bundle, alpha, key, beams, max_length, sampling):
    t5 = nnx.merge(graphdef, params)
    return decode.generate(
        t5,
        batch,
        bundle,
        max_length=max_length,
        beams=beams,
        alpha=alpha,
        sampling=sampling,
        key=key,
    )


def score(
    backbone: Backbone,
    encoder_input_tokens: ArrayLike,
    choices: ArrayLike,
    prompt: Prompt | ArrayLike | None = None,
    *,
    length_normalised: bool = False,
) -> np.ndarray:
    """float32 [B, C]: the log-likelihood of tokenised choices, int [B, C, T] (0 = padding).

    Every token of a choice counts, EOS where it has one; `length_normalised` divides by their
    number. The encoder runs once per row.

    Raises:
      UserError: as `generate`; choices of another shape.

    >>> backbone = load_backbone("random:nano?seed=0", vocabulary="bytes")
    >>> score(backbone, [[7, 8, 1]], [[[9, 1], [7, 1], [8, 1]]]).shape
    (1, 3)
    """
    bundle, batch = encoder_batch(backbone, encoder_input_tokens, prompt)
    tokens = checked_tokens(backbone, "choices", choices, ndim=3)
    rows = len(batch["encoder_input_tokens"])
    if len(tokens) != rows:
        raise UserError("choices", f"{len(tokens)} rows for {rows} inputs", "give [B, C, T]")
    scores = np.asarray(_score(*nnx.split(backbone.model), batch, bundle, tokens))
    length = np.maximum((tokens > 0).sum(axis=-1, dtype=np.float32), 1)
    return scores / length if length_normalised else scores


@partial(jax.jit, static_argnums=0)
def _score(graphdef, params, batch, bundle, choices):
    return decode.score(nnx.merge(graphdef, params), batch, bundle, choices)


def embed(
    backbone: Backbone, ids: ArrayLike | Sequence[Any], prompt: Prompt | ArrayLike | None = None
) -> np.ndarray:
    """float32 [B, D]: the mean of the encoder's states over the columns of text, EOS included.

    `ids` are rows of token ids, padded with 0 or of unequal lengths, or texts. The prompt's own
    columns do not count. It is what `eval --mode=retrieve` compares.

    Raises:
      UserError: as `generate`.

    >>> backbone = load_backbone("random:nano?seed=0", vocabulary="bytes")
    >>> embed(backbone, [[7, 8, 1], [9, 1]]).shape
    (2, 128)
    """
    bundle, batch = encoder_batch(backbone, ids, prompt)
    return np.asarray(_embed(*nnx.split(backbone.model), batch, bundle))


@partial(jax.jit, static_argnums=0)
def _embed(graphdef, params, batch, bundle):
    return decode.embed(nnx.merge(graphdef, params), batch, bundle)


def text(backbone: Backbone, ids: ArrayLike) -> str | list[Any]:
    """The texts of ids [..., N], each up to its first EOS: what `generate` wrote, in words.

    Raises:
      UserError: the backbone has no vocabulary.

    >>> backbone = load_backbone("random:nano?seed=0", vocabulary="bytes")
    >>> text(backbone, [[107, 108, 1, 0]])
    ['hi']
    """
    words = vocabulary_of(backbone)
    array = np.asarray(ids)
    if array.ndim == 1:
        return words.decode(array.tolist())
    return [text(backbone, row) for row in array]


def train(
    gin_files: Sequence[str],
    bindings: Sequence[str],
    model_dir: str,
    track: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs recipes, as `prompt-jax train` does, and returns the last metrics.

    `bindings` are what follows `--gin.` on the command line. A folder that holds a run is resumed.
    `track`: trackers that log the run as well: "wandb", "mlflow", "trackio".
    Of a recipe with a FARM it returns the lines of `farm.jsonl`, as `members`.

    Raises:
      UserError: recipes, task or folder are wrong.
      RunError: the loss is no number; Preempted: SIGTERM came, and the state is saved.

    >>> import tempfile
    >>> bindings = ["BACKBONE='random:nano?seed=0'", "VOCABULARY='bytes'", "TRAIN_STEPS=1",
    ...             "BATCH_SIZE=8", "INPUT_LENGTH=32", "Evaluation.max_examples=8",
    ...             "Evaluation.batch_size=8"]
    >>> with tempfile.TemporaryDirectory() as model_dir:
    ...     last = train(["runs/quickstart.gin"], bindings, model_dir)
    >>> last["step"], last["kind"]
    (1, 'eval')
    """
    from prompt_jax.inspect import observers, trackers
    from prompt_jax.recipe import config
    from prompt_jax.run.farm import train_farm
    from prompt_jax.run.grid import members_of
    from prompt_jax.run.settings import Train
    from prompt_jax.run.stages import run_recipe

    def load(more: Sequence[str]) -> config.Config:
        return config.load(("Stages", "Train"), gin_files, [*bindings, *more])

    trackers.check(track)
    loaded = load([])
    if isinstance(loaded.root, Train) and loaded.root.farm.grid:
        farm = loaded.root.farm
        members = members_of(loaded.root.farm.grid, load)
        followers = partial(observers.usual, track=track)
        return {"members": train_farm(members, str(model_dir), farm, observers=followers)}
    options = {"operative": loaded.operative, "observers": observers.usual(track=track)}
    return run_recipe(loaded.root, str(model_dir), **options)
