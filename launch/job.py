"""One description of a job for every launcher: a TOML file, checked and made ready for a shell.

It is what the launchers share, needs nothing but Python 3.11 and imports nothing of prompt_jax:

  python3 launch/job.py show JOB.toml            the text of job.sh, which runs on every host
  python3 launch/job.py variables PLACE JOB.toml what a launcher needs, as assignments for bash
  python3 launch/job.py stage FOLDER JOB.toml    the folder that goes to every host

A wrong description is one line on standard error and exit code 2.
"""

import difflib
import re
import shlex
import shutil
import sys
import tomllib
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ON_HOST = ("host.sh", "slurm_job.sh", "Dockerfile")  # in every staged folder, beside job.sh

NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"  # what Google Cloud, Kubernetes and a folder allow alike
TPU = r"v\d+[a-z]*-\d+"  # as gcloud writes it, such as v5litepod-16
GPU = r"[A-Za-z][A-Za-z0-9-]*:\d+"  # a kind and how many in a host, such as H100:8


class JobError(ValueError):
    """What is wrong with a description, in one line."""


@dataclass(frozen=True)
class Gcloud:
    """Where a TPU is created by gcloud."""

    project: str
    zone: str
    runtime_version: str
    spot: bool = False
    args: tuple[str, ...] = ()  # more flags of `create`


@dataclass(frozen=True)
class Xpk:
    """A GKE cluster that xpk made, and the image that it runs."""

    project: str
    zone: str
    cluster: str
    image: str
    max_restarts: int = 10
    args: tuple[str, ...] = ()  # more flags of `workload create`


@dataclass(frozen=True)
class Slurm:
    """What sbatch is asked for."""

    time: str
    partition: str = ""
    args: tuple[str, ...] = ()  # more flags of sbatch


@dataclass(frozen=True)
class Sky:
    """Where SkyPilot may look for machines."""

    infra: str = ""
    runtime_version: str = ""  # of a TPU
    spot: bool = False
    max_restarts: int = 10
    args: tuple[str, ...] = ()  # more flags of `jobs launch`


@dataclass(frozen=True)
class Ssh:
    """Hosts that are there already; the first is where the others meet."""

    addresses: tuple[str, ...]
    coordinator: str = ""  # ADDRESS:PORT of the first, as the others reach it
    args: tuple[str, ...] = ()  # options of ssh

    def __post_init__(self) -> None:
        for address in self.addresses:
            _match("[ssh] addresses", address, r"[A-Za-z0-9_.@-]+", "HOST or USER@HOST")
        if self.coordinator:
            _match("[ssh] coordinator", self.coordinator, r"[A-Za-z0-9_.-]+:\d+", "ADDRESS:PORT")


@dataclass(frozen=True)
class Xm:
    """What XManager's executor needs: nothing where it is the local one."""

    executor: str = "local"
    image: str = ""  # where it is pushed for Vertex AI

    def __post_init__(self) -> None:
        _match("[xm] executor", self.executor, "local|vertex", "local or vertex")


PLACES = {"gcloud": Gcloud, "xpk": Xpk, "slurm": Slurm, "sky": Sky, "ssh": Ssh, "xm": Xm}


@dataclass(frozen=True)
class Job:
    """A run of `prompt-jax train`: what, on what, and where its results go."""

    name: str
    gin_files: tuple[str, ...]
    model_dir: str
    accelerator: str = "cpu"
    hosts: int = 1
    bindings: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()  # other flags of `prompt-jax train`
    files: tuple[str, ...] = ()  # go to every host, side by side
    install: tuple[str, ...] = ()  # arguments of `uv pip install` on every host
    env: dict[str, str] = field(default_factory=dict)
    places: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _match("name", self.name, NAME, "small letters, digits and hyphens, at most 40")
        for binding in self.bindings:
            _match("bindings", binding, r"[A-Za-z_][\w./@]*=.+", "NAME=VALUE, as after --gin.")
        for name in self.env:
            _match("env", name, r"[A-Za-z_]\w*", "a name of a variable")
        if not self.gin_files:
            raise JobError("gin_files is empty: name a recipe, such as runs/quickstart.gin")
        kinds = f"cpu|{TPU}|{GPU}"
        _match("accelerator", self.accelerator, kinds, "cpu, a slice (v5litepod-16) or H100:8")
        if self.hosts < 1:
            raise JobError(f"hosts = {self.hosts}: take at least 1")
        if self.is_tpu and self.hosts != 1:
            raise JobError(
                f"hosts = {self.hosts}: {self.accelerator} brings its own hosts; leave it out"
            )
        for flag in self.flags:
            _match("flags", flag, r"--[a-z_]+(=.*)?", "--NAME=VALUE")
        if "ssh" in self.places and len(self.places["ssh"].addresses) != self.hosts:
            told = len(self.places["ssh"].addresses)
            raise JobError(f"[ssh] has {told} addresses, but hosts = {self.hosts}: make them equal")

    @property
    def is_tpu(self) -> bool:
        return re.fullmatch(TPU, self.accelerator) is not None

    @property
    def gpus(self) -> int:
        """In every host; 0 without any."""
        return int(self.accelerator.split(":")[1]) if ":" in self.accelerator else 0


