"""The project's own folder of a backbone, and the safetensors reader that other formats share.

A folder holds `config.json` (the architecture as `t5.T5Config` names it, "format": "prompt_jax",
"family", "vocabulary"), `model.safetensors` (T5X's per-layer names, bfloat16 or float32) and
`spiece.model`, unless the vocabulary is "bytes" or null.
"""

import io
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from prompt_jax.backbone.formats import Box, Checkpoint, LazyArrays, Stored
from prompt_jax.backbone.formats.names import FILES_TABLE, Shape, check_dtypes, match
from prompt_jax.backbone.formats.store import read_file
from prompt_jax.backbone.vocabulary import is_tokenizer, tokenizer_json
from prompt_jax.backbone.weights import t5x_shapes
from prompt_jax.contents import json_object, refuse_pointer, refuse_pointer_at
from prompt_jax.errors import UserError
from prompt_jax.model.t5 import T5Config

FORMAT = "prompt_jax"
WEIGHTS = "model.safetensors"
SPIECE, TOKENIZER = "spiece.model", "tokenizer.json"  # a vocabulary is one or the other
RUN_TIME = (
    "dropout_rate",
    "dtype",
    "remat",
    "attention",
)  # settings of a run, not of a model: not stored
ARCHITECTURE = tuple(field.name for field in fields(T5Config) if field.name not in RUN_TIME)
STORED_DTYPES = ("float32", "bfloat16")
AT_ONCE = 8 << 20  # bytes
APART = 512  # bytes of a part of a row from which on it is read alone, not with all of its row
DTYPES = {"F32": np.dtype("f4"), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype("f2")}


class SafeTensors:
    """One safetensors file: `stored` says what is in it, and reads parts of it.

    The library checks the file; values are read here, in place, row by row. (Its memory maps would
    count as this process's memory, and its other backend reads whole arrays only.)
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with safetensors.safe_open(path, framework="np") as file:
                names = list(file.keys())
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                self._header, self._start = json.loads(file.read(length)), 8 + length
        except FileNotFoundError as error:
            raise UserError(path, "no such file", "copy the checkpoint again") from error
        except (safetensors.SafetensorError, OSError) as error:
            refuse_pointer_at(path)
            raise UserError(
                path, f"not a whole safetensors file ({error})", "copy it again"
            ) from error
        self.stored: dict[str, Stored] = {name: self._stored(name) for name in names}

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: one.shape for name, one in self.stored.items()}

    def _stored(self, name: str) -> Stored:
        facts = self._header[name]
        if facts["dtype"] not in DTYPES:
            dtype_name = facts["dtype"]
            raise UserError(
                self.path, f"'{name}' holds {dtype_name}", "save it as float32 or bfloat16"
            )
        shape, dtype = tuple(facts["shape"]), DTYPES[facts["dtype"]]
        start = self._start + facts["data_offsets"][0]
        return Stored(shape, dtype, lambda box: self._read(start, shape, dtype, box))

    def _read(self, start: int, shape: Shape, dtype: np.dtype, box: Box) -> np.ndarray:
        """Whole rows are read into the result; of parts of rows each alone, or where they are
        short by way of some whole rows at a time."""
        first, last = box[0].start, box[0].stop
        row = math.prod(shape[1:]) * dtype.itemsize
        with open(self.path, "rb", buffering=0) as file:
            if all(part == slice(0, size) for part, size in zip(box[1:], shape[1:], strict=True)):
                out = np.empty((last - first, *shape[1:]), dtype)
                self._fill(file, out, start + first * row)
                return out
            out = np.empty([part.stop - part.start for part in box], dtype)
            if len(shape) == 2 and out[0].nbytes >= APART:
                place = start + first * row + box[1].start * dtype.itemsize
                for i in range(len(out)):
                    self._fill(file, out[i], place + i * row)
                return out
            step = max(1, AT_ONCE // row)
            for top in range(first, last, step):
                rows = np.empty((min(step, last - top), *shape[1:]), dtype)
                self._fill(file, rows, start + top * row)
                out[top - first : top - first + len(rows)] = rows[:, *box[1:]]
            return out

    def _fill(self, file: io.FileIO, out: np.ndarray, start: int) -> None:
        data, filled = out.reshape(-1).view(np.uint8).data, 0
        while filled < len(data):
            count = os.preadv(file.fileno(), [data[filled : filled + (1 << 30)]], start + filled)
            if not count:
                raise UserError(self.path, "was cut short while it was read", "copy it again")
            filled += count


def read_json(path: Path | epath.Path) -> dict[str, Any]:
    """The object in a JSON file; UserError where there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(path, "no such file", "a backbone's folder needs one") from error
    except OSError as error:
        raise UserError(path, f"cannot be read ({error})", "check your access to it") from error
    refuse_pointer(path, content[:64])
    return json_object(content, path)


