"""The fixtures `runs` and `library`, for the tests of SPoT."""

import shutil
from pathlib import Path

import pytest

import prompt_jax as pj
from prompt_jax.prompt.library import Library
from prompt_jax.transfer.embed import take

SHORT = [
    "TRAIN_STEPS=4",
    "EVAL_PERIOD=2",
    "CHECKPOINT_PERIOD=2",
    "Checkpoints.keep_period=2",
    "SoftPrompt.decoder_length=2",
    "Evaluation.max_examples=8",
]


@pytest.fixture(scope="session")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with finished runs of two tasks of the tiny backbone, `one` and `two`.

    Made once per session, and not to be changed.
    """
    folder = tmp_path_factory.getbasetemp() / "spot"
    if folder.exists():
        return folder
    folder.mkdir()
    for seed, name in enumerate(("one", "two")):
        for split in ("train", "validation"):
            shutil.copy(tiny / f"toy.{split}.jsonl", folder / f"{name}.{split}.jsonl")
        bindings = [*SHORT, f"TASK='{folder}/{name}.train.jsonl'", f"SEED={seed}"]
        pj.train([str(tiny / "run.gin")], bindings, str(folder / f"run_{name}"))
    return folder


@pytest.fixture(scope="session")
def library(runs: Path) -> Path:
    """A library with both."""
    for name in ("one", "two"):
        take(Library(str(runs / "library")), str(runs / f"run_{name}"), name, None)
    return runs / "library"
