"""What `prompt-jax tasks check FILE | TASK` reports."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_jax.cli.task_list import vocabulary_of
from prompt_jax.errors import UserError
from prompt_jax.jsonl import TEXT_KEYS, numbered_lines, parse_row
from prompt_jax.metrics.text import UNLABELLED
from prompt_jax.splits import parse, split_files, typed

if TYPE_CHECKING:
    from prompt_jax.backbone.load import Backbone
    from prompt_jax.backbone.vocabulary import Vocabulary

PERCENTILES = (50, 90, 95, 99, 100)
MAX_LABELS = 50  # more distinct targets than this are not labels
NAMED = 5  # so many rows of one kind are named


class Limits:
    """What texts are measured by.

    UserError for a limit without the backbone whose tokens it counts.
    """

    def __init__(
        self, backbone: "Backbone | None", input_length: int | None, target_length: int | None
    ):
        self.vocabulary: Vocabulary | None = vocabulary_of(backbone)
        limits = {"inputs": input_length, "targets": target_length}
        self.limits = {key: limit for key, limit in limits.items() if limit is not None}
        if self.limits and self.vocabulary is None:
            raise UserError(f"limit {self.limits}", "is counted in tokens", "give --backbone")

    @property
    def unit(self) -> str:
        return "characters" if self.vocabulary is None else "tokens"

    def never_equal(self, rows: Sequence[dict], task: str | None = None) -> dict[str, str]:
        """{target: what comes back} of targets that no output can equal.

        Without a backbone: what any vocabulary of T5's own normalisation would give back.
        """
        from prompt_jax.evaluate.expected import never_equal, plainly

        return never_equal(task or plainly, rows, self.vocabulary or _Normalised())

    def length(self, text: str) -> int:
        """In tokens with the EOS, else in characters; 0 for what stands for no label."""
        if text == UNLABELLED:
            return 0
        return len(text) if self.vocabulary is None else len(self.vocabulary.encode(text)) + 1


class _Normalised:
    """What SentencePiece's default normalisation (NFKC, single blanks) leaves of a text."""

    def encode(self, text: str) -> str:
        return " ".join(unicodedata.normalize("NFKC", text).split())

    def decode(self, text: str) -> str:
        return text


def _add_never_equal(
    facts: dict,
    errors: list[str],
    limits: Limits,
    rows: Sequence[dict],
    places: Sequence[str],
    task: str | None = None,
) -> None:
    """Names the first rows of each target that comes back as another text: errors where targets
    are labels, which are compared as they are, else in `named`. Without a backbone all are there.
    """
    lost = limits.never_equal(rows, task)
    sure = limits.vocabulary is not None
    labels = facts["labels"] is not None and 2 * len(facts["labels"]) <= len(rows)
    end = "no output equals it" if sure else "with T5's normalisation; --backbone says for sure"
    for target, back in list(lost.items())[:NAMED]:
        place = next(p for row, p in zip(rows, places, strict=True) if row["targets"] == target)
        line = f"{place}: the target {target[:40]!r} comes back as {back[:40]!r}"
        (errors if labels and sure else facts["named"]).append(f"{line}: {end}")
    if lost and sure:
        facts["never_equal"] = len(lost)


def check_jsonl(
    path: str,
    backbone: "Backbone | None" = None,
    input_length: int | None = None,
    target_length: int | None = None,
) -> dict:
    """Statistics of a JSONL file of `inputs` and `targets`; bad lines are counted, not raised.

    Returns:
      `statistics` of the good rows, errors: "FILE:LINE: what" of each bad line, or of a file
      without rows; shared_inputs: {another split's file: distinct inputs that are in both}, of the
      files beside a training file.

    UserError for a missing file, or for a limit without the backbone whose tokens it counts.
    """
    limits = Limits(backbone, input_length, target_length)
    rows, places, errors = _read_rows(path)
    report = {"rows": len(rows), "errors": errors, **statistics(rows, places, limits)}
    _add_never_equal(report, errors, limits, rows, places)
    inputs = {row["inputs"] for row in rows}
    others = [file for some in split_files(path).values() for file in some if file != path]
    shared = {other: inputs & {row["inputs"] for row in _read_rows(other)[0]} for other in others}
    return report | {"shared_inputs": {other: len(texts) for other, texts in shared.items()}}


