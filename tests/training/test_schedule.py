"""Schedules are arguments of what is compiled: runs that differ in them, or in their seed, share a program."""

import dataclasses
from collections import Counter

import jax
import numpy as np
import pytest
from jax._src import monitoring

from tests.training.test_program import OPTIMIZER, make_batch, program_of
from transformer.parallel.layout import batch_sharding
from transformer.training.optimizer import OptimizerConfig, make_schedule

MISS = "/jax/compilation_cache/cache_misses"


@pytest.fixture
def compiled():
    """Counts compilations that the cache did not save."""
    counts = Counter()
    listen = lambda event, **_: counts.update([event])  # noqa: E731
    jax.monitoring.register_event_listener(listen)
    yield lambda: counts[MISS]
    monitoring.unregister_event_listener(listen)


def test_one_program_for_all_schedules_and_seeds(compiled, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    try:
        seen = []
        for seed, optimizer in enumerate(
            [
                OPTIMIZER,
                dataclasses.replace(OPTIMIZER, learning_rate=0.3, warmup_steps=7),
                dataclasses.replace(OPTIMIZER, schedule="wsd", cooldown_fraction=0.5),
                dataclasses.replace(OPTIMIZER, schedule="linear", final_fraction=0.0),
            ]
        ):
            program, mesh = program_of(optimizer=optimizer, seed=seed)
            with jax.set_mesh(mesh):
                state = program.init()
                batch = jax.device_put(make_batch(0), batch_sharding(mesh))
                for _ in range(3):
                    state, metrics = program.step(state, batch)
            seen.append((compiled(), float(metrics["loss"])))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
    misses, losses = zip(*seen, strict=True)
    assert misses[0] >= 2  # the first compiles init and step
    assert misses[1:] == misses[:1] * 3
    assert len(set(losses)) == 4  # and they are other runs


def test_what_muon_leaves_to_adam_has_a_peak_of_its_own():
    config = OptimizerConfig(name="muon", learning_rate=0.2, adam_learning_rate=0.03, schedule="linear", warmup_steps=2)
    rate = make_schedule(config, 11)
    alone = make_schedule(dataclasses.replace(config, learning_rate=0.03), 11)
    for count in range(11):
        np.testing.assert_allclose(rate.rates(count).second, alone(count), rtol=1e-6)
        np.testing.assert_array_equal(rate.rates(count).main, rate(count))
