"""A farm: the members of a grid, trained side by side over one backbone.

Members whose steps are one program (`farm_step.program_of`) share its compiled step, some at a
time. A member that is done leaves its slot to one that waits, without compiling again. Each is a
run of its own, with its data, schedule, evaluations, best prompt, patience and folder; what a farm
keeps beside them is `farm.jsonl`, a line for each member.

Successive halving (Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943): at steps R, 2 R,
4 R, ... the better half goes on.
"""

import contextlib
import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath

from prompt_jax import hosts
from prompt_jax.data.digests import BatchDigests
from prompt_jax.data.source import Data
from prompt_jax.errors import Preempted, RunError, Setting, UserError
from prompt_jax.hosts.stop import Stop, Stopped, stop_signal
from prompt_jax.paths import is_local
from prompt_jax.progress import Counter, first_call
from prompt_jax.run import farm_step
from prompt_jax.run.exports import export_finished
from prompt_jax.run.folder import open_folder, wait_for
from prompt_jax.run.grid import Member, name_of
from prompt_jax.run.job import Run, Setup
from prompt_jax.run.log import Screen, read_metrics
from prompt_jax.run.observe import Observer
from prompt_jax.run.prefetch import Prefetch
from prompt_jax.run.seeds import spread_of
from prompt_jax.run.settings import Farm, Train
from prompt_jax.run.step import TrainState

FILE = "farm.jsonl"
BEHIND = 2  # steps that the device may be behind


def train_farm(
    members: Sequence[Member],
    model_dir: str,
    options: Farm,
    *,
    observers: Callable[[], Sequence[Observer]] = tuple,
    batch_digests: bool = False,
    show: bool = False,
    devices: Sequence[Any] | None = None,
) -> list[dict[str, Any]]:
    """Trains all members, or on from what is in `model_dir`; returns the lines of `farm.jsonl`.

    `observers` makes those of one member; `devices`: those of the mesh, None: all.

    Raises:
      UserError: members cannot share a backbone, or a folder holds another run.
      Preempted: after SIGTERM, once every member's state is saved.
    """
    check(members, options)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_signal())
        folder = stack.enter_context(open_folder(model_dir))
        screen = Screen(show, 0, 1)
        stack.callback(screen.close)
        setup = Setup(members[0].settings, devices)
        table = Table(folder, members)
        screen.say(f"farm of {len(members)} members, {options.at_once} at once, in {model_dir}")
        left = list(members)
        for until in rungs(options.halve_at, max(m.settings.steps for m in members)):
            waiting = deque(left)
            while waiting:
                group = Group(waiting, folder, setup, options.at_once, table, screen, until)
                group.observers, group.batch_digests = observers, batch_digests
                waiting = group.train(stop)
            if until is not None:
                left = table.better_half(left, until, screen)
        rows = table.write()
        wait_for(folder / FILE)
        return rows


def check(members: Sequence[Member], options: Farm) -> None:
    """UserError where the members cannot be farmed."""
    why = unfit(members[0].settings)
    if why:
        raise UserError("FARM", why, "train them one by one")
    first = members[0].settings
    for member in members:
        same = (member.settings.backbone, member.settings.mesh)
        if same != (first.backbone, first.mesh):
            raise UserError("FARM", f"{member.name} has another backbone or mesh", "leave it out")
        if options.halve_at is not None and member.settings.selection is None:
            raise UserError(
                Setting("Farm", "halve_at", options.halve_at),
                "nothing says which half is better",
                "bind BEST_METRIC and an evaluation",
            )


def unfit(settings: Train) -> str | None:
    """Why the runs of a recipe cannot share a compiled step; None where they can."""
    shape = settings.mesh
    if settings.method.trains_model:
        return f"{type(settings.method).__name__} trains the model, which members would share"
    if isinstance(settings.data, Data) and settings.data.buckets:
        return "the members' rows come in buckets, which are not equally wide at one step"
    if shape.fsdp != 1 or shape.model != 1:
        return "a farm's mesh has the axis `data` alone"
    return None


def rungs(first: int | None, steps: int) -> list[int | None]:
    """Where the better half is chosen; None stands for the end.

    >>> rungs(50, 300), rungs(None, 300)
    ([50, 100, 200, None], [None])
    """
    if first is None:
        return [None]
    doublings = math.ceil(math.log2(steps / first)) if steps > first else 0
    return [*(first * 2**n for n in range(doublings)), None]


