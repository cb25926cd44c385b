"""Prompts out and in: a file of another program is called done once its own reader agrees with us.

An export is written to a partial path beside its target, reloaded in a fresh process by the
consumer of its format, compared, and only then renamed. The comparison is recorded: `report.json`
in the folder (for a `.npy`, `NAME.report.json` beside it), `imported` in an artefact's manifest.
"""

from pathlib import Path
from typing import Any

from prompt_jax.backbone.load import Backbone, load_backbone
from prompt_jax.errors import UserError
from prompt_jax.evaluate.opening import Opening, trained
from prompt_jax.export import peft
from prompt_jax.export.check import TOLERANCE, named, verify
from prompt_jax.export.formats import About, check_consumer, check_expressible, get_format
from prompt_jax.export.publish import check_free, published, record_of, write_json
from prompt_jax.methods.base import plain_rows
from prompt_jax.paths import is_local
from prompt_jax.prompt.artefact import Prompt, load_prompt, refuse_head, save_prompt
from prompt_jax.version import __version__


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
    weights_inside: bool = False,
) -> dict[str, Any]:
    """Writes a prompt for another program, checks it, and returns the record.

    `backbone`: by default the one that the artefact names; it is loaded, in float32, to compare
    logits on the text that the prompt was tuned for. A `.npy` names none: its rows are compared.
    `weights_inside`: of `stablehlo`, in the programs themselves and not in a file beside them.

    Raises:
      UserError: the format cannot express the prompt, its consumer is missing, the output exists.
      RunError: the consumer reads something else than was written; nothing is left then.
    """
    form = get_format(format)
    check_free(output, form.suffix, format)
    if form.merges:
        raise UserError(
            f"--format={format}", "is a backbone", "give --merge too, or another format"
        )
    saved = load_prompt(prompt)
    refuse_head(prompt, f"--format={format}")
    check_expressible(format, saved)
    if not unverified:
        check_consumer(format)
    name = backbone or (saved.manifest["backbone"]["name"] if saved.manifest else None)
    loaded = None
    if name is not None and (backbone is not None or form.whole or not unverified):
        loaded = load_float32(name, saved, allow_other_backbone, given=backbone is not None)
    step = saved.manifest.get("step") or 0
    about = About(name, loaded and loaded.config, step, loaded, weights_inside)
    record = {"format": format, "prompt": saved.path, "prompt_jax": __version__}
    record |= {"backbone": None if loaded is None else named(loaded), "manifest": saved.manifest}
    with published(output, form.suffix) as partial:
        stored = form.load().write(partial, saved, about)
        record |= verify(format, partial, saved, loaded, task, split, unverified, stored)
        write_json(record_of(partial, form.suffix), record)
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

    Raises: as `export_prompt`; UserError also for what is not a plain prompt, and says why.
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
        prompt = Prompt(inner.arrays, {**inner.manifest, "backbone": named(loaded)}, source)
    else:
        prompt = foreign if whole else Prompt(foreign.arrays, {}, source)
        loaded = load_float32(backbone, prompt, allow_other_backbone, given=True)
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
    save_prompt(output, prompt.arrays, {**manifest, "backbone": named(loaded), "imported": record})
    return record


def _adapter(peft: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says of an adapter that PEFT keeps inside the layers."""
    return {"method": peft["peft_type"], "settings": peft}


def load_float32(name: str, prompt: Prompt, allow_other: bool, given: bool) -> Backbone:
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
