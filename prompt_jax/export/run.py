"""Prompts out and in: a file of another program is called done once its own reader agrees with us.

An export is written to a partial path beside its target, reloaded in a fresh process by the
consumer of its format, compared, and only then renamed. The comparison is recorded: `report.json`
in the folder (for a `.npy`, `NAME.report.json` beside it), `imported` in an artefact's manifest.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from prompt_jax.answer.arrays import logits
from prompt_jax.backbone.formats.write import write_hf
from prompt_jax.backbone.load import Backbone, load_backbone, open_checkpoint
from prompt_jax.errors import RunError, UserError
from prompt_jax.evaluate.opening import Opening, trained
from prompt_jax.export import fresh, peft
from prompt_jax.export.formats import About, check_consumer, check_expressible, get_format
from prompt_jax.export.inputs import real_inputs
from prompt_jax.methods.base import plain_rows
from prompt_jax.paths import is_local
from prompt_jax.prompt.artefact import Prompt, load_prompt, save_prompt
from prompt_jax.version import __version__

RECORD = "report.json"
# Two float32 implementations of a T5 agree to about 1e-5; a wrong row or mask changes logits by 0.1
# and more. Relative to the largest logit, where that is above 1.
TOLERANCE = 1e-4


def export_prompt(
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
    """Writes a prompt for another program, checks it, and returns the record.

    `backbone`: by default the one that the artefact names; it is loaded, in float32, to compare
    logits on the text that the prompt was tuned for. A `.npy` names none: its rows are compared.

    Raises:
      UserError: the format cannot express the prompt, its consumer is missing, the output exists.
      RunError: the consumer reads something else than was written; nothing is left then.
    """
    form = get_format(format)
    if not output.endswith(form.suffix):
        raise UserError(f"--output={output}", f"a path that ends in {form.suffix!r} holds {format}")
    if epath.Path(output).exists():
        raise UserError(f"--output={output}", "exists", "remove it, or give another path")
    saved = load_prompt(prompt)
    check_expressible(format, saved)
    if not unverified:
        check_consumer(format)
    name = backbone or (saved.manifest["backbone"]["name"] if saved.manifest else None)
    loaded = None
    if name is not None and (backbone is not None or not unverified):
        loaded = _load(name, saved, allow_other_backbone, given=backbone is not None)
    about = About(name, loaded and loaded.config, saved.manifest.get("step") or 0)
    record = {"format": format, "prompt": saved.path, "prompt_jax": __version__}
    record |= {"backbone": None if loaded is None else _named(loaded), "manifest": saved.manifest}
    with _published(output, form.suffix) as partial:
        form.load().write(partial, saved, about)
        record |= verify(format, partial, saved, loaded, task, split, unverified)
        _write_json(record_of(partial, form.suffix), record)
    return record


def import_prompt(
    *,
    source: str,
    format: str,
    backbone: str,
    output: str,
    task: str | None = None,
    split: str = "validation",
    unverified: bool = False,
    allow_other_backbone: bool = False,
) -> dict[str, Any]:
    """Makes an artefact of another program's prompt, for the backbone that it was tuned for.

    The format's own reader is asked what it makes of `source`, as for an export, first.

    Raises: as `export_prompt`; UserError also for what is no plain prompt, and says why.
    """
    if not is_local(source):
        raise UserError(f"--from={source}", remedy="copy it to a local folder first")
    form = get_format(format)
    if not Path(source).exists():
        raise UserError(f"--from={source}", "does not exist")
    foreign = form.load().read(source)
    if not unverified:
        check_consumer(format)
    whole = "method" in foreign.manifest  # an artefact's manifest came along
    inside = "peft" in foreign.manifest  # an adapter inside the layers, with a policy of its own
    if inside:
        loaded = load_backbone(backbone, "float32")
        inner = peft.in_layers(foreign, loaded)
        prompt = Prompt(inner.arrays, {**inner.manifest, "backbone": _named(loaded)}, source)
    else:
        prompt = foreign if whole else Prompt(foreign.arrays, {}, source)
        loaded = _load(backbone, prompt, allow_other_backbone, given=True)
    record = {"format": format, "from": source, "prompt_jax": __version__}
    if format == "peft":
        record |= _bases(peft.adapter_of(source), backbone)
    record |= verify(
        format,
        Path(source),
        prompt,
        loaded,
        task,
        split,
        unverified,
        stored=foreign.arrays,
        tolerance=peft.tolerance(foreign) if inside else TOLERANCE,
    )
    words = loaded.vocabulary
    manifest = (
        foreign.manifest
        if whole
        else {
            **(_adapter(foreign.manifest["peft"]) if inside else plain_rows(len(prompt.array))),
            "placement": "prefix",
            "visibility": {"input": True, "prompt": "all"},
            "prefix_positions": prompt.prefix_positions,
            "tokenizer": words and words.digest,
            "task": task,
            "metric": None,
            "step": foreign.manifest.get("step"),
            "seed": None,
        }
    )
    save_prompt(output, prompt.arrays, {**manifest, "backbone": _named(loaded), "imported": record})
    return record


def _adapter(peft: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says of an adapter that PEFT keeps inside the layers."""
    return {"method": peft["peft_type"], "settings": peft}


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
        batch, inputs = (None, None)
        model = {}
        if backbone is not None:
            batch, inputs = real_inputs(backbone, prompt, task, split)
        if backbone is not None and form.forward:
            model["folder"] = _transformers(backbone.name, Path(scratch) / "model")
            model["tied"] = backbone.config.logits_via_embedding
        consumed = fresh.consume(folder, format, path, batch if model else None, **model)
    record: dict[str, Any] = {"verified": True, "consumer": consumed.versions}
    record["rows_max_abs_diff"] = _compare_rows(format, consumed.arrays, stored or prompt.arrays)
    if backbone is not None and batch is not None:
        compared = compare_logits(format, consumed.arrays, prompt, backbone, batch, tolerance)
        record |= {"inputs": inputs, **compared}
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
) -> dict[str, Any]:
    """The largest difference between our logits and those of the reader of what was written.

    Raises:
      RunError: it is more than rounding.
    """
    real = batch["decoder_target_tokens"] > 0
    form = get_format(format)
    manifest = prompt.manifest and {**prompt.manifest, "backbone": _named(backbone)}  # checked
    prompt = Prompt(prompt.arrays, manifest, prompt.path)
    ours = logits(backbone, batch, prompt)[real]
    if "logits" in consumed:
        theirs, by = consumed["logits"][real], form.consumer[0]
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


