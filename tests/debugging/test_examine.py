"""Where a step's numbers stop being finite: the module, the layer and the part where trouble was put."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.exhaustive import few
from tests.tiny_models import TINY, random_params
from transformer.debugging.examine import Examination, examine, forward_entries
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig
from transformer.objectives import MaskedLM, SpanCorruption
from transformer.objectives.causal_lm import CausalLM
from transformer.parallel.mesh import MeshConfig
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.session import Session
from transformer.training.state import TrainState

MODEL = GPTConfig(vocab_size=32, context_length=16, width=16, num_layers=3, num_heads=2, dropout=0.0)
LENGTH = TrainConfig(steps=4, batch_size=4, seq_len=16)
EXPERIMENT = Experiment("tiny", MODEL, train=LENGTH, mesh=MeshConfig(data=1))
LAYERS = "backbone/stack/layers"


def changed(params, path, layer, change):
    """The parameters with one layer of one of them changed."""

    def one(at, leaf):
        if jax.tree_util.keystr(at, simple=True, separator="/") != path:
            return leaf
        found.append(path)
        return (
            np.asarray(change(leaf))
            if layer is None
            else np.stack([*leaf[:layer], change(leaf[layer]), *leaf[layer + 1 :]])
        )

    found = []
    params = jax.tree_util.tree_map_with_path(one, params)
    assert found == [path]
    return params


@pytest.fixture(scope="module")
def look():
    """A function from parameters to what is in the step that they make."""
    session = Session(EXPERIMENT)
    rng = np.random.default_rng(0)
    window = {
        "tokens": rng.integers(0, 32, (4, 17), dtype=np.int32),
        "segment_ids": np.ones((4, 17), np.int32),
        "positions": np.tile(np.arange(17, dtype=np.int32), (4, 1)),
    }
    rows = [CausalLM().example({name: value[row] for name, value in window.items()}, rng) for row in range(4)]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    def run(params) -> Examination:
        state = TrainState(jnp.int32(2), jax.tree.map(jnp.asarray, params), None, None)
        return examine(session, state, batch)

    return run


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)


def test_a_finite_step_is_listed_in_the_order_of_its_computation(look, params):
    found = look(params)
    assert found.first_bad() is None
    names = [(entry.name, entry.layer) for entry in found.forward]
    order = [
        ("backbone/token_embedding", None),
        *[
            (f"{LAYERS}/{module}", n)
            for n in range(3)
            for module in ("attention_norm", "attention", "mlp/up", "mlp", "")
        ],
        ("backbone/stack", None),
        ("backbone/final_norm", None),
        ("model", None),
    ]
    places = [names.index((name.removesuffix("/"), layer)) for name, layer in order]
    assert places == sorted(places)
    assert {entry.values for entry in found.forward if entry.name == LAYERS} == {4 * 16 * 16}

    assert {entry.name for entry in found.loss} == {"loss", "nll", "accuracy"}
    [(_, sizes)] = [(entry, entry.values) for entry in found.parameters if entry == found.parameters[0]]
    assert (found.parameters[0].name, sizes) == ("backbone/token_embedding/embedding", 32 * 16)
    assert found.parameters[-1].name.startswith("backbone/final_norm/")
    # Back from the last module and layer to the first.
    layers = [entry.layer for entry in found.gradients if entry.layer is not None]
    assert layers == sorted(layers, reverse=True)
    assert found.gradients[0].name.startswith("backbone/final_norm/")
    assert found.gradients[-1].name == "backbone/token_embedding/embedding"
    largest = {(entry.name, entry.layer): entry.largest for entry in found.parameters}
    kernel = params["backbone"]["stack"]["layers"]["mlp"]["down"]["kernel"]
    for layer in range(3):
        assert largest[f"{LAYERS}/mlp/down/kernel", layer] == np.abs(kernel[layer]).max()


@pytest.mark.parametrize(("module", "layer"), [("attention/query", 0), ("mlp/down", 2), ("mlp_norm", 1)])
def test_a_parameter_that_is_not_finite_is_named_with_its_layer(look, params, module, layer):
    leaf = "bias" if module == "mlp_norm" else "kernel"
    found = look(changed(params, f"{LAYERS}/{module}/{leaf}", layer, lambda x: x * np.float32(np.inf)))
    part, entry = found.first_bad()
    assert (part, entry.name, entry.layer) == ("parameters", f"{LAYERS}/{module}/{leaf}", layer)
    assert entry.bad == entry.values
    first = next(entry for entry in found.forward if entry.bad)
    assert (first.name, first.layer) == (f"{LAYERS}/{module}", layer)


def test_one_value_of_a_parameter_is_enough(look, params):
    def one(embedding):
        embedding = embedding.copy()
        embedding[5, 3] = np.nan
        return embedding

    _, entry = look(changed(params, "backbone/position_embedding/embedding", None, one)).first_bad()
    assert entry == ("backbone/position_embedding/embedding", None, pytest.approx(entry.largest), 1, 256)


@pytest.mark.parametrize("layer", [0, 2])
def test_an_overflow_is_found_in_the_forward_pass(look, params, layer):
    def huge(x):
        return x * np.float32(1e30)

    hurt = changed(params, f"{LAYERS}/mlp/up/kernel", layer, huge)
    hurt = changed(hurt, f"{LAYERS}/mlp/down/kernel", layer, huge)
    part, entry = look(hurt).first_bad()
    assert (part, entry.name, entry.layer) == ("forward", f"{LAYERS}/mlp/down", layer)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_gradient_that_overflows_alone_is_found_in_the_backward_pass(look, params, layer):
    """A huge head, and an MLP that shrinks before it grows: going back, it grows first, from 1e16 to 1e42."""

    def times(factor):
        return lambda x: x * np.float32(factor)

    hurt = changed(params, "backbone/final_norm/scale", None, times(1e16))
    for leaf, factor in (("up/kernel", 1e-26), ("up/bias", 1e-26), ("down/kernel", 1e26)):
        hurt = changed(hurt, f"{LAYERS}/mlp/{leaf}", layer, times(factor))
    found = look(hurt)
    assert [entry for entry in [*found.parameters, *found.forward, *found.loss] if entry.bad] == []
    part, entry = found.first_bad()
    assert (part, entry.layer) == ("gradients", layer)
    assert entry.name in (f"{LAYERS}/mlp/up/kernel", f"{LAYERS}/mlp/up/bias")


def state_of(model):
    return TrainState(jnp.int32(0), jax.tree.map(jnp.asarray, random_params(model)), None, None)


def experiment_of(model, objective=CausalLM(), **length):
    return Experiment("tiny", model, objective, train=dataclasses.replace(LENGTH, **length))


@pytest.mark.parametrize(
    ("family", "objective", "stacks"),
    few([("gpt", CausalLM(), 1), ("t5", SpanCorruption(), 2)], ("t5", SpanCorruption(), 2)),
)
def test_stacks_of_groups_and_of_two_sides_come_layer_by_layer(family, objective, stacks):
    """Against what the stack itself leaves: its layers' outputs, [layers, B, T, D]."""
    model = TINY[family]
    state, inputs = state_of(model), model.example_inputs(2, 8)
    inputs = {name: jnp.ones_like(value) for name, value in inputs.items()}
    entries = forward_entries(experiment_of(model, objective), {"params": state.params}, state.step, {"inputs": inputs})
    _, left = model.build(Execution()).apply(
        {"params": state.params}, **inputs, mutable=["intermediates"], deterministic=True
    )
    hidden = {
        jax.tree_util.keystr(path[:-1], simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(left)
        if jax.tree_util.keystr(path[-1:], simple=True) == "hidden"
    }
    assert len(hidden) == stacks
    for path, leaf in hidden.items():
        path = path.removeprefix("intermediates/")
        found = [entry for entry in entries if entry.name == path]
        assert [entry.layer for entry in found] == list(range(len(leaf)))
        np.testing.assert_allclose([e.largest for e in found], np.abs(leaf).max(axis=(1, 2, 3)), rtol=1e-5)
        inside = [at for at, entry in enumerate(entries) if entry.name.startswith(path)]
        assert inside == list(range(inside[0], inside[-1] + 1))
        layers = [entries[at].layer for at in inside]
        assert layers == sorted(layers)


def test_layers_that_share_their_parameters_are_told_apart():
    model = TINY["albert"]
    experiment = experiment_of(model, MaskedLM(sentence="sop"))
    state = state_of(model)
    inputs = {"inputs": model.example_inputs(2, 8)}
    entries = forward_entries(experiment, {"params": state.params}, state.step, inputs)
    assert {entry.layer for entry in entries} == {None, 0, 1}


def test_microbatches_are_added_up():
    inputs = MODEL.example_inputs(4, 8)
    inputs["tokens"] = jnp.arange(32, dtype=jnp.int32).reshape(4, 8)
    state = state_of(MODEL)
    whole, parts = (
        forward_entries(experiment_of(MODEL, accumulation=n), {"params": state.params}, state.step, {"inputs": inputs})
        for n in (1, 2)
    )
    assert [entry[:2] for entry in whole] == [entry[:2] for entry in parts]
    np.testing.assert_allclose([e.largest for e in whole], [e.largest for e in parts], rtol=1e-5)
    assert [entry.values for entry in whole if entry.name != "head" and entry.name != "model"] == [
        entry.values for entry in parts if entry.name != "head" and entry.name != "model"
    ]
