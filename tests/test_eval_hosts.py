"""`eval` over several processes says what one says, uneven last batches included."""

import json
import subprocess
import sys

import numpy as np
import pytest

from prompt_jax import hosts
from prompt_jax.cli.main import main
from prompt_jax.hosts.rehearse import environment, free_port


@pytest.mark.slow
@pytest.mark.parametrize("examples", [53, 2])
def test_two_processes_answer_as_one_though_the_last_batch_is_uneven(
    tiny, tmp_path, capsys, examples
):
    """53 examples in batches of 24: 24, 24 and 5, on 4 devices of 2 processes; 2 on 4 devices."""
    rows = np.random.default_rng(0).normal(size=(2, 4, 16)).astype(np.float32)
    for number, prompt in enumerate(rows):
        np.save(tmp_path / f"{number}.npy", prompt)
    command = [
        "eval",
        *(f"--prompt={tmp_path}/{number}.npy" for number in range(2)),
        f"--backbone=files:{tiny}/backbone",
        f"--task={tiny}/toy.train.jsonl",
        "--split=validation",
        f"--max_examples={examples}",
        "--batch_size=24",
        "--dtype=float32",
        "--input_length=28",
        "--target_length=8",
        "--json",
    ]
    assert main([*command, f"--predictions={tmp_path}/one.jsonl"]) == 0
    report = json.loads(capsys.readouterr().out)
    flags = [
        f"--coordinator=127.0.0.1:{free_port()}",
        "--processes=2",
        f"--predictions={tmp_path}/two.jsonl",
    ]
    program = [sys.executable, "-m", "prompt_jax", *command, *flags]
    started = [
        subprocess.Popen(
            [*program, f"--process={n}"],
            env=environment(2),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for n in range(2)
    ]
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert said[1][0] == ""  # one of them reports
    together = json.loads(said[0][0])
    assert report["examples"] == together["examples"] == examples
    assert together == report
    one, two = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == 3 * examples  # of two prompts and of their vote
    scores = [[row.pop("score") for row in rows] for rows in (one, two)]
    assert one == two and len({row["prediction"] for row in one}) > 1
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5, atol=1e-5)


def test_a_journal_is_for_one_process(tiny, monkeypatch, capsys):
    monkeypatch.setattr(hosts, "several", lambda: True)
    words = [f"--backbone=files:{tiny}/backbone", f"--task={tiny}/toy.train.jsonl"]
    assert main(["eval", *words, "--split=validation", "--journal=j.jsonl"]) == 2
    assert "--journal=j.jsonl: can be kept by one process only" in capsys.readouterr().err