def _read_rows(path: str) -> tuple[list[dict], list[str], list[str]]:
    """Good rows, the place of each, and errors."""
    rows, places, errors = [], [], []
    file = parse(path)[0]
    for number, line in numbered_lines(path):
        try:
            rows.append(parse_row(line))
            places.append(f"{file}:{number}")
        except ValueError as error:
            errors.append(f"{file}:{number}: {error}")
    if not rows and not errors:
        errors.append(f"{path}: no rows")
    return rows, places, errors


def check_task(
    name: str,
    backbone: "Backbone | None" = None,
    input_length: int | None = None,
    target_length: int | None = None,
) -> dict:
    """Statistics of every split of a registered task or mixture whose data are at hand.

    Returns:
      splits: a dict for each task and split, of `task`, `split`, `source` (the file), `rows`,
      `statistics`, and of a task with labels `unlabelled` (rows), `absent_labels` and
      `unknown_labels`; between: for each pair of splits of a task that share inputs `task`,
      `splits`, `shared_inputs` (how many distinct ones) and `first` (where one is); absent: the
      splits that are not at hand; errors: what of a split cannot be read or used, one line each.

    UserError where no split is at hand; it names the file that is wanted.
    """
    from prompt_jax.tasks.text import sub_tasks

    limits = Limits(backbone, input_length, target_length)
    report: dict[str, list] = {"splits": [], "between": [], "absent": [], "errors": []}
    for task in sub_tasks(name):
        _check_task(task, limits, report)
    if not report["splits"] and not report["errors"]:
        _refuse(name, report["absent"])
    return report


def _check_task(task: Any, limits: Limits, report: dict[str, list]) -> None:
    """Adds one task's splits to the report."""
    from prompt_jax.tasks.text import CHOICES, RowsSource, load_examples, shortfalls

    choices = CHOICES.get(task.name, ())
    places: dict[str, dict[str, str]] = {}
    for split in task.splits:
        where = task.source.where(split) if isinstance(task.source, RowsSource) else str(task)
        if where is None:
            report["absent"].append(f"{task.name} {split}")
            continue
        try:
            (rows,) = load_examples(task.name, split).values()
        except UserError as error:
            report["errors"].append(f"{typed(task.name)} {split}: {error}")
            continue
        named = [f"{typed(task.name)} {split} row {n} of {where}" for n in range(1, len(rows) + 1)]
        facts = {"task": task.name, "split": split, "source": where, "rows": len(rows)}
        facts |= statistics(rows, named, limits)
        facts["named"] += shortfalls(task.name, split)
        _add_never_equal(facts, report["errors"], limits, rows, named, task.name)
        if choices:
            facts |= _coverage(rows, choices)
            report["errors"] += _unknown(rows, named, choices)
        report["splits"].append(facts)
        places[split] = {row["inputs"]: place for row, place in zip(rows, named, strict=True)}
    report["between"] += _between(task.name, places)


def _refuse(name: str, absent: Sequence[str]) -> None:
    """Raises what loading the first absent split raises: which file it wants."""
    from prompt_jax.tasks.text import load_examples

    task, split = absent[0].split(" ")
    load_examples(task, split)
    raise UserError(f"task {typed(name)!r}", "has no split at hand", ", ".join(absent))


def statistics(rows: Sequence[dict], places: Sequence[str], limits: Limits) -> dict:
    """What is known of rows of `inputs` and `targets`, the i-th of which is at `places[i]`.

    Returns:
      labels: {target: rows}, most frequent first, None beyond 50 distinct targets; duplicates: rows
      whose inputs and targets occur before; conflicts: distinct inputs that occur with several
      targets; empty: {key: rows whose text is blank}; unit: "tokens" (with the EOS) if a backbone
      is given, else "characters"; lengths: {key: {"p50": ..., "p100": ...}}; truncated: {key:
      percent of rows longer than the limit}, of the keys with a limit; named: the places of the
      first rows that are blank or too long, and whether all targets are one.
    """
    lengths = {key: [limits.length(row[key]) for row in rows] for key in TEXT_KEYS}
    named = _named(rows, places, lengths, limits)
    if len(rows) > 1 and len(targets := {row["targets"] for row in rows} - {UNLABELLED}) == 1:
        named.append(f"every target is {targets.pop()[:40]!r}: there is nothing to learn")
    labels = _labels([row["targets"] for row in rows])
    named += _alike(labels or {})
    return {
        "labels": labels,
        "duplicates": len(rows) - len({_pair(row) for row in rows}),
        "conflicts": _conflicts(rows),
        "empty": {key: sum(not row[key].strip() for row in rows) for key in TEXT_KEYS},
        "unit": limits.unit,
        "lengths": {key: _percentiles(values) for key, values in lengths.items()},
        "truncated": {key: _share_above(lengths[key], lim) for key, lim in limits.limits.items()},
        "named": named,
    }


