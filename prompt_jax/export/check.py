"""Whether the reader of a format makes of an export what was written: rows, logits, greedy ids."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prompt_jax.answer.arrays import greedy_ids, logits
from prompt_jax.backbone.formats.write import write_hf
from prompt_jax.backbone.load import Backbone, open_checkpoint
from prompt_jax.errors import RunError
from prompt_jax.export import fresh
from prompt_jax.export.formats import get_format
from prompt_jax.export.inputs import Inputs, real_inputs
from prompt_jax.model.logprobs import EOS
from prompt_jax.prompt.artefact import Prompt

# Two float32 implementations of a T5 agree to about 1e-5; a wrong row or mask changes logits by 0.1
# and more. Relative to the largest logit, where that is above 1.
TOLERANCE = 1e-4


def verify(
    format: str,
    path: Path,
    prompt: Prompt,
    backbone: Backbone | None,
    task: str | None,
    split: str,
    unverified: bool,
    stored: Mapping[str, np.ndarray] | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Compares what the format's consumer reads at `path` with `prompt`; the part of the record.

    `stored`: the arrays as the format names them, where those of `prompt` were made from them.
    `rows_max_abs_diff` is 0.0. With a backbone `logits_max_abs_diff` compares the consumer's
    logits (where it has a forward pass; else ours, of the rows that it read, as a plain prefix)
    with ours, at the columns that have a target.

    Raises:
      RunError: they differ.
    """
    if unverified:
        return {"verified": False}
    form = get_format(format)
    with tempfile.TemporaryDirectory(prefix="prompt_jax_export_") as scratch:
        folder = Path(scratch) / "request"
        folder.mkdir()
        inputs, model = None, {}
        if backbone is not None:
            inputs = real_inputs(backbone, prompt, task, split)
        if inputs is not None and (form.forward or form.whole):
            model = {"texts": inputs.texts, "max_length": inputs.max_length}
        if backbone is not None and form.forward:
            model["folder"] = _transformers(backbone.name, Path(scratch) / "model")
            model["tied"] = backbone.config.logits_via_embedding
        batch = inputs.batch if inputs is not None and model else None
        consumed = fresh.consume(folder, format, path, batch, **model)
    record: dict[str, Any] = {"verified": True, "consumer": consumed.versions}
    rows = prompt.arrays if stored is None else stored
    if rows:
        record["rows_max_abs_diff"] = _compare_rows(format, consumed.arrays, rows)
    if backbone is not None and inputs is not None:
        found = consumed.arrays
        record["inputs"] = inputs.words
        record |= compare_logits(format, found, prompt, backbone, inputs.batch, tolerance)
        record |= compare_greedy(format, found, prompt, backbone, inputs)
        record |= compare_tokens(found, backbone, inputs)
    return record


def _compare_rows(
    format: str, consumed: dict[str, np.ndarray], stored: Mapping[str, np.ndarray]
) -> float:
    for side, wanted in stored.items():
        rows = consumed.get(side)
        if rows is None or rows.shape != wanted.shape or not np.array_equal(rows, wanted):
            difference = (
                "nothing" if rows is None else f"other values {rows.dtype} {list(rows.shape)}"
            )
            raise RunError(
                f"--format={format}: {get_format(format).consumer[0]} reads {difference} for the "
                f"{side} rows {list(wanted.shape)}: nothing is kept"
            )
    return 0.0


def compare_logits(
    format: str,
    consumed: dict[str, np.ndarray],
    prompt: Prompt,
    backbone: Backbone,
    batch: Mapping[str, np.ndarray],
    tolerance: float = TOLERANCE,
    by: str | None = None,
) -> dict[str, Any]:
    """The largest difference between our logits and those of the reader of what was written.
    `by`: who that is, where it is not the format's consumer.

    Raises:
      RunError: it is more than rounding.
    """
    real = batch["decoder_target_tokens"] > 0
    form = get_format(format)
    manifest = prompt.manifest and {**prompt.manifest, "backbone": named(backbone)}  # checked
    prompt = Prompt(prompt.arrays, manifest, prompt.path)
    ours = logits(backbone, batch, prompt)[real]
    if "logits" in consumed:
        theirs, by = consumed["logits"][real], by or form.consumer[0]
    else:
        rows = {side: consumed[side] for side in prompt.arrays}
        reread = Prompt(rows, {} if form.plain else manifest, prompt.path)
        theirs, by = logits(backbone, batch, reread)[real], "prompt_jax"
    largest = float(np.abs(ours).max())
    worst = float(np.abs(ours - theirs).max())
    if not worst <= tolerance * max(1.0, largest):
        raise RunError(
            f"--format={format}: the logits of {by} differ from ours by {worst:.3g} (largest "
            f"{largest:.3g}), more than {tolerance:g} of it: nothing is kept"
        )
    return {
        "logits_of": by,
        "logits_max_abs_diff": worst,
        "logits_largest": largest,
        "logits_compared": int(ours.size),
    }


def compare_greedy(
    format: str,
    consumed: Mapping[str, np.ndarray],
    prompt: Prompt,
    backbone: Backbone,
    inputs: Inputs,
    by: str | None = None,
) -> dict[str, Any]:
    """How many rows of greedy ids were compared; {} where the consumer does not decode.
    `by`: as of `compare_logits`.

    Raises:
      RunError: its ids are not ours.
    """
    if "ids" not in consumed:
        return {}
    tokens, theirs = inputs.batch["encoder_input_tokens"], consumed["ids"]
    manifest = prompt.manifest and {**prompt.manifest, "backbone": named(backbone)}  # checked
    known = Prompt(prompt.arrays, manifest, prompt.path)
    ours = greedy_ids(backbone, tokens, known, theirs.shape[1])
    if differ := [
        n for n, pair in enumerate(zip(ours, theirs, strict=True)) if any(pair[0] != pair[1])
    ]:
        n = differ[0]
        raise RunError(
            f"--format={format}: greedy ids of {by or get_format(format).consumer[0]} are "
            f"{theirs[n].tolist()} for row {n}, ours {ours[n].tolist()}: nothing is kept"
        )
    return {"greedy_rows_equal": len(ours)}


def compare_tokens(
    consumed: Mapping[str, np.ndarray], backbone: Backbone, inputs: Inputs
) -> dict[str, str]:
    """What the consumer's own tokenizer makes of the texts, beside ours; {} where none is asked."""
    words = backbone.vocabulary
    if not inputs.texts or words is None or "logits" not in consumed:
        return {}
    if "token_ids" not in consumed:
        return {"tokenizer": "the consumer has none: ids were given to it"}
    rows = [[int(i) for i in row if i] for row in consumed["token_ids"]]
    pairs = zip(inputs.texts, rows, strict=True)
    differ = [text for text, ids in pairs if [*words.encode(text), EOS] != ids]
    if not differ:
        return {"tokenizer": f"the same ids for {len(rows)} texts"}
    shown = " ".join(differ[0].split())[:60]
    return {"tokenizer": f"OTHER ids for {len(differ)} of {len(rows)} texts, as {shown!r}"}


def _transformers(backbone: str, scratch: Path) -> str:
    """What transformers loads: the backbone's own folder or name on the hub, else a copy."""
    kind, _, rest = backbone.partition(":")
    if kind == "hf":
        folder = Path(rest).expanduser()
        return str(folder.resolve()) if folder.is_dir() else rest
    write_hf(str(scratch), open_checkpoint(backbone))
    return str(scratch)


def named(backbone: Backbone) -> dict[str, str]:
    """What a manifest says of a backbone."""
    return {"name": backbone.name, "digest": backbone.digest}