def command(job: Job) -> list[str]:
    """The command, the same on every host."""
    recipes = [f"--gin_file={name}" for name in job.gin_files]
    bindings = [f"--gin.{binding}" for binding in job.bindings]
    return ["prompt-jax", "train", *recipes, f"--model_dir={job.model_dir}", *job.flags, *bindings]


def job_sh(job: Job) -> str:
    """What `host.sh` reads on every host: variables, what to install, the command."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in job.env.items()]
    lines = [
        "# shellcheck shell=bash disable=SC2016,SC2034",
        f"name={job.name}",
        *exports,
        f"install=({shlex.join(job.install)})",
        f"command=({shlex.join(command(job))})",
    ]
    return "\n".join(lines) + "\n"


def stage(job: Job, folder: Path) -> None:
    """Fills the folder that goes to every host."""
    names = [Path(name).name for name in job.files]
    for path, name in zip(job.files, names, strict=True):
        if names.count(name) > 1 or name in (*ON_HOST, "job.sh"):
            raise JobError(f"files: {path}: the name {name} is taken in the folder; rename it")
        if not Path(path).is_file():
            raise JobError(f"files: {path} is not a file, seen from {Path.cwd()}")
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*job.files, *(HERE / name for name in ON_HOST)]:
        shutil.copy(path, folder)
    (folder / "job.sh").write_text(job_sh(job), encoding="utf-8")


def variables(job: Job, place: str) -> str:
    """Assignments `JOB_NAME=...` for bash: of the job, and of the section of a place."""
    if place not in job.places:
        raise JobError(f"[{place}] is missing: this launcher needs that section")
    lines = [
        f"JOB_NAME={job.name}",
        f"JOB_ACCELERATOR={job.accelerator}",
        f"JOB_TPU={int(job.is_tpu)}",
        f"JOB_GPUS={job.gpus}",
        f"JOB_HOSTS={job.hosts}",
        f"JOB_FILES=({shlex.join(Path(name).name for name in job.files)})",
    ]
    values = job.places[place]
    for part in fields(values):
        lines.append(f"JOB_{part.name.upper()}={_for_bash(vars(values)[part.name])}")
    return "\n".join(lines) + "\n"


def _for_bash(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({shlex.join(value)})"
    return str(int(value)) if isinstance(value, int) else shlex.quote(value)


def read(path: str) -> Job:
    """Reads and checks a description.

    Raises:
      JobError: no such file, no TOML, an unknown or missing key, a value of a wrong type or form.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise JobError(f"{path} is no TOML: {error}") from error
    try:
        sections = {name: content.pop(name) for name in PLACES if name in content}
        places = {name: _build(PLACES[name], name, part) for name, part in sections.items()}
        return replace(_build(Job, "", content), places=places)
    except JobError as error:
        raise JobError(f"{path}: {error}") from error


def _build(kind: type, section: str, content: Any) -> Any:
    """A dataclass from a table of TOML, its keys and types checked."""
    if not isinstance(content, dict):
        raise JobError(f"{section} = {content!r}: expected a table [{section}]")
    where = f"[{section}] " if section else ""
    known = {part.name: part for part in fields(kind) if part.name != "places"}
    for key in sorted(content.keys() - known):
        near = difflib.get_close_matches(key, [*known, *PLACES], 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise JobError(f"{where}unknown key {key!r}: {hint}")
    for name, part in known.items():
        if part.default is MISSING and part.default_factory is MISSING and name not in content:
            raise JobError(f"{where}{name} is missing")
    return kind(**{key: _typed(f"{where}{key}", known[key].type, content[key]) for key in content})


def _typed(key: str, kind: Any, value: Any) -> Any:
    """A value of TOML as a dataclass holds it."""
    told = f"{key} = {value!r}"
    if kind == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise JobError(f"{told}: expected a list of strings")
        return tuple(_one_line(key, part) for part in value)
    if kind == dict[str, str]:
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise JobError(f"{told}: expected a table of strings")
        return {name: _one_line(key, part) for name, part in value.items()}
    if kind in (str, int, bool) and type(value) is not kind:
        raise JobError(f"{told}: expected {kind.__name__}")
    return _one_line(key, value) if kind is str else value


def _one_line(key: str, text: str) -> str:
    if not text.isprintable():
        raise JobError(f"{key} = {text!r}: holds a line break or another control character")
    return text


def _match(key: str, value: str, pattern: str, expected: str) -> None:
    if re.fullmatch(pattern, value) is None:
        raise JobError(f"{key} = {value!r}: expected {expected}")


USAGE = "usage: job.py show JOB.toml | variables PLACE JOB.toml | stage FOLDER JOB.toml"


def main(arguments: list[str]) -> None:
    """What the launchers call."""
    match arguments:
        case ["show", path]:
            print(job_sh(read(path)), end="")
        case ["variables", place, path] if place in PLACES:
            print(variables(read(path), place), end="")
        case ["stage", folder, path]:
            stage(read(path), Path(folder))
        case _:
            raise JobError(USAGE)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except JobError as error:
        print("launch: error:", error, file=sys.stderr)
        sys.exit(2)
