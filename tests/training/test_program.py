"""One update: the same whatever the mesh and the microbatches, equal to PyTorch's, and none at all when not finite."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from tests.exhaustive import few
from transformer.debugging.parallel_check import Reference
from transformer.errors import UserError
from transformer.interop.gpt import GPT2
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig
from transformer.objectives.causal_lm import CausalLM
from transformer.parallel.layout import batch_divisor, batch_sharding
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig, make_schedule
from transformer.training.program import Program

MODEL = GPTConfig(vocab_size=64, context_length=32, width=16, num_layers=2, num_heads=2, dropout=0.0)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup_steps=0)
ONE = MeshConfig(data=1)


def make_batch(seed: int, rows: int = 8, length: int = 32, vocab: int = 64):
    """Packed windows: two documents a row and some padding, so that rows weigh differently."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, (rows, length + 1), dtype=np.int32)
    cut = rng.integers(4, length - 8, (rows, 1))
    end = rng.integers(length - 6, length + 1, (rows, 1))
    index = np.arange(length + 1)[None]
    segments = np.where(index < cut, 1, np.where(index <= end, 2, 0)).astype(np.int32)
    positions = np.where(index < cut, index, index - cut).astype(np.int32)
    records = [
        {"tokens": t, "segment_ids": s, "positions": p} for t, s, p in zip(tokens, segments, positions, strict=True)
    ]
    examples = [CausalLM().example(record, rng) for record in records]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def experiment_of(model=MODEL, optimizer=OPTIMIZER, objective=CausalLM(), seed=0, accumulation=1, **execution):
    train = TrainConfig(steps=100, batch_size=8, seq_len=model.context_length, seed=seed, accumulation=accumulation)
    return Experiment("tiny", model, objective, optimizer=optimizer, train=train, execution=Execution(**execution))


@functools.cache
def program_of(mesh_config=ONE, **settings):
    mesh = make_mesh(mesh_config)
    return Program(experiment_of(**settings), mesh), mesh


def run(program, mesh, steps=3):
    with jax.set_mesh(mesh):
        state, losses = program.init(), []
        for step in range(steps):
            batch = jax.device_put(make_batch(step), batch_sharding(mesh))
            state, metrics = program.step(state, batch)
            losses.append(float(metrics["loss"]))
    return state, losses


@pytest.fixture(scope="module", autouse=True)
def compiled_as_for_users():
    """These tests compare sums to a few units in the last place: LLVM's plain loops add in a worse order."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def compiled_soon():
    """As all other tests: sums are not compared."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def one_device():
    return run(*program_of())


@pytest.fixture(scope="module")
def reference():
    return Reference(experiment_of(), [make_batch(step) for step in range(3)])


@pytest.mark.parametrize(
    "mesh",
    few(
        [
            MeshConfig(data=2, fsdp=2, tensor=2),
            MeshConfig(data=8),
            MeshConfig(data=1, fsdp=8),
            MeshConfig(data=2, tensor=2, sequence=2),
        ],
    ),
    ids=str,
)
def test_any_mesh_gives_the_losses_of_one_device(mesh, one_device, reference):
    """As the check of meshes has it, whose update on one device is that of `step`."""
    np.testing.assert_allclose(list(reference.outcome.losses.values()), one_device[1], atol=1e-6)
    assert reference.compare(mesh).first is None


@pytest.mark.parametrize("name", few(["adamw", "adafactor", "lion", "muon"], "adamw"))
@pytest.mark.usefixtures("compiled_soon")
def test_parameters_and_moments_are_really_sharded(name):
    program, mesh = program_of(
        MeshConfig(data=1, fsdp=4, tensor=2), optimizer=dataclasses.replace(OPTIMIZER, name=name)
    )
    with jax.set_mesh(mesh):
        state = program.init()
    sizes = {leaf.shape: leaf.addressable_shards[0].data.size / leaf.size for leaf in jax.tree.leaves(state.params)}
    assert sizes[(2, 16, 64)] == 1 / 8  # an MLP kernel: fsdp x tensor
    for leaf in jax.tree.leaves(state.opt_state):
        if leaf.shape in sizes and leaf.ndim > 1:
            assert leaf.addressable_shards[0].data.size / leaf.size == sizes[leaf.shape]


