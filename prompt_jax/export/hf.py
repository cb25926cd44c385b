"""A folder of transformers: a backbone with a prompt merged into its weights (`--merge`)."""

import importlib
from typing import Any

import numpy as np

from prompt_jax.export.consumed import greedy, padded
from prompt_jax.export.merged import refusal as refusal


def consume(path: str, request: dict[str, Any]) -> dict[str, np.ndarray]:
    """transformers' logits in float32, its greedy ids, and its tokenizer's ids of the texts."""
    return run(load_model(path, request["tied"]), path, request)


def load_model(folder: str, tied: bool) -> Any:
    import transformers

    torch: Any = importlib.import_module("torch")  # of the parity extra
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    # transformers 5 calls every model tied; its umT5 then scales logits that have their own head.
    model.config.tie_word_embeddings = tied
    return model


def run(model: Any, folder: str, request: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a model of torch makes of a request; the tokenizer is that of the folder."""
    torch: Any = importlib.import_module("torch")
    model, batch = model.eval(), request["batch"]
    tokens = torch.tensor(batch["encoder_input_tokens"])

    def logits(decoder_inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(
                input_ids=tokens,
                attention_mask=(tokens > 0).long(),
                decoder_input_ids=torch.tensor(decoder_inputs),
            ).logits.numpy()

    found = {"logits": logits(batch["decoder_input_tokens"])}
    found["ids"] = greedy(logits, len(tokens), request["max_length"])
    if request["texts"] and (ids := _ids(folder, request["texts"])):
        found["token_ids"] = padded(ids)
    return found


def _ids(folder: str, texts: list[str]) -> list[list[int]] | None:
    """What the tokenizer beside the model makes of texts; None: there is none."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError):
        return None
    return [tokenizer(text).input_ids for text in texts]
