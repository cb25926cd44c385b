"""Finished and running runs, read from their folders: nothing is loaded on a device."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from prompt_jax.contents import json_object
from prompt_jax.errors import UserError, reading
from prompt_jax.run.log import read_metrics
from prompt_jax.run.seeds import score_of
from prompt_jax.run.speed import CLOCKED

REMOVE = "remove it: only the report reads it"
FACTS = (
    "facts.json"  # what the report's observer keeps of a run: commands, data, rows of the prompt
)
_MEMBERS = ("seed_*", "stage_*", "members/*")
_BINDING = re.compile(r"(?ms)^([\w./@%]+)\s*=\s*(.*?)(?=^\S|\Z)")
_SEED = {"SEED", "Train.seed"}
NO_METRICS = ("step", "kind", "task", "split", *CLOCKED)


@dataclass(frozen=True)
class Run:
    """One model_dir.

    Attributes:
      name: its folder, from the DIR that was given.
      records: those of metrics.jsonl.
      settings: {binding: value} of config.gin, as text.
      manifest: of the prompt that was chosen, else of the last; {} before there is one.
      facts: of facts.json; {} where there is none.
    """

    name: str
    folder: epath.Path
    records: list[dict[str, Any]]
    settings: dict[str, str]
    manifest: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def selection(self) -> dict[str, Any] | None:
        return self.manifest.get("selection")

    @property
    def seed(self) -> int | None:
        return self.manifest.get("seed")

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["kind"] == "eval"]

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["kind"] == "train"]

    def scores(self) -> dict[str, float]:
        """The metrics of the evaluation that chose the prompt, else of the last one; its `step`."""
        found = score_of(self.records, self.selection if self.evaluations else None)
        return {k: v for k, v in found.items() if k == "step" or k not in NO_METRICS}

    def predictions(self) -> list[dict[str, Any]]:
        """The rows of that evaluation; [] where they are not there."""
        step = self.scores().get("step")
        path = self.folder / "predictions" / f"step_{step:.0f}.jsonl" if step is not None else None
        if path is None or not path.exists():
            return []
        with reading(path, REMOVE) as place:
            lines = enumerate(path.read_text().split("\n"), start=1)
            return [json.loads(line) for place.line, line in lines if line]


def bindings_of(text: str) -> dict[str, str]:
    """{binding: value} of a config.gin; comments are left out, and a value is one line.

    >>> bindings_of("# Comment\\nA = 1\\nB.c = \\\\\\n    ('x',\\n     2)\\n")
    {'A': '1', 'B.c': "('x', 2)"}
    """
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = _BINDING.findall("\n".join(lines) + "\n")
    return {name: " ".join(value.replace("\\\n", " ").split()) for name, value in found}


def read_run(folder: epath.Path, name: str) -> Run:
    config = folder / "config.gin"
    settings = bindings_of(config.read_text()) if config.exists() else {}
    manifests = [folder / "prompt" / kind / "manifest.json" for kind in ("best", "last")]
    manifest = next((json_object(p.read_bytes(), p) for p in manifests if p.exists()), {})
    return Run(name, folder, read_metrics(folder), settings, manifest, read_facts(folder))


def read_facts(folder: epath.Path) -> dict[str, Any]:
    path = folder / FACTS
    return json_object(path.read_bytes(), path, REMOVE) if path.exists() else {}


def find_runs(place: str) -> list[Run]:
    """The run in a folder, those of its seeds, stages or members of a farm, or of its subfolders.

    Raises:
      UserError: there is none.
    """
    folder = epath.Path(place)
    name = folder.name or place
    found = _folders(folder, _MEMBERS) or _folders(folder, ("*",))
    if not found:
        problem = "holds no run" if folder.exists() else "no such folder"
        raise UserError(place, problem, "give the --model_dir of one, or a folder of runs")
    return [
        read_run(path, name if path == folder else f"{name}/{path.relative_to(folder)}")
        for path in found
    ]


def _folders(folder: epath.Path, patterns: Sequence[str]) -> list[epath.Path]:
    """The folder, if it is a run; else the runs below what the patterns name, in their order."""
    if (folder / "metrics.jsonl").exists():
        return [folder]
    inner = sorted((path for pattern in patterns for path in folder.glob(pattern)), key=natural)
    return [run for path in inner if path.is_dir() for run in _folders(path, _MEMBERS)]


def natural(path: epath.Path) -> list[Any]:
    """A key that puts seed_10 after seed_9."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed."""

    label: str
    runs: Sequence[Run]

    @property
    def first(self) -> Run:
        return self.runs[0]

    def values(self, metric: str) -> list[float]:
        """The metric of each run that has it."""
        return [scores[metric] for run in self.runs if metric in (scores := run.scores())]


def same_but_seed(run: Run) -> Mapping[str, str]:
    return {name: value for name, value in run.settings.items() if name not in _SEED}


def grouped(places: Sequence[str]) -> list[Group]:
    """The runs in several folders; those of one that differ in their seed alone are a group."""
    groups: list[Group] = []
    for place in places:
        found: list[list[Run]] = []
        for run in find_runs(place):
            key = same_but_seed(run)
            alike = next((some for some in found if same_but_seed(some[0]) == key), None)
            if alike is None:
                found.append([run])
            else:
                alike.append(run)
        for runs in found:
            whole = epath.Path(place).name or place
            label = whole if len(found) == 1 else without_seed(runs[0].name)
            groups.append(Group(label, runs))
    return _distinct(groups)


def without_seed(name: str) -> str:
    """What runs that differ in their seed alone share of their names.

    >>> without_seed("runs/seed_0"), without_seed("farm/members/LEARNING_RATE_0.1-SEED_0")
    ('runs', 'farm/LEARNING_RATE_0.1')
    """
    return re.sub(r"[-/](seed|SEED)_\d+$", "", name).replace("/members/", "/")


def _distinct(groups: Sequence[Group]) -> list[Group]:
    """The groups, with numbers behind labels that occur twice."""
    counts: dict[str, int] = {}
    named = []
    for group in groups:
        counts[group.label] = n = counts.get(group.label, 0) + 1
        named.append(Group(group.label if n == 1 else f"{group.label} ({n})", group.runs))
    return named


def differing(groups: Sequence[Group]) -> list[tuple[str, list[str | None]]]:
    """The bindings whose values are not the same in all groups, with the value of each."""
    names = dict.fromkeys(name for group in groups for name in group.first.settings)
    rows = [(name, [group.first.settings.get(name) for group in groups]) for name in names]
    return [(n, values) for n, values in rows if n not in _SEED and len(set(values)) > 1]
