"""Targeted transfer: a target trained from what a library has for it, beside its own init.

Vu et al. 2022 (SPoT, https://arxiv.org/abs/2110.07904), section 4. The control trains the target
as its recipe says; an early checkpoint of it is the target's embedding and ranks the sources. Then

    best       a run from each of the k nearest sources; the best of them by target validation
    average    one run from sum_j alpha_j P_j, alpha_j = sim_j / sum sim
    mixture    a run on the k sources' tasks and the target together, then one from its prompt

each with the control's recipe, seed and steps. Everything lies in `model_dir` and is resumable; its
report also has the runs of earlier calls.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from etils import epath

from prompt_jax.contents import json_object
from prompt_jax.errors import UserError
from prompt_jax.prompt.artefact import Prompt, load_prompt, save_prompt
from prompt_jax.prompt.library import Entry, Library
from prompt_jax.run.log import read_metrics
from prompt_jax.run.observe import Observer
from prompt_jax.run.seeds import score_of
from prompt_jax.settings import rebinding
from prompt_jax.transfer import similarity
from prompt_jax.transfer.embed import early_prompt, keeps, kept_steps, rows_of

if TYPE_CHECKING:
    from prompt_jax.run.job import Run

Strategy = Literal["best", "average", "mixture"]
STRATEGIES: tuple[Strategy, ...] = ("best", "average", "mixture")
REPORT = "transfer.json"
SIZE_CAP = 2**19  # examples of one task that count in a mixture


@dataclass(frozen=True)
class Transfer:
    """What is asked for.

    Attributes:
      load: bindings -> the target's recipe with them, a `config.Config`.
      k: how many of the nearest sources count.
      by: the similarity that ranks.
      early_step: of the target's embedding; None: that of the sources, which must agree.
      size_cap: of the mixture's rates.
      observers: makes those of one run.
    """

    load: Callable[[Sequence[str]], Any]
    library: Library
    model_dir: str
    strategies: Sequence[Strategy] = ("best",)
    k: int = 3
    by: similarity.Kind = "pairs"
    early_step: int | None = None
    size_cap: int = SIZE_CAP
    observers: Callable[[], Sequence[Observer]] = tuple
    show: bool = False

    def __call__(self) -> dict[str, Any]:
        """Runs what is missing; the report, which `MODEL_DIR/transfer.json` keeps.

        Raises:
          UserError: before anything is trained, where recipe and library do not go together.
        """
        recipe = self.load([])
        selection = _check(recipe.root)
        entries = self.library.entries()
        step = self.early_step or _common_step(entries)
        self._check_step(recipe.root, step)
        earlier = read_report(self.model_dir)
        control = self._run("control", [], lambda job: self._usable(entries, _facts_of(job)))
        value = load_prompt(f"{control}/prompt/best")
        sources, left_out = self._usable(entries, _facts(value))
        early = early_prompt(recipe.root, control, value, step)
        ranking = similarity.rank(early["arrays"]["encoder"], sources, self.by)
        by_name = {source.name: source for source in sources}
        nearest = [(by_name[row["source"]], row) for row in ranking[: self.k]]
        runs = [_row("as the recipe says", "control", control, ())]
        for strategy in self.strategies:
            runs += STARTS[strategy](self, nearest, value)
        report = {
            "target": recipe.root.data.task,
            "control": value.manifest["sha256"],
            "chosen_by": selection,
            "similarity": self.by,
            "early_step": step,
            "ranking": ranking,
            "left_out": left_out,
        }
        runs = with_earlier(runs, earlier, report, sources)
        report["runs"] = gains([_scored(run, selection) for run in runs], selection)
        text = json.dumps(report, indent=2, default=float) + "\n"
        (epath.Path(self.model_dir) / REPORT).write_text(text)
        return report

    def _usable(
        self, entries: Sequence[Entry], target: dict[str, Any]
    ) -> tuple[list[Entry], list[dict[str, str]]]:
        return usable(entries, target, self.library.folder)

    def _check_step(self, run: Any, step: int) -> None:
        """UserError if the control will not keep that step's checkpoint, nor has it already."""
        control = f"{self.model_dir}/control"
        done = (epath.Path(control) / "checkpoints").exists()
        if keeps(run, step) or (done and step in kept_steps(control)):
            return
        given = self.early_step is not None
        of = "" if given else f", that of the embeddings in --library={self.library.folder}"
        checkpoints = run.checkpoints
        raise UserError(
            f"--early_step={step}{of}",
            (
                f"the control will not keep that checkpoint (TRAIN_STEPS = {run.steps}, "
                f"CHECKPOINT_PERIOD = {checkpoints.period}, Checkpoints.keep_period = "
                f"{checkpoints.keep_period})"
            ),
            "give an earlier multiple of both periods, or change them",
        )

    def _run(
        self, name: str, bindings: Sequence[str], check: Callable[["Run"], Any] | None = None
    ) -> str:
        """Trains, or goes on, in `model_dir/name`; that folder. `check`: as of `train`."""
        from prompt_jax.run.train import train

        cfg, folder = self.load(bindings), f"{self.model_dir}/{name}"
        options: dict[str, Any] = {"observers": self.observers(), "show": self.show}
        train(cfg.root, folder, operative=cfg.operative, check=check, **options)
        return folder

    def _from(self, name: str, path: str) -> str:
        """A run of the target that begins with a saved prompt."""
        method = self.load([]).root.method
        return self._run(name, rebinding(method, method.begun_from(path)))


