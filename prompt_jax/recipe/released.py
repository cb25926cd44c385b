"""What the released gin files of T5X and google-research/prompt-tuning bind, where it matters.

Their recipes begin with `include "t5x/configs/runs/finetune.gin"` and the like, which few people
have beside their own files. Only values that change a run are listed.
"""

import re
from typing import Any

_FINETUNE = {
    "BATCH_SIZE": 128,
    "EVAL_PERIOD": 1000,
    "DROPOUT_RATE": 0.1,
    "RANDOM_SEED": None,
    "train/DatasetConfig.split": "train",
    "train/DatasetConfig.pack": True,
    "infer_eval/DatasetConfig.split": "validation",
    "SaveCheckpointConfig.period": 5000,
    "SaveCheckpointConfig.keep": None,
    "create_learning_rate_scheduler.factors": "constant",
    "create_learning_rate_scheduler.base_learning_rate": 0.001,
    "create_learning_rate_scheduler.warmup_steps": 1000,
}
_PROMPT_FINETUNE = {
    **_FINETUNE,
    "train/DatasetConfig.pack": False,
    "SaveCheckpointConfig.period": 1000,
    "SaveCheckpointConfig.keep": 1,
    "create_learning_rate_scheduler.base_learning_rate": 0.3,
}
_EVALUATE = {"DatasetConfig.split": "test", "DatasetConfig.batch_size": 32}
_LOSS = {
    "Z_LOSS": 0.0001,
    "LABEL_SMOOTHING": 0.0,
    "LOSS_NORMALIZING_FACTOR": None,
}
_MODEL = {**_LOSS, "Adafactor.decay_rate": 0.8, "Adafactor.step_offset": 0}
_PROMPT_MODEL = {
    **_MODEL,
    "PROMPT_LENGTH": 100,
    "Prompt.prompt_init": "uniform",
    "uniform.scale": 0.5,
    "Adafactor.multiply_by_parameter_scale": False,
    "Adafactor.weight_decay_rate": 0.00001,
}
_SAMPLED = {
    "Prompt.prompt_init": "from_sample_of_embeddings",
    "from_sample_of_embeddings.population_size": 5000,
}
_LABELS = {**_SAMPLED, "Prompt.prompt_init": "from_embedded_list"}

_FILES: dict[str, dict[str, Any]] = {
    r"t5x/configs/runs/finetune\.gin": _FINETUNE,
    r"t5x/configs/runs/(eval|infer)\.gin": _EVALUATE,
    r"t5x/examples/(scalable_)?t5/(t5_1_[01]|mt5|byt5)/\w+\.gin": _MODEL,
    r"prompt_tuning/configs/runs/prompt_finetune\.gin": _PROMPT_FINETUNE,
    r"prompt_tuning/configs/runs/prompt_(eval|infer)\.gin": _EVALUATE,
    r"prompt_tuning/configs/models/(t5_1_1|mt5)(_\w+)?_prompt\.gin": _PROMPT_MODEL,
    r"prompt_tuning/configs/models/sizes/\w+\.gin": {},
    r"prompt_tuning/configs/architectures/\w+\.gin": {},
    r"prompt_tuning/configs/prompts/from_class_labels\.gin": _LABELS,
    r"prompt_tuning/configs/prompts/from_sampled_vocab\.gin": _SAMPLED,
    r"prompt_tuning/configs/prompts/from_file\.gin": {"Prompt.prompt_init": "from_array"},
    r"prompt_tuning/configs/models/decoding/beam_search\.gin": {
        "predict_batch_with_aux.num_decodes": 4,
    },
}


def released(name: str) -> dict[str, Any] | None:
    """{name: value} of a released file; None: no file of that name is known."""
    for pattern, bindings in _FILES.items():
        if re.fullmatch(rf"(.*/)?{pattern}", name):
            return bindings
    return None
