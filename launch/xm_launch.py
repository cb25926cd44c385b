"""A job by XManager: python launch/xm_launch.py JOB.toml [--dry-run]

On this machine, or with `executor = "vertex"` on one host of Vertex AI, whose image is built here.
XManager needs an older protobuf than prompt_jax: it lives in an environment of its own, made from
launch/requirements-xm.txt, and nothing of prompt_jax is imported. `xmanager launch
launch/xm_launch.py -- JOB.toml` does the same.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import job as jobs

# Our kinds of GPU by XManager's names, where it knows a machine of Vertex AI for them.
VERTEX_GPUS = {"A100": "A100", "L4": "L4_24TH", "T4": "T4", "V100": "V100", "P100": "P100"}


def main(argv: Sequence[str]) -> None:
    """What XManager calls with (script, JOB.toml)."""
    job = jobs.read(argv[1])
    check(job)
    folder = Path(".launch", job.name).absolute()
    jobs.stage(job, folder)
    if job.places["xm"].executor == "local":
        subprocess.run(["bash", str(folder / "host.sh"), "setup"], check=True)
    launch(job, folder)


def check(job: jobs.Job) -> None:
    """Refuses what the executor cannot do.

    Raises:
      JobError: no section [xm], several hosts, a GPU or an image that Vertex AI lacks.
    """
    if "xm" not in job.places:
        raise jobs.JobError("[xm] is missing: this launcher needs that section")
    if job.hosts != 1:
        raise jobs.JobError(f"hosts = {job.hosts}: XManager runs one here; xpk.sh takes several")
    if job.places["xm"].executor == "vertex":
        if job.accelerator.split(":")[0] not in VERTEX_GPUS:
            known = ", ".join(f"{kind}:N" for kind in VERTEX_GPUS)
            raise jobs.JobError(f"accelerator = {job.accelerator!r}: Vertex AI takes {known}")
        if not job.places["xm"].image:
            raise jobs.JobError("[xm] image is missing: where is the image to be pushed?")


def launch(job: jobs.Job, folder: Path) -> None:
    """One experiment with one work unit, which runs the job's command as every host does."""
    from xmanager import xm, xm_local

    with xm_local.create_experiment(experiment_title=job.name) as experiment:
        executor = executor_of(job)
        (executable,) = experiment.package([packageable(job, folder, executor.Spec)])
        experiment.add(xm.Job(executable=executable, executor=executor))


def executor_of(job: jobs.Job) -> Any:
    """The local executor, or Vertex AI's with the GPUs of the job."""
    from xmanager import xm, xm_local

    if job.places["xm"].executor == "local":
        return xm_local.Local()
    kind = xm.ResourceType[VERTEX_GPUS[job.accelerator.split(":")[0]]]
    return xm_local.Vertex(requirements=xm.JobRequirements({kind: job.gpus}))


def packageable(job: jobs.Job, folder: Path, spec: Any) -> Any:
    """`host.sh run` in the folder of the job: as a process here, as an image for Vertex AI."""
    from xmanager import xm

    if job.places["xm"].executor == "local":
        return xm.binary(spec(), path=shutil.which("bash"), args=[str(folder / "host.sh"), "run"])
    return xm.dockerfile_container(spec(push_image_tag=job.places["xm"].image), path=str(folder))


def describe(job: jobs.Job) -> str:
    """What a launch would do, as text."""
    text = "".join(f"#   {line}\n" for line in jobs.job_sh(job).splitlines())
    where = {
        "local": f"bash .launch/{job.name}/host.sh setup\nbash .launch/{job.name}/host.sh run\n",
        "vertex": f"docker build .launch/{job.name}, pushed as {job.places['xm'].image},\n"
        f"run by Vertex AI on one host with {job.accelerator}\n",
    }
    head = f"# .launch/{job.name}/job.sh:\n{text}# as an experiment of XManager, {job.name}:\n"
    return head + where[job.places["xm"].executor]


def run(arguments: list[str]) -> None:
    """The command line.

    Raises:
      JobError: a wrong one, or a wrong description.
    """
    paths = [argument for argument in arguments if not argument.startswith("-")]
    flags = [argument for argument in arguments if argument.startswith("-")]
    if len(paths) != 1 or flags not in ([], ["--dry-run"]):
        raise jobs.JobError("usage: xm_launch.py JOB.toml [--dry-run]")
    job = jobs.read(paths[0])
    check(job)
    if flags:
        print(describe(job), end="")
        return
    try:
        import xmanager  # noqa: F401
        from absl import app
    except ImportError as error:
        remedy = "uv pip install -r launch/requirements-xm.txt, into an environment of its own"
        raise jobs.JobError(f"{error.name} is not installed: {remedy}") from error
    app.run(main, argv=[sys.argv[0], paths[0]])


if __name__ == "__main__":
    try:
        run(sys.argv[1:])
    except jobs.JobError as error:
        print("launch: error:", error, file=sys.stderr)
        sys.exit(2)
