"""Similarities on real prompts, averages, what a library refuses, and the three verbs."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from spot_library import SHORT

import prompt_jax as pj
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.inspect import pictures
from prompt_jax.methods.parts.inits import FileInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.prompt.artefact import Prompt, load_prompt
from prompt_jax.prompt.library import Library
from prompt_jax.transfer import similarity as spot
from prompt_jax.transfer.embed import take


def by_hand(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Both formulas as they are written, pair by pair."""
    cosine = lambda x, y: float(x @ y / np.sqrt((x @ x) * (y @ y)))  # noqa: E731
    a, b = a.astype(np.float64), b.astype(np.float64)
    pairs = sum(cosine(x, y) for x in a for y in b) / (len(a) * len(b))
    return {"means": cosine(a.mean(axis=0), b.mean(axis=0)), "pairs": pairs}


@pytest.mark.parametrize(("one", "other"), [("mrpc", "rte"), ("mrpc", "sst2"), ("rte", "sst2")])
def test_similarities_of_released_prompts(shared, one, other) -> None:
    folder = shared / "data" / "prompts" / "t5_1_1_lm100k_base"
    a, b = (load_prompt(folder / f"{name}.npy").array for name in (one, other))
    found = spot.similarity_of(a, b)
    assert found == pytest.approx(by_hand(a, b), abs=1e-12)
    assert spot.similarity_of(b, a) == pytest.approx(found, abs=1e-12)
    assert spot.cosine_of_means(a, a) == pytest.approx(1.0)
    assert spot.mean_of_cosines(a, a) < 1.0  # rows of one prompt differ


def test_similarities_of_small_prompts() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(2, 5)).astype(np.float32)
    assert spot.similarity_of(a, b) == pytest.approx(by_hand(a, b), abs=1e-12)
    assert spot.mean_of_cosines(np.zeros((2, 5)), b) == 0.0


def test_the_average_is_weighted_by_similarity() -> None:
    ranking = [{"source": "a", "pairs": 0.6}, {"source": "b", "pairs": 0.2}]
    alphas = spot.weights(ranking, "pairs")
    np.testing.assert_allclose(alphas, [0.75, 0.25])
    rows = [np.full((2, 3), 4.0, np.float32), np.full((2, 3), 8.0, np.float32)]
    prompts = [Prompt({"encoder": x, "decoder": -x[:1]}, {}, "") for x in rows]
    made = spot.average(prompts, alphas)
    np.testing.assert_allclose(made["encoder"], np.full((2, 3), 5.0))
    np.testing.assert_allclose(made["decoder"], np.full((1, 3), -5.0))
    assert made["encoder"].dtype == np.float32
    with pytest.raises(UserError, match=r"'b': has similarity -0.100: .* smaller --k"):
        spot.weights([{"source": "b", "pairs": -0.1}], "pairs")


@pytest.mark.slow
def test_an_entry_says_where_its_prompts_come_from(runs: Path, library: Path) -> None:
    entry = Library(str(library)).read("two")
    run = runs / "run_two"
    best = load_prompt(run / "prompt" / "best")
    assert entry.value().arrays.keys() == {"encoder", "decoder"}
    np.testing.assert_array_equal(entry.value().array, best.array)
    facts = entry.facts
    assert (facts["early_step"], facts["steps"]) == (2, 4)
    assert facts["best_step"] == best.manifest["step"]
    assert facts["length"] == {"encoder": 4, "decoder": 2}
    assert facts["selection"]["split"] == "validation"
    assert facts["selection"]["task"] == facts["task"] == f"{runs}/two.train.jsonl"
    assert facts["backbone"] == best.manifest["backbone"]
    early = entry.embedding()
    assert early.manifest["step"] == 2
    records = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    score = next(r for r in records if (r["step"], r["kind"]) == (2, "eval"))["accuracy"]
    assert early.manifest["metric"] == {"accuracy": score}
    assert (early.array != load_prompt(run / "prompt" / "last").array).any()


@pytest.mark.slow
def test_the_embedding_is_the_prompt_that_a_shorter_run_ends_with(
    runs: Path, library: Path, tiny: Path, tmp_path: Path
) -> None:
    bindings = [*SHORT, f"TASK='{runs}/one.train.jsonl'", "SEED=0", "TRAIN_STEPS=2"]
    pj.train([str(tiny / "run.gin")], bindings, str(tmp_path))
    early = Library(str(library)).read("one").embedding()
    for side, rows in load_prompt(tmp_path / "prompt" / "last").arrays.items():
        np.testing.assert_array_equal(early.arrays[side], rows)


@pytest.mark.slow
def test_relative_paths_will_do(runs: Path, tmp_path: Path, monkeypatch) -> None:
    """As the documented walk gives them, of the run and of the library."""
    shutil.copytree(runs / "run_one", tmp_path / "run_one")
    monkeypatch.chdir(tmp_path)
    take(Library("library"), "run_one", "one", None)
    (entry,) = Library("library").entries()
    assert entry.facts["early_step"] == 2


