"""Local checkpoints of a little state: a start that saves and is killed, the next one, and what is on the disk."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transformer.checkpoint.local import LocalCheckpoints

ARCHITECTURE = {"family": "tiny", "width": 4}


def mesh(rows, columns):
    return Mesh(np.array(jax.devices()[: rows * columns]).reshape(rows, columns), ("x", "y"))


def placed(values, on, spec):
    return jax.device_put(values, NamedSharding(on, PartitionSpec(*spec)))


def state(on=None, seed=0):
    """A little state: cut on both axes, on one, on none; a scalar."""
    rng, on = np.random.default_rng(seed), on or mesh(2, 2)
    noise = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return {
        "params": {"w": placed(noise(4, 8), on, ("x", "y")), "b": placed(noise(8), on, (None,))},
        "opt_state": {"m": placed(noise(4, 8), on, ("y", None)), "step": placed(jnp.int32(seed), on, ())},
    }


def abstract(trees):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trees)


def opened(folder, *, run="run", architecture=ARCHITECTURE, begun=True):
    (folder / run).mkdir(exist_ok=True)
    return LocalCheckpoints(str(folder / "disk"), folder / run, architecture, begun=begun)


def saved(folder, *steps, run="run", on=None):
    """Leaves local checkpoints of these steps, as a start that was killed after them does."""
    with opened(folder, run=run, begun=False) as local:
        local.begin(None)
        for step in steps:
            local.save(step, **state(on, step), evaluated=step % 2 == 0)
            outcome = local.outcome(wait=True)
            assert outcome is not None
            assert outcome.failure is None
            assert outcome.size > 0


def restored(folder, after=0, *, on=None, **options):
    """Returns what the next start restores, and what it reports."""
    said = []
    with opened(folder, **options) as local:
        return local.restore(after, said.append, **abstract(state(on))), said


def same(got, step, on=None):
    assert got is not None
    assert got.step == step
    for tree, wanted in state(on, step).items():
        for path, leaf in wanted.items():
            found = getattr(got, tree)[path]
            assert found.sharding == leaf.sharding
            np.testing.assert_array_equal(np.asarray(found), np.asarray(leaf))


def disk(folder):
    """The checkpoints on the disk, and whatever else is there."""
    return sorted(path.name for run in (folder / "disk").glob("*") for path in run.glob("process-0-of-1/*"))