def _named(rows, places, lengths: dict[str, list[int]], limits: Limits) -> list[str]:
    named = []
    for key in TEXT_KEYS:
        blank = [place for row, place in zip(rows, places, strict=True) if not row[key].strip()]
        named += [f"{place}: '{key}' is blank" for place in blank[:NAMED]]
    for key, limit in limits.limits.items():
        sized = zip(places, lengths[key], strict=True)
        long = [f"{place}: '{key}' has {n} tokens" for place, n in sized if n > limit]
        named += [f"{text}, the limit is {limit}" for text in long[:NAMED]]
    return named


def _coverage(rows: Sequence[dict], choices: Sequence[str]) -> dict[str, Any]:
    counts = Counter(row["targets"] for row in rows)
    known = {*choices, UNLABELLED}
    return {
        "unlabelled": counts[UNLABELLED],
        "absent_labels": [choice for choice in choices if not counts[choice]],
        "unknown_labels": {label: n for label, n in counts.items() if label not in known},
    }


def _unknown(rows, named: Sequence[str], choices: Sequence[str]) -> list[str]:
    """One line for each of the first rows whose target is none of the task's labels."""
    known = {*choices, UNLABELLED}
    unknown = [
        f"{place}: target '{row['targets']}' is none of {', '.join(choices)}"
        for row, place in zip(rows, named, strict=True)
        if row["targets"] not in known
    ]
    return unknown[:NAMED]


def _between(task: str, places: dict[str, dict[str, str]]) -> list[dict]:
    """The pairs of splits that share inputs; `places`: {split: {inputs: where}}."""
    rows = []
    for one, other in combinations(places, 2):
        shared = [text for text in places[one] if text in places[other]]
        if shared:
            first = f"{places[one][shared[0]]} = {places[other][shared[0]]}"
            pair = {"task": task, "splits": f"{one}, {other}"}
            rows.append({**pair, "shared_inputs": len(shared), "first": first})
    return rows


def _labels(targets: Sequence[str]) -> dict[str, int] | None:
    counts = Counter(targets)
    return dict(counts.most_common()) if len(counts) <= MAX_LABELS else None


def _alike(labels: Mapping[str, int]) -> list[str]:
    """A line for each of the first pairs of labels that differ by case or blanks alone."""
    pairs = [
        (one, other)
        for one, other in combinations(labels, 2)
        if " ".join(one.casefold().split()) == " ".join(other.casefold().split())
    ]
    return [f"labels {a!r} and {b!r} differ by case or blanks alone" for a, b in pairs[:NAMED]]


def _pair(row: dict) -> tuple[str, str]:
    return row["inputs"], row["targets"]


def _conflicts(rows: Sequence[dict]) -> int:
    targets_of = Counter(inputs for inputs, _ in {_pair(row) for row in rows})
    return sum(count > 1 for count in targets_of.values())


def _percentiles(lengths: Sequence[int]) -> dict[str, int]:
    """The smallest length that at least p percent of the rows do not exceed; {} without rows."""
    if not lengths:
        return {}
    values = np.percentile(lengths, PERCENTILES, method="inverted_cdf")
    return {f"p{p}": int(value) for p, value in zip(PERCENTILES, values, strict=True)}


def _share_above(lengths: Sequence[int], limit: int) -> float:
    return 100.0 * sum(length > limit for length in lengths) / max(len(lengths), 1)
