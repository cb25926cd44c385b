"""PEFT's folder of a prompt: `adapter_config.json` and `adapter_model.safetensors`.

PEFT puts `num_virtual_tokens` rows before the encoder's text, and attends to them always. Its
default for encoder-decoders, `num_transformer_submodules` 2, saves twice as many rows as it uses:
the rest never had a gradient, and is dropped here. We write 1. Keys and names: PEFT 0.21.2.
Adapters inside the layers are read, see `peft_layers.py`, and not written.
"""

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from prompt_jax.errors import UserError
from prompt_jax.export import peft_layers
from prompt_jax.export.formats import checked_rows

if TYPE_CHECKING:
    from prompt_jax.export.formats import About
    from prompt_jax.prompt.artefact import Prompt

CONFIG, WEIGHTS, KEY = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"
FOLDS = ("PROMPT_TUNING", "P_TUNING")  # P-tuning saves the output of its MLP: rows like any others
WHY_NOT = {  # what else may come for a T5, and what it is that no row of a prompt can stand for
    "ADALORA": "it changes the weights of attention by singular values",
    "MULTITASK_PROMPT_TUNING": "its rows depend on the task's number and stand in the decoder too",
}


def write(path: Path, prompt: "Prompt", about: "About") -> None:
    path.mkdir()
    rows = prompt.array
    config = about.config
    settings = {
        "auto_mapping": None,
        "base_model_name_or_path": base_model(about.backbone),
        "inference_mode": True,
        "modules_to_save": None,
        "num_attention_heads": config and config.num_heads,
        "num_layers": config and config.num_encoder_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(rows),
        "peft_type": "PROMPT_TUNING",
        "peft_version": "0.21.2",
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "revision": None,
        "task_type": "SEQ_2_SEQ_LM",
        "token_dim": rows.shape[1],
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }
    (path / CONFIG).write_text(json.dumps(settings, indent=2))
    safetensors.numpy.save_file({KEY: rows}, path / WEIGHTS, metadata={"format": "pt"})


def base_model(backbone: str | None) -> str | None:
    """The name that transformers knows a backbone by, if it does."""
    kind, _, rest = (backbone or "").partition(":")
    return rest if kind == "hf" else None


def consume(path: str, request: dict[str, Any]) -> dict[str, np.ndarray]:
    """PEFT's rows and, given a batch and a folder of transformers, its logits in float32."""
    import transformers

    peft: Any = importlib.import_module("peft")  # of the parity extra, like torch
    torch: Any = importlib.import_module("torch")

    config: Any = peft.PeftConfig.from_pretrained(path)
    held = peft.utils.load_peft_weights(path, device="cpu")
    if config.peft_type.value in peft_layers.KINDS:
        arrays = {name: value.float().numpy() for name, value in held.items()}
        found = peft_layers.convert(config.to_dict(), arrays, path)[0]
    else:
        found = {"encoder": held[KEY][: config.num_virtual_tokens].float().numpy()}
    if "folder" not in request:
        return found
    base = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        request["folder"], dtype=torch.float32
    )
    # transformers 5 calls every model tied; its umT5 then scales logits that have their own head.
    base.config.tie_word_embeddings = request["tied"]
    model = peft.PeftModel.from_pretrained(base, path).eval()
    ids = {name: torch.tensor(value) for name, value in request["batch"].items()}
    tokens = ids["encoder_input_tokens"]
    with torch.no_grad():
        outputs = model(
            input_ids=tokens,
            attention_mask=(tokens > 0).long(),
            decoder_input_ids=ids["decoder_input_tokens"],
        )
    return {**found, "logits": outputs.logits.numpy()}


def read(path: str) -> "Prompt":
    from prompt_jax.prompt.artefact import Prompt

    config = _config(Path(path) / CONFIG)
    held = _arrays(Path(path) / WEIGHTS)
    if config["peft_type"] in peft_layers.KINDS:
        arrays, told = peft_layers.convert(config, held, path)
        arrays = {name: checked_rows(value, name, path) for name, value in arrays.items()}
        seen = {"placement": "prefix", "visibility": {"input": True, "prompt": "all"}}
        return Prompt(arrays, {**seen, **told, "peft": config}, path)
    if set(held) != {KEY}:
        raise UserError(path, f"holds {sorted(held)}", f"a prompt is {KEY!r} alone")
    rows = held[KEY].astype(np.float32)
    used, modules = config["num_virtual_tokens"], config["num_transformer_submodules"] or 2
    if len(rows) != used * modules:
        raise UserError(
            path, f"{KEY} has {len(rows)} rows, {CONFIG} says {used} x {modules}", "copy it again"
        )
    return Prompt({"encoder": checked_rows(rows[:used], KEY, path)}, {}, path)


def _config(path: Path) -> dict[str, Any]:
    """A checked adapter_config.json."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(path)!r}", f"cannot be read ({error})", "give an adapter's folder"
        ) from None
    wanted = (
        "peft_type", "task_type", "num_virtual_tokens", "num_transformer_submodules", "r",
        "feedforward_modules", "lora_alpha", "use_rslora", "num_layers", "token_dim",
    )  # fmt: skip
    defaults: dict[str, Any] = dict.fromkeys((*wanted, "modules_to_save"))
    config = {**defaults, **config}
    kind, task = config["peft_type"], config["task_type"]
    if kind not in (*FOLDS, *peft_layers.KINDS):
        why = WHY_NOT[kind] if kind in WHY_NOT else "it is none of " + ", ".join(FOLDS)
        raise UserError(path, f"{kind} is no prompt, {why}", "use it through PEFT")
    if task != "SEQ_2_SEQ_LM":
        raise UserError(path, f"task_type is {task!r}", "only a SEQ_2_SEQ_LM prompt suits a T5")
    if config["modules_to_save"]:
        names = ", ".join(config["modules_to_save"])
        raise UserError(path, f"{names} of the model were tuned too", "use it through PEFT")
    numbers = {"LORA": ("r", "lora_alpha"), "IA3": ()}.get(kind, ("num_virtual_tokens",))
    for name in numbers:
        if type(config[name]) is not int:
            raise UserError(path, f"{name} is no whole number", "copy it again")
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
