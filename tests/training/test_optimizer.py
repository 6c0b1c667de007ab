"""Schedules against their closed forms, updates against PyTorch's and against the papers' equations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformer.errors import UserError
from transformer.training.optimizer import OptimizerConfig, make_optimizer, make_schedule

NAMES = {"layers": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}, "norm": {"scale": ("embed",)}}


def some_params(key: int = 0):
    keys = jax.random.split(jax.random.key(key), 3)
    return {
        "layers": {"kernel": jax.random.normal(keys[0], (2, 4, 6)), "bias": jax.random.normal(keys[1], (2, 6))},
        "norm": {"scale": jax.random.normal(keys[2], (4,))},
    }


@given(
    schedule=st.sampled_from(["cosine", "linear", "constant", "inverse_sqrt", "wsd"]),
    warmup=st.integers(1, 50),
    extra=st.integers(10, 200),
)
def test_warmup_is_linear_and_meets_the_peak(schedule, warmup, extra):
    config = OptimizerConfig(schedule=schedule, learning_rate=0.5, warmup_steps=warmup)
    rate = make_schedule(config, warmup + extra)
    assert float(rate(0)) == 0.0
    assert float(rate(warmup // 2)) == pytest.approx(0.5 * (warmup // 2) / warmup, rel=1e-5)
    assert float(rate(warmup)) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("step", [10, 37, 60, 109])
def test_schedules_equal_their_closed_forms(step):
    steps, warmup, peak, final = 110, 10, 2.0, 0.1
    progress = (step - warmup) / (steps - 1 - warmup)
    expected = {
        "constant": peak,
        "linear": peak + (final - 1) * peak * progress,
        "cosine": peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))),
        # Vaswani et al. 2017, equation 3: proportional to min(step^-0.5, step * warmup^-1.5); at its peak, `peak`.
        "inverse_sqrt": peak * warmup**0.5 * min(step**-0.5, step * warmup**-1.5),
    }
    for schedule, value in expected.items():
        config = OptimizerConfig(schedule=schedule, learning_rate=peak, warmup_steps=warmup, final_fraction=final)
        assert float(make_schedule(config, steps)(step)) == pytest.approx(value, rel=1e-5), schedule


def test_wsd_is_constant_then_cools_down_by_one_minus_sqrt():
    config = OptimizerConfig(
        schedule="wsd", learning_rate=1.0, warmup_steps=10, cooldown_fraction=0.2, final_fraction=0.0
    )
    rate = make_schedule(config, 101)
    assert [float(rate(step)) for step in (10, 50, 80)] == pytest.approx([1.0, 1.0, 1.0])
    assert float(rate(85)) == pytest.approx(1 - math.sqrt(5 / 20), rel=1e-5)
    assert float(rate(100)) == pytest.approx(0.0, abs=1e-6)


def test_adamw_equals_pytorch_and_decays_matrices_only():
    config = OptimizerConfig(
        learning_rate=0.01, schedule="constant", warmup_steps=0, weight_decay=0.3, clip_norm=None, b2=0.95
    )
    params = some_params()
    tx = make_optimizer(config, make_schedule(config, 5).rates(0), NAMES)
    state = tx.init(params)
    twins = jax.tree.map(lambda p: torch.nn.Parameter(torch.tensor(np.asarray(p))), params)
    matrix = twins["layers"]["kernel"]
    others = [twins["layers"]["bias"], twins["norm"]["scale"]]
    groups = [{"params": [matrix], "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    for step in range(5):
        grads = some_params(step + 1)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        jax.tree.map(lambda twin, g: setattr(twin, "grad", torch.tensor(np.asarray(g))), twins, grads)
        adamw.step()
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(twins), strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)


def test_muon_orthogonalises_each_layer_and_leaves_vectors_to_adam():
    config = OptimizerConfig(
        name="muon", learning_rate=1.0, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=None
    )
    params, grads = some_params(), some_params(1)
    tx = make_optimizer(config, make_schedule(config, 5).rates(0), NAMES)
    updates, _ = tx.update(grads, tx.init(params), params)
    for layer in updates["layers"]["kernel"]:
        # Newton-Schulz brings every singular value near 1; the scale is 0.2 sqrt(max(rows, columns)).
        singular = np.linalg.svd(np.asarray(layer), compute_uv=False) / (0.2 * math.sqrt(6))
        assert np.all((singular > 0.5) & (singular < 1.5))
    # Adam's first update is the gradient's sign, with Nesterov's momentum (Dozat 2016) times this.
    first = 1 + 0.9 * 0.1 / (1 - 0.9**2)
    np.testing.assert_allclose(updates["norm"]["scale"], -first * np.sign(grads["norm"]["scale"]), atol=1e-4)


def test_lion_updates_by_the_sign():
    config = OptimizerConfig(
        name="lion", learning_rate=0.1, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=None
    )
    params, grads = some_params(), some_params(1)
    tx = make_optimizer(config, make_schedule(config, 5).rates(0), NAMES)
    updates, _ = tx.update(grads, tx.init(params), params)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -0.1 * np.sign(g), rtol=1e-6), updates, grads)


def test_adafactor_takes_relative_steps():
    """Shazeer and Stern 2018, algorithm 5: the step is at most the rate times the parameter's root mean square."""
    config = OptimizerConfig(
        name="adafactor", learning_rate=0.01, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=None
    )
    params, grads = some_params(), some_params(1)
    tx = make_optimizer(config, make_schedule(config, 5).rates(0), NAMES)
    updates, _ = tx.update(grads, tx.init(params), params)

    def rms(x):
        return float(jnp.sqrt(jnp.mean(x**2)))

    for update, param in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        assert rms(update) == pytest.approx(0.01 * rms(param), rel=0.05)


