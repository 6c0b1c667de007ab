"""muP: the table by hand, the optimizer's part against optax's parameter by parameter, and the coordinate check."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from tests.exhaustive import few
from tests.tiny_models import TINY, random_params
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig
from transformer.models.resizing import scaled
from transformer.models.t5 import T5Config
from transformer.mup.parametrization import MupConfig, scaling
from transformer.parallel.mesh import MeshConfig
from transformer.params import is_matrix, param_names
from transformer.training import loop
from transformer.training.optimizer import Factors, OptimizerConfig, make_optimizer, make_schedule

ADAMW = OptimizerConfig(schedule="constant", warmup_steps=0)
BASE = GPTConfig(vocab_size=32, context_length=16, width=16, num_layers=2, num_heads=4, dropout=0.0)


def table(model, mup, optimizer=ADAMW):
    """Path -> (multiplier, spread, rate, epsilon)."""
    found = scaling(model, mup, optimizer)
    assert found is not None
    trees = found.factors.multiplier, found.spread, found.factors.rate, found.factors.epsilon
    flat = [flatten_dict(tree, sep="/") for tree in trees]
    return {path: tuple(tree[path] for tree in flat) for path in flat[0]}


def test_the_base_itself_changes_in_nothing():
    assert scaling(BASE, MupConfig(), ADAMW) is None
    assert scaling(BASE, MupConfig(16, base_head_width=4, base_layers=2), ADAMW) is None


def test_the_table_by_hand():
    """Four times the width, twice the head width, three times the layers."""
    wide = dataclasses.replace(BASE, width=64, num_layers=6, num_heads=8)
    rows = table(wide, MupConfig(16, base_head_width=4, base_layers=2))
    block = "backbone/stack/layers"
    expected = {
        "backbone/token_embedding/embedding": (1, 1, 1, 1 / 4),
        "backbone/position_embedding/embedding": (1, 1, 1, 1 / 4),
        f"{block}/attention_norm/scale": (1, 1, 1, 1 / 12),
        f"{block}/attention/query/kernel": (2**-0.5, 0.5, 1 / 4, 1 / 12),
        f"{block}/attention/query/bias": (2**-0.5, 1, 1, 1 / 12),
        f"{block}/attention/key/kernel": (1, 0.5, 1 / 4, 1 / 12),
        f"{block}/attention/out/kernel": (1 / 3, 0.5, 1 / 4, 1 / 12),
        f"{block}/attention/out/bias": (1 / 3, 1, 1, 1 / 12),
        f"{block}/mlp/up/kernel": (1, 0.5, 1 / 4, 1 / 12),
        f"{block}/mlp/down/kernel": (1 / 3, 0.5, 1 / 4, 1 / 12),
        "backbone/final_norm/scale": (1 / 4, 1, 1, 1 / 4),
        "backbone/final_norm/bias": (1 / 4, 1, 1, 1 / 4),
    }
    for path, row in expected.items():
        assert rows[path] == pytest.approx(row), path


def test_an_untied_head_keeps_its_multiplier_itself():
    rows = table(dataclasses.replace(BASE, width=64, num_heads=16, tie_embeddings=False), MupConfig(16))
    assert rows["head/kernel"] == (1 / 4, 1, 1, 1 / 4)
    assert rows["backbone/final_norm/scale"] == (1, 1, 1, 1 / 4)


def test_what_a_family_scales_by_the_width_counts_as_a_part():
    """T5's head has D^-1/2 and its scores no K^-1/2; the Transformer's words have D^1/2."""
    t5 = T5Config(vocab_size=32, width=64, num_heads=4, head_width=16, mlp_width=96, dropout=0.0)
    rows = table(t5, MupConfig(16, base_head_width=4))
    assert rows["backbone/decoder/final_norm/scale"][0] == pytest.approx(1 / 2)
    assert rows["backbone/encoder/final_norm/scale"][0] == 1
    assert rows["backbone/decoder/stack/layers/cross_attention/query/kernel"][0] == pytest.approx(1 / 4)
    rows = table(scaled(TINY["transformer"], 64), MupConfig(16))
    assert rows["backbone/token_embedding/embedding"][0] == pytest.approx(1 / 2)
    norm = dataclasses.replace(TINY["transformer"], num_decoder_layers=3)
    rows = table(scaled(norm, 64), MupConfig(16))
    np.testing.assert_allclose(rows["backbone/decoder/stack/layers/mlp_norm/scale"][0], [[1], [1], [1 / 2]])


@pytest.mark.parametrize("family", few(TINY, "gpt", "llama", "bert", "t5"))
def test_every_family(family):
    """What is read from the width outside is as in the base, all within is a quarter; each tied norm is there."""
    wide = scaled(TINY[family], 64)
    rows = table(wide, MupConfig(16))
    boxed = flatten_dict(nn.meta.unbox(wide.abstract_params()), sep="/")
    for norm in wide.tied_norms:
        assert f"{norm}/scale" in boxed
    # A router reads the width out, in each layer; what is expanded from a latent is as wide as in the base.
    within = [path for path in rows if "/layers/" in path and path.endswith("kernel") and 64 in boxed[path].shape]
    within = [path for path in within if "/router/" not in path]
    assert within
    assert all(rows[path][1:3] == (0.5, 0.25) for path in within)
    # Which kernels read the width out, and to what, the shapes tell.
    heads = [path for path in rows if path.endswith("kernel") and 64 in boxed[path].shape and rows[path][0] == 0.25]
    assert all(set(boxed[path].shape) - {64} <= {1, 2, 4, 5, 8, 32} for path in heads)
    assert all(rows[path][2] == 1 for path in rows if path.endswith(("embedding", "bias", "scale")))


def test_a_norm_of_all_heads_together_is_scaled_by_the_width_of_one():
    path = "backbone/stack/layers/attention/query_norm/scale"
    assert table(scaled(TINY["olmoe"], 64), MupConfig(16))[path][0] == 1
    wide_heads = scaled(TINY["olmoe"], 64, head_width=8)
    assert table(wide_heads, MupConfig(16, base_head_width=4))[path][0] == pytest.approx(2**-0.5)


def test_initial_sizes():
    """GPT-2's own: 0.02, and 0.02 (2 N)^-1/2 for what adds to the stream, both times m^-1/2; words as they are."""
    wide = dataclasses.replace(BASE, width=64, num_heads=16, num_layers=8)
    found = scaling(wide, MupConfig(16, base_layers=2), ADAMW)

    @jax.jit
    def initial():
        drawn = wide.build(Execution()).init(jax.random.key(0), **wide.example_inputs())["params"]
        return found.rescaled(nn.meta.unbox(drawn), seed=0)

    flat = flatten_dict(initial(), sep="/")
    for path, std in {
        "backbone/token_embedding/embedding": 0.02,
        "backbone/position_embedding/embedding": 0.01,
        "backbone/stack/layers/mlp/up/kernel": 0.02 / 2,
        "backbone/stack/layers/mlp/down/kernel": 0.02 / 2 / 2 / 4,
    }.items():
        # As large as the base's own draw, whose 256 or more values tell their size to a few percent.
        assert float(jnp.std(flat[path])) == pytest.approx(std, rel=0.12), path
    np.testing.assert_array_equal(flat["backbone/final_norm/scale"], np.full(64, 0.25, np.float32))
    np.testing.assert_array_equal(flat["backbone/stack/layers/mlp_norm/scale"], np.ones((8, 64), np.float32))


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_updates_are_those_of_each_parameter_by_itself(name):
    """optax's own on W, with the learning rate, decay and epsilon of the table: what is stored is c W."""
    wide = dataclasses.replace(BASE, width=32, num_heads=4, num_layers=4)
    config = dataclasses.replace(ADAMW, name=name, learning_rate=0.01, weight_decay=0.3, epsilon=0.1, clip_norm=None)
    found = scaling(wide, MupConfig(16, base_head_width=4, base_layers=2), config)
    names = param_names(wide.abstract_params())
    params, targets = random_params(wide), random_params(dataclasses.replace(wide, vocab_size=32))
    factors = found.factors

    def gradient(stored):  # of some function of what is stored
        return jax.tree.map(lambda w, t: jnp.tanh(3 * w - t), stored, targets)

    tx = make_optimizer(config, make_schedule(config, 4).rates(0), names, factors)
    stored = jax.tree.map(lambda w, c: w * c, params, factors.multiplier)
    state = tx.init(stored)
    update = jax.jit(lambda stored, state: tx.update(gradient(stored), state, stored))
    for _ in range(3):
        updates, state = update(stored, state)
        stored = optax.apply_updates(stored, updates)

    def alone(path, w, target, c, rate, epsilon):
        decay = 0.3 / rate if is_matrix(path[-1].key) else 0.0
        if name == "adamw":
            tx = optax.adamw(0.01 * rate, config.b1, config.b2, config.epsilon * epsilon, weight_decay=decay)
        else:
            tx = optax.lion(0.01 * rate, config.b1, config.b2, weight_decay=decay)
        state = tx.init(w)
        for _ in range(3):
            updates, state = tx.update(c * jnp.tanh(3 * c * w - target), state, w)
            w = optax.apply_updates(w, updates)
        return c * w

    with jax.numpy_dtype_promotion("standard"):
        each = functools.partial(jax.tree_util.tree_map_with_path, alone)
        expected = jax.jit(each)(params, targets, factors.multiplier, factors.rate, factors.epsilon)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-7), stored, expected)