def family(config: T5Config) -> str:
    """The published family that a model's architecture is an instance of."""
    if config.relpos_per_layer:
        return "umt5"
    if "silu" in config.mlp_activations:
        return "ul2"
    return "t5_1_0" if config.logits_via_embedding else "t5_1_1"


def write(
    folder: str,
    config: T5Config,
    arrays: Mapping[str, np.ndarray],
    vocabulary_path: str | None,
) -> None:
    """Write a backbone that `files:FOLDER` reads; `config.json` comes last and makes it readable.

    `arrays`: T5X's per-layer names -> float32 or bfloat16. `vocabulary_path`: a SentencePiece
    model or a tokenizer to copy (`Vocabulary.from_file`), "bytes", or None. UserError for a name,
    shape or dtype that is not the config's.
    """
    stored = LazyArrays.of(arrays).stored
    match({n: one.shape for n, one in stored.items()}, t5x_shapes(config), FILES_TABLE, folder)
    for name, one in stored.items():
        if one.dtype.name not in STORED_DTYPES:
            raise UserError(name, f"is {one.dtype.name}", f"cast it to one of {STORED_DTYPES}")
    target = epath.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").unlink(missing_ok=True)
    vocabulary = write_vocabulary(target, vocabulary_path)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    if "://" in folder:
        (target / WEIGHTS).write_bytes(safetensors.numpy.save(whole))
    else:
        safetensors.numpy.save_file(whole, str(target / WEIGHTS))
    (target / "config.json").write_text(settings_of(config, vocabulary, {}))


def write_vocabulary(target: epath.Path, path: str | None) -> str | None:
    """Copies a vocabulary beside the weights; what `settings_of` says of it."""
    if path is None or path == "bytes":
        return path
    name, data = vocabulary_file(path)
    (target / name).write_bytes(data)
    return name


def vocabulary_file(path: str) -> tuple[str, bytes]:
    """The one file that holds a whole vocabulary, by the name that it gets beside weights."""
    if is_tokenizer(path):
        return TOKENIZER, tokenizer_json(path).encode()
    return SPIECE, read_file(path)


def settings_of(config: T5Config, vocabulary: str | None, more: Mapping[str, Any]) -> str:
    """The text of `config.json` in our own format; `more`: what Orbax's layout adds to it."""
    settings: dict[str, Any] = {"format": FORMAT, "family": family(config)}
    settings |= {name: vars(config)[name] for name in ARCHITECTURE} | {
        "vocabulary": vocabulary,
        **more,
    }
    return json.dumps(settings, indent=2) + "\n"


def config_from(settings: Mapping[str, Any], where: str) -> T5Config:
    """The T5Config of a `config.json` in our own format; UserError for a wrong key or type."""
    wanted = {"format", "family", "vocabulary", *ARCHITECTURE}
    if odd := sorted(wanted ^ set(settings)):
        state = "missing" if odd[0] in wanted else "unknown"
        raise UserError(where, f"key '{odd[0]}' is {state}", "write the folder again")
    values = {name: settings[name] for name in ARCHITECTURE}
    for name, value in values.items():
        kind = {"mlp_activations": list, **dict.fromkeys(_SWITCHES, bool)}.get(name, int)
        if type(value) is not kind:
            raise UserError(where, f"{name} = {value!r} should be of type {kind.__name__}")
    values["mlp_activations"] = tuple(values["mlp_activations"])
    config = T5Config(**values)
    if settings["family"] != family(config):
        raise UserError(where, f"family {settings['family']!r} should be '{family(config)}'")
    return config


_SWITCHES = ("logits_via_embedding", "scale_logits", "relpos_per_layer")


def open_folder(folder: str) -> Checkpoint:
    """A backbone in our own format, checked; its weights are read on demand."""
    base = Path(folder)
    settings = read_json(base / "config.json")
    if "format" not in settings or settings["format"] != FORMAT:
        raise UserError(folder, "not in our own format", "give a transformers folder as hf:DIR")
    config = config_from(settings, str(base / "config.json"))
    weights = SafeTensors(base / WEIGHTS)
    match(weights.shapes, t5x_shapes(config), FILES_TABLE, str(weights.path))
    dtypes = {name: (name, one.dtype) for name, one in weights.stored.items()}
    check_dtypes(dtypes, str(weights.path))
    words = vocabulary_of(lambda name: str(base / name), settings, str(base / "config.json"))
    return Checkpoint(config, LazyArrays(weights.stored), words, str(base))


def vocabulary_of(place: Callable[[str], str], settings: Mapping[str, Any], where: str):
    """What our config.json, which is `where`, says of the vocabulary: a path, "bytes" or None.

    `place` gives the path of a file beside it.
    """
    name = settings["vocabulary"]
    if name is None or name == "bytes":
        return name
    if name not in (SPIECE, TOKENIZER):
        raise UserError(
            where, (f"vocabulary {name!r} should be '{SPIECE}', '{TOKENIZER}', 'bytes' or null")
        )
    return place(name)
