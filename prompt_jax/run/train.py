"""The training run: build, restore, loop, finish. Read this page first.

`train` is what `prompt-jax train` calls; `Job` holds what a run is made of once its settings are
read; `step.py` is where the gradient is taken.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from etils import epath

from prompt_jax import hosts
from prompt_jax.data.digests import BatchDigests
from prompt_jax.errors import Preempted
from prompt_jax.hosts.stop import Stopped, stop_signal
from prompt_jax.run.folder import open_folder
from prompt_jax.run.identity import FILE, compare, write
from prompt_jax.run.job import Job
from prompt_jax.run.log import Meter, MetricsLog, Screen
from prompt_jax.run.observe import Observer, Opened
from prompt_jax.run.prefetch import Prefetch
from prompt_jax.run.settings import Train
from prompt_jax.run.state import RunCheckpoints


def train(
    run: Train,
    model_dir: str,
    *,
    operative: str = "",
    profile: bool = False,
    batch_digests: bool = False,
    observers: Sequence[Observer] = (),
    show: bool = False,
    check: Callable[["Job"], Any] | None = None,
) -> dict[str, Any]:
    """Trains to `run.steps`, or on from the checkpoint in `model_dir`; returns the last metrics.

    `observers` are told what happens, in the process that writes.
    `check` sees the job once its backbone is read, before any step; its UserError ends the run.

    Raises:
      UserError: before any weight is read where settings, task or folder are wrong.
      Preempted: after SIGTERM, once the state is saved.
    """
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_signal())
        folder = stack.enter_context(open_folder(model_dir))
        job = Job(run, folder)
        if check is not None:
            check(job)
        if batch_digests:
            job.digests = BatchDigests(folder, *hosts.number())
            stack.callback(job.digests.close)
        known = (folder / FILE).exists()
        changes = compare(folder, job.identity)
        checkpoints = RunCheckpoints(folder, run.checkpoints, job.facts)
        stack.callback(checkpoints.close)
        state = checkpoints.restore(job.first_state(), same_run=known)
        start = int(state.step)
        if hosts.writes():
            write(folder, job.identity)
            keep_config(folder, operative, start)
        scored = {} if run.evaluation is None else run.evaluation.scored(run.data)
        log, meter = MetricsLog(folder, start, scored, observers), Meter(job.speed)
        hosts.check_same("records in metrics.jsonl", len(log.records))
        screen = Screen(show, start, run.steps)
        stack.callback(screen.close)
        screen.say(job.opening(start, model_dir))
        for change in changes:
            screen.say(f"changed since the run began: {change}")
        opened = Opened(run, folder, start, operative, log.records, screen.say)
        log.start(opened)
        stack.callback(log.close)
        try:
            if job.evaluation_due(start) and log.evaluation_at(start) is None:
                job.evaluate(state, log, screen, stop)
            over = job.over(start, log)
            if over:
                screen.say(f"{model_dir} is trained to step {start}: there is nothing left to do")
            steps = range(start, start if over else run.steps)
            batches = Prefetch(job.batch, steps)
            stack.callback(batches.close)
            meter.restart_clock()
            for step in profiled(steps, folder, profile):
                stop.check()
                batch, counts = batches.next(step, meter)
                state, metrics = job.train_step(state, job.frozen, batch)
                meter.add(metrics, *counts)
                meter.wait()
                done = step + 1
                evaluating = job.evaluation_due(done)
                saving = done % run.checkpoints.period == 0 or done == run.steps
                if evaluating or saving or done % run.log_period == 0:
                    report(meter.record(done), log, screen)
                if evaluating:
                    job.evaluate(state, log, screen, stop)
                over = job.over(done, log)
                if saving or over:
                    job.save_prompt(state, "last", log.evaluation_at(done))
                    checkpoints.save(state)
                if evaluating or saving:
                    meter.restart_clock()
                if over:
                    break
        except Stopped:
            done = int(state.step)
            report(meter.record(done), log, screen)
            job.save_prompt(state, "last", log.evaluation_at(done))
            checkpoints.save(state)
            raise Preempted(
                f"preempted: saved step {done}; run the same command to go on"
            ) from None
        return job.closing(log, screen)


def keep_config(folder: epath.Path, operative: str, start: int) -> None:
    """Writes `config.gin`; one that says something else stays as `config.STEP.gin`."""
    path = folder / "config.gin"
    if path.exists() and path.read_text() != operative:
        (folder / f"config.{start}.gin").write_text(path.read_text())
    path.write_text(operative)


def report(record: dict[str, Any] | None, log: MetricsLog, screen: Screen) -> None:
    if record is not None:
        log.write(record)
        screen.step(record)


def profiled(steps: range, folder: epath.Path, profile: bool) -> Iterator[int]:
    """The steps; with `profile`, an xprof trace of the fourth to the sixth in `profile/`."""
    for n, step in enumerate(steps):
        if profile and n == 3:
            jax.profiler.start_trace(str(folder / "profile"))
        yield step
        if profile and (n == 5 or step == steps[-1]) and n >= 3:
            jax.profiler.stop_trace()
            profile = False