Nearest = Sequence[tuple[Entry, dict[str, Any]]]


def _row(init: str, strategy: str, folder: str, sources: Sequence[Entry]) -> dict[str, Any]:
    """What is said of a run; `sources`: the prompts that it is made of."""
    used = _digests(sources)
    return {"init": init, "strategy": strategy, "model_dir": folder, "sources": used}


def _digests(entries: Sequence[Entry]) -> dict[str, str]:
    return {entry.name: entry.facts["sha256"]["prompt"] for entry in entries}


def from_each(transfer: Transfer, nearest: Nearest, control: Prompt) -> list[dict[str, Any]]:
    """A run from each source; its folder's name tells the source's content, not its name alone."""
    rows = []
    for entry, _ in nearest:
        name = f"from_{entry.name}_{entry.facts['sha256']['prompt'][:8]}"
        folder = transfer._from(name, f"{entry.folder}/prompt")
        rows.append(_row(entry.name, "best", folder, [entry]))
    return rows


def from_average(transfer: Transfer, nearest: Nearest, control: Prompt) -> list[dict[str, Any]]:
    """A run from the weighted average, which is kept as an artefact of its own."""
    alphas = similarity.weights([row for _, row in nearest], transfer.by)
    values = [entry.value() for entry, _ in nearest]
    made_of = [
        {"source": e.name, "sha256": e.facts["sha256"]["prompt"], "weight": a}
        for (e, _), a in zip(nearest, alphas, strict=True)
    ]
    name = "average_" + "_".join(part["sha256"][:8] for part in made_of)
    path = f"{transfer.model_dir}/{name}_prompt"
    facts = {"task": None, "metric": None, "selection": None, "step": 0, "average_of": made_of}
    save_prompt(path, similarity.average(values, alphas), {**values[0].manifest, **facts})
    described = " + ".join(f"{part['weight']:.2f} {part['source']}" for part in made_of)
    return [_row(described, "average", transfer._from(name, path), [entry for entry, _ in nearest])]


def from_mixture(transfer: Transfer, nearest: Nearest, control: Prompt) -> list[dict[str, Any]]:
    """Sources and target trained together, then the target alone from that prompt."""
    from prompt_jax.tasks.mixtures import mixture_name

    tasks = [*(entry.facts["task"] for entry, _ in nearest), control.manifest["task"]]
    task = mixture_name(tasks, transfer.size_cap)
    name = "mixture_" + "_".join(e.facts["sha256"]["prompt"][:8] for e, _ in nearest)
    together = transfer._run(f"{name}_together", [f"TASK={task!r}"])
    folder = transfer._from(name, f"{together}/prompt/best")
    entries = [entry for entry, _ in nearest]
    described = " + ".join([*(entry.name for entry in entries), "target"])
    return [_row(described, "mixture", folder, entries)]


STARTS: dict[Strategy, Callable[[Transfer, Nearest, Prompt], list[dict[str, Any]]]] = {
    "best": from_each,
    "average": from_average,
    "mixture": from_mixture,
}


def _check(run: Any) -> dict[str, str]:
    """What chooses a checkpoint of the target; UserError where SPoT cannot work."""
    if run.method.begun_from("") is None or not run.method.layout.encoder:
        raise UserError(
            "Train.method",
            f"is {type(run.method).__name__}, whose rows do not begin with a saved prompt's",
            "take a recipe of prompt tuning",
        )
    if run.selection is None:
        raise UserError("BEST_METRIC = None", "the best of several runs is chosen", "name a metric")
    return run.selection


