"""The launchers, run: a stub stands in for a cloud, a scheduler or ssh, the rest is real."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import BIN, JOB, LAUNCH, NASTY, PLACES, call


def calls(folder: Path) -> str:
    text = (folder / "calls").read_text()
    (folder / "calls").write_text("")
    return text


# A cloud of one thing: it is there while the file `there` holds its state.
CLOUD = """
case " $* " in
  *" describe "*) cat there 2>/dev/null ;;
  *" create "*) echo "$STATE" >there ;;
  *" delete "*) rm -f there ;;
esac
"""


@pytest.mark.parametrize(
    ("launcher", "gone"), [("tpu_vm", "PREEMPTED"), ("queued_resource", "FAILED")]
)
def test_a_slice_is_created_once_and_again_when_it_was_taken(
    job, stub, tmp_path: Path, launcher: str, gone: str
) -> None:
    folder = stub("gcloud", CLOUD.replace('"$STATE"', "ACTIVE"))
    path = job(JOB + 'accelerator = "v5litepod-16"\n' + PLACES)

    def launch(*flags: str) -> str:
        done = call(f"{launcher}.sh", path, *flags, cwd=tmp_path, path=folder)
        assert (done.returncode, done.stderr) == (0, "")
        return calls(tmp_path)

    first = launch()
    assert first.count(" create ") == 1
    assert first.rstrip().endswith("--command=bash\\ small/host.sh\\ start")
    again = launch()
    assert " create " not in again and " delete " not in again
    assert again.count("host.sh\\ start") == 1
    (tmp_path / "there").write_text(gone)
    anew = launch()
    assert anew.index(" delete ") < anew.index(" create ")
    assert launch("--delete").count("\n") == 1
    assert not (tmp_path / "there").exists()


def test_a_request_that_fails_while_it_is_waited_for(job, stub, tmp_path: Path) -> None:
    folder = stub("gcloud", CLOUD.replace('"$STATE"', "FAILED"))
    path = job(JOB + 'accelerator = "v5litepod-16"\n' + PLACES)
    done = call("queued_resource.sh", path, cwd=tmp_path, path=folder)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "small is FAILED: run this again" in done.stderr


def test_a_workload_of_gke_is_created_once(job, stub, tmp_path: Path) -> None:
    stub("docker", 'if [ "$1" = inspect ]; then echo registry/image@sha256:12; fi')
    listing = """*FINISHED*) if grep -q FINISHED there; then echo "small   now"; fi ;;
  *" list "*) echo "Jobset Name"; if [ -s there ]; then echo "small   now"; fi ;;"""
    cloud = CLOUD.replace('*" describe "', f'{listing}\n  *" describe "')
    folder = stub("xpk", cloud.replace('"$STATE"', "RUNNING"))
    path = job(JOB + 'accelerator = "v5litepod-16"\n' + PLACES)

    def launch(*flags: str) -> tuple[str, str]:
        done = call("xpk.sh", path, *flags, cwd=tmp_path, path=folder)
        assert (done.returncode, done.stderr) == (0, "")
        return calls(tmp_path), done.stdout

    first, _ = launch()
    assert "--docker-image=registry/image@sha256:12" in first
    assert "--device-type=v5litepod-16" in first and "--restart-on-exit-codes=1\\,75" in first
    again, said = launch()
    assert " create " not in again and "small is there already" in said
    (tmp_path / "there").write_text("FINISHED")
    assert launch()[0].count(" create ") == 1
    assert " delete --workload=small" in launch("--delete")[0]


def test_a_managed_job_of_skypilot_is_launched_once(job, stub, tmp_path: Path) -> None:
    folder = stub("sky", 'if [ "$2" = queue ]; then cat queue; fi')
    path = job(JOB + 'accelerator = "H100:8"\nhosts = 2\n' + PLACES.replace("[xm]", ""))
    (tmp_path / "queue").write_text('[{"job_name": "smaller"}]')
    assert call("sky.sh", path, cwd=tmp_path, path=folder).returncode == 0
    assert "sky jobs launch --yes --detach-run .launch/small.sky.yaml" in calls(tmp_path)
    task = (tmp_path / ".launch" / "small.sky.yaml").read_text()
    assert "accelerators: H100:8\n" in task and "num_nodes: 2\n" in task
    (tmp_path / "queue").write_text('[{"job_name": "small"}]')
    assert "small is there already" in call("sky.sh", path, cwd=tmp_path, path=folder).stdout
    assert "launch" not in calls(tmp_path)


# Every host is a folder of its own on this machine.
SSH = """
while [ "${1#-}" != "$1" ]; do shift 2; done
mkdir -p hosts/"${1#*@}" && cd hosts/"${1#*@}" && HOME=$PWD && shift && exec bash -c "$*"
"""
WAITS = """
printf '%s\\n' "$@" >words
trap 'echo saved; exit 75' TERM
while true; do sleep 0.05; done
"""
SSH_PLACE = '\n[ssh]\naddresses = ["me@one", "me@two"]\n'


def wait_for(what, seconds: int = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ssh_starts_once_on_every_host_and_stops(job, stub, tmp_path: Path) -> None:
    stub("prompt-jax", WAITS)
    folder = stub("ssh", SSH)
    (tmp_path / "run.gin").write_text("")
    text = JOB + f"hosts = 2\nfiles = ['run.gin']\nbindings = [{json.dumps(NASTY)}]\n" + SSH_PLACE
    path = job(text)

    def launch(*flags: str) -> str:
        done = call("ssh.sh", path, *flags, cwd=tmp_path, path=folder)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    try:
        assert launch().count("small runs on ") == 2
        for number, host in enumerate(["one", "two"]):
            place = tmp_path / "hosts" / host / "small"
            wait_for((place / "words").is_file)
            wait_for(lambda place=place: "--process=" in (place / "words").read_text())
            words = (place / "words").read_text().splitlines()
            assert words == [
                *["train", "--gin_file=run.gin", "--model_dir=runs/a b", f"--gin.{NASTY}"],
                *["--coordinator=one:8476", "--processes=2", f"--process={number}"],
            ]
            assert (place / "run.gin").is_file()
        assert launch().count("small already runs on ") == 2
    finally:
        stopped = launch("--delete")
    assert stopped.count("small stopped on ") == 2
    assert (tmp_path / "hosts" / "two" / "small" / "log.txt").read_text().endswith("saved\n")
    assert launch("--delete").count("small does not run on ") == 2


# What SLURM does with a job file, and srun with its tasks: the variables are those that SLURM sets.
SBATCH = """
for word in "$@"; do
  case $word in
    --chdir=*) cd "${word#*=}" ;;
    --nodes=*) export SLURM_JOB_NUM_NODES=${word#*=} ;;
    --ntasks-per-node=*) export SLURM_NTASKS_PER_NODE=${word#*=} ;;
  esac
done
cp "$OLDPWD/$word" spooled
export SLURM_JOB_ID=$JOB_ID SLURM_NTASKS=$((SLURM_JOB_NUM_NODES * SLURM_NTASKS_PER_NODE))
bash spooled >>log.txt 2>&1
echo "$?" >code
"""
SRUN = """
while [ "${1#-}" != "$1" ]; do shift; done
export SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=$SLURM_JOB_NUM_NODES
export SLURM_STEP_NODELIST=localhost,localhost2 SLURM_STEP_NUM_TASKS=$SLURM_NTASKS
tasks=()
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_NODEID=$((i / SLURM_NTASKS_PER_NODE)) \\
    SLURM_LOCALID=$((i % SLURM_NTASKS_PER_NODE)) "$@" &
  tasks+=($!)
done
worst=0
for task in "${tasks[@]}"; do
  code=0
  wait "$task" || code=$?
  if [ "$code" -gt "$worst" ]; then worst=$code; fi
done
exit "$worst"
"""


@pytest.fixture
def slurm(stub, tmp_path: Path):
    """A cluster of this one machine: the folder of its programs."""
    port = 61440 + os.getpid() % 4000  # where JAX's coordinator listens is a function of the job
    stub("sbatch", SBATCH.replace("$JOB_ID", str(port - 61440)))
    stub("srun", SRUN)
    stub("squeue", f"cat {shlex.quote(str(tmp_path))}/queue 2>/dev/null")
    stub("scancel", "")
    return stub("scontrol", "")


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (1, False)])
def test_slurm_puts_a_preempted_job_into_the_queue_again(
    job, stub, slurm: Path, tmp_path: Path, code: int, requeued: bool
) -> None:
    stub("prompt-jax", f'echo "task $SLURM_PROCID of $SLURM_NTASKS"; exit {code}')
    path = job(JOB + 'hosts = 2\naccelerator = "H100:2"\n' + PLACES)
    done = call("slurm.sh", path, cwd=tmp_path, path=slurm)
    assert (done.returncode, done.stderr) == (0, "")
    staged = tmp_path / ".launch" / "small"
    tasks = sorted(line for line in (staged / "log.txt").read_text().splitlines())
    assert tasks == [f"task {i} of 4" for i in range(4)]
    assert (staged / "code").read_text() == f"{code}\n"
    assert ("scontrol requeue " in calls(tmp_path)) is requeued


def test_slurm_submits_once(job, slurm: Path, tmp_path: Path) -> None:
    path = job(JOB + PLACES)
    (tmp_path / "queue").write_text("17 PENDING\n")
    done = call("slurm.sh", path, cwd=tmp_path, path=slurm)
    assert "small is there already: 17 PENDING" in done.stdout
    assert "sbatch" not in calls(tmp_path)
    call("slurm.sh", path, "--delete", cwd=tmp_path, path=slurm)
    assert calls(tmp_path) == "scancel --name=small --user=me\n"


def real_job(tiny: Path, tmp_path: Path, more: str) -> str:
    """A description of the tiny recipe, whose prompt comes to lie in `model dir`."""
    (tmp_path / "run.gin").write_text((tiny / "run.gin").read_text())
    return f"""
name = "small"
gin_files = ["run.gin"]
model_dir = "{tmp_path}/model dir"
files = ["run.gin"]
bindings = ["TRAIN_STEPS=4", "Train.log_period=2"]
env = {{ XLA_FLAGS = "", JAX_PLATFORMS = "cpu" }}
{more}"""


def trained(tmp_path: Path) -> bool:
    manifest = tmp_path / "model dir" / "prompt" / "last" / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text())["step"] == 4


@pytest.mark.slow
def test_two_tasks_of_slurm_train_a_prompt(job, slurm: Path, tiny: Path, tmp_path: Path) -> None:
    path = job(real_job(tiny, tmp_path, 'hosts = 2\n[slurm]\ntime = "1:00:00"\n'))
    done = call("slurm.sh", path, cwd=tmp_path, path=slurm)
    log = (tmp_path / ".launch" / "small" / "log.txt").read_text()
    assert done.returncode == 0, log
    assert "all 2 processes answered" in log
    assert trained(tmp_path), log


@pytest.mark.slow
def test_two_hosts_by_ssh_train_a_prompt(job, stub, tiny: Path, tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    more = f'hosts = 2{SSH_PLACE}coordinator = "localhost:{port}"\n'
    path, folder = job(real_job(tiny, tmp_path, more)), stub("ssh", SSH)
    done = call("ssh.sh", path, cwd=tmp_path, path=folder)
    assert (done.returncode, done.stderr) == (0, "")
    try:
        wait_for(lambda: trained(tmp_path), 400)
    finally:
        call("ssh.sh", path, "--delete", cwd=tmp_path, path=folder)
    assert "all 2 processes answered" in (tmp_path / "hosts/one/small/log.txt").read_text()


VERTEX = """
import sys
import job, xm_launch
from xmanager import xm
from xmanager.cloud import vertex

described = job.read(sys.argv[1])
xm_launch.check(described)
executor = xm_launch.executor_of(described)
print(vertex.get_machine_spec(xm.Job(executable=None, executor=executor))["machine_type"])
"""


@pytest.mark.slow
def test_xmanager_runs_the_job_here(job, tiny: Path, tmp_path: Path, monkeypatch) -> None:
    python, uv = str(tmp_path / "venv" / "bin" / "python"), str(BIN / "uv")
    make = [uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")]
    install = [uv, "pip", "install", "--quiet", "--python", python, "-r"]
    subprocess.run(make, check=True)
    subprocess.run([*install, str(LAUNCH / "requirements-xm.txt")], check=True)
    monkeypatch.setenv("HOME", str(tmp_path))  # XManager keeps a database there
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(LAUNCH))

    def run(program: list[str], text: str) -> subprocess.CompletedProcess:
        words = [python, *program, job(text)]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600)

    launcher, text = [str(LAUNCH / "xm_launch.py")], real_job(tiny, tmp_path, "[xm]\n")
    done = run(launcher, text)
    assert done.returncode == 0, done.stderr
    assert "steps 0 to 4" in done.stdout and trained(tmp_path)
    assert run(launcher, text.replace("TRAIN_STEPS=4", "TRIAN_STEPS=4")).returncode != 0
    vertex = 'accelerator = "L4:1"\n[xm]\nexecutor = "vertex"\nimage = "registry/image:tag"\n'
    done = run(["-c", VERTEX], real_job(tiny, tmp_path, vertex))
    assert done.stdout.startswith("g2-standard"), done.stderr
