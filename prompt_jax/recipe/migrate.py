"""Recipes of T5X and google-research/prompt-tuning become recipes of this program.

Every binding in force is put into one of three classes: it has a counterpart, it changes nothing
here (housekeeping of T5X, or what a checkpoint says by itself), or it has no counterpart, and then
it is named with a reason. Nothing is dropped without one of the three.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prompt_jax.recipe.foreign import REQUIRED, Line, Macro, Reference, resolve

# Modules whose tasks are registered here, under the names without version.
_TASK_MODULES = re.compile(
    r"(t5\.data\.\w+|prompt_tuning\.data\.\w+|prompt_tuning\.\w+\.data\.\w+)"
)
_VERSION = re.compile(r"_v\d+(_examples)?$")
_STEP = re.compile(r"checkpoint_(\d+)/*$")
# Families by the name of the checkpoint's folder; of the released ones only.
_FAMILIES = (
    (r"byt5", "byt5"),
    (r"umt5", "umt5"),
    (r"mt5", "mt5"),
    (r"flan_?t5", "flan_t5"),
    (r"flan_?ul2", "flan_ul2"),
    (r"ul2", "ul2"),
    (r"t5_1_1_lm", "t5_1_1_lm_adapted"),
    (r"t5_1_1", "t5_1_1"),
    (r"(t5_1_0|/t5_|^t5_)", "t5_1_0"),
)
COMBINE = {
    "AddMultiTaskPrompt": "add",
    "ConcatMultiTaskPrompt": "length",
    "ConcatFeaturesMultiTaskPrompt": "feature",
    "ProjectMultiTaskPrompt": "projection",
}


@dataclass
class Migration:
    """What a foreign recipe says here.

    Attributes:
      lines: {key: the binding in force}.
      out: {name of ours: gin text}.
      flags: what becomes a flag of the command line: {--flag: value}.
      notes: sentences for whoever reads the recipe.
      missing: bindings that have no counterpart, each with the reason.
    """

    lines: Mapping[str, Line]
    out: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: list[tuple[Line, str]] = field(default_factory=list)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, in any scope, macros resolved; `default` where nothing binds it."""
        for known in reversed(list(self.lines)):
            if known == key or known.endswith(f"/{key}"):
                value = resolve(self.lines[known].value, self.lines)
                return default if value == REQUIRED else value
        return default

    def names(self) -> set[str]:
        """Names of everything that a binding in force refers to or configures."""
        every = {key.rsplit("/", 1)[-1].split(".")[0] for key in self.lines if "." in key}
        for line in self.lines.values():
            every |= {reference.name for reference in references(line.value)}
        return every

    def say(self, name: str, value: Any) -> None:
        self.out[name] = repr(value)

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    @property
    def answers(self) -> bool:
        """Whether the files are of T5X's eval.py or infer.py, which become a command."""
        scripts = {key.split(".")[0] for key in self.lines} & {"evaluate", "infer"}
        return bool(scripts) or "CHECKPOINT_PATH" in self.lines

    @property
    def start(self) -> int:
        """The step of the backbone's checkpoint, from which T5X counts."""
        path = self.get("INITIAL_CHECKPOINT_PATH") or self.get("RestoreCheckpointConfig.path")
        hit = _STEP.search(path) if isinstance(path, str) else None
        return int(hit[1]) if hit else 0


def references(value: Any) -> list[Reference]:
    if isinstance(value, Reference):
        return [value]
    if isinstance(value, list | tuple):
        return [inner for item in value for inner in references(item)]
    return []


# A rule takes the migration, and a value whose macros are resolved; a text it returns is the reason
# why there is no counterpart.
Rule = Callable[[Migration, Any], str | None]


def to(name: str) -> Rule:
    def rule(m: Migration, value: Any) -> None:
        if value != REQUIRED:
            m.say(name, value)

    return rule


def unless_none(name: str) -> Rule:
    def rule(m: Migration, value: Any) -> str | None:
        return None if value is None else to(name)(m, value)

    return rule