@pytest.mark.parametrize("accumulation", few([2, 8]))
def test_accumulation_gives_the_update_of_the_whole_batch(accumulation, one_device):
    state, losses = run(*program_of(accumulation=accumulation))
    np.testing.assert_allclose(losses, one_device[1], atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), state.params, one_device[0].params)


@pytest.mark.exhaustive
def test_accumulation_on_a_mesh(one_device):
    _, losses = run(*program_of(MeshConfig(data=2, fsdp=2, tensor=2), accumulation=2))
    np.testing.assert_allclose(losses, one_device[1], atol=1e-5)


def test_an_update_that_is_not_finite_is_skipped_and_counted():
    program, mesh = program_of()
    good = make_batch(0)
    bad = good | {"weights": np.where(np.arange(8)[:, None] == 3, np.inf, good["weights"]).astype(np.float32)}
    with jax.set_mesh(mesh):
        state = program.init()
        before = jax.tree.map(np.array, state)
        state, metrics = program.step(state, bad)
        assert int(metrics["skipped"]) == 1
        jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
        jax.tree.map(np.testing.assert_array_equal, state.opt_state, before.opt_state)
        state, metrics = program.step(state, bad)
        assert int(metrics["skipped"]) == 2
        state, metrics = program.step(state, good)
        assert int(metrics["skipped"]) == 0
        assert int(state.step) == 3


@pytest.mark.usefixtures("compiled_soon")
def test_a_skipped_update_takes_its_learning_rate_with_it():
    """The rate of update s is the schedule's at s - 1, whatever was skipped, and the last update has the last rate."""
    config = OptimizerConfig(
        name="lion", learning_rate=1e-3, schedule="linear", warmup_steps=2, final_fraction=0.1, weight_decay=0.0
    )
    schedule = make_schedule(config, 7)
    program, mesh = program_of(optimizer=config)
    program = program.with_schedule(schedule)
    good = make_batch(0)
    bad = good | {"weights": np.full_like(good["weights"], np.nan)}
    logged, used = [], []
    with jax.set_mesh(mesh):
        state = program.init()
        for batch in (good, good, bad, bad, good, bad, good):
            before = np.array(state.params["backbone"]["token_embedding"]["embedding"])
            state, metrics = program.step(state, batch)
            logged.append(float(metrics["learning_rate"]))
            after = np.array(state.params["backbone"]["token_embedding"]["embedding"])
            used.append(np.abs(after - before).max())  # Lion's update is the rate times a sign
    want = np.array([float(schedule(count)) for count in range(7)])
    np.testing.assert_allclose(logged, want, rtol=1e-6)
    np.testing.assert_allclose(used, np.where([0, 0, 1, 1, 0, 1, 0], 0, want), rtol=1e-4)
    assert want[-1] == pytest.approx(1e-4)


@pytest.mark.usefixtures("compiled_soon")
def test_dropout_differs_between_steps_and_repeats_with_the_seed():
    model = dataclasses.replace(MODEL, dropout=0.5)
    frozen = dataclasses.replace(OPTIMIZER, learning_rate=1e-12)
    batch = make_batch(0)

    program, mesh = program_of(model=model, optimizer=frozen)

    def losses():
        with jax.set_mesh(mesh):
            state, first = program.step(program.init(), batch)
            _, second = program.step(state, batch)
        return float(first["loss"]), float(second["loss"])

    first, second = losses()
    assert abs(first - second) > 1e-4
    assert losses() == (first, second)


def test_refuses_heads_that_tensor_parallelism_does_not_divide():
    with pytest.raises(UserError, match=r"heads' dimension of 2 is not divided by tensor = 4"):
        program_of(MeshConfig(data=1, tensor=4))


def test_golden_one_step_loss():
    """Guards against drift: these figures may change only with the initialisation or the equations, knowingly."""
    _, losses = run(*program_of(), steps=2)
    np.testing.assert_allclose(losses, GOLDEN, rtol=1e-5)


GOLDEN = [4.165827, 4.158602]


