"""The engine of `pj.Engine`: any mixture of prompts against each prompt alone."""

import json
import shutil
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from compilations import compilations

import prompt_jax as pj
from prompt_jax.answer.answerer import Answering, generate_text
from prompt_jax.answer.question import Question, features
from prompt_jax.errors import RunError, UserError
from prompt_jax.evaluate.prompts import model_of, module_of
from prompt_jax.export import peft
from prompt_jax.export.formats import About
from prompt_jax.methods.base import FixedPrompt
from prompt_jax.model.decode import Sampling
from prompt_jax.model.sharding import MeshShape
from prompt_jax.prompt.artefact import load_prompt, save_prompt
from prompt_jax.prompt.layout import NO_ROWS
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.requests import Busy, Decoding

MESH = MeshShape().build(jax.devices()[:1])
N, LENGTH = 8, 24
TEXTS = ("say a 1", "b", "say something longer b", "", "aba")


@pytest.fixture(scope="module")
def backbone(tiny: Path):
    return pj.load_backbone(f"files:{tiny}/backbone", "float32")


@pytest.fixture(scope="module")
def paths(kinds, tmp_path_factory, backbone) -> dict[str, str]:
    """Some of `kinds`, one that mixes rows from the text, one of another visibility, one that is
    computed once, a `.npy`."""
    folder, rng = tmp_path_factory.mktemp("more"), np.random.default_rng(5)
    plain = load_prompt(kinds["plain"])
    D, r = backbone.config.emb_dim, 3
    shapes = {"sources": (2, 4, D), "down": (D, r), "up": (r, D), "scale": (D,), "bias": (D,)}
    own = {f"mixture/{n}": rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    save_prompt(folder / "mixed", {**plain.arrays, **own}, {**plain.manifest, "method": "Attempt"})
    seen = {"input": False, "prompt": "causal"}
    save_prompt(folder / "causal", plain.arrays, {**plain.manifest, "visibility": seen})
    once = {"input": False, "prompt": "all", "computed_once": True}
    save_prompt(folder / "once", plain.arrays, {**plain.manifest, "visibility": once})
    np.save(folder / "rows.npy", rng.normal(size=(3, D)).astype(np.float32))
    more = {name: str(folder / name) for name in ("mixed", "causal", "once", "rows.npy")}
    return {name: kinds[name] for name in ("plain", "lora", "both", "prefix")} | more


@pytest.fixture(scope="module")
def engine(backbone, paths):
    with open_engine(backbone, paths) as engine:
        yield engine


def open_engine(backbone, prompts, slots=4, **options) -> Engine:
    return Engine(backbone, prompts, slots, input_length=LENGTH, max_tokens=N, mesh=MESH, **options)


def alone(backbone, path: str | None, text: str, sampling=None, seed=0):
    """Ids and the sum of their log-probabilities, in a batch of one with one prompt."""
    saved = [] if path is None else [load_prompt(path)]
    module = module_of(saved, backbone.model) if saved else FixedPrompt()
    layout = saved[0].layout if saved else NO_ROWS
    question = Question(np.asarray([*backbone.vocabulary.encode(text), 1], np.int32))
    how = Answering(alpha=0.0, sampling=sampling, seed=seed)
    batch = features([question], [layout], 1, LENGTH)
    graphdef, *arrays = model_of(backbone, module, MESH)
    ids, scores = generate_text(graphdef, N, how, *arrays, batch)
    ids = np.asarray(ids[0])
    return ids[: np.argmax(ids == 1) + 1] if 1 in ids else ids, float(scores[0])


def same(found, wanted) -> None:
    np.testing.assert_array_equal(found.ids, wanted[0])
    assert found.score == pytest.approx(wanted[1], abs=1e-5)


def test_any_mixture_answers_as_each_prompt_alone_while_prompts_come_and_go(
    backbone, engine, paths, tmp_path
):
    check_mixture(backbone, engine, paths, tmp_path)


@pytest.mark.slow
def test_every_kind_mixes(backbone, kinds, paths, tmp_path):
    with open_engine(backbone, kinds | paths) as engine:
        check_mixture(backbone, engine, kinds | paths, tmp_path)


def check_mixture(backbone, engine, paths, tmp_path):
    names = [*paths, None]
    questions = [(name, text) for text in TEXTS for name in names]
    order = np.random.default_rng(0).permutation(len(questions))
    questions = [questions[i] for i in order]
    wanted = {(name, t): alone(backbone, name and paths[name], t) for name in names for t in TEXTS}
    assert len({wanted[name, "b"][1] for name in names}) == len(names), "each says its own"

    other = load_prompt(paths["plain"])
    save_prompt(tmp_path / "other", {"encoder": -other.arrays["encoder"]}, other.manifest)
    asks = []
    for number, (name, text) in enumerate(questions):
        [ask] = engine.asks([text], name)
        ask.decoding = Decoding(N)
        engine.worker.feed([ask])
        asks.append(ask)
        if number == 10:  # the name stands for another prompt now; those asked before keep theirs
            engine.load("plain", str(tmp_path / "other"))
        if number == 30:
            engine.unload("plain")
            engine.load("plain", paths["plain"])
    swapped = {("plain", text): alone(backbone, str(tmp_path / "other"), text) for text in TEXTS}
    for number, (ask, question) in enumerate(zip(asks, questions, strict=True)):
        between = 10 < number <= 30 and question in swapped
        same(ask.result(), swapped[question] if between else wanted[question])
    assert any(10 < n <= 30 and q in swapped for n, q in enumerate(questions))


@pytest.mark.slow
def test_drawn_outputs_depend_on_their_own_seed_alone(backbone, engine, paths):
    sampling = Sampling(temperature=1.3, top_k=40, top_p=0.9)
    cuts = {"temperature": 1.3, "top_k": 40, "top_p": 0.9}
    texts, prompts = ["say a", "b"] * 3, ["lora", "plain", None] * 2
    other = threading.Thread(target=engine.generate, args=(["x"] * 9, "prefix"))  # greedy beside
    other.start()
    found = engine.generate(texts, prompts, seed=7, **cuts)
    other.join()
    for number, (output, text, name) in enumerate(zip(found, texts, prompts, strict=True)):
        same(output, alone(backbone, name and paths[name], text, sampling, seed=7 + number))


def test_loading_and_unloading_compile_nothing(engine, backbone, paths, tmp_path):
    engine.warm_up(["generate"])
    plain = load_prompt(paths["plain"])
    for n in (1, 2, 3):
        save_prompt(tmp_path / str(n), {"encoder": plain.arrays["encoder"][:n]}, plain.manifest)
    with compilations() as compiled:
        for n in (1, 2, 3):
            engine.load(f"new{n}", str(tmp_path / str(n)))
            engine.generate(["a", "say b"], [f"new{n}", "lora"])
        for n in (1, 2, 3):
            engine.unload(f"new{n}")
        for name in paths:  # of every family that is loaded
            engine.generate(["a"], name)
    assert compiled == []
    assert set(engine.prompts()) == set(paths)


def test_a_warm_up_compiles_the_encoder_once_for_each_width_whatever_is_asked(
    backbone, paths, tmp_path
):
    """Also of prompts that make rows from the text, of which each length makes its own."""
    mixed = load_prompt(paths["mixed"])
    rows = {"encoder": np.s_[:2], "mixture/sources": np.s_[:, :2]}
    arrays = {n: x[rows[n]] if n in rows else x for n, x in mixed.arrays.items()}
    save_prompt(tmp_path / "short", arrays, mixed.manifest)
    prompts = {"lora": paths["lora"], "mixed": paths["mixed"], "short": str(tmp_path / "short")}
    with Engine(backbone, prompts, 4, input_length=40, max_tokens=4, mesh=MESH) as engine:
        with compilations() as compiled:
            engine.warm_up()
        widths = len(engine.shape_of(engine.worker.wanted).widths)
        # Fewer where an earlier test of this process has compiled some.
        assert compiled.count("encode") <= widths and compiled.count("made_rows") <= 2 * widths
        with compilations() as later:
            for name in [*prompts, None]:
                engine.generate(["a"], name)
                engine.embed(["a" * 36], name)
                engine.rank(["a"], ["a", "b"], name)
        assert later == []


def test_a_new_kind_waits_for_what_is_open_and_a_full_queue_does_not_stop_the_warm_up(
    backbone, kinds
):
    with open_engine(backbone, {"plain": kinds["plain"]}, slots=8, queue_size=1) as engine:
        later = []

        def load(piece):  # in the engine's thread, between two turns of the first
            if not later:
                engine.load("lora", kinds["lora"])
                later.extend(engine.asks(["b"], "lora"))
                later[0].decoding = Decoding(N)
                engine.worker.submit(later)

        [first] = engine.asks(["say something longer b"], "plain")
        first.decoding, first.listener = Decoding(N), load
        engine.worker.feed([first])
        assert first.done.wait(60) and later[0].done.wait(60)
        same(later[0].result(), alone(backbone, kinds["lora"], "b"))
        engine.warm_up(["embed"])


def test_ranking_and_vectors_are_those_of_each_prompt_alone(backbone, engine, paths):
    names = ["lora", None, "both"]
    ids = [[*backbone.vocabulary.encode(text), 1] for text in TEXTS]
    choices = ["a", "b", "neither"]
    tokens = np.zeros((len(names), 3, N), np.int32)
    for c, choice in enumerate(choices):
        row = [*backbone.vocabulary.encode(choice), 1]
        tokens[:, c, : len(row)] = row
    texts = [TEXTS[n % len(TEXTS)] for n in range(len(names))]
    ranked = engine.rank(texts, choices, names)
    vectors = engine.embed(texts, names)
    padded = np.zeros((len(names), LENGTH), np.int32)
    for n in range(len(names)):
        row = ids[n % len(TEXTS)]
        padded[n, : len(row)] = row
    for n, name in enumerate(names):
        prompt = None if name is None else load_prompt(paths[name])
        scores = pj.score(backbone, padded[n : n + 1], tokens[:1], prompt)[0]
        assert list(ranked[n].scores.values()) == pytest.approx(scores.tolist(), abs=1e-5)
        assert ranked[n].choice == choices[int(np.argmax(scores))]
        alone = pj.embed(backbone, padded[n : n + 1], prompt)[0]
        np.testing.assert_allclose(vectors[n], alone, atol=1e-5)
    each = engine.rank(["x", "y"], [["a"], ["b", "c"]], length_normalised=True)
    assert [list(r.scores) for r in each] == [["a"], ["b", "c"]]


def test_streamed_pieces_are_the_text_and_a_closed_stream_frees_its_slot(engine):
    [whole] = engine.generate(["say a"], "lora")
    assert "".join(engine.stream("say a", "lora")) == whole.text
    stream = engine.stream("say b")
    next(stream, None)
    stream.close()
    deadline = time.monotonic() + 30
    while engine.worker.live and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not engine.worker.live


def test_an_output_ends_before_the_first_stop_string(backbone, engine, paths):
    prompt = next(name for name in paths if len(engine.generate(["say b"], name)[0].text) >= 4)
    [whole] = engine.generate(["say b"], prompt)
    stop = whole.text[2:4]
    at = whole.text.index(stop)
    [cut] = engine.generate(["say b"], prompt, stop=["never", stop])
    assert (cut.text, cut.finish_reason) == (whole.text[:at], "stop")
    assert len(cut.ids) < len(whole.ids)
    np.testing.assert_array_equal(cut.ids, whole.ids[: len(cut.ids)])
    given = np.zeros((1, 1, N), np.int32)
    given[0, 0, : len(cut.ids)] = cut.ids
    if (cut.ids > 0).all():
        text = [[*backbone.vocabulary.encode("say b"), 1]]
        [[score]] = pj.score(backbone, text, given, load_prompt(paths[prompt]))
        assert cut.score == pytest.approx(float(score), abs=1e-4)
    assert "".join(engine.stream("say b", prompt, stop=[stop])) == cut.text


def test_what_is_cancelled_or_late_ends_with_what_it_has(engine):
    late = engine.generate(["say a"], timeout=0.0)[0]
    assert (late.finish_reason, late.text, late.score) == ("deadline", "", 0.0)
    [ask] = engine.asks(["say a"], None)
    ask.decoding = Decoding(N)
    ask.cancel()
    engine.worker.feed([ask])
    assert ask.result().finish_reason == "cancelled"
    with pytest.raises(TimeoutError):
        engine.rank(["a"], ["b"], timeout=0.0)


def test_a_full_queue_refuses_and_a_closed_engine_fails(backbone, kinds):
    with open_engine(backbone, {}, queue_size=2) as small:
        asks = small.asks(["a", "b", "c"], None)
        with pytest.raises(Busy, match="0 requests wait, at most 2 may"):
            small.worker.submit(asks)
        assert len(small.generate(["a"] * 5, max_tokens=2)) == 5, "generate waits for room"
    with pytest.raises(RunError, match="closed"):
        small.generate(["a"])


def test_a_cache_is_bounded_in_bytes(backbone, kinds):
    with open_engine(backbone, {}, slots=3) as plain:
        each = plain.bytes_of(plain.shape_of(plain.worker.wanted)) // 3
    with open_engine(backbone, {}, slots=None, cache_bytes=each * 5 + 7) as bounded:
        assert bounded.shape_of(bounded.worker.wanted).slots == 5
        bounded.generate(["a"], max_tokens=1)
        there = sum(x.nbytes for x in jax.tree.leaves(bounded.worker.slots.rows.cache))
        assert each * 4 < there <= each * 5 + 7
    message = "cache_bytes = 99: 1 slots take [0-9]+ bytes; give more"
    with pytest.raises(UserError, match=message):
        open_engine(backbone, {}, slots=None, cache_bytes=99)
    with open_engine(backbone, {}, slots=2, cache_bytes=2 * each + 1) as full:
        with pytest.raises(UserError, match="cache_bytes"):
            full.load("prefix", kinds["prefix"])
        assert full.prompts() == {}
        assert full.generate(["a"], max_tokens=1)


def test_an_adapter_of_peft_loads(backbone, engine, tmp_path):
    rows = np.random.default_rng(2).normal(size=(2, backbone.config.emb_dim)).astype(np.float32)
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "SEQ_2_SEQ_LM",
        "num_virtual_tokens": 2,
        "num_transformer_submodules": 1,
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file({"prompt_embeddings": rows}, tmp_path / "adapter_model.safetensors")
    engine.load("peft", str(tmp_path))
    np.save(tmp_path / "rows.npy", rows)
    [output] = engine.generate(["say a"], "peft")
    same(output, alone(backbone, str(tmp_path / "rows.npy"), "say a"))
    engine.unload("peft")


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_an_adapter_of_peft_inside_the_layers_loads(backbone, kinds, tmp_path, kind):
    peft.write(tmp_path / "peft", load_prompt(kinds[kind]), About())
    with open_engine(backbone, {"peft": str(tmp_path / "peft")}) as engine:
        [output] = engine.generate(["say a"], "peft")
        assert engine.prompts()["peft"]["method"] == {"lora": "LORA", "ia3": "IA3"}[kind]
    same(output, alone(backbone, kinds[kind], "say a"))


def test_mistakes_are_named(backbone, engine, kinds, tmp_path):
    wrong = {
        "inputs: one text; give a list": lambda: engine.generate("a"),
        "has 31 tokens, at most 24 fit; shorten it": lambda: engine.generate(["a" * 30]),
        "prompt 'nobody': is not loaded": lambda: engine.generate(["a"], "nobody"),
        "prompt: 2 names for 1 inputs": lambda: engine.generate(["a"], [None, None]),
        "max_tokens = 99: give 1 to 8": lambda: engine.generate(["a"], max_tokens=99),
        "top_p = 0: give 0 < top_p <= 1": lambda: engine.generate(["a"], top_p=0),
        "stop = .''.: give strings": lambda: engine.generate(["a"], stop=[""]),
        "has ids outside 0..263": lambda: engine.generate([[999]]),
        "choices: .*; give a list": lambda: engine.rank(["a"], []),
        "prompt 'nobody': is not loaded; ": lambda: engine.unload("nobody"),
        "does not exist": lambda: engine.load("x", str(tmp_path / "none")),
        "slots = 0: give at least 1": lambda: open_engine(backbone, {}, slots=0),
    }
    for message, call in wrong.items():
        with pytest.raises(UserError, match=message):
            call()
    shutil.copytree(kinds["plain"], tmp_path / "other")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    manifest["backbone"]["digest"] = "0" * 64
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="was tuned for"):
        engine.load("x", str(tmp_path / "other"))


def test_texts_do_in_place_of_ids(backbone):
    encode = backbone.vocabulary.encode
    rows = [[*encode("say a"), 1], [*encode("b"), 1]]
    padded = np.zeros((2, 8), np.int32)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    wanted, scores = pj.generate(backbone, padded, max_length=4)
    for inputs in (["say a", "b"], rows):
        found, likelihood = pj.generate(backbone, inputs, max_length=4)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_allclose(likelihood, scores, atol=1e-5)
    assert pj.text(backbone, found) == [[backbone.vocabulary.decode(row)] for row in found[:, 0]]
    np.testing.assert_allclose(
        pj.embed(backbone, rows), pj.embed(backbone, ["say a", "b"]), atol=1e-5
    )
    with pytest.raises(UserError, match="inputs: one text; give a list of texts"):
        pj.embed(backbone, "say a")
