"""Tasks through the program by its commands; the whole list is for `make nightly`."""

import pytest
from task_battery import JOBS, run


def test_every_superglue_task_and_xtreme_task_is_on_the_list():
    names = {job.scored[0] for job in JOBS.values()}
    superglue = {name for name in names if name.startswith("super_glue_")}
    xtreme = {name.split("_")[1] for name in names if name.startswith("xtreme_")}
    assert len(superglue) == 10
    assert xtreme == {
        "xnli",
        "pawsx",
        "udpos",
        "panx",
        "xquad",
        "mlqa",
        "tydiqa",
        "xcopa",
        "tatoeba",
        "bucc",
    }


@pytest.fixture(autouse=True)
def own_data_folder(monkeypatch, tmp_path):
    """What --data_dir sets is undone."""
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cb", "panx"])
def test_a_task_is_taken_through_the_program(name, shared, tmp_path):
    print(run(name, str(shared / "data"), tmp_path))


@pytest.mark.slow
def test_all_tasks_are_taken_through_the_program(shared, tmp_path):
    for name in JOBS:
        print(run(name, str(shared / "data"), tmp_path))