@pytest.mark.slow
def test_the_same_run_again_changes_nothing_and_another_is_refused(
    runs: Path, library: Path
) -> None:
    before = (library / "one" / "entry.json").read_bytes()
    take(Library(str(library)), str(runs / "run_one"), "one", None)
    assert (library / "one" / "entry.json").read_bytes() == before
    with pytest.raises(UserError, match=r"'one' is there \(.*, seed 0, step \d\); give another"):
        take(Library(str(library)), str(runs / "run_two"), "one", None)


@pytest.mark.parametrize(("step", "rows"), [(3, 1.0), (2, 0.5)])
def test_another_embedding_of_the_same_prompt_is_refused(library, tmp_path, step, rows) -> None:
    shutil.copytree(library, tmp_path / "library")
    entry = Library(str(tmp_path / "library")).read("one")
    early = entry.embedding()
    arrays = {side: rows * x for side, x in early.arrays.items()}
    made = {"arrays": arrays, "manifest": {**early.manifest, "step": step}}
    message = rf"'one' is there with another embedding, of step 2, and this one is of step {step}; "
    with pytest.raises(UserError, match=message + "give another --name, or remove the entry"):
        Library(str(tmp_path / "library")).add(entry.facts, entry.value(), made)
    same = {"arrays": early.arrays, "manifest": early.manifest}
    assert Library(str(tmp_path / "library")).add(entry.facts, entry.value(), same) == entry


