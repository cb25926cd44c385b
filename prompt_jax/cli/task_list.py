"""What `prompt-jax tasks list | show T` report, as plain lists and dicts."""

from collections import Counter
from typing import TYPE_CHECKING

from prompt_jax.errors import UserError
from prompt_jax.jsonl import TEXT_KEYS
from prompt_jax.settings import nearest

if TYPE_CHECKING:
    from prompt_jax.backbone.load import Backbone
    from prompt_jax.backbone.vocabulary import Vocabulary


def list_tasks() -> list[dict]:
    """Every registered task and mixture, sorted by name, as plain values.

    `splits`, `present` (the splits whose data are at hand) and `metrics` are lists of names, `rows`
    is the published size of each split, `choices` the list of label strings; each may be None. A
    split of a mixture is present where all its tasks that have it are.
    """
    from prompt_jax.tasks import text  # before seqio, so that TensorFlow starts quietly

    import seqio  # isort: skip

    text.import_bundled()
    tasks = [_describe_task(name) for name in seqio.TaskRegistry.names()]
    mixtures = [_describe_mixture(name) for name in seqio.MixtureRegistry.names()]
    return sorted(tasks + mixtures, key=lambda entry: entry["name"])


LEAST = 4  # so many tasks with a common beginning of their names are a family


def families(tasks: list[dict]) -> dict[str, list[dict]]:
    """Tasks by family: the longest beginning of a name, in whole words, that LEAST tasks share.

    A task whose name shares less is a family by itself.

    >>> glue = [{"name": f"glue_{name}"} for name in ("cola", "mnli", "rte", "sst2")]
    >>> [(name, len(tasks)) for name, tasks in families([*glue, {"name": "trec"}]).items()]
    [('glue', 4), ('trec', 1)]
    """
    beginnings = {entry["name"]: _beginnings(entry["name"]) for entry in tasks}
    count = Counter(beginning for of_task in beginnings.values() for beginning in of_task)
    grouped: dict[str, list[dict]] = {}
    for entry in tasks:
        name = entry["name"]
        shared = [beginning for beginning in beginnings[name] if count[beginning] >= LEAST]
        grouped.setdefault(shared[-1] if shared else name, []).append(entry)
    return dict(sorted(grouped.items()))


def _beginnings(name: str) -> list[str]:
    words = name.split("_")
    return ["_".join(words[:n]) for n in range(1, len(words) + 1)]


def describe_families(tasks: list[dict]) -> list[dict]:
    """A row for each family: its tasks, how many of them have data at hand, and their metrics."""
    return [
        {
            "family": name,
            "tasks": len(members),
            "at hand": sum(bool(entry["present"]) for entry in members),
            "metrics": list(dict.fromkeys(m for entry in members for m in entry["metrics"])),
        }
        for name, members in families(tasks).items()
    ]


def describe_family(tasks: list[dict], name: str) -> list[dict]:
    """A row for each task of a family, shorter than in `list_tasks`.

    Raises:
      UserError: there is no such family.
    """
    grouped = families(tasks)
    if name not in grouped:
        remedy = nearest(name, grouped)
        raise UserError(f"--family={name}", "no such family", remedy)
    return [
        {
            "name": entry["name"],
            "rows": entry["rows"] or entry["splits"],
            "at hand": entry["present"] or None,
            "metrics": entry["metrics"],
        }
        for entry in grouped[name]
    ]


def _describe_task(name: str) -> dict:
    import seqio

    from prompt_jax.tasks.text import CHOICES, RowsSource

    task = seqio.TaskRegistry.get(name)
    ours = task.source if isinstance(task.source, RowsSource) else None
    return {
        "name": name,
        "source": str(task.source),
        "licence": ours.licence if ours else "",
        "version": ours.version if ours else "",
        "splits": list(task.splits),
        "rows": dict(ours.rows) if ours and ours.rows else None,
        "present": ours.present() if ours else None,
        "metrics": [seqio.utils.function_name(metric) for metric in task.metric_fns],
        "choices": list(CHOICES[name]) if name in CHOICES else None,
    }


def _describe_mixture(name: str) -> dict:
    import seqio

    mixture = seqio.MixtureRegistry.get(name)
    rates = ", ".join(f"{task.name} x {mixture.get_rate(task):g}" for task in mixture.tasks)
    parts = [_describe_task(task.name) for task in mixture.tasks]
    splits = dict.fromkeys(split for part in parts for split in part["splits"])
    having = {split: [p for p in parts if split in p["splits"]] for split in splits}
    rows = {
        split: sum(part["rows"][split] for part in rows_of)
        for split, rows_of in having.items()
        if all(split in (part["rows"] or {}) for part in rows_of)
    }
    return {
        "name": name,
        "source": f"mixture of {rates}",
        "licence": "; ".join(dict.fromkeys(part["licence"] for part in parts if part["licence"])),
        "version": "; ".join(dict.fromkeys(part["version"] for part in parts if part["version"])),
        "splits": list(splits),
        "rows": rows or None,
        "present": [
            split
            for split, rows_of in having.items()
            if all(split in (part["present"] or ()) for part in rows_of)
        ],
        "metrics": [],
        "choices": None,
    }


def show_task(name: str, split: str, n: int, backbone: "Backbone | None") -> list[dict]:
    """The first n examples of each task of `name`: task, inputs, targets.

    With a backbone also `inputs_pieces`, `inputs_length`, `targets_pieces`, `targets_length`, as
    the model sees them; lengths count the EOS.
    """
    from prompt_jax.tasks.text import load_examples

    vocabulary = vocabulary_of(backbone)
    return [
        {"task": task, **_show_example(example, vocabulary)}
        for task, examples in load_examples(name, split).items()
        for example in examples[:n]
    ]


def _show_example(example: dict, vocabulary: "Vocabulary | None") -> dict:
    shown = {key: example[key] for key in TEXT_KEYS}
    if vocabulary is not None:
        for key in TEXT_KEYS:
            ids = [*vocabulary.encode(example[key]), vocabulary.eos_id]
            shown[f"{key}_pieces"] = vocabulary.pieces(ids)
            shown[f"{key}_length"] = len(ids)
    return shown


def vocabulary_of(backbone: "Backbone | None") -> "Vocabulary | None":
    """The backbone's vocabulary; None only if no backbone is given."""
    if backbone is None:
        return None
    if backbone.vocabulary is None:
        raise UserError(
            f"backbone '{backbone.name}'", "has no vocabulary", "name one by VOCABULARY"
        )
    return backbone.vocabulary