def _transformers(backbone: str, scratch: Path) -> str:
    """What transformers loads: the backbone's own folder or name on the hub, else a copy."""
    kind, _, rest = backbone.partition(":")
    if kind == "hf":
        folder = Path(rest).expanduser()
        return str(folder.resolve()) if folder.is_dir() else rest
    write_hf(str(scratch), open_checkpoint(backbone))
    return str(scratch)


def _load(name: str, prompt: Prompt, allow_other: bool, given: bool) -> Backbone:
    limits = (trained([prompt], "input_length", 512), trained([prompt], "target_length", 64))
    words = trained([prompt], "vocabulary", None)
    both = Opening(name, [prompt], limits, "float32", None, words, allow_other)
    try:
        backbone = both.load_alone()
    except UserError as error:
        if given:
            raise
        raise UserError(
            error.where,
            f"{error.problem} (prompt {prompt.path!r} names it)",
            "give --backbone, or --unverified",
        ) from None
    both.check(backbone)
    return backbone


def _bases(adapter_of: str | None, backbone: str) -> dict[str, str]:
    """What an adapter's folder says of its base model beside `--backbone`, for the record."""
    if adapter_of is None:
        return {}
    same = peft.base_model(backbone) == adapter_of
    return {"adapter_of": adapter_of if same else f"{adapter_of} (--backbone={backbone} was given)"}


def _named(backbone: Backbone) -> dict[str, str]:
    return {"name": backbone.name, "digest": backbone.digest}


def record_of(path: epath.Path | Path, suffix: str) -> epath.Path:
    """Where the record of an export at `path` is."""
    at = epath.Path(path)
    return at.parent / f"{at.name.removesuffix(suffix)}.{RECORD}" if suffix else at / RECORD


def _write_json(path: epath.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


@contextlib.contextmanager
def _published(output: str, suffix: str) -> Iterator[Path]:
    """A partial path to write at; it becomes `output` if the body succeeds, else it goes.

    The partial folder stands beside a local output; a bucket's is filled from a temporary one.
    """
    if not is_local(output):
        with tempfile.TemporaryDirectory(prefix="prompt_jax_export_") as scratch:
            partial = Path(scratch) / f"partial{suffix}"
            yield partial
            target = epath.Path(output)
            record = Path(record_of(partial, suffix))
            copy_with_record_last(partial, target)
            if suffix:
                copy_with_record_last(record, record_of(target, suffix))
        return
    target = Path(output).expanduser().resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    holder = target.parent / f".{target.name}.partial"
    shutil.rmtree(holder, ignore_errors=True)  # of an export that was killed
    holder.mkdir()
    try:
        partial = holder / target.name
        yield partial
        if suffix:
            record_of(partial, suffix).replace(record_of(target, suffix))
        partial.rename(target)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def copy_with_record_last(source: Path, target: Any) -> None:
    """A file, or a folder with its record last."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        return
    last: Callable[[Path], bool] = lambda path: path.name == RECORD  # noqa: E731
    for path in sorted((p for p in source.rglob("*") if p.is_file()), key=last):
        copy_with_record_last(path, target / str(path.relative_to(source)))
