"""Experiment trackers: W&B, MLflow and Trackio log what `metrics.jsonl` does.

A tracker is one class behind `Service`. Its own environment variables decide where it stores a run,
and under which project; `docs/runs.md` names them.
"""

import contextlib
import contextvars
import importlib.util
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from prompt_jax.contents import json_object
from prompt_jax.errors import UserError
from prompt_jax.inspect.runs import bindings_of
from prompt_jax.inspect.tensorboard import EXAMPLES, table
from prompt_jax.paths import is_local
from prompt_jax.run.observe import Opened, Record

FILE = "trackers.json"  # {tracker: id of the run}, so that a resumed run goes on there as well
PROJECT = "prompt_jax"
COLUMNS = ["inputs", "targets", "prediction"]


class Beginning(NamedTuple):
    """What a tracker needs to begin or continue a run.

    Attributes:
      name: for people; the last two parts of the model_dir.
      id: the tracker's own name of the run; None at the first start.
      settings: {binding: value} of the recipe.
      folder: the model_dir if it is local, else None.
    """

    name: str
    id: str | None
    settings: Mapping[str, str]
    folder: str | None


class Service(Protocol):
    """One run at one tracker."""

    id: str

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def predictions(self, rows: Sequence[Record], step: int) -> None: ...

    def close(self) -> None: ...


class Tables:
    """What W&B and Trackio, which has W&B's interface, do alike."""

    id: str
    _run: Any
    _table: Callable[..., Any]

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def predictions(self, rows: Sequence[Record], step: int) -> None:
        data = [[str(row[name]) for name in COLUMNS] for row in rows]
        self._run.log({"predictions": self._table(columns=[*COLUMNS], data=data)}, step=step)

    def close(self) -> None:
        self._run.finish()


class Wandb(Tables):
    """Weights & Biases (https://docs.wandb.ai); WANDB_MODE=offline needs no network."""

    def __init__(self, run: Beginning):
        import wandb

        self.id = run.id or uuid.uuid4().hex[:8]
        self._table = wandb.Table
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.id,
            name=run.name,
            config=dict(run.settings),
            dir=os.environ.get("WANDB_DIR", run.folder),
            resume="allow",
            reinit="create_new",  # members of a farm are open at the same time
        )


class MLflow:
    """MLflow (https://mlflow.org/docs); without a server it writes `mlflow.db` in the current
    folder."""

    def __init__(self, run: Beginning):
        import mlflow
        from mlflow.entities import Metric, Param

        self._client, self._metric = mlflow.MlflowClient(), Metric
        if run.id is not None:
            self.id = run.id
            self._client.update_run(self.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self.id = self._client.create_run(experiment, run_name=run.name).info.run_id
        params = [Param(_mlflow_name(key), value[:6000]) for key, value in run.settings.items()]
        for n in range(0, len(params), 100):  # the most that a request may hold
            self._client.log_batch(self.id, params=params[n : n + 100])

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(_mlflow_name(k), v, now, step) for k, v in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def predictions(self, rows: Sequence[Record], step: int) -> None:
        self._client.log_text(self.id, table(rows), f"predictions/step_{step}.md")

    def close(self) -> None:
        self._client.set_terminated(self.id)


def _mlflow_name(name: str) -> str:
    """MLflow refuses other characters.

    >>> _mlflow_name("eval/cr+trec/f1")
    'eval/cr_trec/f1'
    """
    return re.sub(r"[^\w\-. /:]", "_", name)


class Trackio(Tables):
    """Trackio (https://huggingface.co/docs/trackio); local unless TRACKIO_SPACE_ID is set."""

    def __init__(self, run: Beginning):
        import trackio

        self.id = run.id or f"{run.name} {uuid.uuid4().hex[:8]}"
        self._table = trackio.Table
        # `init` ends the run that its context knows. In a context of its own it knows none: members
        # of a farm are open at the same time.
        self._run = contextvars.copy_context().run(
            trackio.init,
            os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.id,
            config=dict(run.settings),
            resume="allow",
            embed=False,
            auto_log_cpu=False,  # records have the memory already
            auto_log_gpu=False,
        )


SERVICES: dict[str, Callable[[Beginning], Service]] = {
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def check(names: Sequence[str]) -> None:
    """Refuses trackers that are unknown or not installed.

    Raises:
      UserError: names the first of them.
    """
    for name in names:
        if name not in SERVICES:
            known = ", ".join(SERVICES)
            raise UserError(f"--track={name}", "no such tracker", f"known are: {known}")
        if importlib.util.find_spec(name) is None:
            remedy = f"pip install 'prompt-jax[{name}]'"
            raise UserError(f"--track={name}", "is not installed", remedy)


class Tracker:
    """Sends the records of runs to one tracker.

    A tracker that cannot be opened ends the run, before its first step: it was asked for. One that
    fails later is left, with one line, and the run goes on.
    """

    def __init__(self, name: str):
        self.name = name
        self._service: Service | None = None
        self._say: Callable[[str], None] = print

    def start(self, opened: Opened) -> None:
        """Raises UserError: the tracker does not open a run."""
        path = opened.folder / FILE
        remedy = "remove it, and the tracker begins another run"
        ids = json_object(path.read_bytes(), path, remedy) if path.exists() else {}
        beginning = Beginning(
            name="/".join(opened.folder.parts[-2:]),
            id=ids.get(self.name),
            settings=bindings_of(opened.operative),
            folder=str(opened.folder) if is_local(opened.folder) else None,
        )
        self._say = opened.say
        try:
            with _quiet_output():
                self._service = SERVICES[self.name](beginning)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"--track={self.name}", reason, "leave it out to train without"
            ) from None
        path.write_text(json.dumps(ids | {self.name: self._service.id}) + "\n")

    def log(self, record: Record) -> None:
        names = [n for n, v in record.items() if isinstance(v, int | float) and n != "step"]
        values = {f"{record['kind']}/{name}": float(record[name]) for name in names}
        with self._guarded() as service:
            if service is not None:
                service.log(values, record["step"])

    def evaluated(self, record: Record, predictions: Sequence[Record]) -> None:
        with self._guarded() as service:
            if service is not None and predictions:
                service.predictions(predictions[:EXAMPLES], record["step"])

    def finished(self) -> None:
        with self._guarded() as service:
            if service is not None:
                service.close()
        self._service = None

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[Service | None]:
        try:
            with _quiet_output():
                yield self._service
        except Exception as error:  # a tracker is no reason to lose a run
            self._service = None
            self._say(f"{self.name} is left: {type(error).__name__}: {error}")


@contextlib.contextmanager
def _quiet_output() -> Iterator[Any]:
    """Standard output is for the program's own results; trackers that print do so beside it."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
