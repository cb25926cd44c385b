"""The project's own folder of a backbone, and the safetensors reader that other formats share.

A folder holds `config.json` (the architecture as `t5.T5Config` names it, "format": "prompt_jax",
"family", "vocabulary"), `model.safetensors` (T5X's per-layer names, bfloat16 or float32) and
`spiece.model`, unless the vocabulary is "bytes" or null.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from prompt_jax.checkpoint import Checkpoint, LazyArrays
from prompt_jax.checkpoint.names import FILES_TABLE, Shape, match
from prompt_jax.errors import UserError
from prompt_jax.t5 import T5Config
from prompt_jax.weights import t5x_shapes

FORMAT = "prompt_jax"
WEIGHTS, SPIECE = "model.safetensors", "spiece.model"
RUN_TIME = ("dropout_rate", "dtype", "remat")  # settings of a run, not of a model: not stored
ARCHITECTURE = tuple(field.name for field in fields(T5Config) if field.name not in RUN_TIME)
STORED_DTYPES = ("float32", "bfloat16")


class SafeTensors:
    """One safetensors file: `shapes` by name at once, values when asked for."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = safetensors.safe_open(path, framework="np")
        except FileNotFoundError as error:
            raise UserError(f"there is no '{path}'; copy the checkpoint again") from error
        except (safetensors.SafetensorError, OSError) as error:
            reason = f"'{path}' is not a whole safetensors file ({error})"
            raise UserError(f"{reason}; copy it again") from error
        slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
        for name, view in slices.items():
            if view.get_dtype() not in ("F32", "BF16", "F16"):
                held = view.get_dtype()
                raise UserError(f"{path}: '{name}' holds {held}; save it as float32 or bfloat16")
        self.shapes: dict[str, Shape] = {n: tuple(v.get_shape()) for n, v in slices.items()}

    def read(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name)


def read_json(path: Path | epath.Path) -> dict[str, Any]:
    """The object in a JSON file; UserError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no '{path}'; a backbone's folder needs one") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}' as JSON ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise UserError(f"'{path}' holds no JSON object; copy it again")
    return value


def family(config: T5Config) -> str:
    """The published family that a model's architecture is an instance of."""
    if config.relpos_per_layer:
        return "umt5"
    return "t5_1_0" if config.logits_via_embedding else "t5_1_1"


def write(
    folder: str,
    config: T5Config,
    arrays: Mapping[str, np.ndarray],
    vocabulary_path: str | None,
) -> None:
    """Write a backbone that `files:FOLDER` reads; `config.json` comes last and makes it readable.

    `arrays`: T5X's per-layer names -> float32 or bfloat16. `vocabulary_path`: a SentencePiece
    model to copy, "bytes", or None. UserError for a name, shape or dtype that is not the config's.
    """
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    match(shapes, t5x_shapes(config), FILES_TABLE, folder)
    for name, array in arrays.items():
        if array.dtype.name not in STORED_DTYPES:
            raise UserError(f"'{name}' is {array.dtype.name}; cast it to one of {STORED_DTYPES}")
    target = epath.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").unlink(missing_ok=True)
    vocabulary = vocabulary_path
    if vocabulary_path is not None and vocabulary_path != "bytes":
        vocabulary = SPIECE
        model = epath.Path(vocabulary_path).read_bytes()
        (target / SPIECE).write_bytes(model)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    (target / WEIGHTS).write_bytes(safetensors.numpy.save(whole))
    settings: dict[str, Any] = {"format": FORMAT, "family": family(config)}
    settings |= {name: vars(config)[name] for name in ARCHITECTURE} | {"vocabulary": vocabulary}
    (target / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def config_from(settings: Mapping[str, Any], where: str) -> T5Config:
    """The T5Config of a `config.json` in our own format; UserError for a wrong key or type."""
    wanted = {"format", "family", "vocabulary", *ARCHITECTURE}
    if odd := sorted(wanted ^ set(settings)):
        state = "missing" if odd[0] in wanted else "unknown"
        raise UserError(f"{where}: key '{odd[0]}' is {state}; write the folder anew")
    values = {name: settings[name] for name in ARCHITECTURE}
    for name, value in values.items():
        kind = {"mlp_activations": list, **dict.fromkeys(_SWITCHES, bool)}.get(name, int)
        if type(value) is not kind:
            raise UserError(f"{where}: {name} = {value!r} should be of type {kind.__name__}")
    values["mlp_activations"] = tuple(values["mlp_activations"])
    config = T5Config(**values)
    if settings["family"] != family(config):
        raise UserError(f"{where}: family {settings['family']!r} should be '{family(config)}'")
    return config


_SWITCHES = ("logits_via_embedding", "scale_logits", "relpos_per_layer")


def open_folder(folder: str) -> Checkpoint:
    """A backbone in our own format, checked; its weights are read on demand."""
    base = Path(folder)
    settings = read_json(base / "config.json")
    if "format" not in settings or settings["format"] != FORMAT:
        raise UserError(
            f"'{folder}' is not in our own format; give a transformers folder as hf:DIR"
        )
    config = config_from(settings, str(base / "config.json"))
    weights = SafeTensors(base / WEIGHTS)
    match(weights.shapes, t5x_shapes(config), FILES_TABLE, str(weights.path))
    return Checkpoint(config, LazyArrays(weights.shapes, weights.read), _vocabulary(base, settings))


def _vocabulary(base: Path, settings: Mapping[str, Any]) -> str | None:
    name = settings["vocabulary"]
    if name is None or name == "bytes":
        return name
    if name != SPIECE:
        where = base / "config.json"
        raise UserError(f"{where}: vocabulary {name!r} should be '{SPIECE}', 'bytes' or null")
    return str(base / SPIECE)
