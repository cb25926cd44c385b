"""The launchers: what they would run, and what they refuse.

Nothing of prompt_jax is imported here, as in launch/ itself.
"""

import ast
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import BIN, JOB, LAUNCH, NASTY, PLACES, call, import_job

jobs = import_job()
GOLDEN = Path(__file__).parent / "golden" / "launch"


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_a_dry_run_says_what_would_be_run(golden: Path) -> None:
    launcher, example = golden.stem.split("-")
    launcher += ".py" if launcher == "xm_launch" else ".sh"
    said = ""
    for flags in [["--dry-run"], ["--dry-run", "--delete"]][: 1 if ".py" in launcher else 2]:
        done = call(launcher, f"launch/examples/{example}.toml", *flags)
        assert (done.returncode, done.stderr) == (0, "")
        said += f"== {' '.join(flags)}\n{done.stdout}"
    assert said == golden.read_text()


def test_a_dry_run_writes_nothing(job, tmp_path: Path) -> None:
    path = job(JOB + 'accelerator = "v5litepod-16"\n' + PLACES)
    for launcher in ("tpu_vm.sh", "queued_resource.sh", "xpk.sh", "sky.sh"):
        assert call(launcher, path, "--dry-run", cwd=tmp_path).returncode == 0
    assert [file.name for file in tmp_path.iterdir()] == ["job.toml"]


