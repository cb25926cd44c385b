"""Prompt artefacts: a tuned prompt on disk, with all that is needed to use it again.

An artefact is a directory, local or in a bucket:

  prompt.safetensors  `encoder` float32 [P, D] and/or `decoder` float32 [P', D]: plain prompt rows;
                      what works inside the layers, under the names of `bundle.py`
  manifest.json       what the arrays are: FIELDS, and `shapes`, `sha256`, `versions`

Rows of several tasks or languages (`factors.py`) are a prompt each: `DIR?task=NAME&language=NAME`.
Prompts released as a bare `.npy` (google-research/prompt-tuning's are float32 [100, 768]) load too.
Nothing is ever unpickled.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import flax
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from prompt_jax.contents import json_object, refuse_pointer
from prompt_jax.errors import UserError
from prompt_jax.model.bundle import (
    AXES,
    PrefixPositions,
    PromptBundle,
    Visibility,
    axes_of,
    bundle_of,
    rank_of,
)
from prompt_jax.model.t5 import T5Config
from prompt_jax.paths import is_local
from prompt_jax.prompt import factors
from prompt_jax.prompt.files import (
    MANIFEST,
    TENSORS,
    read_bytes,
    read_pair,
    write_bucket,
    write_local,
)
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.version import __version__

BESIDE = "terms.safetensors"  # what terms of the objective wanted saved
REMEDY = "load the former, or give --allow_other_backbone"
FORMAT_VERSION = 1
SIDES = ("encoder", "decoder")
OWN = ("mixture/", "own/")  # names of arrays that only their method understands (`restored`)

# What whoever saves a prompt says of it. `settings`: the method's, as plain JSON. `placement`: as
# in PromptLayout. `visibility`: {"input", "prompt"} as in Visibility, and "computed_once" where it
# is so. `backbone`: {"name", "digest"}. `tokenizer`: its digest, or null. `metric`: {name: value},
# or null. More may be there: `prefix_positions`, as in LayerEdit, where it is not "none";
# `factors`, where rows have owners; `marks`, where they stand between fields.
FIELDS = (
    "method",
    "settings",
    "placement",
    "visibility",
    "backbone",
    "tokenizer",
    "task",
    "metric",
    "step",
    "seed",
)
KINDS: dict[str, type] = {  # of those that are not null, and of what is in them
    "method": str,
    "settings": dict,
    "placement": str,
    "visibility": dict,
    "backbone": dict,
    "backbone/name": str,
    "backbone/digest": str,
    "tokenizer": str,
    "task": str,
    "metric": dict,
    "step": int,
    "seed": int,
    "shapes": dict,
    "sha256": str,
}


class Tuned(Protocol):
    """What a prompt is compared with: a backbone, or what is known of one."""

    @property
    def config(self) -> T5Config: ...
    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def vocabulary(self) -> Any: ...


@dataclass(frozen=True)
class Prompt:
    """A loaded prompt.

    Attributes:
      arrays: `encoder` float32 [P, D], `decoder` float32 [P', D], and any other of a bundle.
      manifest: the contents of manifest.json; {} for a `.npy`, which is a prefix seen by all.
      path: where it was read.
    """

    arrays: dict[str, np.ndarray]
    manifest: dict[str, Any]
    path: str

    @property
    def digest(self) -> str:
        """The SHA-256 of its arrays as an artefact has them."""
        known = self.manifest.get("sha256")
        return known or hashlib.sha256(safetensors.numpy.save(self.arrays)).hexdigest()

    @property
    def array(self) -> np.ndarray:
        """The encoder's rows, float32 [P, D]; UserError if there are only decoder rows."""
        _ = self.layout.rows(None)
        if "encoder" not in self.arrays:
            rest = "decoder rows" if "decoder" in self.arrays else "arrays inside the layers"
            name = next(iter(self.arrays))
            raise UserError(f"prompt {self.path!r}", f"has {rest} only", f"use arrays[{name!r}]")
        return self.arrays["encoder"]

    @property
    def layout(self) -> PromptLayout:
        """How many rows each example gets, and where."""
        rows = {side: len(self.arrays[side]) if side in self.arrays else 0 for side in SIDES}
        placement = self.manifest.get("placement", "prefix")
        of = factors.of_manifest(self.manifest.get("factors", ()))
        count = factors.length(of) if of else rows["encoder"]
        return PromptLayout(
            encoder=count,
            placement=placement,
            decoder=rows["decoder"],
            factors=of,
            computed_once=self.visibility.computed_once,
            marks=tuple(self.manifest.get("marks", ())),
        )

    @property
    def folds(self) -> bool:
        """Whether the arrays are a bundle's; else only their method makes one of them."""
        return all(name in AXES for name in self.arrays)

    @property
    def visibility(self) -> Visibility:
        """What the encoder's prompt columns attend to."""
        if "visibility" not in self.manifest:
            return Visibility()
        described = self.manifest["visibility"]
        once = described.get("computed_once", False)
        return Visibility(input=described["input"], prompt=described["prompt"], computed_once=once)

    @property
    def prefix_positions(self) -> PrefixPositions:
        """Where the keys among the arrays stand, as in LayerEdit."""
        return {"prefix_positions": "none", **self.manifest}["prefix_positions"]

    def bundle(self) -> PromptBundle:
        """The prompt as the T5 takes it: float32 [1, P, D], [1, P', D], and what is in layers."""
        arrays = {name: jnp.asarray(value) for name, value in self.arrays.items()}
        after_text = self.layout.placement == "suffix"
        return bundle_of(arrays, self.visibility, self.prefix_positions, after_text)


def save_beside(directory: epath.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes what terms of an objective save beside an artefact that is there: `TERM/array`."""
    data = safetensors.numpy.save({name: np.ascontiguousarray(x) for name, x in arrays.items()})
    (epath.Path(directory) / BESIDE).write_bytes(data)


def load_beside(directory: epath.PathLike) -> dict[str, np.ndarray]:
    """What `save_beside` wrote; {} where it wrote nothing."""
    path = epath.Path(directory) / BESIDE
    if not path.exists():
        return {}
    try:
        return safetensors.numpy.load(read_bytes(path, "copy the whole directory"))
    except safetensors.SafetensorError as error:
        problem = f"not a safetensors file ({error})"
        raise UserError(str(path), problem, "copy it again") from None


def refuse_head(path: str, where: str) -> None:
    """UserError for an artefact whose answers are those of a head of labels, in a place (`where`)
    that has none: its rows alone were never trained to write an answer."""
    if any(name.endswith("/labels") for name in load_beside(path.partition("?")[0])):
        raise UserError(
            f"prompt {path!r}",
            f"answers by a head of labels, and {where} has none",
            f"answer with `prompt-jax infer --mode=head`, or copy it without {BESIDE} for its rows",
        )


def save_prompt(
    directory: epath.PathLike, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]
) -> None:
    """Writes an artefact, in place of the one that may be there.

    `arrays`: those of a bundle, by name (`bundle.named`), stored as float32, always in the same
    bytes. `manifest` gives FIELDS; format version, shapes, SHA-256 and versions are added.

    Local files: a process killed at any moment leaves the old artefact or the new one, and the next
    save clears away what it left. A bucket cannot rename: there the manifest is removed first and
    written last, so that nothing in between is ever taken for an artefact.

    Raises:
      UserError: for arrays that are no prompt, or a directory that holds something else.
    """
    missing = [name for name in FIELDS if name not in manifest]
    assert not missing, f"the manifest of {directory} lacks {missing}"
    rows = {side: _rows(array, side, str(directory)) for side, array in arrays.items()}
    _check_sides(rows, str(directory))
    tensors = safetensors.numpy.save(rows)
    text = json.dumps(
        {
            "format_version": FORMAT_VERSION,
            **manifest,
            "shapes": {side: list(value.shape) for side, value in rows.items()},
            "sha256": hashlib.sha256(tensors).hexdigest(),
            "versions": {
                "prompt_jax": __version__,
                "jax": jax.__version__,
                "flax": flax.__version__,
            },
        },
        indent=2,
    )
    if is_local(directory):
        write_local(Path(directory).resolve(), {TENSORS: tensors, MANIFEST: text.encode() + b"\n"})
    else:
        write_bucket(epath.Path(directory), tensors, text + "\n")


def load_prompt(path: epath.PathLike) -> Prompt:
    """Reads an artefact's directory, or a `.npy` with the rows of a prefix, float [P, D].

    `DIR?task=NAME&language=NAME` gives the plain prompt of one pair, `mean` the mean of all names.

    Raises:
      UserError: one line that names the file, for whatever is missing, damaged or no prompt.
    """
    where, names = factors.chosen(str(path))
    where = where.rstrip("/")
    if where.endswith(".npy") and not names:
        return Prompt({"encoder": _read_npy(where)}, {}, where)
    text, tensors = read_pair(where)
    manifest = _parse_manifest(text, where)
    digest = hashlib.sha256(tensors).hexdigest()
    if digest != manifest["sha256"]:
        raise UserError(
            f"{where}/{TENSORS}",
            f"has SHA-256 {digest[:12]}, its manifest says {str(manifest['sha256'])[:12]}: "
            "the file was changed or cut short",
            "copy it again",
        )
    prompt = Prompt(_parse_tensors(tensors, where), manifest, where)
    shapes = {side: list(array.shape) for side, array in prompt.arrays.items()}
    if shapes != manifest["shapes"]:
        recorded = manifest["shapes"]
        raise UserError(
            where, f"the tensors are {shapes}, the manifest says {recorded}", "copy it again"
        )
    _check_policy(prompt)
    return _folded(prompt, names, str(path)) if names else prompt


def _folded(prompt: Prompt, names: Mapping[str, str], path: str) -> Prompt:
    arrays = factors.folded(prompt.layout.factors, prompt.arrays, names, path)
    digest = hashlib.sha256(safetensors.numpy.save(arrays)).hexdigest()
    manifest = {**prompt.manifest, "factors": (), "of": dict(names), "sha256": digest}
    return Prompt(arrays, manifest, path)


def check_backbone(
    prompt: Prompt, backbone: Tuned, allow_other: bool = False, remedy: str = REMEDY
) -> None:
    """Refuses a prompt of another width, and, unless `allow_other`, one tuned for other weights.

    A `.npy` does not say what it was tuned for; only its width is checked.
    """
    for name, array in prompt.arrays.items():
        if name.startswith(OWN):
            continue
        wanted = axes_of(name, backbone.config)
        if any(size not in (None, n) for size, n in zip(wanted, array.shape, strict=True)):
            problem = f"is {array.shape[1]} wide and backbone {backbone.name!r} {wanted[1]}"
            if "/" in name:
                shape = [size or "any" for size in wanted]
                problem = (
                    f"has {name} {list(array.shape)}, backbone {backbone.name!r} takes {shape}"
                )
            raise UserError(
                f"prompt {prompt.path!r}", problem, "take the backbone that it was tuned for"
            )
    if not prompt.manifest or allow_other:
        return
    tuned = prompt.manifest["backbone"]
    if tuned["digest"] != backbone.digest:
        raise UserError(
            f"prompt {prompt.path!r}",
            (
                f"was tuned for {tuned['name']!r} ({tuned['digest'][:12]}), not for "
                f"{backbone.name!r} ({backbone.digest[:12]})"
            ),
            remedy,
        )


# Checks


def _rows(array: np.ndarray, side: str, where: str) -> np.ndarray:
    """`array` as float32, of as many dimensions as its name has."""
    array = np.asarray(array)
    rank = array.ndim if side.startswith(OWN) else rank_of(side)
    if array.ndim != rank or array.dtype.kind != "f" or 0 in array.shape:
        wanted = f"{rank} dimensions" if "/" in side else "two dimensions, [rows, model width]"
        raise UserError(
            where,
            f"{side} holds {array.dtype} {list(array.shape)}",
            f"a prompt is an array of floats with {wanted}",
        )
    return np.ascontiguousarray(array, np.float32)


def _check_sides(rows: Mapping[str, np.ndarray], where: str) -> None:
    if not rows or not all(name in AXES or name.startswith(OWN) for name in rows):
        raise UserError(
            where,
            f"arrays {sorted(rows)}",
            (
                "a prompt has 'encoder', 'decoder' or both, or arrays inside the layers "
                "(`prompt_jax.model.bundle`)"
            ),
        )
    widths = {array.shape[1] for name, array in rows.items() if name in SIDES}
    if len(widths) > 1:
        raise UserError(where, f"encoder and decoder rows differ in width, {sorted(widths)}")


def _check_finite(rows: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(rows).all():
        raise UserError(where, "the prompt holds NaN or infinity", "take an earlier one")
    return rows


def _check_policy(prompt: Prompt) -> None:
    """The placement and visibility that the manifest names are known ones."""
    try:
        of, _ = prompt.layout.factors, prompt.visibility
        if of and factors.size(of) != len(prompt.arrays.get("encoder", ())):
            raise UserError("factors", f"they have {factors.size(of)} rows, its encoder has others")
    except UserError as error:
        raise UserError(f"{prompt.path}/{MANIFEST}", str(error)) from None


def _read_npy(where: str) -> np.ndarray:
    data = read_bytes(epath.Path(where), "give an artefact's directory or a .npy")
    refuse_pointer(where, data[:64])
    try:
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            where, f"not an array of numbers ({reason})", "save it by np.save"
        ) from None
    return _check_finite(_rows(array, "the file", where), where)


def _parse_manifest(text: bytes, where: str) -> dict[str, Any]:
    name = f"{where}/{MANIFEST}"
    manifest = json_object(text, name)
    try:
        json.dumps(manifest, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(name, "holds half of a character", "copy it again") from None
    if "format_version" not in manifest:
        raise UserError(name, "not the manifest of a prompt", "give an artefact's directory")
    version = manifest["format_version"]
    if version != FORMAT_VERSION:
        raise UserError(
            name, f"format version {version!r}, this prompt_jax reads {FORMAT_VERSION}", "upgrade"
        )
    parts = {"backbone": ("name", "digest"), "visibility": ("input", "prompt")}
    for field in (*FIELDS, "shapes", "sha256"):
        if field not in manifest:
            raise UserError(name, f"field {field!r} is missing", "copy it again")
    for field, keys in parts.items():
        value = manifest[field]
        if not isinstance(value, dict) or not set(keys) <= set(value):
            need = " and ".join(keys)
            raise UserError(name, f"{field} = {value!r} needs {need}", "copy it again")
    for field, kind in KINDS.items():
        outer, _, inner = field.partition("/")
        value = manifest[outer][inner] if inner else manifest[outer]
        if type(value) is not kind and (value is not None or inner):
            problem = f"{field} = {value!r} is not of type {kind.__name__}"
            raise UserError(name, problem, "copy it again")
    return manifest


def _parse_tensors(data: bytes, where: str) -> dict[str, np.ndarray]:
    name = f"{where}/{TENSORS}"
    try:
        arrays = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise UserError(name, f"not a safetensors file ({error})", "copy it again") from None
    rows = {side: _check_finite(_rows(arrays[side], side, name), name) for side in sorted(arrays)}
    _check_sides(rows, name)
    return rows


def check_tokenizer(prompt: Prompt, backbone: Tuned) -> None:
    """Refuses a prompt that was tuned on the pieces of another tokenizer."""
    words = backbone.vocabulary
    tuned = prompt.manifest["tokenizer"] if prompt.manifest else None
    if tuned and words and tuned != words.digest:
        raise UserError(
            f"prompt {prompt.path!r}",
            (
                f"was tuned with tokenizer {tuned[:12]}, backbone {backbone.name!r} has "
                f"{words.digest[:12]}"
            ),
            "load the backbone with that tokenizer",
        )