@pytest.fixture(scope="module")
def twins():
    """Transformers' GPT-2 and ours, from the same random weights."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=97, n_positions=24, n_embd=24, n_layer=3, n_head=3, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    theirs = transformers.GPT2LMHeadModel(config)
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    ours = GPT2.read_config(config.to_dict(), "language_model")
    return theirs, ours, GPT2.from_hf(tensors, ours)


def test_twenty_adamw_steps_equal_pytorch(twins):
    """One update's parameters to 1e-5, twenty updates' losses to 1e-4; decay on matrices only, clipping at 1."""
    theirs, config, params = twins
    rate, decay = 3e-3, 0.1
    # The loss does not depend on the keys' bias, so its gradient is rounding noise, which Adam would blow up to full
    # updates of random sign at the usual epsilon of 1e-8.
    optimizer = OptimizerConfig(
        learning_rate=rate, schedule="constant", warmup_steps=0, weight_decay=decay, b2=0.95, epsilon=1e-6
    )
    program, mesh = program_of(model=config, optimizer=optimizer)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=1e-6)

    def their_step(tokens):
        tokens = torch.tensor(tokens, dtype=torch.long)
        logits = theirs(tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adamw.step()
        return loss.item()

    rng = np.random.default_rng(0)
    ours, expected = [], []
    with jax.set_mesh(mesh):
        state = dataclasses.replace(program.init(), params=jax.tree.map(jnp.asarray, params))
        for step in range(20):
            tokens = rng.integers(0, 97, (4, 25), dtype=np.int32)
            record = {
                "tokens": tokens[0],
                "segment_ids": np.ones(25, np.int32),
                "positions": np.arange(25, dtype=np.int32),
            }
            rows = [CausalLM().example(record | {"tokens": row}, rng) for row in tokens]
            state, metrics = program.step(state, jax.tree.map(lambda *leaves: np.stack(leaves), *rows))
            ours.append(float(metrics["loss"]))
            expected.append(their_step(tokens))
            if step == 0:
                updated = GPT2.from_hf({n: t.numpy() for n, t in theirs.state_dict().items()}, config)
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params, updated)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.parametrize("mesh", [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=4, sequence=2)], ids=str)
def test_accumulation_with_dropout_is_one_devices(mesh):
    """Each copy of the model accumulates by itself; what is dropped does not depend on how many there are."""
    model, parts = dataclasses.replace(MODEL, dropout=0.1), 8 // batch_divisor(make_mesh(mesh))
    want, losses = run(*program_of(model=model, accumulation=parts))
    have, on_mesh = run(*program_of(mesh, model=model, accumulation=parts))
    np.testing.assert_allclose(on_mesh, losses, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), have.params, want.params)


@pytest.mark.usefixtures("compiled_soon")
def test_accumulation_reduces_over_devices_once_a_step():
    program, mesh = program_of(MeshConfig(data=2), accumulation=4)
    with jax.set_mesh(mesh):
        batch = jax.device_put(make_batch(0), batch_sharding(mesh))
        text = program.lower_step(program.abstract, batch).compile().as_text()
    reductions = re.compile(r" all-reduce(?:-start)?\(")
    in_entry = reductions.findall(text[text.index("\nENTRY ") :])
    assert in_entry
    assert len(reductions.findall(text)) == len(in_entry)  # none in a loop


@pytest.mark.parametrize("sizes", few([{"fsdp": 2}, {"tensor": 2}, {"pipeline": 2}], {"fsdp": 2}))
@pytest.mark.usefixtures("compiled_soon")
def test_products_in_eight_bits_are_one_devices_on_any_mesh(sizes):
    """A scale is that of the whole array, wherever its parts are; the steps are near those of wide products."""
    losses = {}
    for name, mesh, settings in (
        ("fp8", ONE, {"quantization": "fp8"}),
        ("recomputed", ONE, {"quantization": "fp8", "remat": "full"}),
        ("on a mesh", MeshConfig(data=1, **sizes), {"quantization": "fp8"}),
        ("wide", ONE, {}),
    ):
        program, mesh = program_of(mesh, **settings)
        with jax.set_mesh(mesh):
            state, losses[name] = program.init(), []
            for seed in range(3):
                state, metrics = program.step(state, make_batch(seed))
                losses[name].append(float(metrics["loss"]))
    np.testing.assert_allclose(losses["recomputed"], losses["fp8"], rtol=1e-5)
    np.testing.assert_allclose(losses["on a mesh"], losses["fp8"], rtol=1e-3)
    np.testing.assert_allclose(losses["fp8"], losses["wide"], rtol=1e-2)
    assert losses["fp8"] != losses["wide"]
