"""What there is to see in a prompt: known answers for rows of pieces, and for even attention."""

import json

import numpy as np
import pytest

from prompt_jax.backbone.load import load_backbone
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.cli.main import main
from prompt_jax.data.split import Sampling, Split
from prompt_jax.inspect import nearest
from prompt_jax.inspect.attention import attention_mass
from prompt_jax.prompt.artefact import load_prompt


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(264, 16)).astype(np.float32)


def test_a_piece_is_its_own_nearest_piece(table):
    words = Vocabulary.bytes()
    ids = nearest.candidates(words, len(table), 0)
    a, b = words.encode("ab")
    rows = np.stack([table[a], 3 * table[b]])
    first, second = nearest.nearest(rows, table, ids, words, 2)
    assert first["cosine"][0] == ["a", pytest.approx(1, abs=1e-5)]
    assert first["euclid"][0] == ["a", pytest.approx(0, abs=1e-3)]
    assert second["cosine"][0][0] == "b"
    assert second["norm"] == pytest.approx(3 * np.linalg.norm(table[b]), rel=1e-5)


def test_rare_pieces_and_those_of_no_text_are_left_out(table):
    words = Vocabulary.bytes()
    ids = nearest.candidates(words, len(table), 0)
    pieces = words.pieces(ids)
    assert "</s>" not in pieces and "<pad>" not in pieces and "a" in pieces
    assert len(nearest.candidates(words, len(table), 7)) == 7


def test_drift_and_similarity(table):
    first = np.eye(3, 16, dtype=np.float32)
    moved = nearest.drift(first, 3 * first)
    assert moved == {"distance": 2.0, "relative": 2.0, "cosine": 1.0}
    assert np.allclose(nearest.similarity(first), np.eye(3))
    facts = nearest.described({"encoder": first, "x": first}, table, Vocabulary.bytes())
    assert list(facts["sides"]) == ["encoder"]
    assert facts["sides"]["encoder"]["mean_cosine_of_rows"] == 0


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.random.default_rng(1).normal(size=(4, 16)).astype(np.float32))
    return str(path)


def test_even_attention_gives_each_row_its_share(tiny, rows):
    """Without queries and biases every column of n + 4 gets as much."""
    backbone = load_backbone(f"files:{tiny}/backbone", "float32")
    encoder = backbone.model.encoder
    for array in (encoder.layers.attention.query.kernel, encoder.relpos_bias.rel_embedding):
        array[...] = 0 * array[...]
    split = Split(str(tiny / "toy.train.jsonl"), "train", (28, 4), Sampling(max_examples=1))
    (task,) = split.read().rows(backbone.vocabulary)
    mass = attention_mass(backbone, load_prompt(rows), [task], batch_size=2)
    columns = task.lengths[0, 0] + 4
    np.testing.assert_allclose(mass, np.full((1, 4), 1 / columns), rtol=1e-5)


@pytest.mark.slow
def test_the_verb_measures_and_draws(tiny, rows, tmp_path, capsys):
    picture = tmp_path / "panels.png"
    given = ["inspect", f"--prompt={rows}", f"--prompt={rows}", "--attention", "--ablation"]
    given += [f"--backbone=files:{tiny}/backbone", f"--task={tiny}/toy.train.jsonl"]
    given += ["--max_examples=2", f"--picture={picture}", "--json"]
    assert main(given) == 0
    told = json.loads(capsys.readouterr().out)
    assert "2112.08348" in told["warning"]
    one = told["prompts"][0]
    assert np.shape(one["attention"]) == (1, 4) and 0 < np.sum(one["attention"]) < 1
    assert len(one["ablation"]["without"]["encoder"]) == 4
    assert told["compared"]["encoder"]["mean_cosine_of_best_pairs"] == pytest.approx(1)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --prompt=DIR, or --run=MODEL_DIR"),
        (["--run={folder}"], "holds no prompt yet"),
        (["--prompt={rows}"], "names no backbone; give --backbone"),
        (["--prompt=a", "--prompt=b", "--prompt=c"], "two are compared at a time"),
    ],
)
def test_mistakes_are_one_line(rows, tmp_path, capsys, arguments, message):
    given = [argument.format(folder=tmp_path, rows=rows) for argument in arguments]
    assert main(["inspect", *given]) == 2
    assert message in capsys.readouterr().err
