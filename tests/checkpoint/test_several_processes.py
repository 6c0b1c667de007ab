"""Two real processes that save and restore together, one of which fails: both get the same outcome, and go on."""

import json

import pytest

from tests import processes
from transformer.checkpoint import verify

TOGETHER = """
    import json, os, resource, sys, time
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from orbax.checkpoint import v1 as ocp
    from transformer.checkpoint import CheckpointConfig, Checkpoints, Damaged, checkpoints
    from transformer.cluster.agreement import exchange, own_index

    FOLDER = {folder!r}
    OWN = own_index()
    sharding = NamedSharding(Mesh(np.asarray(jax.devices()), ("x",)), PartitionSpec("x"))

    def noise(seed):
        values = np.random.default_rng(seed).normal(size=(2, 40_000)).astype(np.float32)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    def tree(step):
        return dict(params={{"w": noise(step)}}, opt_state={{"m": noise(-step % 97)}})

    def tell(**facts):
        print(json.dumps(facts), flush=True)

    store = Checkpoints(FOLDER, CheckpointConfig(keep=1, keep_best=0))

    def save(step):
        began = time.monotonic()
        record = {{"architecture.json": b"{{}}"}} if OWN == 0 else {{}}
        store.save(step, **tree(step), data={{"step": step}}, record=record)
        saved = store.outcome(wait=True)
        exchange("the test", 0)
        tell(step=step, failure=saved.failure, warning=saved.warning, size=saved.size, steps=store.steps,
             left=sorted(os.listdir(FOLDER)), quick=time.monotonic() - began < 30)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    class Failing:
        def __init__(self, process, place, name):
            self.at, self.place, self.name = process == OWN, place, name
        def __enter__(self):
            self.was = getattr(self.place, self.name)
            if self.at:
                setattr(self.place, self.name, full)
        def __exit__(self, *exc):
            setattr(self.place, self.name, self.was)

    class Small:
        "A limit on the size of files, which the arrays are beyond; the kernel's own error, as of a full disk."
        def __init__(self, process):
            self.at = process == OWN
        def __enter__(self):
            if self.at:
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        def __exit__(self, *exc):
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""

SAVING = """
    save(1)
    with Small(1):
        save(2)
    with Small(0):
        save(3)
    save(4)
    with Failing(0, ocp, "save_checkpointables_async"):
        save(5)
    with Failing(1, ocp, "save_checkpointables_async"):
        save(5)
    with Failing(0, checkpoints, "write_seal"):
        save(5)
    with Failing(1, checkpoints, "entries"):
        save(5)
    with Failing(0, checkpoints, "remove"):
        save(5)
    save(6)
"""


RESTORING = """
    from pathlib import Path
    from transformer.checkpoint import reading

    stats = []
    real = os.stat
    def counted(path, *args, **kwargs):
        if isinstance(path, (str, os.PathLike)) and "/ocdbt.process_" in str(path):
            stats.append(str(path))
        return real(path, *args, **kwargs)

    aim = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree(7))

    def restore(step):
        began = time.monotonic()
        try:
            params, opt_state, _ = store.restore(step, **aim)
            saved = tree(step)
            pairs = zip(jax.tree.leaves((params, opt_state)), (saved["params"]["w"], saved["opt_state"]["m"]))
            outcome = all(bool(jnp.all(a == b)) for a, b in pairs)
        except Damaged as error:
            outcome = str(error)
        tell(outcome=outcome, quick=time.monotonic() - began < 30)

    save(7)
    os.stat = counted
    restore(7)
    os.stat = real
    tell(own=OWN, stats=sorted(stats))
    for process in (0, 1):
        with Failing(process, ocp, "load_checkpointables"):
            restore(7)
    with Failing(0, reading, "check"):
        restore(7)
    exchange("the test", 0)
    if OWN == 0:
        path = Path(FOLDER, "7", "record", "architecture.json")
        path.write_text("[]")
    exchange("the test", 0)
    restore(7)
"""


def facts(ended):
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines() if line.startswith("{")]


@pytest.mark.exhaustive
def test_a_save_that_fails_on_one_fails_on_both_and_the_next_is_whole(tmp_path):
    ended = processes.run_program((TOGETHER + SAVING).format(folder=str(tmp_path)), 2)
    rows, others = map(facts, ended)
    assert rows == others
    assert all(row["quick"] for row in rows)
    failures = [(row["step"], row["failure"], row["steps"]) for row in rows]
    full = "[Errno 28] No space left on device (process {} of 2)"
    assert failures[0] == (1, None, [1])
    for process, (step, failure, steps) in zip((1, 0), failures[1:3], strict=True):
        assert "File too large" in failure, step
        assert failure.endswith(f"(process {process} of 2)")
        assert steps == [1]
    assert failures[3] == (4, None, [4])
    assert failures[4:] == [
        *((5, full.format(process), [4]) for process in (0, 1, 0, 1)),
        (5, None, [4, 5]),
        (6, None, [6]),
    ]
    assert rows[-2]["warning"] == "step 4 could not be removed: [Errno 28] No space left on device"
    assert all(row["left"] == [str(step) for step in row["steps"]] for row in rows)
    assert verify(tmp_path / "6") == []
    for one in ended:
        assert "Traceback" not in one.err


def test_what_one_finds_damaged_none_restores_and_one_looks_at_the_files(tmp_path):
    ended = processes.run_program((TOGETHER + RESTORING).format(folder=str(tmp_path)), 2)
    rows, others = map(facts, ended)
    stats, no_stats = rows.pop(2)["stats"], others.pop(2)["stats"]
    written = {str(path) for path in (tmp_path / "7").rglob("*") if path.is_file() and "/ocdbt.process_" in str(path)}
    assert written == set(stats) & written
    assert not set(no_stats) & written
    assert len(stats) == len(set(stats))
    assert rows == others
    assert all(row["quick"] for row in rows)
    full = f"{tmp_path}/7: the checkpoint could not be restored: [Errno 28] No space left on device (process {{}} of 2)"
    outcomes = [row["outcome"] for row in rows[1:]]
    assert outcomes[:3] == [True, full.format(0), full.format(1)]
    assert outcomes[3].endswith("No space left on device (process 0 of 2)")
    assert outcomes[4].endswith("7: damaged: record/architecture.json: its content changed (process 0 of 2)")
