"""The second half of `migrate`: method, optimizer, schedule, and the text of the recipe."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from prompt_jax.errors import UserError
from prompt_jax.recipe.foreign import Line, Reference, read
from prompt_jax.recipe.migrate import COMBINE, Migration, apply_rules, references, task_name

# Macros that a recipe has to bind; those that the files leave open are left to the command line.
_NEEDED = ("BACKBONE", "TASK", "INPUT_LENGTH", "TARGET_LENGTH", "BATCH_SIZE", "TRAIN_STEPS")
_MACROS = (*_NEEDED, "EVAL_PERIOD", "CHECKPOINT_PERIOD", "VOCABULARY", "SEED", "PROMPT_LENGTH")
_NEVER_READ = {"Evaluation": "@Evaluation()", "Loss": "@Loss()", "MeshShape": "@MeshShape()"}
_OPTIMIZERS = {"adam": "AdamW", "adamw": "AdamW", "Adafactor": "Adafactor"}


class Migrated(NamedTuple):
    """What a migration gives.

    Attributes:
      text: the recipe, or for files of `eval` and `infer` the command, each with a comment.
      missing: bindings without a counterpart, each with the reason.
    """

    text: str
    missing: list[tuple[Line, str]]


def migrate(
    files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = ()
) -> Migrated:
    """Turns gin files of T5X or google-research/prompt-tuning into a recipe, or into a command.

    Args: as of `foreign.read`.

    Raises:
      UserError: a file that cannot be read, or files that bind nothing of theirs.
    """
    m = Migration(read(files, bindings, search_paths))
    if not apply_rules(m):
        raise UserError(
            " ".join(files),
            "binds nothing that T5X or google-research/prompt-tuning has",
            "give the gin files of one of their commands",
        )
    if m.answers:
        infer = any(key.startswith("infer.") for key in m.lines)
        return Migrated(_command(m, "infer" if infer else "eval"), m.missing)
    _method(m)
    _optimizer(m)
    _evaluation(m)
    return Migrated(_recipe(m, files), m.missing)


def _fail(m: Migration, key: str, reason: str) -> None:
    """Names the binding of a key, in any scope, as one without a counterpart."""
    line = next((line for known, line in m.lines.items() if f"/{known}".endswith(f"/{key}")), None)
    line = line or Line(key, key, None, "the default")
    if all(known.key != line.key for known, _ in m.missing):
        m.missing.append((line, reason))


def _method(m: Migration) -> None:
    names = m.names()
    multitask = [name for name in COMBINE if name in names]
    if names & {"IA3", "IA3Attention"}:
        m.out["Train.method"] = "@IA3()"
    elif multitask:
        _multitask(m, COMBINE[multitask[0]])
    elif "PER_LAYER_PROMPT" in m.lines:
        combine = m.get("per_layer/Prompt.combine")
        name = combine.name if isinstance(combine, Reference) else "replace_prompt"
        m.out |= {"Train.method": "@DeepPrompt()", "DeepPrompt.length": "%PROMPT_LENGTH"}
        m.say("DeepPrompt.combine", name.removesuffix("_prompt"))
        _init(m, "DeepPrompt")
        _length(m)
    elif m.get("Prompt.prompt_init") is not None or "PROMPT" in m.lines:
        m.out |= {"Train.method": "@SoftPrompt()", "SoftPrompt.length": "%PROMPT_LENGTH"}
        _init(m, "SoftPrompt")
        _length(m)
        if "WaywardPromptEncoderDecoderModel" in names:
            m.out["Train.terms"] = "(@Wayward(),)"
            m.say("Wayward.text", m.get("TASK_STRING") or m.get("from_embedded_string.text"))
            m.say("Wayward.weight", m.get("WaywardPromptEncoderDecoderModel.gamma", 0.01))
    else:
        m.out["Train.method"] = "@FullTuning()"


def _length(m: Migration) -> None:
    length = m.get("PROMPT_LENGTH") or m.get("Prompt.length")
    if isinstance(length, int):
        m.say("PROMPT_LENGTH", length)
    else:
        m.out["PROMPT_LENGTH"] = "%gin.REQUIRED"
        m.note("PROMPT_LENGTH is the number of pieces of the text; a wrong one is refused.")


def _init(m: Migration, method: str) -> None:
    init = m.get("Prompt.prompt_init")
    name = init.name if isinstance(init, Reference) else init
    population = m.get("from_sample_of_embeddings.population_size", 5000)
    if name == "uniform":
        _set(m, method, "UniformInit", scale=m.get("uniform.scale", 0.01), symmetric=False)
    elif name == "from_sample_of_embeddings":
        _set(m, method, "SampledVocabInit", population=population, byte_pieces=True)
    elif name == "from_embedded_list":
        labels = m.get("CLASS_LABELS") or m.get("from_embedded_list.texts") or ()
        labels, drawn = tuple(labels), {"population": population, "byte_pieces": True}
        _set(m, method, "ClassLabelInit", labels=labels, **drawn)
        if not labels:
            m.note("ClassLabelInit takes the labels of the task, since none were bound.")
    elif name == "from_embedded_string":
        text = m.get("TASK_STRING") or m.get("from_embedded_string.text")
        _set(m, method, "TextInit", text=text)
    elif name == "from_array":
        path = m.get("PROMPT_FILE") or m.get("np_load.path")
        if path is None:
            m.out |= {"FileInit.path": "%gin.REQUIRED", f"{method}.init": "@FileInit()"}
        else:
            _set(m, method, "FileInit", path=path)
    elif name is not None:
        _fail(m, "Prompt.prompt_init", "no init here begins so")


def _set(m: Migration, method: str, init: str, **values: Any) -> None:
    m.out[f"{method}.init"] = f"@{init}()"
    for name, value in values.items():
        m.say(f"{init}.{name}", value)


def _multitask(m: Migration, combine: str) -> None:
    name = next(name for name, form in COMBINE.items() if form == combine)
    m.out |= {"Train.method": "@MultitaskPrompt()", "MultitaskPrompt.length": "%PROMPT_LENGTH"}
    m.out["MultitaskPrompt.tasks"] = "%gin.REQUIRED"
    m.say("MultitaskPrompt.combine", combine)
    m.note(
        "MultitaskPrompt.tasks: the names of the mixture's tasks; no sentinels stand in the text."
    )
    _length(m)
    for side in ("shared_init", "tasks_init"):
        if m.get(f"{name}.{side}") is not None:
            reason = "shared rows begin as sampled pieces here, and what each task adds at 0"
            _fail(m, f"{name}.{side}", reason)


def _optimizer(m: Migration) -> None:
    names = m.names() | {key.split(".")[0] for key in m.lines}
    prompt = m.out["Train.method"] != "@FullTuning()"
    chosen = [ours for theirs, ours in _OPTIMIZERS.items() if theirs in names]
    bound = m.lines.get("OPTIMIZER")
    for reference in references(bound.value) if bound else []:
        if reference.name not in (*_OPTIMIZERS, "MultiOptimizer"):
            _fail(m, "OPTIMIZER", "the optimizers here are Adafactor and AdamW")
    name = chosen[0] if chosen else "Adafactor"
    m.out |= {"Train.optimizer": f"@{name}()", f"{name}.schedule": "@Schedule()"}
    if name == "AdamW":
        for field in ("b1", "b2", "eps", "weight_decay"):
            value = m.get(f"adamw.{field}", m.get(f"adam.{field}"))
            if value is not None:
                m.say(f"AdamW.{field}", value)
    else:
        m.out.setdefault("Adafactor.weight_decay", "0.0")  # T5X's own default is none
        m.out.setdefault("Adafactor.multiply_by_parameter_scale", "True")
        m.out.setdefault("Adafactor.factored", repr(not prompt))
        if prompt and m.start and m.get("Adafactor.step_offset", 0) == 0:
            m.say("Adafactor.optimizer_start_step", m.start)
    _schedule(m, m.start if prompt and name == "Adafactor" else 0)


def _schedule(m: Migration, start: int) -> None:
    key = "create_learning_rate_scheduler"
    text = m.get(f"{key}.factors", "constant * linear_warmup * rsqrt_decay")
    factors = {part.strip() for part in text.split("*")}
    rate, warmup = m.get(f"{key}.base_learning_rate", 0.5), m.get(f"{key}.warmup_steps", 1000)
    if "step_offset" in {known.split(".")[-1] for known in m.lines if known.startswith(key)}:
        start = max(m.start - m.get(f"{key}.step_offset", 0), 0)
    elif m.start:
        start = m.start  # T5X counts the checkpoint's steps
    out: dict[str, Any] = {}
    if factors <= {"constant", "linear_warmup"}:
        out = {"warmup_steps": warmup} if "linear_warmup" in factors and start < warmup else {}
    elif start:
        reason = (
            f"T5X is {start:,} steps into this schedule when it begins; give the rate it has then"
        )
        return _fail(m, f"{key}.factors", reason)
    elif factors in ({"constant", "linear_warmup", "rsqrt_decay"}, {"constant", "rsqrt_decay"}):
        rate, out = rate / warmup**0.5, {"warmup_steps": warmup, "decay": "rsqrt"}
        if "linear_warmup" not in factors:
            return _fail(m, f"{key}.factors", "this decay begins with a warm-up here")
    elif factors == {"constant", "linear_warmup", "rsqrt_normalized_decay"}:
        out = {"warmup_steps": warmup, "decay": "rsqrt"}
    elif factors == {"linear_decay"}:
        end = warmup + round(1 / m.get(f"{key}.decay_factor", 0.5))
        out = {"warmup_steps": warmup, "decay": "linear", "total_steps": end}
    else:
        return _fail(m, f"{key}.factors", "no schedule here is this product")
    m.say("LEARNING_RATE", rate)
    m.out["Schedule.learning_rate"] = "%LEARNING_RATE"
    for name, value in out.items():
        m.say(f"Schedule.{name}", value)
    return None


def _evaluation(m: Migration) -> None:
    task = m.get("infer_eval/DatasetConfig.mixture_or_task_name")
    if isinstance(task, str):
        named = Migration({})

        task_name(named, task)
        if named.out["TASK"] != m.out.get("TASK"):
            m.out["Evaluation.task"] = named.out["TASK"]
    if isinstance(m.get("Evaluator.num_examples"), int):
        m.say("Evaluation.max_examples", m.get("Evaluator.num_examples"))


def _recipe(m: Migration, files: Sequence[str]) -> str:
    for macro in _NEEDED:
        m.out.setdefault(macro, "%gin.REQUIRED")
    m.out.setdefault("EVAL_PERIOD", "1000")
    m.out["BEST_METRIC"] = "None"
    m.note("BEST_METRIC: T5X chooses no checkpoint; ('accuracy', 'max') keeps the best one.")
    lines = [f"# Migrated by `prompt-jax migrate` from {', '.join(files)}."]
    flags = "".join(f" {flag}={value}" for flag, value in m.flags.items())
    lines += ["#", f"#   prompt-jax train --gin_file=THIS.gin --model_dir=DIR{flags}", "#"]
    lines += [f"# {note}" for note in m.notes]
    lines += [f"# No counterpart, {line.place}: {line} ({reason})" for line, reason in m.missing]
    lines += ["", "include 'base.gin'", ""]
    macros = (*_MACROS, "LEARNING_RATE", "BEST_METRIC")
    lines += [f"{name} = {m.out[name]}" for name in macros if name in m.out]
    for owner, reference in _NEVER_READ.items():
        field = {"Evaluation": "evaluation", "Loss": "loss", "MeshShape": "mesh"}[owner]
        if field != "evaluation" and any(name.startswith(f"{owner}.") for name in m.out):
            m.out[f"Train.{field}"] = reference
    rest = sorted(
        (name for name in m.out if name not in macros),
        key=lambda name: (not name.startswith("Train."), name.split(".")[0]),
    )
    return "\n".join([*lines, "", *(f"{name} = {m.out[name]}" for name in rest), ""])


def _command(m: Migration, verb: str) -> str:
    """`prompt-jax eval ...` for the files of T5X's evaluation and inference scripts."""
    prompt = m.get("PROMPT_FILE") or m.get("np_load.path")
    wanted = {
        "--backbone": m.out.get("BACKBONE"),
        "--prompt": repr(prompt) if prompt else None,
        "--task": m.out.get("TASK") if verb == "eval" else None,
        "--split": m.out.get("Evaluation.split") or repr(m.get("DatasetConfig.split", "test")),
        "--batch_size": m.out.get("BATCH_SIZE"),
        "--input_length": m.out.get("INPUT_LENGTH"),
        "--target_length": m.out.get("TARGET_LENGTH"),
        "--beams": m.out.get("Evaluation.beams"),
        "--vocabulary": m.out.get("VOCABULARY"),
        **{flag: repr(value) for flag, value in m.flags.items()},
    }
    if verb == "infer":
        wanted |= {"--split": None, "--input": "'ROWS.jsonl'", "--output": "'ANSWERS.jsonl'"}
    flags = [f"{name}={value}" for name, value in wanted.items() if value is not None]
    notes = "".join(f"# {note}\n" for note in m.notes)
    return f"{notes}prompt-jax {verb} " + " ".join(flags) + "\n"