def only(*values: Any, why: str) -> Rule:
    def rule(m: Migration, value: Any) -> str | None:
        return None if value in values or value == REQUIRED else why

    return rule


def nothing(m: Migration, value: Any) -> None:
    """It changes no number here."""


def task_name(m: Migration, value: Any) -> str | None:
    if value == REQUIRED:
        return None
    if not isinstance(value, str):
        return "a task is a name here"
    name = _VERSION.sub("", value)
    if name != value:
        m.note(f"TASK was {value}; tasks here have no version in their names.")
    m.say("TASK", name)
    return None


def _module(m: Migration, value: Any) -> str | None:
    if isinstance(value, str) and not _TASK_MODULES.fullmatch(value):
        m.flags["--tasks_module"] = value
    return None


def _lengths(m: Migration, value: Any) -> str | None:
    if value == REQUIRED:
        return None
    if value is None and m.answers:
        return None
    if not isinstance(value, dict):
        return "lengths are not found out here: give inputs and targets"
    for feature, length in value.items():
        name = {"inputs": "INPUT_LENGTH", "targets": "TARGET_LENGTH"}.get(feature)
        if name is None:
            return f"tasks have the features inputs and targets here, not {feature}"
        m.say(name, length)
    return None


def _steps(m: Migration, value: Any) -> str | None:
    if value == REQUIRED or value is None:
        return None
    if value <= m.start:
        return f"it is to count the {m.start:,} steps of the checkpoint, and does not pass them"
    m.say("TRAIN_STEPS", value - m.start)
    if m.start:
        m.note(f"TRAIN_STEPS are this run's own; {value:,} had the checkpoint's {m.start:,} in it.")
    return None


def _checkpoint(m: Migration, value: Any) -> str | None:
    if value == REQUIRED:
        return None
    if not value:
        return "there is no training from scratch here but `prompt-jax pretrain`"
    if not isinstance(value, str):
        return "one checkpoint is one path here"
    family = next((name for pattern, name in _FAMILIES if re.search(pattern, value)), None)
    m.say("BACKBONE", f"t5x:{value}" + (f"?family={family}" if family else ""))
    if not family:
        m.note("BACKBONE: add ?family=NAME if the folder has no config.json.")
    return None


def _vocabulary(m: Migration, value: Any) -> str | None:
    if value == REQUIRED:
        return None
    m.say("VOCABULARY", value)
    if "://" in value:
        m.note("VOCABULARY: copy the file to this machine and give that path.")
    return None


def _seed(m: Migration, value: Any) -> str | None:
    if isinstance(value, int):
        m.say("SEED", value)
    return None


def _remat(m: Migration, value: Any) -> str | None:
    name = {"none": "none", "full": "full", "minimal": "dots"}.get(value)
    return "give none, full or minimal" if name is None else to("Backbone.remat")(m, name)


def _parts(m: Migration, value: Any) -> str | None:
    return unless_none("Train.accumulate")(m, value)


def _model_axis(m: Migration, value: Any) -> str | None:
    if value is None or value == REQUIRED:
        return None
    size = math.prod(value) if isinstance(value, tuple | list) else value
    if size > 1:
        m.say("MeshShape.model", size)
    return None


def _keep(m: Migration, value: Any) -> str | None:
    if value is None:
        m.out["Checkpoints.keep_period"] = "%CHECKPOINT_PERIOD"
    else:
        m.say("Checkpoints.keep", value)
    return None


def _model(m: Migration, value: Any) -> str | None:
    known = ("EncoderDecoderModel", "WaywardPromptEncoderDecoderModel")
    if value == REQUIRED or value.name in known:
        return None
    return "models here are encoder-decoders with the cross-entropy of T5X"


def _distance(m: Migration, value: Any) -> str | None:
    squared = isinstance(value, Reference) and value.name == "squared_l2_distance"
    return None if squared else "the distance is squared L2 here"


