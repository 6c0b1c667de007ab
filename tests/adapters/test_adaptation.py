"""An adapter computes what its merged weights do, in every family and on every mesh; what is frozen has no gradient."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.adapters.bases import LLAMA, apart, batch_of, drawn, experiment_of, save_base
from tests.exhaustive import few
from tests.tiny_experiments import batch_of as family_batch
from tests.tiny_models import TINY
from transformer.adapters.adaptation import adaptation, linear_kernels
from transformer.adapters.config import AdapterConfig
from transformer.checks import FieldError
from transformer.debugging.parallel_check import Reference
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.params import flatten, unflatten
from transformer.planning.batch import abstract_batch
from transformer.planning.step import bytes_of
from transformer.training.program import Program
from transformer.transfer.config import InitConfig

CONFIG = AdapterConfig(rank=3, alpha=4.0)


def world(model, config=CONFIG, seed=0):
    """An adapter of a whole model, drawn parameters of it, and the base as it is held."""
    adapter = adaptation(config, model, list(model.parameters))
    params = jax.tree.map(lambda x: x * np.float32(0.5), drawn(model, seed))
    rng = np.random.default_rng(seed)
    trained = {
        path: rng.normal(size=leaf.value.shape, scale=0.2).astype(np.float32) + path.endswith("magnitude")
        for path, leaf in flatten(adapter.abstract_params()).items()
    }
    held = jax.jit(adapter.held)({path: jnp.asarray(x) for path, x in flatten(params).items()})
    return adapter, unflatten(trained), {name: unflatten(leaves) for name, leaves in held.items()}


def outputs_of(model, variables, inputs, execution=Execution()):
    """The arrays that a model returns: the last hidden states of a language model, or scores."""
    module = model.build(execution)
    outputs = jax.jit(lambda v: module.apply(v, **inputs, deterministic=True))(variables)
    return [np.asarray(x) for x in jax.tree.leaves(outputs) if x.dtype == jnp.float32]


@pytest.mark.parametrize(
    ("family", "dora"), few(itertools.product(sorted(TINY), (False, True)), ("deepseek", False), ("llama", True))
)
def test_unmerged_equals_merged(family, dora):
    model = TINY[family]
    adapter, trained, base = world(model, dataclasses.replace(CONFIG, dora=dora))
    inputs = family_batch(model)["inputs"]
    beside = outputs_of(model, adapter.variables(trained, base), inputs)
    whole = outputs_of(model, {"params": adapter.merged(trained, base)}, inputs)
    without = outputs_of(model, {"params": base["params"]}, inputs)
    assert any(np.abs(a - b).max() > 0.01 * np.abs(a).max() for a, b in zip(beside, without, strict=True))
    assert max(apart(a, b) for a, b in zip(beside, whole, strict=True)) < 1e-6


EXPERTS = TINY["olmoe"]
LIMITED = dataclasses.replace(EXPERTS, experts=dataclasses.replace(EXPERTS.experts, capacity_factor=1.5))


@pytest.mark.parametrize("model", [LLAMA, EXPERTS, LIMITED], ids=["dense", "dropless", "limited"])
def test_gradients_are_those_of_merged_weights(model):
    """Automatic differentiation of A B, by way of whole kernels, against what is written by hand."""
    adapter, trained, base = world(model)
    inputs, module = family_batch(model)["inputs"], model.build(Execution())

    def loss(variables):
        hidden = module.apply(variables, **inputs, deterministic=True).hidden_BTD
        return jnp.sin(hidden).sum()

    have = jax.jit(jax.grad(lambda t: loss(adapter.variables(t, base))))(trained)
    want = jax.jit(jax.grad(lambda t: loss({"params": adapter.merged(t, base)})))(trained)
    for path, gradient in flatten(want).items():
        size = np.abs(gradient).max()
        assert size > 0
        np.testing.assert_allclose(flatten(have)[path], gradient, atol=2e-5 * size, err_msg=path)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    models = {"llama": LLAMA, "olmoe": EXPERTS}
    return {name: (save_base(folder / name, model, drawn(model)), model) for name, model in models.items()}


MESHES = [MeshConfig(fsdp=2, tensor=2), MeshConfig(data=2, pipeline=2), MeshConfig(data=2, fsdp=2, zero1=True)]
OF_EXPERTS = [MeshConfig(data=1, expert=2, tensor=2), MeshConfig(data=1, fsdp=2, expert=2)]


CASES = [
    ("llama", True, MESHES[:1]),
    ("llama", True, MESHES[1:]),
    ("llama", False, MESHES),
    *(("olmoe", dora, OF_EXPERTS) for dora in (False, True)),
]


@pytest.mark.parametrize(("family", "dora", "meshes"), few(CASES, CASES[0]), ids=str)
def test_no_mesh_changes_the_numbers(family, dora, meshes, bases):
    path, model = bases[family]
    experiment = experiment_of(path, dataclasses.replace(CONFIG, dora=dora), model)
    adapter = Program(experiment, make_mesh(MeshConfig(data=1))).adapter
    assert adapter is not None
    trained = world(model, adapter.config)[1]
    batches = [batch_of(seed, length=16, vocab=32) for seed in range(2)]
    reference = Reference(experiment, batches, trained)
    for mesh in meshes:
        difference = reference.compare(mesh)
        assert difference.first is None, (mesh, difference)


def test_what_is_frozen_has_no_moments_and_no_gradient(bases):
    path, _ = bases["llama"]
    one = make_mesh(MeshConfig(data=1))
    experiment = experiment_of(path, AdapterConfig(rank=2, leaves=".*(query|value).*"))
    experiment = dataclasses.replace(experiment, execution=Execution(unroll=0))
    adapted = Program(experiment, one)
    whole = Program(dataclasses.replace(experiment, adapter=AdapterConfig()), one)
    assert [path.rpartition("layers/")[2] for path in flatten(adapted.abstract.params)] == [
        f"attention/{name}/lora_{factor}" for name in ("query", "value") for factor in "ab"
    ]
    factors = sum(leaf.size for leaf in jax.tree.leaves(adapted.abstract.params))
    assert bytes_of(adapted.abstract) == 3 * 4 * factors + 4 * 4  # with two moments, and four counters
    with jax.set_mesh(one):
        costs = [p.lower(abstract_batch(experiment, one)).compile().cost_analysis() for p in (adapted, whole)]
    assert costs[0] is not None
    assert costs[1] is not None
    assert costs[0]["flops"] < 0.8 * costs[1]["flops"]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_base_is_held_in_fewer_bits(dtype):
    adapter, trained, base = world(EXPERTS, dataclasses.replace(CONFIG, base_dtype=dtype))
    held, inputs = flatten(base["params"]), family_batch(EXPERTS)["inputs"]
    kernels, plain = linear_kernels(EXPERTS), {path: x * np.float32(0.5) for path, x in flatten(drawn(EXPERTS)).items()}
    for path, array in held.items():
        narrow = jnp.int8 if path in kernels and dtype == "int8" else jnp.bfloat16
        assert array.dtype == (jnp.float32 if path.endswith("scale") else narrow)
        if array.dtype == jnp.int8:
            axes = kernels[path].axes
            scale = np.expand_dims(flatten(base["scales"])[path], tuple(range(axes["stacked"], sum(axes.values()))))
            assert np.all(np.abs(np.asarray(array, np.float32) * scale - plain[path]) <= scale * 0.5001)
            assert np.abs(array).max() == 127
    # What is trained beside it is what is merged with it.
    beside = outputs_of(EXPERTS, adapter.variables(trained, base), inputs)
    whole = outputs_of(EXPERTS, {"params": adapter.merged(trained, base)}, inputs)
    assert max(apart(a, b) for a, b in zip(beside, whole, strict=True)) < 1e-6


def test_dropout_is_of_what_goes_into_the_factors(bases):
    path, _ = bases["llama"]
    mesh = make_mesh(MeshConfig(data=1))
    losses = {}
    for rate in (0.0, 0.9):
        program = Program(experiment_of(path, dataclasses.replace(CONFIG, dropout=rate)), mesh)
        trained = jax.tree.map(lambda factor: 5 * factor, world(LLAMA)[1])  # which then decide much of the loss
        with jax.set_mesh(mesh):
            state = dataclasses.replace(program.init(), params=jax.tree.map(jnp.asarray, trained))
            loss_sum, _, _ = jax.jit(program.gradients)(state, batch_of(0), program.frozen)
            sums = program.evaluate(state.params, batch_of(0)).sums
        losses[rate] = float(loss_sum), float(sums.metrics["nll"])
    assert losses[0.0][0] == pytest.approx(losses[0.0][1], rel=1e-5)
    assert losses[0.9][1] == losses[0.0][1]  # none in an evaluation
    assert losses[0.9][0] != pytest.approx(losses[0.9][1], rel=1e-3)


def test_what_an_adapter_begins_as():
    """PEFT's: A uniform within 1 / sqrt(inputs), by layer and expert alike; B zeros."""
    adapter = adaptation(dataclasses.replace(CONFIG, rank=64), EXPERTS, list(EXPERTS.parameters))
    factors = jax.jit(adapter.initial)(7)
    for kernel in adapter.targets.values():
        a, b = (np.asarray(factors[f"{kernel.module}/lora_{name}"]) for name in "ab")
        stacked, inputs = kernel.axes.values()
        bound = np.prod(kernel.parameter.shape[stacked : stacked + inputs]) ** -0.5
        assert bound * 0.98 < np.abs(a).max() <= bound
        assert a.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert not b.any()
    drawn_again = jax.jit(adapter.initial)(8)
    assert not np.array_equal(next(iter(factors.values())), next(iter(drawn_again.values())))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"leaves": "query"}, r"--adapter.leaves 'query' matches the whole path of no kernel .* nearest: backbone/"),
        ({"whole": "heads/.*"}, r"--adapter.whole 'heads/.*' matches the whole path of no array .* nearest: "),
        ({"dropout": 0.1}, r"--adapter.dropout 0.1: the factors of experts \(.*mlp/.*\) have no dropout"),
        ({"leaves": ".*query.*", "whole": ".*query.*"}, "no kernel is left to adapt"),
    ],
)
def test_what_cannot_be_adapted_is_refused(changed, message):
    with pytest.raises(UserError, match=message):
        adaptation(dataclasses.replace(CONFIG, **changed), EXPERTS, list(EXPERTS.parameters))


def test_configs_that_say_nothing_are_refused():
    with pytest.raises(FieldError, match="`?dora`? is True: there is no adapter"):
        AdapterConfig(dora=True)
    with pytest.raises(FieldError, match="is not a regular expression"):
        AdapterConfig(rank=1, leaves="(")
    experiment = experiment_of("base", CONFIG)
    with pytest.raises(FieldError, match=r"adapter.rank.* 3: an adapter is trained beside weights that exist"):
        dataclasses.replace(experiment, init=InitConfig())
