"""The training run: build, restore, loop, finish. Read this page first.

`train` is what `prompt-jax train` calls; `Run` holds what a run is made of once its settings are
read; `step.py` is where the gradient is taken.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from etils import epath

from prompt_jax import hosts
from prompt_jax.data.digests import BatchDigests
from prompt_jax.errors import Preempted, UserError
from prompt_jax.hosts.stop import Stopped, stop_signal
from prompt_jax.progress import first_call
from prompt_jax.run.exports import export_finished
from prompt_jax.run.folder import open_folder
from prompt_jax.run.job import Run
from prompt_jax.run.observe import Observer
from prompt_jax.run.prefetch import Prefetch
from prompt_jax.run.settings import Train

PROFILED_FROM, PROFILED_TO = 3, 5  # steps of this process, from 0


def train(
    settings: Train,
    model_dir: str,
    *,
    operative: str = "",
    profile: bool = False,
    batch_digests: bool = False,
    observers: Sequence[Observer] = (),
    show: bool = False,
    check: Callable[[Run], Any] | None = None,
) -> dict[str, Any]:
    """Trains to the last step, or on from the checkpoint in `model_dir`; returns the last metrics.

    `observers` are told what happens, in the process that writes.
    `check` sees the run once its backbone is read, before any step; its UserError ends it.

    Raises:
      UserError: before any weight is read where settings, task or folder are wrong.
      Preempted: after SIGTERM, once the state is saved.
    """
    if settings.farm.grid is not None:
        raise UserError(
            "FARM", "is a grid of runs, and this starts a single run", "give --gin.FARM=None"
        )
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_signal())
        folder = stack.enter_context(open_folder(model_dir))
        run = Run(settings, folder)
        if check is not None:
            check(run)
        if batch_digests:
            run.digests = BatchDigests(folder, *hosts.number())
            stack.callback(run.digests.close)
        stack.callback(run.close)
        state = run.begin(operative, observers, show, model_dir)
        start = int(state.step)
        try:
            run.evaluate_first(state, stop)
            over = run.over(start)
            if over:
                run.screen.say(
                    f"{model_dir} is trained to step {start}: there is nothing left to do"
                )
            steps = range(start, start if over else settings.steps)
            batches = Prefetch(run.batch, steps)
            stack.callback(batches.close)
            run.meter.restart_clock()
            train_step = first_call(lambda *of: run.train_step(*of), "compiling the training step")
            for step in profiled(steps, folder, profile):
                stop.check()
                batch, counts = batches.next(step, run.meter)
                state, metrics = train_step(state, run.frozen, batch)
                run.meter.add(metrics, *counts)
                run.meter.wait()
                if run.after(step + 1, lambda after=state: after, stop):
                    break
        except Stopped:
            done = int(state.step)
            run.report(done)
            run.save(state)
            raise Preempted(
                f"preempted: saved step {done}; run the same command to go on"
            ) from None
        metrics = run.closing()
        export_finished(settings, folder, run.screen.say)
        return metrics


def profiled(steps: range, folder: epath.Path, profile: bool) -> Iterator[int]:
    """The steps; with `profile`, an xprof trace of the fourth to the sixth in `profile/`."""
    for n, step in enumerate(steps):
        if profile and n == PROFILED_FROM:
            jax.profiler.start_trace(str(folder / "profile"))
        yield step
        if profile and (n == PROFILED_TO or step == steps[-1]) and n >= PROFILED_FROM:
            jax.profiler.stop_trace()
            profile = False
