"""A backbone of another program with a prompt merged into its weights: `export --merge`."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prompt_jax.answer.arrays import greedy_ids, logits
from prompt_jax.backbone.convert import check_equal
from prompt_jax.backbone.formats.write import WRITERS
from prompt_jax.backbone.load import Backbone, load_backbone, open_checkpoint
from prompt_jax.errors import UserError
from prompt_jax.export import fresh
from prompt_jax.export.check import compare_greedy, compare_logits, compare_tokens, named
from prompt_jax.export.formats import check_consumer, get_format
from prompt_jax.export.inputs import Inputs, real_inputs
from prompt_jax.export.merged import merged, refusal
from prompt_jax.export.publish import check_free, published, record_of, write_json
from prompt_jax.export.run import load_float32
from prompt_jax.prompt.artefact import Prompt, load_prompt, refuse_head
from prompt_jax.version import __version__

INTO = ("hf", "t5x")


def export_merged(
    *,
    prompt: str,
    format: str,
    output: str,
    backbone: str | None = None,
    task: str | None = None,
    split: str = "validation",
    unverified: bool = False,
    allow_other_backbone: bool = False,
) -> dict[str, Any]:
    """Writes the prompt's backbone in float32, LoRA or (IA)3 merged into it, and checks it.

    What was written is read again and compared bit by bit; then logits and greedy ids of what was
    read, without a prompt, with those of the backbone and the prompt: by our T5, and for `hf` by
    transformers in a fresh process. `unverified` leaves transformers out.

    Raises:
      UserError: no such format, a prompt that no weights can hold, a missing consumer or backbone.
      RunError: what was written reads as something else; nothing is left then.
    """
    if format not in INTO:
        raise UserError(f"--format={format}", f"--merge writes {' or '.join(INTO)}", "take one")
    check_free(output, "", format)
    saved = load_prompt(prompt)
    refuse_head(prompt, "a merged backbone")
    lost = refusal(saved)
    if lost is not None:
        problem = f"has {lost}, which no weights can hold"
        raise UserError(f"prompt {saved.path!r}", problem, "leave --merge out")
    by_transformers = get_format(format).merges and not unverified
    if by_transformers:
        check_consumer(format)
    name = backbone or saved.manifest["backbone"]["name"]
    loaded = load_float32(name, saved, allow_other_backbone, given=backbone is not None)
    source = merged(open_checkpoint(name), saved.arrays)
    record: dict[str, Any] = {"format": format, "merged": True, "prompt": saved.path}
    record |= {"prompt_jax": __version__, "backbone": named(loaded), "manifest": saved.manifest}
    with published(output, "") as partial:
        partial.mkdir(exist_ok=True)
        WRITERS[format](str(partial), source)
        string = f"{format}:{partial}"
        check_equal(source, open_checkpoint(string), output)
        record |= {"verified": not unverified, "arrays_equal": len(source.arrays)}
        inputs = real_inputs(loaded, saved, task, split)
        record["inputs"] = inputs.words
        record["prompt_jax reads"] = _compare(format, _ours(string, inputs), saved, loaded, inputs)
        if by_transformers:
            consumed = _theirs(format, partial, loaded, inputs)
            record["consumer"] = consumed.versions
            found = consumed.arrays
            record["transformers reads"] = _compare(format, found, saved, loaded, inputs, None)
            record |= compare_tokens(found, loaded, inputs)
        write_json(record_of(partial, ""), record)
    return record


def _ours(string: str, inputs: Inputs) -> dict[str, np.ndarray]:
    """Our own logits and greedy ids of what was written, without a prompt."""
    read = load_backbone(string, "float32")
    ids = greedy_ids(read, inputs.batch["encoder_input_tokens"], None, inputs.max_length)
    return {"logits": logits(read, inputs.batch), "ids": ids}


def _theirs(format: str, path: Path, backbone: Backbone, inputs: Inputs) -> fresh.Found:
    with tempfile.TemporaryDirectory(prefix="prompt_jax_export_") as scratch:
        return fresh.consume(
            Path(scratch),
            format,
            path,
            inputs.batch,
            texts=inputs.texts,
            max_length=inputs.max_length,
            tied=backbone.config.logits_via_embedding,
        )


def _compare(
    format: str,
    consumed: Mapping[str, np.ndarray],
    prompt: Prompt,
    backbone: Backbone,
    inputs: Inputs,
    by: str | None = "prompt_jax",
) -> dict[str, Any]:
    same = compare_logits(format, dict(consumed), prompt, backbone, inputs.batch, by=by)
    return same | compare_greedy(format, consumed, prompt, backbone, inputs, by)