@pytest.mark.parametrize("name", few(["adamw", "lion", "muon"], "adamw"))
def test_factors_of_one_change_nothing(name):
    """The decay is then added apart from the optimizer, to the same parameters, at the same rate."""
    config = OptimizerConfig(name=name, weight_decay=0.3, learning_rate=0.01, warmup_steps=2)
    params, names = random_params(BASE), param_names(BASE.abstract_params())
    ones = jax.tree.map(lambda _: 1.0, params)
    found = []
    for factors in (None, Factors(ones, ones, ones)):
        make = functools.partial(make_optimizer, config, names=names, factors=factors)
        update = jax.jit(lambda rates, grads, *rest, make=make: make(rates).update(grads, *rest))
        stored, rates = params, make_schedule(config, 9).rates
        state = make(rates(0)).init(params)
        for count in range(3):
            updates, state = update(rates(count), jax.tree.map(jnp.tanh, stored), state, stored)
            stored = optax.apply_updates(stored, updates)
        found.append(stored)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), *found)


def test_gradients_are_clipped_by_the_norm_of_w():
    """So that what is clipped does not depend on where a multiplier is stored."""
    wide = dataclasses.replace(BASE, width=64, num_heads=16)
    config = dataclasses.replace(ADAMW, name="lion", clip_norm=1e-3, b2=0.0)
    found = scaling(wide, MupConfig(16), config)
    grads = random_params(wide)
    tx = make_optimizer(config, make_schedule(config, 4).rates(0), param_names(wide.abstract_params()), found.factors)
    _, state = jax.jit(lambda grads: tx.update(grads, tx.init(grads), grads))(grads)
    [momentum] = [leaf.mu for leaf in jax.tree.leaves(state, is_leaf=_is_lion) if _is_lion(leaf)]
    # With b2 = 0 Lion's momentum is the clipped gradient itself, over epsilon's factor.
    clipped = jax.tree.map(lambda x, epsilon: x * epsilon, momentum, found.factors.epsilon)
    assert float(optax.tree.norm(clipped)) == pytest.approx(1e-3, rel=1e-4)