def _decode(m: Migration, value: Any) -> str | None:
    name = value.name if isinstance(value, Reference) else value
    if name in ("beam_search", REQUIRED):
        return None
    return "evaluations within a run search with beams; sample with `prompt-jax eval --temperature`"


def _restored(m: Migration, value: Any) -> str | None:
    if isinstance(value, list | tuple) and all(pair[1] is None for pair in value):
        return (
            None  # what the checkpoint does not have begins anew, as everything trained does here
        )
    return "arrays are matched by name here; convert the checkpoint first"


def _rules(*rules: tuple[str, Rule]) -> tuple[tuple[re.Pattern[str], Rule], ...]:
    return tuple((re.compile(pattern), rule) for pattern, rule in rules)


# The first whose pattern is all of a key decides. Macros that only pass a value on need no rule.
RULES = _rules(
    # What a run is
    (r"MIXTURE_OR_TASK_NAME|(train/)?DatasetConfig\.mixture_or_task_name", task_name),
    (r"infer_eval/DatasetConfig\.mixture_or_task_name", nothing),  # read with the evaluation
    (r"MIXTURE_OR_TASK_MODULE|(.*/)?DatasetConfig\.module", _module),
    (r"TASK_FEATURE_LENGTHS|(train/)?DatasetConfig\.task_feature_lengths", _lengths),
    (r"infer_eval/DatasetConfig\.task_feature_lengths", nothing),
    (r"TRAIN_STEPS|train\.total_steps", _steps),
    (r"TRAIN_STEPS_RELATIVE|train\.relative_steps", unless_none("TRAIN_STEPS")),
    (r"INITIAL_CHECKPOINT_PATH|CHECKPOINT_PATH|RestoreCheckpointConfig\.path", _checkpoint),
    (r"MODEL_DIR|train\.model_dir", nothing),  # a flag, --model_dir
    (r"BATCH_SIZE|(train/)?DatasetConfig\.batch_size", to("BATCH_SIZE")),
    (r"infer_eval/DatasetConfig\.batch_size", to("Evaluation.batch_size")),
    (r"EVAL_PERIOD|train\.eval_period", to("EVAL_PERIOD")),
    (r"RANDOM_SEED|train\.random_seed", _seed),
    (r"train/DatasetConfig\.seed", nothing),  # the order of examples follows SEED
    (r"train/DatasetConfig\.split", to("Data.split")),
    (r"train/DatasetConfig\.pack", to("Data.packed")),
    (r"train/DatasetConfig\.shuffle", only(True, why="training examples are always shuffled here")),
    (r"infer_eval/DatasetConfig\.split", to("Evaluation.split")),
    (r"Evaluator\.num_examples|EVALUATOR_NUM_EXAMPLES", nothing),
    (r"predict_batch_with_aux\.num_decodes", to("Evaluation.beams")),
    (r"beam_search\.alpha", only(0.6, why="the length penalty of beam search is 0.6 here")),
    (r"EncoderDecoderModel\.decode_fn", _decode),
    (r"temperature_sample\..*", nothing),  # decode_fn has been refused where it is used
    # Loss
    (r"Z_LOSS|(.*)EncoderDecoderModel\.z_loss", to("Loss.z_loss")),
    (r"LABEL_SMOOTHING|(.*)EncoderDecoderModel\.label_smoothing", to("Loss.label_smoothing")),
    (
        r"LOSS_NORMALIZING_FACTOR|(.*)EncoderDecoderModel\.loss_normalizing_factor",
        to("Loss.loss_normalizing_factor"),
    ),
    # The frozen model
    (r"DROPOUT_RATE|(.*/)?Dropout\.rate|T5Config\.dropout_rate", to("Backbone.dropout_rate")),
    (r"MultiHeadDotProductAttention\.dropout_rate", to("Backbone.dropout_rate")),
    (r"MlpBlock\.intermediate_dropout_rate", to("Backbone.dropout_rate")),
    (r"ACTIVATION_DTYPE|T5Config\.dtype", to("Backbone.dtype")),
    (r"T5Config\.remat_policy", _remat),
    (r"SentencePieceVocabulary\.sentencepiece_model_file", _vocabulary),
    # Optimizer
    (r"Adafactor\.decay_rate", to("Adafactor.decay_rate")),
    (r"Adafactor\.clipping_threshold", to("Adafactor.clipping_threshold")),
    (r"Adafactor\.global_norm_clip_threshold", unless_none("Adafactor.clip_global_norm")),
    (r"Adafactor\.factored", to("Adafactor.factored")),
    (r"Adafactor\.multiply_by_parameter_scale", to("Adafactor.multiply_by_parameter_scale")),
    (r"Adafactor\.weight_decay_rate", unless_none("Adafactor.weight_decay")),
    (r"Adafactor\.beta1", only(None, why="Adafactor has no momentum here")),
    (r"Adafactor\.min_dim_size_to_factor", only(128, why="it is 128 here")),
    (r"Adafactor\.epsilon[12]", only(1e-30, 1e-3, why="it is 1e-30 and 1e-3 here")),
    (r"Adafactor\.(step_offset|logical_factor_rules)", nothing),  # read with the optimizer
    (r"Adafactor\.skip_nan_updates", only(False, why="a run stops at a NaN here")),
    (r"adamw?\.(b1|b2|eps|weight_decay)", nothing),  # read with the optimizer
    (r"create_learning_rate_scheduler\..*", nothing),  # read with the schedule
    (r"Trainer\.num_microbatches", _parts),
    (r"Trainer\.learning_rate_fn", nothing),
    # Checkpoints
    (r"SaveCheckpointConfig\.period", to("CHECKPOINT_PERIOD")),
    (r"SaveCheckpointConfig\.keep", _keep),
    (r"RestoreCheckpointConfig\.assignment_map", _restored),
    (r"RestoreCheckpointConfig\.mode", only("specific", why="name the checkpoint of one step")),
    # Devices
    (r"PjitPartitioner\.(num_partitions|model_parallel_submesh)", _model_axis),
    # A prompt and its init are read with the method
    (r"(.*/)?(Prompt|uniform|from_\w+|t5x_load|np_load)\.\w+", nothing),
    (r"(.*/)?\w*MultiTaskPrompt\.\w+|sentinel_to_task\.\w+", nothing),
    (r"(.*/)?(encode_string|length|execute_initializer|IA3\w*)\.\w+", nothing),
    (r"WaywardPromptEncoderDecoderModel\.(gamma|discrete_prompt|prompt_path)", nothing),
    (r"WaywardPromptEncoderDecoderModel\.distance", _distance),
    (r"MODEL", _model),
    # Housekeeping of T5X, and what the backbone's checkpoint says by itself
    (r"(train_eval|.*_eval)/DatasetConfig\.\w+", nothing),
    (r"EVAL_STEPS|train\.eval_steps", nothing),  # evaluations score the whole split
    (r"(.*/)?DatasetConfig\.(use_cached|shuffle|seed|pack|use_custom_packing_ops)", nothing),
    (r"USE_CACHED_TASKS|USE_HARDWARE_RNG|EVALUATOR_USE_MEMORY_CACHE|JSON_WRITE_N_RESULTS", nothing),
    (r"train\.stats_period", to("Train.log_period")),
    (r"(evaluate|infer)\.(model|dataset_cfg|partitioner|restore_checkpoint_cfg)", nothing),
    (r"(evaluate|infer)\.(output_dir|inference_evaluator_cls|fallback_init_rng)", nothing),
    (r"infer\.(checkpoint_period|shard_id|num_shards)", nothing),  # a journal, --shard=I/N
    (r"infer\.mode", only("predict", why="score answers with `prompt-jax eval --mode=rank`")),
    (r"DatasetConfig\.split", nothing),  # read with the command
    (r"(EVAL|INFER)_OUTPUT_DIR|SHUFFLE_TRAIN_EXAMPLES|VOCAB_SIZE", nothing),
    (r"SentencePieceVocabulary\.extra_ids|SaveCheckpointConfig\.keep_dataset_\w+", nothing),
    (r"train\.(model|checkpoint_cfg|partitioner|trainer_cls|use_hardware_rng)", nothing),
    (r"train\.(summarize_config_fn|inference_evaluator_cls|\w+_dataset_cfg)", nothing),
    (r"(train|infer)\.use_orbax|CheckpointConfig\.\w+", nothing),
    (r"SaveCheckpointConfig\.(dtype|save_dataset|checkpointer_cls)", nothing),
    (r"RestoreCheckpointConfig\.(dtype|fallback_to_scratch|strict|checkpointer_cls)", nothing),
    (r"Checkpointer\.save_paths|match_any\.regexes|ModelParamTraversal\.filter_fn", nothing),
    (r"MultiOptimizer\.traversals_and_optimizers", nothing),
    (r"(.*)EncoderDecoderModel\.(module|\w+_vocabulary|optimizer_def)", nothing),
    (r"Evaluator\.(logger_cls|use_memory_cache)|JSONLogger\.write_n_results", nothing),
    (r"PjitPartitioner\.logical_axis_rules|standard_logical_axis_rules\.\w+", nothing),
    (r"(Transformer|T5Config|Embed|MlpBlock|MultiHeadDotProductAttention)\.\w+", nothing),
    (r"(EncoderDecoder|Encoder|Decoder|EncoderLayer|DecoderLayer|T5LayerNorm)\.\w+", nothing),
    (r"Prompt(EncoderDecoder|Encoder|EncoderLayer)\.\w+", nothing),
    (r"(.*/)?(Dropout|DenseGeneral|normal|variance_scaling|RelativePositionBiases)\.\w+", nothing),
    (r"create_prompt_encoder_mask\.\w+|add_fake_prompt\.\w+", nothing),
    (r"prompt_encoder_attention_mask\.\w+", nothing),
    # Macros that are read elsewhere, or name what the checkpoint has
    (r"ARCHITECTURE|OPTIMIZER|VOCABULARY|PROMPT|PER_LAYER_PROMPT|(BIAS_INIT|SCALE)", nothing),
    (r"(PROMPT|TRAINABLE)_REGEX|DROPOUT_FACTORY|ACTIVATION_PARTITIONING_DIMS", nothing),
    (r"NUM_(HEADS|(EN|DE)CODER_LAYERS|EMBEDDINGS|TASKS)|HEAD_DIM|EMBED_DIM|MLP_DIM", nothing),
    (r"PROMPT_LENGTH|CLASS_LABELS|PROMPT_FILE|TASK_STRING|TASK_PIECES", nothing),
    (r"VERBALIZERS", only(None, why="write the words into the text itself")),
    (r"EMBEDDING_FILE", nothing),  # the backbone's own table
)


def apply_rules(m: Migration) -> bool:
    """Runs every binding through its rule; macros first, since uses of them say more.

    Returns:
      Whether any binding is one that T5X or google-research/prompt-tuning has.
    """
    ordered = sorted(m.lines.values(), key=lambda line: "." in line.key)
    passed_on = {name for line in m.lines.values() for name in _macros(line.value)}
    understood = False
    for line in ordered:
        value = resolve(line.value, m.lines)
        rule = next((rule for pattern, rule in RULES if pattern.fullmatch(line.key)), None)
        understood = understood or rule is not None
        if rule is None and "." not in line.key and line.key in passed_on:
            continue
        reason = "unknown here" if rule is None else rule(m, value)
        named = {known.key for known, _ in m.missing}
        if reason and not named & set(_macros(line.value)):  # a macro is named once
            m.missing.append((line, reason))
    return understood


def _macros(value: Any) -> list[str]:
    if isinstance(value, Macro):
        return [value.name]
    if isinstance(value, list | tuple):
        return [name for item in value for name in _macros(item)]
    if isinstance(value, dict):
        return [name for item in value.values() for name in _macros(item)]
    return []