REFUSED_RUNS = [
    ({"early_step": 3}, "--early_step=3: .* kept the checkpoints 2, 4; take one of them"),
    ({"early_step": 4}, "step 4 is its last; the embedding is an early checkpoint"),
    ({"name": "a/b"}, "--name=a/b: give letters, digits"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED_RUNS)
def test_what_a_finished_run_cannot_give(runs, tmp_path, options, message) -> None:
    asked = {"name": "one", "early_step": None, **options}
    with pytest.raises(UserError, match=message):
        take(Library(str(tmp_path)), str(runs / "run_one"), **asked)
    assert list(tmp_path.iterdir()) == []


def damaged(run: Path, folder: Path, change) -> str:
    """A copy of a run whose best prompt's manifest is changed."""
    shutil.copytree(run, folder)
    path = folder / "prompt" / "best" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return str(folder)


REFUSED_CHOICES = [
    (lambda m: m["selection"].update(task="target"), "was chosen on 'target'; a source is chosen"),
    (lambda m: m.pop("selection"), "was chosen on None; a source is chosen by its own"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED_CHOICES)
def test_a_prompt_that_its_source_did_not_choose(runs, tmp_path, change, message) -> None:
    run = damaged(runs / "run_one", tmp_path / "run", change)
    with pytest.raises(UserError, match=message):
        take(Library(str(tmp_path / "library")), run, "one", None)


def test_a_run_that_is_no_source(runs, tmp_path) -> None:
    library = Library(str(tmp_path / "library"))
    with pytest.raises(UserError, match="no prompt/best; train with BEST_METRIC"):
        take(library, str(tmp_path), "one", None)
    shutil.copytree(runs / "run_one", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    with pytest.raises(UserError, match="stands at step 2 of 4; finish it by `train`"):
        take(library, str(tmp_path / "run"), "one", None)
    (tmp_path / "run" / "config.gin").unlink()
    with pytest.raises(UserError, match=r"no config\.gin; give the folder of a run"):
        take(library, str(tmp_path / "run"), "one", None)


DAMAGES = [
    (lambda e: "{", "not JSON"),
    (lambda e: json.dumps({**e, "format_version": 9}), "not an entry of format version 1"),
    (lambda e: json.dumps({k: e[k] for k in e if k != "score"}), "field 'score' is missing"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGES)
def test_a_damaged_entry(library, tmp_path, change, message) -> None:
    shutil.copytree(library, tmp_path / "library")
    path = tmp_path / "library" / "one" / "entry.json"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(UserError, match=message):
        Library(str(tmp_path / "library")).entries()


def test_a_prompt_that_was_replaced(library, tmp_path) -> None:
    shutil.copytree(library, tmp_path / "library")
    shutil.rmtree(tmp_path / "library" / "one" / "embedding")
    shutil.copytree(library / "two" / "embedding", tmp_path / "library" / "one" / "embedding")
    with pytest.raises(UserError, match=r"entry\.json says \w+: it was replaced; remove the entry"):
        Library(str(tmp_path / "library")).read("one").embedding()


def test_names_that_are_not_there(library, tmp_path) -> None:
    with pytest.raises(UserError, match="no entry 'three'; there are one, two"):
        Library(str(library)).read("three")
    with pytest.raises(UserError, match="no such folder; `spot embed` makes one"):
        Library(str(tmp_path / "none")).entries()
    with pytest.raises(UserError, match="no entries; add some by `spot embed`"):
        Library(str(tmp_path)).entries()


def read(init: FileInit, lengths: dict[str, int], backbone: Any) -> dict[str, np.ndarray]:
    return init.begin(jax.random.key(0), lengths, Start(backbone))


def test_a_source_begins_both_sides(library: Path) -> None:
    entry = Library(str(library)).read("one")
    backbone = SimpleNamespace(
        name="tiny",
        digest=entry.facts["backbone"]["digest"],
        vocabulary=None,
        config=SimpleNamespace(emb_dim=16),
    )
    init = FileInit(path=f"{library}/one")
    rows = read(init, {"encoder": 4, "decoder": 2}, backbone)
    for side, array in entry.value().arrays.items():
        np.testing.assert_array_equal(rows[side], array)
    with pytest.raises(UserError, match=r"holds \[4, 16\], the run needs \[5, 16\]; set PROMPT_"):
        read(init, {"encoder": 5, "decoder": 2}, backbone)
    with pytest.raises(UserError, match=r"holds decoder \[2, 16\], for which the run has no rows"):
        read(init, {"encoder": 4, "decoder": 0}, backbone)
    other = SimpleNamespace(**{**vars(backbone), "digest": "f" * 64})
    with pytest.raises(UserError, match=r"was tuned for .*, not for 'tiny' \(f{12}\); train"):
        read(init, {"encoder": 4, "decoder": 2}, other)
    free = FileInit(path=f"{library}/one", allow_other_backbone=True)
    assert read(free, {"encoder": 4, "decoder": 2}, other).keys() == {"encoder", "decoder"}


def test_a_file_without_decoder_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.ones((4, 16), np.float32))
    config = SimpleNamespace(emb_dim=16)
    backbone = SimpleNamespace(config=config, name="tiny", digest="0" * 64, vocabulary=None)
    with pytest.raises(UserError, match="holds no decoder rows, the run needs 2; give it none"):
        read(FileInit(path=f"{tmp_path}/p.npy"), {"encoder": 4, "decoder": 2}, backbone)


# The verbs


def report(capsys, *argv: str) -> dict:
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys, *argv: str) -> str:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_embed_trains_what_is_not_trained(tiny, tmp_path, capsys) -> None:
    gin = [f"--gin.{binding}" for binding in SHORT]
    told = report(
        capsys,
        "spot",
        "embed",
        f"--gin_file={tiny}/run.gin",
        *gin,
        f"--model_dir={tmp_path}/run",
        f"--library={tmp_path}/library",
        "--name=toy",
    )
    assert (told["name"], told["early_step"]) == ("toy", 2)
    assert told["folder"] == f"{tmp_path}/library/toy"
    without = f"--gin.{SHORT[0]}"
    line = fails(capsys, "spot", "embed", without, "--library=L", "--model_dir=D")
    assert "bindings go with a --gin_file" in line


def test_rank_prints_both_similarities_and_draws(library, tmp_path, capsys) -> None:
    rows = [Library(str(library)).read(name).embedding().array for name in ("one", "two")]
    wanted = by_hand(*rows)
    picture = tmp_path / "map.png"
    told = report(capsys, "spot", "rank", f"--library={library}", f"--picture={picture}")
    (row,) = told["ranking"]
    assert (row["source"], row["other"]) == ("two", "one")
    assert {kind: row[kind] for kind in wanted} == pytest.approx(wanted, abs=1e-9)
    assert told["matrix"][0][1] == pytest.approx(wanted["pairs"], abs=1e-9)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["spot", "rank", f"--library={library}", "--target=one", "--by=means"]) == 0
    assert "two" in capsys.readouterr().out


def test_rank_leaves_out_what_cannot_be_compared(library, tmp_path, capsys) -> None:
    shutil.copytree(library, tmp_path / "library")
    path = tmp_path / "library" / "two" / "entry.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "length": {"encoder": 9, "decoder": 2}}))
    told = report(capsys, "spot", "rank", f"--library={tmp_path}/library", "--target=one")
    why = "has rows encoder 9 decoder 2, not encoder 4 decoder 2"
    assert told["left_out"] == [{"entry": "two", "why": why}]
    assert told["ranking"] == []


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["rank", "--by=mean"], "--by=mean: give one of pairs, means"),
        (["rank", "--picture=a.jpg"], "--picture=a.jpg: give the name of a .png file"),
        (["rank", "--gin.SEED=1"], "--gin.SEED=1: spot rank takes no bindings"),
        (["embed", "--model_dir=no/run"], "--model_dir=no/run: no such folder; give that of a fin"),
        (["rank", "--target=three"], "no entry 'three'; there are one, two"),
        (["transfer", "--gin_file=R", "--model_dir=D", "--strategy=top"], "no 'top'; there"),
    ],
)
def test_wrong_arguments(library, capsys, argv, part) -> None:
    assert part in fails(capsys, "spot", *argv, f"--library={library}")


def test_a_picture_without_matplotlib(library, capsys, monkeypatch) -> None:
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    line = fails(capsys, "spot", "rank", f"--library={library}", "--picture=a.png")
    assert "needs matplotlib; pip install 'prompt-jax[pictures]'" in line