def test_clips_by_the_global_norm():
    config = OptimizerConfig(
        name="lion", learning_rate=1.0, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=1e-3, b2=0.0
    )
    params, grads = some_params(), some_params(1)
    tx = make_optimizer(config, make_schedule(config, 5).rates(0), NAMES)
    _, (_, (lion, *_)) = tx.update(grads, tx.init(params), params)
    # With b2 = 0 Lion's momentum is the clipped gradient itself.
    assert float(optax.tree.norm(lion.mu)) == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0: it must be above 0"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"schedule": "inverse_sqrt", "warmup_steps": 0}, "inverse_sqrt schedule needs at least 1"),
        ({"b1": 1.5}, "b1 is 1.5"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(UserError, match=message):
        OptimizerConfig(**fields)


def test_lamb_is_optaxs_a_layer_at_a_time():
    """optax.lamb on the layers taken apart, where each array is a layer's own."""
    config = OptimizerConfig(
        name="lamb", learning_rate=0.1, schedule="constant", warmup_steps=0, weight_decay=0.3, b2=0.9, clip_norm=None
    )
    params, grads = some_params(), some_params(1)
    ours = make_optimizer(config, make_schedule(config, 10).rates(0), NAMES)
    updates, state = ours.update(grads, ours.init(params), params)
    updates, _ = ours.update(grads, state, optax.apply_updates(params, updates))

    def apart(tree):
        layers = {f"{name}{i}": leaf[i] for name, leaf in tree["layers"].items() for i in range(2)}
        return layers | {"scale": tree["norm"]["scale"]}

    mask = {name: name.startswith("kernel") for name in apart(params)}
    with jax.numpy_dtype_promotion("standard"):
        theirs = optax.lamb(0.1, b2=0.9, eps=1e-8, weight_decay=0.3, mask=mask)
        first, state = theirs.update(apart(grads), theirs.init(apart(params)), apart(params))
        want, _ = theirs.update(apart(grads), state, optax.apply_updates(apart(params), first))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), apart(updates), want)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lamb", "lion", "muon"])
def test_the_rates_are_those_of_the_step(name):
    """Not those of the optimizer's own count, which leaves out skipped updates and stands at 0 here."""
    config = OptimizerConfig(name=name, learning_rate=0.02, schedule="linear", warmup_steps=4, clip_norm=None)
    schedule, params, grads = make_schedule(config, 50), some_params(), some_params(1)
    state = make_optimizer(config, schedule.rates(0), NAMES).init(params)

    def updates(count):
        return make_optimizer(config, schedule.rates(count), NAMES).update(grads, state, params)[0]

    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(updates(0))) == 0
    ratio = float(schedule(3) / schedule(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, ratio * b, rtol=1e-4), updates(3), updates(1))
