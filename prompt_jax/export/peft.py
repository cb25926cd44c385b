"""PEFT's folder of a prompt: `adapter_config.json` and `adapter_model.safetensors`.

PEFT puts `num_virtual_tokens` rows before the encoder's text, and attends to them always. Its
default for encoder-decoders, `num_transformer_submodules` 2, saves twice as many rows as it uses:
the rest never had a gradient, and is dropped here. We write 1. Keys and names: PEFT 0.21.2.
Adapters inside the layers: `peft_layers.py` reads them, `peft_write.py` writes all that PEFT can
hold, and `README.md` beside it is the model card.
"""

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from prompt_jax.contents import json_object
from prompt_jax.errors import UserError, reading
from prompt_jax.export import hf, peft_layers, peft_write
from prompt_jax.export.card import card
from prompt_jax.export.formats import checked_rows
from prompt_jax.export.peft_layers import KEY

if TYPE_CHECKING:
    from prompt_jax.backbone.load import Backbone
    from prompt_jax.export.formats import About
    from prompt_jax.prompt.artefact import Prompt

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WHY_NOT = {  # what else may come for a T5, and what it is that no row of a prompt can stand for
    "ADALORA": "it changes the weights of attention by singular values",
    "MULTITASK_PROMPT_TUNING": "its rows depend on the task's number and stand in the decoder too",
}


def refusal(prompt: "Prompt") -> str | None:
    return peft_write.refusal(prompt)


def write(path: Path, prompt: "Prompt", about: "About") -> dict[str, np.ndarray]:
    """The folder, and its model card. Returns the arrays as PEFT names them."""
    path.mkdir()
    base = base_model(about.backbone)
    config, arrays = peft_write.adapter(prompt, base, about.config)
    (path / CONFIG).write_text(json.dumps(config, indent=2))
    safetensors.numpy.save_file(arrays, path / WEIGHTS, metadata={"format": "pt"})
    (path / "README.md").write_text(card(prompt, about, base, config["peft_type"]))
    return {"encoder": prompt.array} if config["peft_type"] == "PROMPT_TUNING" else arrays


def base_model(backbone: str | None) -> str | None:
    """The name that transformers knows a backbone by, if it does."""
    kind, _, rest = (backbone or "").partition(":")
    return rest if kind == "hf" else None


def consume(path: str, request: dict[str, Any]) -> dict[str, np.ndarray]:
    """PEFT's rows and, given a batch and a folder of transformers, its logits in float32."""
    peft: Any = importlib.import_module("peft")  # of the parity extra, like torch

    config: Any = peft.PeftConfig.from_pretrained(path)
    weights = peft.utils.load_peft_weights(path, device="cpu")
    if config.peft_type.value in peft_layers.KINDS:
        arrays = {name: value.float().numpy() for name, value in weights.items()}
    else:
        arrays = {"encoder": weights[KEY][: config.num_virtual_tokens].float().numpy()}
    if "folder" not in request:
        return arrays
    base = hf.load_model(request["folder"], request["tied"])
    model = peft.PeftModel.from_pretrained(base, path)
    return {**arrays, **hf.run(model, request["folder"], request)}


def read(path: str) -> "Prompt":
    """A prompt's rows; of an adapter inside the layers its arrays as PEFT names them, float32."""
    from prompt_jax.prompt.artefact import Prompt

    config = _config(Path(path) / CONFIG)
    arrays = _arrays(Path(path) / WEIGHTS)
    if config["peft_type"] in peft_layers.KINDS:
        floats = {name: _finite(value, name, path) for name, value in arrays.items()}
        return Prompt(floats, {"peft": config}, path)
    if set(arrays) != {KEY}:
        raise UserError(path, f"holds {sorted(arrays)}", f"a prompt is {KEY!r} alone")
    rows = arrays[KEY]
    used, modules = config["num_virtual_tokens"], config["num_transformer_submodules"]
    modules = 2 if modules is None else modules
    if modules not in (1, 2) or rows.shape[:1] != (used * modules,):
        raise UserError(
            path,
            f"{KEY} is {list(rows.shape)}, {CONFIG} says {used} x {modules!r} rows",
            "copy it again",
        )
    return Prompt({"encoder": checked_rows(rows[:used], KEY, path)}, {}, path)


