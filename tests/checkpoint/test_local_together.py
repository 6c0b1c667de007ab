"""Local checkpoints of two processes: what counts is what both have."""

import json

import pytest

from tests import processes

TOGETHER = """
    import json, pathlib, resource, shutil
    import jax, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from transformer.checkpoint.local import LocalCheckpoints
    from transformer.cluster.agreement import exchange, own_index

    FOLDER, OWN = pathlib.Path({folder!r}), own_index()
    (FOLDER / "run").mkdir(exist_ok=True)
    on = Mesh(np.asarray(jax.devices()).reshape(2, 2), ("x", "y"))

    def tree(step, *spec):
        values = np.random.default_rng(step).normal(size=(4, 40)).astype(np.float32)
        sharding = NamedSharding(on, PartitionSpec(*spec))
        return {{"w": jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])}}

    def trees(step):
        return dict(params=tree(step, "x", "y"), opt_state=tree(-step % 97, None, "y"))

    aim = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trees(1))

    def start():
        exchange("the test", 0)
        return LocalCheckpoints(str(FOLDER / "disk"), FOLDER / "run", {{}}, begun=True)

    def own(step):
        [path] = (FOLDER / "disk").glob(f"*/process-{{OWN}}-of-2/{{step}}")
        return path

    def save(local, step, full=False):
        if full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
        local.save(step, **trees(step), evaluated=False)
        saved = local.outcome(wait=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        exchange("the test", 0)
        print(json.dumps([saved.failure, sorted(path.name for path in (FOLDER / "disk").glob("*/*/*"))]), flush=True)
        exchange("the test", 0)  # before the other one saves again

    def restore(local):
        said = []
        got = local.restore(0, said.append, **aim)
        right = None
        if got is not None:
            pairs = zip(jax.tree.leaves((got.params, got.opt_state)), jax.tree.leaves(tuple(trees(got.step).values())))
            right = all(np.array_equal(x.data, y.data) for a, b in pairs for x, y in
                        zip(a.addressable_shards, b.addressable_shards))
        exchange("the test", 0)
        print(json.dumps([got and got.step, right, said]), flush=True)
        return got

    with start() as local:
        local.begin(None)
        save(local, 3)
        save(local, 4, full=OWN == 1)
        save(local, 5, full=OWN == 0)
        save(local, 6)
    with start() as local:
        local.begin(restore(local))
    with start() as local:
        if OWN == 1:
            shutil.rmtree(own(6))
        restore(local)
        local.begin(None)
        save(local, 7)
    with start() as local:
        if OWN == 0:
            path = own(7) / "params" / "0-0.bin"
            path.write_bytes(bytes(80))
        restore(local)
"""


@pytest.mark.exhaustive
def test_two_processes_restore_what_both_have(tmp_path):
    ended = processes.run_program(TOGETHER.format(folder=str(tmp_path)), 2, devices=2)
    rows, others = ([json.loads(line) for line in one.out.splitlines() if line.startswith("[")] for one in ended)
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
    assert rows == others
    [third, fourth, fifth, sixth, restored_six, lost, seventh, damaged] = rows
    assert third == [None, ["3", "3"]]
    for process, (failure, left) in ((1, fourth), (0, fifth)):
        assert "File too large" in failure
        assert failure.endswith(f"(process {process} of 2)")
        assert left == ["3", "3"]
    assert sixth == [None, ["6", "6"]]
    assert restored_six == [6, True, []]
    assert lost == [None, None, ["local checkpoints are not used: step 6: it is not there (process 1 of 2)"]]
    assert seventh == [None, ["7", "7"]]
    [path] = tmp_path.glob("disk/*/process-0-of-2/7/params/0-0.bin")
    line = f"the local checkpoint of step 7 is not used: {path}: its content changed (process 0 of 2)"
    assert damaged == [None, None, [line]]