def _is_lion(node):
    return isinstance(node, optax.ScaleByLionState)


@pytest.mark.exhaustive
def test_muons_updates_have_the_spectral_norm_that_the_base_has():
    """Matrices go from D to D: their update's largest singular value is not to depend on D."""
    config = dataclasses.replace(ADAMW, name="muon", weight_decay=0.0, learning_rate=1.0)
    norms = []
    for model in (BASE, dataclasses.replace(BASE, width=64, num_heads=16)):
        found = scaling(model, MupConfig(16), config)
        tx = make_optimizer(
            config, make_schedule(config, 4).rates(0), param_names(model.abstract_params()), found and found.factors
        )
        grads = random_params(model)
        updates, _ = jax.jit(lambda grads, tx=tx: tx.update(grads, tx.init(grads), grads))(grads)
        block = updates["backbone"]["stack"]["layers"]
        up = np.asarray(block["mlp"]["up"]["kernel"][0])
        out = np.asarray(block["attention"]["out"]["kernel"][0]).reshape(model.width, model.width)
        norms.append([np.linalg.norm(matrix, 2) for matrix in (up, out)])
    np.testing.assert_allclose(norms[1], norms[0], rtol=0.25)  # Newton-Schulz leaves singular values of 0.7 to 1.2


@pytest.mark.parametrize(
    ("model", "mup", "optimizer", "message"),
    [
        (BASE, {"base_width": 8}, "lamb", "^name lamb: muP has no rule for it; choose from: adamw, lion"),
        (BASE, {"base_width": 16}, "adafactor", "name adafactor: muP has no rule"),
        (BASE, {"base_width": 10}, "adamw", "base_width 10: .* would have 2.5 num_heads of width 4"),
        (TINY["bert"], {"base_width": 8, "base_layers": 1}, "adamw", "base_layers 1: .* bert has post-norm"),
        (BASE, {"base_layers": 1}, "adamw", "base_layers need base_width"),
        (BASE, {"base_width": 0}, "adamw", "base_width is 0: it must be at least 1"),
    ],
)
def test_refuses(model, mup, optimizer, message):
    with pytest.raises(UserError, match=message):
        scaling(model, MupConfig(**mup), OptimizerConfig(name=optimizer))


@pytest.mark.exhaustive
def test_a_run_goes_on_from_its_checkpoint_on_a_mesh(experiment, tmp_path):
    wide = dataclasses.replace(experiment.model, width=64, num_heads=8)
    wide = dataclasses.replace(experiment, model=wide, mup=MupConfig(16))
    first = dataclasses.replace(wide, train=dataclasses.replace(wide.train, steps=4))
    loop.train(first, tmp_path / "run", report=lambda line: None)
    more = dataclasses.replace(wide, train=dataclasses.replace(wide.train, steps=8), mesh=MeshConfig(fsdp=2, tensor=2))
    result = loop.train(more, tmp_path / "run", report=lambda line: None)
    assert result.step == 8
    assert result.evaluation.loss < 0.98 * math.log(384)
