"""Backbones by name: one string to a frozen T5 with its digest and its tokenizer."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl

import jax
import ml_dtypes
import numpy as np
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils

from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import Checkpoint
from prompt_jax.backbone.formats.digests import cached_digest
from prompt_jax.backbone.formats.files import open_folder
from prompt_jax.backbone.formats.hf import open_hf, open_hf_config
from prompt_jax.backbone.formats.orbax import open_orbax
from prompt_jax.backbone.formats.t5x import open_t5x
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.errors import UserError
from prompt_jax.model import quantised, sharding, sizes
from prompt_jax.model.t5 import T5, T5Config
from prompt_jax.progress import Counter

# Backbones of this project: nano ships in the wheel, the others lie in a checkout, once made.
PACKAGE, REPOSITORY = (folder / "backbones" for folder in Path(__file__).parents[1:3])
SHIPPED = {"nano": PACKAGE, "mnano": REPOSITORY, "nano_span": REPOSITORY}
KNOWN = "nano, nano_span, mnano, hf:NAME_OR_DIR, t5x:DIR, orbax:DIR, files:DIR, random:SIZE?seed=0"
OPTIONS = {
    **dict.fromkeys(SHIPPED, ()),
    "hf": ("ignore",),
    "t5x": ("family",),
    "orbax": (),
    "files": (),
    "random": ("seed", "vocabulary"),
}
ROWS = 128  # the embeddings of random weights with a vocabulary of their own are a multiple of it
HASHED = 1 << 20  # values at a time
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class Backbone:
    """A frozen T5: weights and activations in one dtype, unless its large matrices are quantised,
    in `weights_dtype`; `vocabulary` is None for arrays only."""

    config: T5Config
    model: T5
    name: str
    digest: str
    vocabulary: Vocabulary | None
    weights_dtype: str | None = None


def load_backbone(
    name: str,
    dtype: str = "bfloat16",
    vocabulary: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    weights_dtype: str | None = None,
) -> Backbone:
    """Load `nano`, `mnano`, `hf:NAME_OR_DIR`, `t5x:DIR`, `orbax:DIR`, `files:DIR` or
    `random:SIZE?seed=0`; `nano_span` is nano before its stages after span corruption.

    `dtype`, float32 or bfloat16, is that of weights and activations. `vocabulary` is a
    SentencePiece path or "bytes"; by default the backbone's own, where it has one. With `mesh`,
    each process reads only the parts of the weights that its devices hold. `weights_dtype`, int8,
    int4 or float8_e4m3fn, is that of the large matrices alone (`quantised`); "none" wants them in
    `dtype`, None takes them as they are stored: quantised only in a quantised copy of `convert`.

    >>> load_backbone("random:nano?seed=1", vocabulary="bytes").name
    'random:nano?seed=1'
    """
    check_dtype(dtype)
    quantised.check(weights_dtype)
    checkpoint = open_checkpoint(name)
    stored = None if checkpoint.quantised is None else checkpoint.quantised.weights_dtype
    held_in = quantised.held_in(weights_dtype, stored, name)
    named = vocabulary or checkpoint.vocabulary
    words = _load_vocabulary(named) if named else None
    if words is not None and words.size > checkpoint.config.vocab_size:
        rows = checkpoint.config.vocab_size
        raise UserError(
            f"vocabulary '{words.path or 'bytes'}'",
            f"has {words.size} ids and '{name}' only {rows} embeddings",
            "give the vocabulary that the backbone was trained with",
        )
    config = replace(checkpoint.config, dtype=dtype)
    places = None if mesh is None else sharding.params(mesh, weights.abstract(config)[1])
    model = weights.build(config, checkpoint.arrays, dtype, places, held_in)
    here = all(x.is_fully_addressable for x in jax.tree.leaves(nnx.state(model)))
    # What is held rounds to the same bfloat16 as what is stored, and need not be read again.
    arrays = weights.lazy_arrays(model) if here and held_in is None else checkpoint.arrays
    total = digest_of(name, checkpoint, arrays) if here else agreed_digest(name, checkpoint)
    return Backbone(config, model, name, total, words, held_in)


def agreed_digest(name: str, checkpoint: Checkpoint) -> str:
    """The digest as process 0 finds it: the others read no more than what their devices hold."""
    total = bytes(32)
    if jax.process_index() == 0:
        total = bytes.fromhex(digest_of(name, checkpoint, checkpoint.arrays))
    shared = multihost_utils.broadcast_one_to_all(np.frombuffer(total, np.uint8))
    return np.asarray(shared).tobytes().hex()


def digest_of(name: str, checkpoint: Checkpoint, arrays: Mapping[str, np.ndarray]) -> str:
    """The digest of a checkpoint whose values are in `arrays`, computed unless it is remembered.

    A quantised copy has that of its source; UserError where its values are not those written, or
    one is not finite, so that a digest is only remembered of weights that can be used.
    """
    watched = _Finite(arrays, name)
    cached = cached_digest(name, checkpoint.folder, lambda: digest(watched))
    if checkpoint.quantised is None:
        return cached
    if cached != checkpoint.quantised.contents:
        raise UserError(
            f"'{name}'", "its values are not those that `convert` wrote", "convert it again"
        )
    return checkpoint.quantised.source


class _Finite(Mapping[str, np.ndarray]):
    """Arrays that are read one at a time, and refused if one is not finite."""

    def __init__(self, arrays: Mapping[str, np.ndarray], where: str):
        self.arrays, self.where = arrays, where

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.arrays[name]
        if not np.isfinite(array.astype(np.float32, copy=False)).all():
            raise UserError(self.where, f"'{name}' holds NaN or infinity", "copy it again")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def read_config(name: str) -> T5Config:
    """A backbone's config; weight files may be missing where a config.json says enough (hf:)."""
    kind, rest, options = _parse(name)
    if kind == "random":
        return _random_config(name, rest, options["vocabulary"])
    if kind == "hf":
        return open_hf_config(rest, _ignored(options))
    return open_checkpoint(name).config


