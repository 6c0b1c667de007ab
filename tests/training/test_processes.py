"""The same numbers on any number of processes and any mesh over them, with real processes."""

import json

import numpy as np
import pytest

from tests import processes
from tools.crash import write_corpus

# The pairs of data, fsdp, tensor and sequence that `EIGHT` does not have.
PAIRS = [{"data": 2, "tensor": 2}, {"fsdp": 2, "sequence": 2}, {"tensor": 2, "sequence": 2}]
EIGHT = [{"data": 2, "fsdp": 2, "sequence": 2, "alternate": True}, {"fsdp": 4, "tensor": 2}]
BODY = """
    from tests.training import over_meshes
    over_meshes.run({folder!r}, {meshes!r}, {runs!r})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """The run on one device."""
    [[record]] = over(folder, [{}], 1, devices=1, runs=folder / "alone")
    assert len(record["losses"]) == 4
    return record


def over(folder, meshes, count, *, devices, runs):
    """Returns a list a process, of a record a mesh; the runs are written to the folder `runs`."""
    body = BODY.format(folder=str(folder), meshes=meshes, runs=str(runs))
    ended = processes.run_program(body, count, devices=devices, timeout=1500)
    assert [one.code for one in ended] == [0] * count, ended[0].err + ended[-1].err
    return [[json.loads(line) for line in one.out.splitlines() if line.startswith("{")] for one in ended]


def check_record(record, other):
    """Holds a run to another one."""
    for name in ("losses", "grad_norms"):
        np.testing.assert_allclose(record[name], other[name], rtol=1e-5, err_msg=str(record["mesh"]))
    assert record["reduce_scatters"] == 0  # Gloo's are wrong now and then


def check(found, alone):
    """Holds every process's every run to that of one device, and their rows to a whole batch."""
    for records in zip(*found, strict=True):
        for record in records:
            check_record(record, alone)
        assert set().union(*(record["rows"] for record in records)) == {*range(8)}


ROWS = [
    ({"fsdp": 2, "sequence": 2}, [0, 1, 2, 3], [4, 5, 6, 7]),
    ({"tensor": 4}, [*range(8)], [*range(8)]),
    ({"data": 4, "alternate": True}, [0, 1, 4, 5], [2, 3, 6, 7]),
]


@pytest.mark.exhaustive
def test_pairs_of_axes_over_two_processes(folder, alone, tmp_path):
    """Two processes of two devices: along `tensor` and `sequence` both need all rows, along `data` half of them, which
    need not lie together.
    """
    meshes = [*PAIRS, *(mesh for mesh, *_ in ROWS if mesh not in PAIRS)]
    found = over(folder, meshes, 2, devices=2, runs=tmp_path)
    check(found, alone)
    for mesh, *rows in ROWS:
        assert [records[meshes.index(mesh)]["rows"] for records in found] == rows


@pytest.mark.exhaustive
def test_axes_over_four_processes(folder, alone, tmp_path):
    check(over(folder, [{"fsdp": 2, "sequence": 2}], 4, devices=1, runs=tmp_path), alone)


@pytest.mark.exhaustive
def test_eight_devices_of_one_and_of_two_processes(folder, alone, tmp_path):
    [of_one] = over(folder, EIGHT, 1, devices=8, runs=tmp_path / "1")
    check([of_one], alone)
    found = over(folder, EIGHT, 2, devices=4, runs=tmp_path / "2")
    check(found, alone)
    for records in found:
        for record, same_mesh in zip(records, of_one, strict=True):
            check_record(record, same_mesh)