def _finite(array: np.ndarray, name: str, path: str) -> np.ndarray:
    if array.dtype.kind not in "fV" or 0 in array.shape:  # V: bfloat16
        problem = f"{name} holds {array.dtype} {list(array.shape)}"
        raise UserError(path, problem, "an adapter holds floats")
    floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        raise UserError(path, f"{name} holds NaN or infinity", "take an earlier one")
    return floats


def adapter_of(path: str) -> str | None:
    """The base model that an adapter's folder names, if it does."""
    return _config(Path(path) / CONFIG)["base_model_name_or_path"]


def tolerance(prompt: "Prompt") -> float:
    """How far PEFT's logits may be from ours, as a part of the largest.

    PiSSA's share of the weights comes out of a float32 decomposition each time an adapter is
    loaded. Two libraries of linear algebra differ in it by about 3e-6, and PEFT's own logits by
    2e-4 (measured with torch and numpy on the same folder).
    """
    return 1e-3 if prompt.manifest["peft"].get("init_lora_weights") == "pissa" else 1e-4


def in_layers(prompt: "Prompt", backbone: "Backbone") -> "Prompt":
    """What `read` gave of an adapter inside the layers, as the arrays of a bundle."""
    from prompt_jax.prompt.artefact import Prompt

    config = prompt.manifest["peft"]
    with reading(prompt.path, "copy the adapter again"):
        arrays, about = peft_layers.convert(config, prompt.arrays, backbone.model, prompt.path)
    arrays = {name: checked_rows(value, name, prompt.path) for name, value in arrays.items()}
    seen = {"placement": "prefix", "visibility": {"input": True, "prompt": "all"}}
    return Prompt(arrays, {**prompt.manifest, **seen, **about}, prompt.path)


def _config(path: Path) -> dict[str, Any]:
    """A checked adapter_config.json."""
    with reading(path, "give an adapter's folder"):
        config = json_object(path.read_bytes(), path, "give an adapter's folder")
    wanted = (
        "peft_type",
        "task_type",
        "modules_to_save",
        "base_model_name_or_path",
        "num_virtual_tokens",
        "num_transformer_submodules",
        "num_layers",
        "token_dim",
    )
    config = {**dict.fromkeys(wanted), **config}
    kind, task = config["peft_type"], config["task_type"]
    if not isinstance(kind, str):
        raise UserError(path, f"peft_type is {kind!r}", "give an adapter's folder")
    if kind not in peft_layers.READ:
        why = WHY_NOT.get(kind, "it is none of " + ", ".join(peft_layers.READ))
        raise UserError(path, f"{kind} is not a prompt, {why}", "use it through PEFT")
    if task is None and kind not in ("LORA", "IA3"):
        problem = "task_type is null, and PEFT then runs the T5 without the prompt's rows"
        raise UserError(path, problem, "set it to SEQ_2_SEQ_LM if the prompt was trained so")
    if task not in (None, "SEQ_2_SEQ_LM"):
        raise UserError(path, f"task_type is {task!r}", "only a SEQ_2_SEQ_LM prompt suits a T5")
    if config["modules_to_save"]:
        names = str(config["modules_to_save"]).strip("[]").replace("'", "")
        raise UserError(path, f"{names} of the model were tuned too", "use it through PEFT")
    peft_layers.check_fields(config, str(path))
    for name in {"LORA": (), "IA3": ()}.get(kind, ("num_virtual_tokens",)):
        if type(config[name]) is not int or config[name] < 1:
            raise UserError(path, f"{name} is not a whole number above 0", "copy it again")
    return config


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file() and path.with_suffix(".bin").is_file():
        raise UserError(
            f"{str(path.with_suffix('.bin'))!r}",
            "a pickle, which is never opened",
            "save the adapter by PEFT again, which writes safetensors",
        )
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{str(path)!r}", f"cannot be read ({error})", "copy the adapter again"
        ) from None