def _common_step(entries: Sequence[Entry]) -> int:
    """The step of the sources' embeddings: those of target and sources must be as old."""
    steps = sorted({entry.facts["early_step"] for entry in entries})
    if len(steps) > 1:
        listed = ", ".join(map(str, steps))
        raise UserError(
            "--early_step", f"the library's embeddings are of steps {listed}", "give one of them"
        )
    return steps[0]


def _facts(prompt: Prompt) -> dict[str, Any]:
    """What `Entry.differs` compares."""
    facts = {name: prompt.manifest[name] for name in ("backbone", "tokenizer", "task")}
    return {**facts, "length": rows_of(prompt)}


def _facts_of(job: "Run") -> dict[str, Any]:
    """The same of a run whose prompt is not trained yet."""
    layout = job.settings.method.layout
    return {**job.origin(), "length": {"encoder": layout.encoder, "decoder": layout.decoder}}


def usable(
    entries: Sequence[Entry], target: dict[str, Any], library: str
) -> tuple[list[Entry], list[dict[str, str]]]:
    """The sources for a target, and why each other entry is none.

    `target`: `backbone`, `tokenizer`, `length` and `task`, whose own entries are no sources.
    """
    sources, left_out = [], []
    for entry in entries:
        why = entry.differs(target)
        if why is None and entry.facts["task"] == target["task"]:
            why = "of the target itself"
        if why is None:
            sources.append(entry)
        else:
            left_out.append({"entry": entry.name, "why": why})
    if not sources:
        first = left_out[0]
        raise UserError(
            f"--library={library}",
            f"no source for {target['task']!r}; {first['entry']!r}: {first['why']}",
            "embed sources of this backbone and length",
        )
    return sources, left_out


def read_report(model_dir: str) -> dict[str, Any]:
    """The report that an earlier call left; {} if there is none."""
    path = epath.Path(model_dir) / REPORT
    if not path.exists():
        return {}
    remedy = "remove it and name its strategies again: what is trained stays"
    return json_object(path.read_bytes(), path, remedy)


def with_earlier(
    runs: Sequence[dict[str, Any]],
    earlier: dict[str, Any],
    report: dict[str, Any],
    sources: Sequence[Entry],
) -> list[dict[str, Any]]:
    """The runs, the control first, and between it and them those of an earlier report.

    These have the same target and control and are made of prompts that the library still has. A run
    in the folder of an earlier one takes its place. `similarity` is that of `report`.
    """
    base, digests = runs[0]["model_dir"].rpartition("/")[0], _digests(sources).items()
    same = all(earlier.get(key) == report[key] for key in ("target", "control"))
    by_name = {_name(runs[0]): runs[0]}
    for row in earlier["runs"] if same else ():
        run: dict[str, Any] = {key: row[key] for key in runs[0]}
        run["model_dir"] = f"{base}/{_name(row)}"
        if run["sources"].items() <= digests and read_metrics(run["model_dir"]):
            by_name[_name(run)] = run
    by_name |= {_name(run): run for run in runs}
    near = {row["source"]: row[report["similarity"]] for row in report["ranking"]}
    return [
        {**run, "similarity": near[run["init"]] if run["strategy"] == "best" else None}
        for run in by_name.values()
    ]


def _name(run: dict[str, Any]) -> str:
    """Of a run's folder in `model_dir`."""
    return run["model_dir"].rpartition("/")[2]


def _scored(run: dict[str, Any], selection: dict[str, str]) -> dict[str, Any]:
    """The run with the score and the step that its validation chose."""
    scores = score_of(read_metrics(run["model_dir"]), selection)
    return {**run, "score": scores[selection["metric"]], "step": int(scores["step"])}


def gains(rows: Sequence[dict[str, Any]], selection: dict[str, str]) -> list[dict[str, Any]]:
    """The rows with `gain`, in points over the first, the control; `best` marks the best of all."""
    sign = 1 if selection["direction"] == "max" else -1
    best = max(rows, key=lambda row: sign * row["score"])
    return [
        {
            "strategy": row["strategy"],
            "init": row["init"],
            "similarity": row["similarity"],
            selection["metric"]: row["score"],
            "gain": sign * (row["score"] - rows[0]["score"]),
            "step": row["step"],
            "best": row is best,
            "model_dir": row["model_dir"],
            "sources": row["sources"],
        }
        for row in rows
    ]