def _ignored(options: Mapping[str, str | None]) -> list[str]:
    """The fields of .json files that `hf:DIR?ignore=FIELD,FIELD` names."""
    return (options["ignore"] or "").split(",")


def read_arrays(name: str, what: str = "pretraining") -> tuple[T5Config, dict[str, np.ndarray]]:
    """A backbone's config and its arrays by T5X's per-layer names, in the dtypes stored.

    `what` wants them, for the message where the backbone is a quantised copy.
    """
    checkpoint = open_checkpoint(name)
    checkpoint.refuse_quantised(what)
    return checkpoint.config, dict(checkpoint.arrays)


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) of the contents of a model, equal in every format and precision of it.

    For each T5X per-layer name in sorted order, the hash takes the UTF-8 line
    `NAME D0xD1...\\n`, for example `encoder/encoder_norm/scale 64\\n`, then the values rounded to
    bfloat16 (nearest, ties to even), little-endian, in C order.
    """
    total = hashlib.sha256()
    counter = Counter("digest of the weights", len(arrays), "arrays")
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"{name} {'x'.join(map(str, array.shape))}\n".encode())
        step = max(1, HASHED // array[0].size)  # some rows at a time, so that copies stay small
        for top in range(0, len(array), step):
            rounded = array[top : top + step].astype(ml_dtypes.bfloat16, copy=False)
            bits = np.ascontiguousarray(rounded).view(np.uint16)
            total.update(bits.astype("<u2", copy=False).data)
        counter.add()
    return total.hexdigest()


def check_dtype(dtype: str) -> None:
    """UserError unless T5 can run in `dtype`."""
    if dtype == "float16":
        raise UserError(
            "dtype 'float16'", "overflows in T5's activations", "use bfloat16 or float32"
        )
    if dtype not in DTYPES:
        raise UserError(f"dtype '{dtype}'", "unknown", "use bfloat16 or float32")


def open_checkpoint(name: str) -> Checkpoint:
    """The checkpoint that a string names, its names and shapes checked, no weight read yet."""
    kind, rest, options = _parse(name)
    if kind in SHIPPED:
        return open_shipped(kind)
    if kind == "hf":
        return open_hf(rest, _ignored(options))
    if kind == "t5x":
        return open_t5x(rest, options["family"])
    if kind == "orbax":
        return open_orbax(rest)
    if kind == "files":
        return open_folder(rest)
    return _random(name, rest, options["seed"], options["vocabulary"])


def open_shipped(name: str) -> Checkpoint:
    """A backbone of this project, by its name in SHIPPED."""
    folder = SHIPPED[name] / name
    if folder.is_dir():
        return open_folder(str(folder))
    remedy = "install the released wheel"
    if SHIPPED[name] == REPOSITORY:
        remedy = "use a checkout that has it, or make it by `pretrain` and name files:DIR/backbone"
    raise UserError(name, f"not in this installation ('{folder}')", remedy)


def _parse(name: str) -> tuple[str, str, dict[str, str | None]]:
    """`kind:rest?key=value&...` in parts; every option of the kind is there, None if not given."""
    kind, colon, rest = name.partition(":")
    if kind not in OPTIONS or (kind in SHIPPED) == bool(colon):
        raise UserError(f"backbone '{name}'", "unknown", _meant(name))
    rest, _, query = rest.partition("?")
    if colon and not rest:
        raise UserError(f"backbone '{name}'", "names no backbone", f"the known forms are {KNOWN}")
    options: dict[str, str | None] = dict.fromkeys(OPTIONS[kind])
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in options:
            known = ", ".join(OPTIONS[kind]) or "none"
            raise UserError(
                f"backbone '{name}'", f"has the unknown option '{key}'", f"known: {known}"
            )
        options[key] = value
    return kind, rest, options


def _meant(name: str) -> str:
    """The remedy for a name without a known kind: that of a folder, or of a model on the hub."""
    forms = f"the known forms are {KNOWN}"
    if ":" in name or "/" not in name:
        return forms
    kind = "t5x" if (epath.Path(name) / "checkpoint").is_file() else "hf"
    return f"did you mean {kind}:{name}? {forms}"


def _random(name: str, size: str, seed: str | None, vocabulary: str | None) -> Checkpoint:
    """Random weights on purpose; nano's and mnano's vocabulary (if there) for them, bytes for ByT5.

    With a `vocabulary` of its own it has as many embeddings, rounded up to a multiple of ROWS.
    """
    if seed is not None and not seed.isdecimal():
        raise UserError(f"backbone '{name}'", f"the seed '{seed}' is not a whole number >= 0")
    config = _random_config(name, size, vocabulary)
    if vocabulary is None and size.startswith("byt5_"):
        vocabulary = "bytes"
    elif vocabulary is None and size in SHIPPED and (SHIPPED[size] / size).is_dir():
        vocabulary = open_shipped(size).vocabulary
    return Checkpoint(config, weights.lazy_arrays(weights.init(config, int(seed or 0))), vocabulary)


def _random_config(name: str, size: str, vocabulary: str | None) -> T5Config:
    if size not in sizes.SIZES:
        raise UserError(
            f"backbone '{name}'", "unknown size", f"the known ones are {', '.join(sizes.SIZES)}"
        )
    if vocabulary is None:
        return sizes.SIZES[size]
    rows = -(-_load_vocabulary(vocabulary).size // ROWS) * ROWS
    return replace(sizes.SIZES[size], vocab_size=rows)


def _load_vocabulary(name: str) -> Vocabulary:
    return Vocabulary.bytes() if name == "bytes" else Vocabulary.from_file(name)