class Table:
    """`farm.jsonl`: how every member stands."""

    def __init__(self, folder: epath.Path, members: Sequence[Member]):
        self.folder = folder
        self.rows: dict[str, dict[str, Any]] = {}
        for member in members:
            self.note(member, "waiting", write=False)
        self.write()

    def note(self, member: Member, status: str, write: bool = True, **more: Any) -> None:
        """Says how a member stands, from its own records."""
        place = self.folder / member.folder
        records, selection = read_metrics(place), member.settings.selection
        row: dict[str, Any] = {"name": member.name, "settings": member.values}
        row |= {"seed": member.settings.seed, "status": status, "model_dir": str(place)}
        row["step"] = max((r["step"] for r in records), default=0)
        if selection:
            row["metric"] = selection["metric"]
            value, step = best_of(records, selection)
            row |= {"best": value, "best_step": step}
        self.rows[member.name] = row | more
        if write:
            self.write()

    def write(self) -> list[dict[str, Any]]:
        """The file anew, whole or not at all; its rows."""
        rows = list(self.rows.values())
        if not hosts.writes():
            return rows
        text = "".join(json.dumps(row, default=repr) + "\n" for row in rows)
        partial = self.folder / f"{FILE}.partial"
        if is_local(self.folder):
            partial.write_text(text)
            partial.replace(self.folder / FILE)
        else:
            (self.folder / FILE).write_text(text)
        return rows

    def better_half(self, members: list[Member], until: int, screen: Screen) -> list[Member]:
        """Those that go on after a rung, in their order; a tie goes to the earlier one."""
        scores = []
        wait_for(self.folder / FILE)  # what the process that writes has said of each
        for number, member in enumerate(members):
            selection = member.settings.selection
            assert selection is not None
            records = read_metrics(self.folder / member.folder)
            value, _ = best_of([r for r in records if r["step"] <= until], selection)
            sign = 1 if selection["direction"] == "max" else -1
            failed = value is None or self.rows[member.name]["status"] == "diverged"
            scores.append((failed, 0.0 if value is None else -sign * value, number))
        best = sorted(scores)[: math.ceil(len(members) / 2)]
        stay = {number for failed, _, number in best if not failed}
        for number, member in enumerate(members):
            if number not in stay and self.rows[member.name]["status"] != "diverged":
                self.note(member, f"halved at step {until}", write=False)
        self.write()
        screen.say(f"step {until}: {len(stay)} of {len(members)} members go on")
        return [member for number, member in enumerate(members) if number in stay]


def best_of(
    records: Sequence[dict[str, Any]], selection: dict[str, str]
) -> tuple[float | None, int | None]:
    """The best value of the metric that chooses, and its step; the earlier of equals."""
    name, sign = selection["metric"], 1 if selection["direction"] == "max" else -1
    found = [(sign * r[name], -r["step"]) for r in records if r["kind"] == "eval" and name in r]
    found = [pair for pair in found if not math.isnan(pair[0])]
    value, step = max(found, default=(None, 0))
    return (None, None) if value is None else (sign * value, -step)


@dataclass
class Active:
    """A member in a slot."""

    member: Member
    run: Run
    step: int
    end: int
    batches: Prefetch
    opened: contextlib.ExitStack


