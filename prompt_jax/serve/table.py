"""The prompts that an engine answers with: in the memory of the host, gathered batch by batch.

Thousands of prompts are resident as numpy arrays of their own sizes. A batch gets the prompts of
its rows as one bundle whose axis X is the rows of the batch (see `model/bundle.py`), padded to the
engine's `Frame`. So what is compiled depends on the kinds and lengths that have been met, never on
how many prompts there are or which: loading and unloading compile nothing.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from prompt_jax.backbone.load import Backbone
from prompt_jax.errors import UserError, reading
from prompt_jax.export import peft
from prompt_jax.methods.base import method_named
from prompt_jax.model.bundle import (
    AXES,
    PromptBundle,
    Visibility,
    arrays_by_name,
    per_column,
    put,
)
from prompt_jax.prompt import computed
from prompt_jax.prompt.artefact import (
    Prompt,
    check_backbone,
    check_tokenizer,
    load_prompt,
    refuse_head,
)
from prompt_jax.prompt.layout import NO_ROWS, PromptLayout
from prompt_jax.prompt.stack import (
    ALL_AXES,
    ends_at_text,
    host_arrays,
    marked_arrays,
    neutral_of,
)


@dataclass(frozen=True, eq=False)
class Entry:
    """A prompt, ready to be put into batches.

    Attributes:
      arrays: of its bundle, with an axis X of 1, and the marks of what is present.
      layout: where its rows stand.
      visibility: of its rows in the encoder.
      module: graphdef and state of a method that makes rows from the text, in place of the zeros
        that `arrays` have; None: it makes none.
      facts: what is said of it: method, task, metric, rows, bytes.
    """

    arrays: dict[str, np.ndarray]
    layout: PromptLayout
    visibility: Visibility
    module: tuple[Any, Any] | None
    facts: dict[str, Any]

    @property
    def family(self) -> tuple:
        """Entries of one family are prefilled in one batch."""
        return (self.visibility,) if self.module is None else (self.visibility, id(self))


NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"  # what a prompt may be called over HTTP
NAME_REMEDY = "give letters, digits and . _ -, at most 128, a letter or digit first"
NOBODY = Entry({}, NO_ROWS, Visibility(), None, {})  # what a request without a prompt has

Sizes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Frame:
    """The names and shapes, with an X of 1, that the arrays of a batch's prompts are padded to.

    `rows`: the most rows of a prompt in the encoder.
    """

    sizes: Sizes = ()
    rows: int = 0

    def grown(self, entry: Entry) -> "Frame":
        """The frame that also has room for a prompt: P and r are powers of two, kinds only come."""
        sizes = dict(self.sizes)
        for name, x in entry.arrays.items():
            old = sizes.get(name, (0,) * x.ndim)
            axes = ALL_AXES[name]
            sizes[name] = tuple(
                1 if axis == "X" else max(_room(axis, n), size)
                for axis, n, size in zip(axes, x.shape, old, strict=True)
            )
        for side in ("encoder", "decoder"):  # a slot is the same row in each of these
            shared = [n for n in sizes if n.startswith(side) and n in AXES and per_column(n)]
            shared += [n for n in sizes if n == f"{side}_present"]
            longest = max((_at(n, sizes[n]) for n in shared), default=0)
            for name in shared:
                at = ALL_AXES[name].index("P")
                sizes[name] = (*sizes[name][:at], longest, *sizes[name][at + 1 :])
        rows = max(self.rows, _room("P", entry.layout.columns))
        return Frame(tuple(sorted(sizes.items())), rows)

    @property
    def decoder_rows(self) -> int:
        """The decoder columns that prompts take."""
        sizes = dict(self.sizes)
        return sizes["decoder"][1] if "decoder" in sizes else 0

    def gathered(self, entries: Sequence[Entry], rows: int) -> dict[str, np.ndarray]:
        """The arrays of `rows` rows of a batch, of which the first have these prompts."""
        return {name: _gathered(name, size, entries, rows) for name, size in self.sizes}

    def own_bytes(self, rows: int) -> int:
        """The bytes that slots hold of their prompts."""
        sizes = [
            np.prod(size) * dtype_of(name).itemsize for name, size in self.sizes if stays(name)
        ]
        return rows * int(sum(sizes))


def _room(axis: str, size: int) -> int:
    return 1 << (size - 1).bit_length() if axis in "Pr" and size else size


def _at(name: str, size: tuple[int, ...]) -> int:
    return size[ALL_AXES[name].index("P")]


def dtype_of(name: str) -> np.dtype:
    """Of an array of prompts: float32, or that of a mark or of positions."""
    kinds = {bool: np.dtype(bool), float: np.dtype(np.float32)}
    return kinds.get(type(neutral_of(name)), np.dtype(np.int32))


def _gathered(name: str, size: tuple[int, ...], entries: Sequence[Entry], rows: int):
    axes = ALL_AXES[name]
    X, P = axes.index("X"), axes.find("P")
    shape = list(size)
    shape[X] = rows
    out = np.full(shape, neutral_of(name), dtype_of(name))
    for row, entry in enumerate(entries):
        x = entry.arrays.get(name)
        if x is None:
            continue
        where = [slice(0, n) for n in x.shape]
        where[X] = slice(row, row + 1)
        if P >= 0 and ends_at_text(name):
            where[P] = slice(size[P] - x.shape[P], size[P])
        out[tuple(where)] = x
    return out


def stays(name: str) -> bool:
    """Whether a step of the decoder reads an array, so that slots hold it; the others are read when
    a request is prefilled."""
    if not name.startswith("decoder_layers/"):
        return name in ("decoder_present", "decoder_positions")
    rest = name.removeprefix("decoder_layers/")
    once = ("rows", "added", "replaces", "cross/key/", "cross/value/")
    return not rest.startswith(once)


def bundle_of(arrays: Mapping[str, Any], visibility: Visibility = Visibility()) -> PromptBundle:  # noqa: B008 (frozen)
    """Arrays by name, with X, as a bundle."""
    bundle = PromptBundle(visibility=visibility)
    for name, x in arrays.items():
        bundle = put(bundle, name, x)
    return bundle


def read_entry(path: str) -> Prompt:
    """A saved prompt: an artefact's folder, `.npy`, or a PEFT folder, local or in a bucket."""
    folder = epath.Path(path)
    if not path.endswith(".npy") and "?" not in path and (folder / peft.CONFIG).exists():
        with tempfile.TemporaryDirectory(prefix="prompt_jax_peft_") as scratch:
            for name in (peft.CONFIG, peft.WEIGHTS):
                if (folder / name).exists():
                    (Path(scratch) / name).write_bytes((folder / name).read_bytes())
            try:
                adapter = peft.read(scratch)
            except UserError as error:
                where, problem = (
                    str(part).replace(scratch, path) for part in (error.where, error.problem)
                )
                raise UserError(where, problem, error.remedy) from None
        return Prompt(adapter.arrays, adapter.manifest, path)
    prompt = load_prompt(path)
    refuse_head(path, "the server")
    return prompt


