"""A sum of which each device gets a part is a reduce-scatter, in the way that is right where Gloo's is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests import processes
from transformer.parallel import local
from transformer.parallel.local import on_parts, scattered_sum
from transformer.parallel.mesh import MeshConfig, make_mesh

BIG = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    from transformer.parallel.local import on_parts, scattered_sum
    from transformer.parallel.mesh import MeshConfig, make_mesh

    size, part = jax.device_count(), 2**21  # 8 MiB
    mesh = make_mesh(MeshConfig(data=1, fsdp=size))
    base = np.arange(size * part, dtype=np.float32) % 1000
    with jax.set_mesh(mesh):
        own = lambda x: scattered_sum(x[0], "fsdp", dimension=0)
        scattered = jax.jit(on_parts(own, P("fsdp"), P("fsdp")))
        for step in range(6):
            x = jax.make_array_from_callback(
                (size, size * part), NamedSharding(mesh, P("fsdp")), lambda at: (base + step + at[0].start)[None]
            )
            for shard in scattered(x).addressable_shards:
                expected = size * (base[shard.index] + step) + sum(range(size))
                np.testing.assert_array_equal(np.asarray(shard.data), expected)
    print("right")
"""


@pytest.mark.parametrize("axes", ["fsdp", ("data", "fsdp"), ("fsdp", "data")])
@pytest.mark.parametrize("dimension", [0, 1])
def test_both_ways_give_the_same_parts_and_gradients(axes, dimension, monkeypatch):
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    spec = P(("data", "fsdp"))
    rng = np.random.default_rng(0)
    x, weights = (jnp.asarray(rng.normal(size=(64, 16)), jnp.float32) for _ in range(2))

    def both():
        def own(x, weights):
            part = scattered_sum(x, axes, dimension=dimension)
            return part * weights[: part.shape[0], : part.shape[1]]

        def total(x):
            return on_parts(own, (spec, spec), spec)(x, weights)

        out, pullback = jax.vjp(total, x)
        return out, *pullback(jnp.cos(out))

    with jax.set_mesh(mesh):
        usual, usual_text = jax.jit(both)(), jax.jit(both).lower().as_text()
        monkeypatch.setattr(local, "_gloo_reduces", lambda: True)
        whole, whole_text = jax.jit(lambda: both())(), jax.jit(lambda: both()).lower().as_text()
    assert "reduce_scatter" in usual_text
    assert "reduce_scatter" not in whole_text
    for one, other in zip(usual, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.exhaustive
def test_large_parts_of_two_processes_are_right():
    for one in processes.run_program(BIG, 2, devices=2):
        assert (one.code, one.out.splitlines()[-1:]) == (0, ["right"]), one.err
