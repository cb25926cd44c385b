"""What makes a run the same run: all that decides its numbers, kept in `MODEL_DIR/identity.json`.

A run may be resumed with more steps, other periods, another patience, mesh or number of hosts. Any
other setting, an edited data file, another backbone or tokenizer would make a run whose numbers are
of two kinds: it is refused, also where the checkpoints are gone. A setting that is newer than the
run does not refuse it.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from prompt_jax.errors import UserError, reading
from prompt_jax.paths import is_local
from prompt_jax.run.log import read_metrics
from prompt_jax.run.settings import Farm, Train
from prompt_jax.splits import names_folder, names_rows

FILE = "identity.json"
# What a resumed run may have otherwise.
FREE = frozenset(
    {
        "Train.steps",
        "Train.patience",
        "Train.log_period",
        "Train.export_to",
        "Checkpoints.period",
        "Checkpoints.keep",
        "Checkpoints.keep_period",
        "Evaluation.period",
        "HeldOutLoss.period",
        "MeshShape.data",
        "MeshShape.fsdp",
        "MeshShape.model",
        "MeshShape.slices",
    }
)
NOT_COMPARED = ("Train.farm", "Farm.")
STEPS = "Train.steps"
DEFAULT = "its default"
SCHEDULE_END = "Schedule.total_steps"  # may change with the steps, where it is bound to them
# Compared by content: the digests of the backbone and its tokenizer, and what a method loads.
BY_CONTENT = frozenset({"Backbone.name", "Backbone.vocabulary"})
GIN_NAMES = {"BackboneSettings": "Backbone", "PeriodicEvaluation": "Evaluation"}


def identity(run: Train, contents: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a run by its name in a recipe; `contents`: digests of what it reads."""
    manifest = run.method.manifest()
    own = {k: v for k, v in manifest.items() if k not in ("method", "settings")}
    alone = dataclasses.replace(run, farm=Farm())  # a member of a farm is the run that it is alone
    pairs = ((k, v) for k, v in _flat(alone, "") if not k.startswith(NOT_COMPARED))
    values = _numbered(pairs)
    if own:  # the method says by content what it loads
        name = type(run.method).__name__
        values = {k: v for k, v in values.items() if not k.startswith(f"{name}.")}
        values |= {f"{name}.{key}": _plain(value) for key, value in own.items()}
    return {
        "settings": {k: v for k, v in values.items() if k not in FREE | BY_CONTENT},
        "free": {k: v for k, v in values.items() if k in FREE},
        "contents": dict(contents),
        "bound": sorted(_bound(alone)),
    }


def _numbered(pairs: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """The settings by name; of two objects of one class, the second's end in ` (2)`."""
    values: dict[str, Any] = {}
    times: Counter[str] = Counter()
    for name, value in pairs:
        times[name] += 1
        values[name if times[name] == 1 else f"{name} ({times[name]})"] = value
    return values


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(name, plain value) of every setting; of one that is made of settings, its class first."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        owner = GIN_NAMES.get(type(value).__name__, type(value).__name__)
        if name:
            yield name, owner
        for field in dataclasses.fields(value):
            yield from _flat(vars(value)[field.name], f"{owner}.{field.name}")
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        yield name, [type(inner).__name__ for inner in value]
        for inner in value:
            yield from _flat(inner, "")
    elif name == "Data.task" and isinstance(value, str) and _is_path(value):
        yield name, Path(value).name  # its rows are compared, wherever the file lies
    else:
        yield name, _plain(value)


def _is_path(task: str) -> bool:
    return names_rows(task) or names_folder(task)


def _bound(value: Any) -> Iterator[str]:
    """The names of the settings that are not at their defaults."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        owner = GIN_NAMES.get(type(value).__name__, type(value).__name__)
        for field in dataclasses.fields(value):
            inner, made = vars(value)[field.name], field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            if inner != default:
                yield f"{owner}.{field.name}"
            yield from _bound(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _bound(inner)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=repr))


def compare(folder: epath.Path, now: Mapping[str, Any]) -> list[str]:
    """What a resumed run has otherwise that it may: a line each.

    A setting that the file does not know is newer than the run, which had it at its default.

    Raises:
      UserError: something that decides its numbers is not as it was when the run began, or nothing
        is left that says how it began.
    """
    path = folder / FILE
    if not path.exists():
        _check_beginning(folder)
        return []
    with reading(path, "remove the model_dir, or copy the file again"):
        before = json.loads(path.read_text())
        kinds = {kind: dict(before[kind]) for kind in ("settings", "free", "contents")}
    news = {k for k in now["bound"] if k in now["settings"] and k not in kinds["settings"]}
    kinds["settings"] |= dict.fromkeys(news, DEFAULT)
    steps = (repr(kinds["free"].get(STEPS)), repr(now["free"].get(STEPS)))
    for kind in ("settings", "contents"):
        for name, old, new in _differences(kinds[kind], now[kind]):
            if name == SCHEDULE_END and (old, new) == steps:
                continue
            raise UserError(
                f"model_dir {str(folder)!r}",
                f"holds a run with {name} = {old}, this one has {new}",
                "use another --model_dir, or what the first run had",
            )
    changed = _differences(kinds["free"], now["free"])
    return [f"{name}: {old} -> {new}" for name, old, new in changed]


def _check_beginning(folder: epath.Path) -> None:
    """A folder of version 0.1 says in its checkpoints alone which run it holds."""
    checkpoints = folder / "checkpoints"
    if checkpoints.exists() and any(path.name.isdecimal() for path in checkpoints.iterdir()):
        return
    if any(record["step"] > 0 for record in read_metrics(folder)):
        raise UserError(
            f"model_dir {str(folder)!r}",
            "holds records of a run, but no checkpoints that say of which",
            "use another --model_dir",
        )


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    for name, new in now.items():
        if name in before and before[name] != new:
            old = before[name]
            yield name, old if old is DEFAULT else repr(old), repr(new)


def write(folder: epath.Path, now: Mapping[str, Any]) -> None:
    """Keeps the identity beside the run; a local file appears whole or not at all."""
    text = json.dumps(now, indent=2) + "\n"
    if not is_local(folder):
        (folder / FILE).write_text(text)
        return
    partial = folder / f"{FILE}.partial"
    partial.write_text(text)
    partial.replace(folder / FILE)