def make_entry(prompt: Prompt, backbone: Backbone, allow_other: bool = False) -> Entry:
    """A prompt for a backbone.

    Raises:
      UserError: it belongs to other weights or pieces, has rows of several tasks and names none, or
        holds what no prompt of its method does.
    """
    with reading(f"prompt {prompt.path!r}", "copy it again"):
        return _entry(prompt, backbone, allow_other)


def _entry(prompt: Prompt, backbone: Backbone, allow_other: bool) -> Entry:
    if "peft" in prompt.manifest:
        named = {"name": backbone.name, "digest": backbone.digest}
        facts = {"method": prompt.manifest["peft"]["peft_type"], "backbone": named}
        inner = peft.in_layers(prompt, backbone)
        manifest = {"tokenizer": None, "task": None, "metric": None, **facts, **inner.manifest}
        prompt = Prompt(inner.arrays, manifest, prompt.path)
    check_backbone(prompt, backbone, allow_other=allow_other)
    check_tokenizer(prompt, backbone)
    _ = prompt.layout.rows(None)
    facts = {
        "method": prompt.manifest.get("method", "SoftPrompt"),
        "task": prompt.manifest.get("task"),
        "metric": prompt.manifest.get("metric"),
        "rows": prompt.layout.encoder,
        "decoder_rows": prompt.layout.decoder,
        "bytes": sum(x.nbytes for x in prompt.arrays.values()),
    }
    facts = json.loads(json.dumps(facts), parse_constant=lambda _: None)  # NaN is no JSON
    if prompt.visibility.computed_once:
        bundle = computed.bundle(prompt, backbone.model, computed.weights_of(backbone))
        return Entry(marked_arrays(bundle), prompt.layout, bundle.visibility, None, facts)
    if prompt.folds:
        return Entry(host_arrays(prompt), prompt.layout, prompt.visibility, None, facts)
    module = method_named(prompt.manifest["method"]).restored(prompt)
    _check_rows_made(module, prompt, backbone)
    rows = np.zeros((1, prompt.layout.encoder, backbone.config.emb_dim), np.float32)
    return Entry({"encoder": rows}, prompt.layout, prompt.visibility, nnx.split(module), facts)


def _check_rows_made(module: Any, prompt: Prompt, backbone: Backbone) -> None:
    """UserError where a module makes more than rows of the encoder, or others than its layout's."""
    made = jax.eval_shape(lambda: module())
    if list(arrays_by_name(made)) != ["encoder"]:
        raise UserError(
            f"prompt {prompt.path!r}",
            "is of a method that makes more than rows of the encoder from its input",
            "answer with it by `prompt-jax infer`",
        )
    P, D = prompt.layout.encoder, backbone.config.emb_dim
    if made.encoder.shape[1:] != (P, D):
        problem = f"makes rows {list(made.encoder.shape[1:])}, it says {[P, D]}"
        raise UserError(f"prompt {prompt.path!r}", problem, "copy it again")
