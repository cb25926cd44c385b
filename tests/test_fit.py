"""What `fit` reads off a step, without the TPU compiler: costs, verdicts, refusals."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from frozen import made
from jax.sharding import NamedSharding, PartitionSpec

from prompt_jax.backbone.load import read_config
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.fit import chips, compiler, hlo, search
from prompt_jax.fit.cost import cost, group_size, product_flops
from prompt_jax.fit.program import config_of, decode_program, train_program
from prompt_jax.methods.full import FullTuning
from prompt_jax.model import sizes
from prompt_jax.model.sharding import MeshShape
from prompt_jax.recipe import config
from prompt_jax.run import flops
from prompt_jax.run.stages import shaped

L, B, D, F = 5, 8, 16, 48


def recipe(*bindings: str):
    words = ["BACKBONE=random:nano", "Data.packed=False", "INPUT_LENGTH=40", *bindings]
    return config.load("Train", ["runs/quickstart.gin"], words).root


def train_step(*bindings: str, devices: int = 1):
    run = recipe(*bindings)
    shape = config_of(run)
    return run, shape, train_program(run, shape, jax.devices()[:devices])


# Costs


def test_a_loop_counts_as_often_as_it_runs_and_reads_slices():
    def forward(w_LDD, x_BD):
        return jax.lax.scan(lambda x, w: (x @ w, None), x_BD, w_LDD)[0]

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((L, D, D), (B, D))]
    module = hlo.parse(jax.jit(forward).lower(*shapes).compile().as_text())
    whole, once = cost(module, 1), cost(module, 1, loops=False)
    assert once.flops == 2 * B * D * D
    assert whole.flops == L * once.flops
    assert whole.collectives == {}
    assert L * D * D * 4 <= whole.hbm < 3 * L * (D * D + 4 * B * D) * 4


def test_an_all_reduce_sends_both_halves_of_a_ring():
    mesh = MeshShape(data=1, fsdp=1, model=8).build()
    split, whole = (NamedSharding(mesh, PartitionSpec(*s)) for s in ((None, "model"), ()))
    left = jax.ShapeDtypeStruct((B, D), jnp.float32, sharding=split)
    right = jax.ShapeDtypeStruct(
        (D, F), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("model"))
    )
    product = jax.jit(jnp.matmul, out_shardings=whole).lower(left, right).compile()
    found = cost(hlo.parse(product.as_text()), 8)
    assert found.collectives == {"all-reduce": (1, B * F * 4 * 2 * 7 / 8)}
    assert found.flops == 2 * B * D * F / 8


CONVOLUTIONS = {  # products as the TPU compiler writes them, and their multiply-adds
    "plain": (
        "bf16[456,768]{1,0}",
        "bf16[456,64]{1,0}",
        "bf16[64,768]{1,0}",
        "dim_labels=bf_io->bf",
        456 * 64 * 768,
    ),
    "batch and heads": (
        "f32[2,12,228,228]{2,3,1,0:T(8,128)}",
        "bf16[2,228,12,64]{3,1,2,0}",
        "bf16[2,228,12,64]{3,1,2,0}",
        "window={size=2x12 stride=1x11 lhs_dilate=2x12}, dim_labels=0b1f_0o1i->01bf",
        2 * 12 * 228 * 228 * 64,
    ),
    "heads reversed": (
        "bf16[2,16,12,64]{3,1,2,0}",
        "bf16[2,16,768]{2,1,0}",
        "bf16[12,64,768]{2,1,0}",
        "window={size=1x12 pad=0_0x11_11 rhs_reversal=0x1}, dim_labels=0bf1_1oi0->0b1f",
        2 * 16 * 12 * 64 * 768,
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_products_written_as_convolutions(name):
    out, left, right, attributes, expected = CONVOLUTIONS[name]
    if name == "heads reversed":  # the axis of size 1 is left out of its shapes
        left, right = "bf16[2,16,768,1]{2,1,0,3}", "bf16[12,64,768,1]{2,1,0,3}"
    text = (
        "HloModule m\n\nENTRY %main (a: f32[], b: f32[]) -> f32[] {\n"
        f"  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n"
        f"  ROOT %c = {out} convolution(%a, %b), {attributes}\n}}\n"
    )
    where = hlo.parse(text).computations["main"]
    assert product_flops(where, where.root) == 2 * expected


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1},{2,3}}", 2),
        ("replica_groups=[2,4]<=[8]", 4),
        ("", 8),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}", 4),
        ("replica_groups=mesh['a'=4,'b'=2] {'a':(1)2,'b'}", 4),
    ],
)
def test_the_sizes_of_groups(groups, size):
    one = hlo.Instruction("r", "all-reduce", (), (), "", f", {groups}, to_apply=%add", False)
    assert group_size(one, 8) == size


@pytest.mark.parametrize(
    ("bindings", "remat"),
    [
        ((), 0.0),
        pytest.param(("Backbone.remat=dots",), 1.0, marks=pytest.mark.slow),
        pytest.param(
            ("Backbone.remat=dots", "Backbone.weights_dtype=int8"), 1.0, marks=pytest.mark.slow
        ),
        pytest.param(("Backbone.remat=full",), 1.0, marks=pytest.mark.slow),
    ],
)
def test_a_step_does_what_its_mathematics_needs_and_no_more(bindings, remat):
    run, shape, program = train_step(*bindings)
    least, again = flops.least(run, shape)
    done = flops.of_jaxpr(program.jaxpr())
    assert (again > 0) == (remat > 0)
    assert done == pytest.approx(least + again, rel=0.02)
    compiled = cost(hlo.parse(program.lower().compile().as_text()), 1)
    assert 0.99 < compiled.flops / (least + again) < 1.05


# Frozen weights


def text_of(program) -> str:
    return program.lower().compile().as_text()


def test_the_compiled_step_holds_nothing_of_a_frozen_weight_but_the_weight():
    """No gradient, no copy, no optimizer slot, although the norm of the gradient is a metric."""
    words = ("Backbone.dtype=float32", "INPUT_LENGTH=50", "BATCH_SIZE=2")
    _, _, program = train_step(*words)
    assert made(program, text_of(program)) == []
    out = jax.eval_shape(program.function, *program.arrays)
    assert "grad_norm" in out[1]
    sizes_out = {x.shape for x in jax.tree.leaves(out)}
    prompts = {x.shape for x in jax.tree.leaves(program.arrays[0].trainable)}
    assert sizes_out - prompts <= {(), (1,)}
    # The same test finds the gradients of a run that has them.
    run = dataclasses.replace(recipe(*words), method=FullTuning())
    full = train_program(run, config_of(run), jax.devices()[:1])
    frozen = full.arrays[0].trainable
    assert made(dataclasses.replace(full, frozen=frozen), text_of(full)) != []


# Verdicts and searches


def fit(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["fit", "--gin_file=runs/quickstart.gin", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.slow
def test_a_verdict_for_gpus_is_an_estimate_and_says_so(capsys):
    words = ["--topology=h100:8", "--gin.BACKBONE=random:t5_1_1_xxl", "--gin.VOCABULARY=bytes"]
    code, out, _ = fit(capsys, *words, "--price=3", "--json")
    told = json.loads(out)
    assert code == 0 and told["fits"] and not told["compiled"]  # float32, as the quickstart says
    assert told["mesh"] == {"data": 8, "fsdp": 1, "model": 1}
    assert told["memory"]["weights"] == pytest.approx(4 * 11.135e9, rel=0.01)
    assert told["flops"]["ratio"] == pytest.approx(1, rel=0.02)
    seconds = told["roofline"]["step"]
    assert seconds == max(told["roofline"][n] for n in ("compute", "hbm", "interconnect"))
    assert told["dollars_per_1000_rows"] == pytest.approx(seconds / 3600 * 8 * 3 * 1000 / 16)
    assert any("no compiler" in line for line in told["unknown"])


def test_decoding_has_a_program_of_its_own():
    run = recipe()
    program = decode_program(run, config_of(run), jax.devices()[:1])
    ids, scores = jax.eval_shape(lambda *a: program.function(*program.static, *a), *program.arrays)
    assert ids.shape == (run.evaluation.batch_size, run.data.target_length)
    assert scores.shape == ids.shape[:1]


@pytest.mark.parametrize(("start", "best"), [(1, 37), (16, 37), (64, 37), (200, 37), (37, 37)])
def test_the_largest_batch_is_found_with_few_compilations(start, best):
    tried = []

    def memory(n):
        return {"weights": 100, "peak": 110 + 10 * n, "limit": 110 + 10 * best + 3}

    def fits(n):
        tried.append(n)
        return memory(n)["peak"] <= memory(n)["limit"]

    assert search.largest(fits, memory, start) == best
    assert len(tried) == len(set(tried)) <= 7
    assert search.largest(lambda n: False, memory, start) == 0


def test_meshes_are_ranked_by_estimates_before_any_is_compiled(monkeypatch):
    compiled = []

    def analyse(run, topology, decode):
        compiled.append(run.mesh)
        memory = {"weights": 1, "total": 2, "peak": 2}
        shape = {"data": run.mesh.data, "fsdp": run.mesh.fsdp, "model": run.mesh.model}
        seconds = compiler.Cost(flops=float(run.mesh.model))
        return compiler.Analysis(memory, seconds, 1.0, shape, 1.0)

    monkeypatch.setattr(search, "analyse", analyse)
    found = search.search(recipe(), chips.parse("v5e:2x2"), False, False, True)
    assert len(compiled) == len(found.tried) == search.COMPILED_MESHES
    assert found.run.mesh in compiled
    assert found.run.mesh.model == min(shape.model for shape in compiled)


def test_every_stage_of_a_program_is_measured_and_the_largest_named(capsys, monkeypatch):
    """The second trains the model behind the prompt that the first is still to leave."""

    def analyse(run, topology, decode):
        program = train_program(run, config_of(run), jax.devices()[:1])
        size = compiler.bytes_of(program.arrays)
        memory = {"weights": compiler.bytes_of(program.frozen), "total": size, "peak": size}
        return compiler.Analysis(memory, compiler.Cost(), 1.0, {"data": 1}, None)

    monkeypatch.setattr(search, "analyse", analyse)
    argv = ["fit", "--gin_file=runs/promot_nano.gin", "--topology=h100:1"]
    assert main([*argv, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    one, two = report["stages"]
    assert report["fits"] and report["largest"] == 2
    assert one["memory"]["weights"] > 1000 * two["memory"]["weights"]  # of the second: the prompt
    assert two["memory"]["weights"] == 20 * 128 * 4
    assert main(argv) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "stage 2 takes the most"
    assert sum(": fits: " in line for line in said) == 2


def test_weights_that_a_stage_will_leave_have_the_shapes_of_its_own(tmp_path):
    (tmp_path / "run.gin").write_text(
        "include 'runs/quickstart.gin'\n"
        "Stages.stages = (@one/Stage(), @two/Stage(), @three/Stage())\n"
        "Stage.run = @Train()\nStage.on_end = (@PassWeights(),)\n"
        "Train.method = @FullTuning()\nthree/Train.backbone = @other/Backbone()\n"
        "other/Backbone.name = 'random:small'\n"
    )
    program = config.load(("Stages", "Train"), [str(tmp_path / "run.gin")], []).root
    assert [run.backbone.name for run in shaped(program)] == ["nano"] * 3


def test_a_config_alone_is_enough(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "t5",
                "vocab_size": 32128,
                "d_model": 4096,
                "num_heads": 64,
                "d_kv": 64,
                "d_ff": 10240,
                "num_layers": 24,
                "feed_forward_proj": "gated-gelu",
                "tie_word_embeddings": False,
            }
        )
    )
    assert read_config(f"hf:{tmp_path}") == sizes.SIZES["t5_1_1_xxl"]


REFUSED = {
    "chip": (["--topology=v9:2x2"], "--topology=v9:2x2: the known ones are v5e:2x2"),
    "axes": (["--topology=v5p:4x4"], "v5p has 3 axes; write v5p:4x4x4"),
    "hosts": (["--topology=v5e:3x3"], "give one chip, or multiples of a host's 2x2 chips"),
    "batch": (["--topology=h100:8", "--batch=3"], "--batch=3: give auto, or --gin.BATCH_SIZE=N"),
    "mesh": (
        ["--topology=h100:8", "--gin.Train.mesh=@MeshShape()", "--gin.MeshShape.model=3"],
        "does not fit 8 devices",
    ),
    "rows": (["--topology=h100:8", "--gin.BATCH_SIZE=12"], "take a multiple of 8"),
}


@pytest.mark.parametrize("name", ["chip", "axes", "hosts", "batch"])
def test_wrong_inputs_are_refused_in_one_line(capsys, name):
    arguments, part = REFUSED[name]
    code, out, err = fit(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert part in err


@pytest.mark.parametrize("name", ["mesh", "rows"])
def test_a_mesh_that_does_not_divide_is_refused(name):
    arguments, part = REFUSED[name]
    run = recipe(*(a.removeprefix("--gin.") for a in arguments[1:]))
    with pytest.raises(UserError, match=part):
        train_program(run, config_of(run), jax.devices())


def test_without_libtpu_the_remedy_is_said(capsys, monkeypatch):
    def version(name):
        raise compiler.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(compiler.importlib.metadata, "version", version)
    code, _, err = fit(capsys, "--topology=v5e:2x2")
    assert code == 2
    assert "libtpu, which is not installed; pip install 'prompt-jax[fit]'" in err


def test_a_crash_of_the_compiler_is_one_line(tmp_path):
    log = tmp_path / "log"
    log.write_text("noise\n*** SIGSEGV STACK OVERFLOW (see go/x) received by PID 1 ***\nmore\n")
    assert "(SIGSEGV STACK OVERFLOW)" in compiler.last_words(log)


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("Used 24.50G of 15.75G hbm. Exceeded hbm capacity by 8.75G.", int(24.5 * 2**30)),
        (
            "the total memory required for HLO temporaries (673.77G) exceeds available HBM "
            "(15.75G).",
            int(673.77 * 2**30),
        ),
        ("INTERNAL: something else", None),
    ],
)
def test_what_a_step_would_have_needed_is_read_off_the_compilers_words(message, needed):
    assert compiler.needed_bytes(message) == needed