def test_a_login_node_without_a_user_variable(job) -> None:
    path = job(JOB + 'accelerator = "cpu"\nhosts = 1\n' + PLACES)
    program = ["env", "-u", "USER", "bash", str(LAUNCH / "slurm.sh"), path, "--dry-run"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "squeue --user=" in done.stdout


def test_every_launcher_has_a_golden_dry_run() -> None:
    told = {path.stem.split("-")[0] for path in GOLDEN.glob("*.txt")}
    scripts = {path.stem for path in LAUNCH.glob("*.sh")} - {"common", "host", "slurm_job"}
    assert told == scripts | {"xm_launch"}
    readme = (LAUNCH / "README.md").read_text()
    assert [name for name in scripts if f"launch/{name}.sh " not in readme] == []


def test_shellcheck_has_nothing_to_say(job, tmp_path: Path) -> None:
    jobs.stage(jobs.read(job(JOB + f"bindings = [{json.dumps(NASTY)}]\n")), tmp_path / "staged")
    scripts = [*LAUNCH.glob("*.sh"), *(tmp_path / "staged").glob("*.sh")]
    done = subprocess.run(
        [str(BIN / "shellcheck"), *map(str, scripts)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_here_imports_the_stack() -> None:
    allowed = {*sys.stdlib_module_names, "job", "xmanager", "absl"}
    for path in LAUNCH.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            else:
                continue
            assert names <= allowed, f"{path.name}: {names - allowed}"


def test_every_word_survives_the_shell(job, tmp_path: Path) -> None:
    bindings, value = json.dumps([NASTY, 'A=""']), json.dumps("it's $HOME")
    described = jobs.read(job(JOB + f"bindings = {bindings}\nenv = {{ B = {value} }}\n"))
    jobs.stage(described, tmp_path / "staged")
    script = 'source staged/job.sh; printf "%s\\0" "$B" "${command[@]}"'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    words = jobs.command(described)
    assert done.stdout.split("\0")[:-1] == ["it's $HOME", *words]
    assert words[3:] == ["--model_dir=runs/a b", f"--gin.{NASTY}", '--gin.A=""']


def test_a_dry_run_can_be_pasted_into_a_shell(job) -> None:
    words = ["--labels=a='b c',d=$e", '--network="x"']
    text = JOB + 'accelerator = "v5litepod-16"\n' + PLACES
    text = text.replace(
        'runtime_version = "v"', f'runtime_version = "v"\nargs = {json.dumps(words)}'
    )
    done = call("tpu_vm.sh", job(text), "--dry-run")
    (line,) = [line for line in done.stdout.splitlines() if " create " in line]
    assert shlex.split(line)[-2:] == words


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("gin_files", "gin_flies", ["unknown key 'gin_flies'", "did you mean gin_files?"]),
        ('name = "small"', "", ["name is missing"]),
        ('"small"', '"My Job"', ["name = 'My Job'", "small letters"]),
        ('"small"', "3", ["name = 3: expected str"]),
        ('["run.gin"]', '"run.gin"', ["gin_files = 'run.gin': expected a list of strings"]),
        ('["run.gin"]', "[]", ["gin_files is empty"]),
        ('"runs/a b"', '"a\\nb"', ["model_dir", "line break"]),
        ("[xm]", '[xm]\nexecutor = "caip"', ["[xm] executor = 'caip'", "local or vertex"]),
        ("[xm]", "[xmm]", ["unknown key 'xmm'", "did you mean xm?"]),
        ('zone = "z"', "", ["[gcloud] zone is missing"]),
        ('project = "p"', 'projekt = "p"', ["[gcloud] unknown key 'projekt'"]),
        ("[sky]", "[sky]\nspot = 1", ["[sky] spot = 1: expected bool"]),
        ("\n[gcloud]", 'hosts = 2\naccelerator = "v4-8"\n[gcloud]', ["brings its own hosts"]),
        ("\n[gcloud]", "hosts = 0\n[gcloud]", ["hosts = 0: take at least 1"]),
        ("\n[gcloud]", 'accelerator = "8xH100"\n[gcloud]', ["accelerator = '8xH100'", "H100:8"]),
        ("\n[gcloud]", 'bindings = ["STEPS 3"]\n[gcloud]', ["bindings = 'STEPS 3'", "NAME=VALUE"]),
        ("\n[gcloud]", 'flags = ["json"]\n[gcloud]', ["flags = 'json'", "--NAME=VALUE"]),
        ("\n[gcloud]", 'env = { "A B" = "1" }\n[gcloud]', ["env = 'A B'"]),
        ("\n[gcloud]", 'places = "x"\n[gcloud]', ["unknown key 'places'"]),
        ("[xm]", '[ssh]\naddresses = ["a", "b"]', ["2 addresses, but hosts = 1"]),
        ("[xm]", '[ssh]\naddresses = ["a; b"]', ["addresses = 'a; b'", "USER@HOST"]),
        ("[xm]", '[ssh]\naddresses = ["a"]\ncoordinator = "a"', ["ADDRESS:PORT"]),
        ("[xm]", "[xm", ["is no TOML"]),
    ],
)
def test_a_wrong_description_is_one_line(job, old: str, new: str, parts: list[str]) -> None:
    text = JOB + PLACES
    assert old in text
    path = job(text.replace(old, new, 1))
    done = call("job.py", "show", path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert [part for part in ["launch: error:", path, *parts] if part not in done.stderr] == []


@pytest.mark.parametrize(
    ("launcher", "arguments", "part"),
    [
        ("tpu_vm.sh", [], "no job: tpu_vm.sh JOB.toml"),
        ("tpu_vm.sh", ["JOB", "--dryrun"], "unknown flag --dryrun"),
        ("tpu_vm.sh", ["JOB", "other.toml"], "two jobs"),
        ("tpu_vm.sh", ["none.toml"], "none.toml: No such file"),
        ("tpu_vm.sh", ["JOB"], "accelerator = cpu: take a TPU slice"),
        ("queued_resource.sh", ["JOB"], "accelerator = cpu: take a TPU slice"),
        ("xpk.sh", ["JOB", "--dry-run"], "accelerator = cpu: take a TPU slice, H100:8"),
        ("ssh.sh", ["JOB"], "[ssh] is missing"),
        ("sky.sh", ["JOB"], "sky is not on PATH"),
        ("slurm.sh", ["JOB"], "sbatch is not on PATH"),
        ("xm_launch.py", ["JOB", "--delete"], "usage: xm_launch.py JOB.toml [--dry-run]"),
        ("xm_launch.py", ["JOB"], "xmanager is not installed: uv pip install -r"),
        ("job.py", ["variables", "aws", "JOB"], "usage: job.py"),
    ],
)
def test_a_wrong_call_is_one_line(job, stub, launcher: str, arguments, part: str) -> None:
    path = job(JOB + PLACES)
    folder = stub("gcloud", "exit 1")
    words = [path if word == "JOB" else word for word in arguments]
    if "is not on PATH" in part and shutil.which(part.split()[0]):
        pytest.fail(f"{part.split()[0]} is installed here: this test needs a machine without it")
    done = call(launcher, *words, path=folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert part in done.stderr


def test_a_file_that_is_missing_or_named_twice(job, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "host.sh").touch()
    for files, part in [(["none.whl"], "none.whl is not a file"), (["a/host.sh"], "is taken")]:
        done = call("job.py", "stage", "x", job(JOB + f"files = {files}\n"), cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert part in done.stderr
