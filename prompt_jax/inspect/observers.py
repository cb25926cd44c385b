"""What follows a run that is started by the program or by `prompt_jax.train`."""

import json
import os
from collections.abc import Sequence
from typing import Any

from prompt_jax import hosts
from prompt_jax.errors import UserError
from prompt_jax.inspect.nearest import described, drift
from prompt_jax.inspect.report import PAGE, write_report
from prompt_jax.inspect.runs import FACTS, read_facts
from prompt_jax.inspect.tensorboard import TensorBoard
from prompt_jax.inspect.trackers import FILE as TRACKERS
from prompt_jax.inspect.trackers import Tracker
from prompt_jax.methods.parts.start import Start
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.prompt.files import TENSORS
from prompt_jax.run.observe import Observer, Opened, Record

MOST_WEIGHTS = 1 << 28  # numbers of an embedding table that is looked through at the end of a run


def usual(command: str | None = None, track: Sequence[str] = ()) -> list[Observer]:
    """The observers of every run, and the trackers of `track`; `command` is what started it, for
    the report."""
    return [TensorBoard(), *(Tracker(name) for name in dict.fromkeys(track)), Report(command)]


def files(track: Sequence[str] = ()) -> tuple[str, ...]:
    """What `usual` observers leave in a run's folder."""
    trackers = [TRACKERS] if track else []
    trackers += ["wandb/"] if "wandb" in track and "WANDB_DIR" not in os.environ else []
    return ("tensorboard/", *trackers, FACTS, PAGE)


class Report:
    """Keeps `facts.json`, and writes `report.html` when the run has ended or was left.

    Whatever goes wrong with either is said in one line and ends nothing.
    """

    def __init__(self, command: str | None = None):
        self._command = command
        self._opened: Opened | None = None

    def start(self, opened: Opened) -> None:
        self._opened = opened

    def log(self, record: Record) -> None: ...

    def evaluated(self, record: Record, predictions: Sequence[Record]) -> None: ...

    def finished(self) -> None:
        opened, self._opened = self._opened, None
        if opened is None or not opened.records:
            return
        try:
            self._keep_facts(opened)
            opened.say(f"  {write_report([str(opened.folder)])}")
        except Exception as error:  # a page is no reason to lose a run
            cause = error if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            opened.say(f"{PAGE} is not written: {cause}")

    def _keep_facts(self, opened: Opened) -> None:
        facts = read_facts(opened.folder)
        if self._command is not None:
            before = facts.get("commands", [])
            facts["commands"] = list(dict.fromkeys([*before, self._command]))
        facts["lengths"] = dict(opened.lengths)
        facts |= _prompt(opened)
        text = json.dumps(facts, ensure_ascii=False, indent=1) + "\n"
        partial = opened.folder / f"{FACTS}.partial"
        partial.write_text(text)
        partial.replace(opened.folder / FACTS)


def _prompt(opened: Opened) -> dict[str, Any]:
    """The rows of the prompt beside the vocabulary; {} where it has none, or with a huge table."""
    paths = [opened.folder / "prompt" / name for name in ("best", "last")]
    path = next((p for p in paths if (p / TENSORS).exists()), None)  # a T5's weights are none
    vocabulary, config = opened.backbone.vocabulary, opened.backbone.config
    # Weights that lie on several hosts are gathered by all of them together, or not at all.
    large = hosts.several() or config.vocab_size * config.emb_dim > MOST_WEIGHTS
    if path is None or vocabulary is None or large:
        return {}
    prompt = load_prompt(path)
    if "encoder" not in prompt.arrays and "decoder" not in prompt.arrays:
        return {}
    found = described(prompt.arrays, Start(opened.backbone).embedding, vocabulary)
    first = opened.begin()
    found["drift"] = {s: drift(first[s], prompt.arrays[s]) for s in found["sides"] if s in first}
    return {"prompt": found}
