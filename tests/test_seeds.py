"""Several seeds: what is summed up, against numpy, scipy and by hand."""

import json

import numpy as np
import pytest
import scipy.stats

from prompt_jax.errors import UserError
from prompt_jax.run.seeds import parse_seeds, score_of, spread_of, train_seeds

CHOSEN = {"metric": "f1", "direction": "max", "task": "t", "split": "validation"}


def test_the_spread_is_numpys_and_the_interval_scipys():
    values = np.random.default_rng(3).normal(70, 5, size=12).tolist()
    told = spread_of(values)
    assert told["mean"] == pytest.approx(np.mean(values), abs=1e-9)
    assert told["median"] == pytest.approx(np.median(values), abs=1e-9)
    assert told["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert told["quartiles"] == pytest.approx(np.percentile(values, [25, 75]), abs=1e-9)
    peer = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert told["interval_95"] == pytest.approx([peer.low, peer.high], abs=0.15)
    assert spread_of([3.0])["std"] == 0.0
    assert spread_of([3.0])["interval_95"] == [3.0, 3.0]


def test_the_score_is_that_of_the_chosen_checkpoint():
    def record(step, f1, em):
        return {"step": step, "kind": "eval", "task": "t", "f1": f1, "em": em, "seconds": 1.0}

    records = [record(0, 1.0, 9.0), record(2, 5.0, 4.0), record(4, 5.0, 3.0)]
    assert score_of(records, CHOSEN) == {"f1": 5.0, "em": 4.0, "step": 2.0}
    assert score_of(records, None) == {"f1": 5.0, "em": 3.0, "step": 4.0}
    assert score_of(records, CHOSEN | {"direction": "min"})["step"] == 0.0
    assert score_of([], CHOSEN) == {}


def test_a_run_for_every_seed(tmp_path):
    def train_one(seed, folder):
        (tmp_path / f"seed_{seed}").mkdir()
        record = {"step": 1, "kind": "eval", "f1": 10.0 * seed}
        (tmp_path / f"seed_{seed}" / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        assert folder == str(tmp_path / f"seed_{seed}")
        return CHOSEN

    summary = train_seeds([1, 3, 8], str(tmp_path), train_one)
    assert summary == json.loads((tmp_path / "seeds.json").read_text())
    assert summary["seeds"] == [1, 3, 8]
    assert summary["chosen_by"] == CHOSEN
    f1 = summary["metrics"]["f1"]
    assert (f1["values"], f1["mean"], f1["median"]) == ([10.0, 30.0, 80.0], 40.0, 30.0)
    assert 10.0 <= f1["interval_95"][0] < 40.0 < f1["interval_95"][1] <= 80.0


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1,1", "-1"])
def test_seeds_are_different_whole_numbers(text):
    with pytest.raises(UserError, match="give different whole numbers"):
        parse_seeds(text)
