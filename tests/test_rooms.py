"""The order of the rooms, as `docs/architecture.py` states it, over every import statement."""

import pytest
from architecture import FIGURE, PAGE, ROOMS, ROOT, circles, file_list, read_sources, upward


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read_sources()


def test_no_import_runs_against_the_order_of_rooms(sources: dict[str, str]) -> None:
    assert upward(sources) == []


def test_a_planted_lazy_import_of_a_later_room_is_named(sources: dict[str, str]) -> None:
    planted = "def load():\n    from prompt_jax.run.train import train\n    return train\n"
    found = upward({**sources, "prompt_jax.model.planted": planted})
    assert found == ["prompt_jax.model.planted:2 imports prompt_jax.run.train"]


def test_no_modules_import_each_other(sources: dict[str, str]) -> None:
    assert circles(sources) == []
    planted = {"prompt_jax.model.t5": "from prompt_jax.model import decode\n"}
    assert "prompt_jax.model.decode" in circles({**sources, **planted})


def test_every_folder_of_the_package_is_a_room() -> None:
    folders = {p.name for p in (ROOT / "prompt_jax").iterdir() if (p / "__init__.py").exists()}
    assert folders <= set(ROOMS)


def test_the_page_lists_every_file(sources: dict[str, str]) -> None:
    """`python docs/architecture.py` writes the list."""
    assert file_list(sources) in PAGE.read_text()
    assert FIGURE.is_file()
