"""`pretrain` over several processes makes what one makes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from prompt_jax.cli.main import main
from prompt_jax.hosts.rehearse import environment, free_port

LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def write_corpus(folder: Path) -> None:
    """600 paragraphs of twelve words each, of 200 random words, and 60 that are held out."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(LETTERS, rng.integers(2, 9))) for _ in range(200)]
    for name, lines in (("text.txt", 600), ("held_out.txt", 60)):
        text = "".join(" ".join(rng.choice(words, 12)) + "\n" for _ in range(lines))
        (folder / name).write_text(text)


@pytest.mark.slow
def test_two_processes_make_the_backbone_that_one_makes(tmp_path):
    write_corpus(tmp_path)
    macros = {
        "CORPUS": tmp_path,
        "FILES": "('text.txt',)",
        "HELD_OUT": "('held_out.txt',)",
        "BATCH_SIZE": 8,
        "SPAN_STEPS": 4,
        "PREFIX_STEPS": 2,
        "EVAL_PERIOD": 4,
        "NewVocabulary.size": 500,
        "Schedule.warmup_steps": 1,
    }
    bindings = [f"--gin.{name}={value}" for name, value in macros.items()]
    command = ["pretrain", "--gin_file=runs/pretrain_nano.gin", *bindings]
    program = [sys.executable, "-m", "prompt_jax", *command, f"--model_dir={tmp_path}/two"]
    program += [f"--coordinator=127.0.0.1:{free_port()}", "--processes=2", "--json"]
    started = [
        subprocess.Popen(
            [*program, f"--process={n}"],
            env=environment(4),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for n in range(2)
    ]
    said = [process.communicate(timeout=500) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "held_out_loss" in said[0][0] and said[1][0] == ""  # one of them reports
    assert main([*command, f"--model_dir={tmp_path}/one"]) == 0
    one, two = (
        load_file(tmp_path / run / "backbone" / "model.safetensors") for run in ("one", "two")
    )
    spieces = [
        (tmp_path / run / "backbone" / "spiece.model").read_bytes() for run in ("one", "two")
    ]
    assert spieces[0] == spieces[1]
    for name in one:  # bfloat16
        np.testing.assert_allclose(
            *(x[name].astype(np.float32) for x in (one, two)), rtol=0.02, atol=2e-3, err_msg=name
        )