class Group:
    """Members of one program in the slots of one compiled step, to their ends or to `until`."""

    observers: Callable[[], Sequence[Observer]] = tuple
    batch_digests = False

    def __init__(
        self,
        waiting: deque[Member],
        folder: epath.Path,
        setup: Setup,
        at_once: int,
        table: Table,
        screen: Screen,
        until: int | None,
    ):
        self.waiting, self.folder, self.setup = waiting, folder, setup
        self.table, self.screen, self.until = table, screen, until
        data = setup.mesh.shape["data"]
        self.count = -(-min(at_once, len(waiting)) // data) * data
        self.program: Any = None
        self.signature: Any = None
        self.later: deque[Member] = deque()
        self.active: dict[int, Active] = {}
        self._pending: deque[tuple[Any, dict[int, tuple[int, int]]]] = deque()

    def train(self, stop: Stop) -> deque[Member]:
        """Trains them; returns those of other programs.

        Raises:
          Preempted: SIGTERM came; all states are saved.
        """
        try:
            self._fill(stop)
            counter = Counter(f"farm of {self.count}", self._left(), "steps")
            while self.active:
                stop.check()
                self._step()
                counter.total = counter.done + len(self.active) + self._left()
                counter.add(len(self.active))
                for number in list(self.active):
                    self._after(number, stop)
                self._fill(stop)
        except Stopped:
            self._flush()
            for number, active in self.active.items():
                active.run.report(active.step)
                active.run.save(self._state(number))
                self.table.note(active.member, "stopped", write=False)
            self.table.write()
            raise Preempted(
                f"preempted: saved {len(self.active)} members; run the same command to go on"
            ) from None
        finally:
            for number in list(self.active):
                self._leave(number)
        return self.later

    def _left(self) -> int:
        """The steps that members have before them; those that wait begin at 0."""
        running = sum(active.end - active.step for active in self.active.values())
        steps = [member.settings.steps for member in self.waiting]
        return running + sum(min(self.until or most, most) for most in steps)

    def _fill(self, stop: Stop) -> None:
        """Members that wait enter free slots."""
        for number in range(self.count):
            while number not in self.active and self.waiting:
                self._enter(number, self.waiting.popleft(), stop)

    def _enter(self, number: int, member: Member, stop: Stop) -> None:
        program = farm_step.program_of(member.settings)
        if self.program not in (None, program):
            self.later.append(member)
            return
        with contextlib.ExitStack() as opened:
            place = opened.enter_context(open_folder(str(self.folder / member.folder)))
            run = Run(member.settings, place, setup=self.setup)
            if self.program is None:
                self._compile(run, program)
            elif farm_step.signature(run) != self.signature:
                self.later.append(member)
                return
            opened.callback(run.close)
            if self.batch_digests and hosts.writes():
                run.digests = opened.enter_context(contextlib.closing(BatchDigests(place, 0, 1)))
            state = run.begin(member.recipe.operative, self.observers())
            run.evaluate_first(state, stop)
            start, steps = int(state.step), run.settings.steps
            over, end = run.over(start), min(self.until or steps, steps)
            if over or start >= end:
                self._say(member, "finished" if over else "paused")
                if over:
                    export_finished(member.settings, place, self.screen.say)
                return
            every = slice(0, run.settings.data.batch_size)  # whichever process has the slot
            batches = Prefetch(partial(run.rows, here=every), range(start, end))
            opened.callback(batches.close)
            rest = opened.pop_all()
            self.active[number] = Active(member, run, start, end, batches, rest)
        slot = farm_step.slot_of(run, state)
        if self.slots is None:
            self.slots = farm_step.empty(slot, self.count, self.places)
            own = jax.tree.map(lambda x: x.sharding, state)
            self._take = jax.jit(farm_step.take, out_shardings=own)
            self._put = jax.jit(farm_step.put, donate_argnums=0, out_shardings=self.places)
        self.slots = self._put(self.slots, number, slot)
        self.table.note(member, "running")
        run.meter.restart_clock()

    def _compile(self, run: Run, program: Any) -> None:
        self.program, self.signature = program, farm_step.signature(run)
        step = farm_step.make_farm_step(run)
        self.step = first_call(step, f"compiling the step of {self.count} members")
        self.backbone = farm_step.backbone_of(run)
        self.places = farm_step.members(run)
        self.slots: farm_step.Slot | None = None
        self._rows: dict[str, np.ndarray] = {}

    def _step(self) -> None:
        """One step of all members; a slot without one computes what nobody reads."""
        counts = {}
        for number, active in self.active.items():
            rows, counts[number] = active.batches.next(active.step, active.run.meter)
            for name, value in rows.items():
                if name not in self._rows:
                    self._rows[name] = np.zeros((self.count, *value.shape), value.dtype)
                self._rows[name][number] = value
        batch = farm_step.put_rows(self._rows, self.places)
        self.slots, metrics = self.step(self.slots, self.backbone, batch)
        self._pending.append((metrics, counts))
        for active in self.active.values():
            active.step += 1
        self._flush(BEHIND)

    def _flush(self, behind: int = 0) -> None:
        """Hands the metrics of steps to their members, but for the latest `behind`."""
        while len(self._pending) > behind:
            metrics, counts = self._pending.popleft()
            host = jax.device_get(metrics)
            for number, count in counts.items():
                own = jax.tree.map(lambda x, n=number: x[n], host)
                self.active[number].run.meter.add(own, *count)

    def _after(self, number: int, stop: Stop) -> None:
        active = self.active[number]
        run, step = active.run, active.step
        if not run.due(step) and step < active.end:
            return
        self._flush()
        try:
            over = run.after(step, lambda: self._state(number), stop)
        except RunError as error:
            self.screen.say(f"{active.member.name}: {error}")
            self._leave(number, "diverged", error=str(error))
            return
        if over or step >= active.end:
            if not over:
                run.report(step)
                run.save(self._state(number))
            self._leave(number, "finished" if over else "paused")

    def _state(self, number: int) -> TrainState:
        assert self.slots is not None
        return self._take(self.slots, number)

    def _leave(self, number: int, status: str | None = None, **more: Any) -> None:
        """A member leaves its slot; `status`: how it stands then."""
        active = self.active.pop(number)
        active.opened.close()
        if status is not None:
            self._say(active.member, status, **more)
        if status == "finished":
            export_finished(active.member.settings, active.run.folder, self.screen.say)

    def _say(self, member: Member, status: str, **more: Any) -> None:
        """Notes how a member stands, and prints it."""
        self.table.note(member, status, **more)
        rows = self.table.rows
        row, best = rows[member.name], ""
        if row.get("best") is not None:
            best = f"  best {row['metric']} {row['best']:.2f} at step {row['best_step']}"
        done = sum(r["status"] not in ("waiting", "running") for r in rows.values())
        self.screen.say(
            f"{member.name}: {status} at step {row['step']}{best}  ({done} of {len(rows)})"
        )


def summary_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each choice of settings but the seed: how many members have a value of the metric
    that chooses, and its mean, standard deviation (n - 1) and extremes over them."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        name = name_of({k: v for k, v in row["settings"].items() if k != "SEED"}) or "all"
        groups.setdefault(name, [])
        if row.get("best") is not None:
            groups[name].append(row["best"])
    found = []
    for name, values in groups.items():
        facts = spread_of(values) if values else {"mean": None, "std": None, "max": None}
        facts |= {"min": facts.get("min")}
        shown = {key: facts[key] for key in ("mean", "std", "min", "max")}
        found.append({"settings": name, "members": len(values), **shown})
    return found
