"""A checkpoint from a stranger is data: nothing in it runs, and nothing in it reaches out of its folder."""

import ast
import contextlib
import json
import pickle
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from orbax.checkpoint import v1 as ocp

from tests.exhaustive import few
from transformer.checkpoint import Damaged, find, restore_model
from transformer.checkpoint.leaves import stored
from transformer.checkpoint.reading import restore_params
from transformer.checkpoint.stream import read_leaves
from transformer.checkpoint.verifying import verify
from transformer.errors import UserError
from transformer.parallel.mesh import MeshConfig, make_mesh

ROOT = Path(__file__).parent.parent.parent
OWN_PIPES = {ROOT / "transformer" / "data" / name for name in ("worker.py", "workers.py")}
"""Where a process and the workers that it started send each other what they made; no file of anybody's is read so."""

SOME_FILES = ("_METADATA", "manifest.ocdbt", "architecture.json")


@pytest.fixture
def copy(run, tmp_path):
    """A checkpoint to tamper with; without its seal, which a stranger would forge."""
    folder, _ = run
    shutil.copytree(find(folder), tmp_path / "run" / "checkpoints" / "3")
    (tmp_path / "run" / "checkpoints" / "3" / "seal.json").unlink()
    return epath.Path(tmp_path / "run" / "checkpoints" / "3")


@pytest.mark.filterwarnings("ignore")  # of reads that Orbax gives up
@pytest.mark.parametrize("files", few(["*", *SOME_FILES], *SOME_FILES))
def test_nothing_is_unpickled(files, copy, tmp_path):
    """Each of the files in turn is a pickle that makes a file when it is loaded."""
    ran = tmp_path / "ran"
    bomb = f"cbuiltins\nopen\n(V{ran}\nVw\ntR.".encode()
    pickle.loads(bomb).close()
    assert ran.exists(), "the bomb works"
    ran.unlink()
    mesh = make_mesh(MeshConfig(data=1))
    paths = [path for path in sorted(Path(copy).rglob(files)) if path.is_file()]
    assert paths
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(bomb)
        verify(copy)
        with contextlib.suppress(UserError):
            restore_model(copy, mesh)
        path.write_bytes(content)
        assert not ran.exists(), path
    restore_model(copy, mesh)


def test_no_code_of_ours_could():
    """Neither the package nor the tools name what runs data; PyTorch reads weights only, and where a person asks."""
    for path in [*(ROOT / "transformer").rglob("*.py"), *(ROOT / "tools").glob("*.py"), ROOT / "train.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {str(node.module).partition(".")[0]}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = {node.func.id}
            if path in OWN_PIPES:
                names -= {"pickle", "cloudpickle"}
            dangerous = names & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "eval", "exec", "yaml"}
            assert not dangerous, f"{path}: {dangerous}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                asked = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                assert not asked.get("allow_pickle"), path
                assert "weights_only" not in asked or asked["weights_only"] is True, path


@pytest.mark.filterwarnings("ignore")
def test_names_of_arrays_do_not_climb(copy, tmp_path, capfd):
    """The tree's description names an array that lies outside, in a folder that holds one."""
    context = ocp.Context()
    context.array.saving.use_ocdbt = False
    secret = jnp.full((3, 4), 7.0)
    with context:
        ocp.save_checkpointables(tmp_path / "secret", {"params": {"w": secret}})
    climbing = "../" * 4 + "secret/params/w"
    assert (copy / "params" / climbing / "zarr.json").exists()
    path = copy / "params" / "_METADATA"
    metadata = json.loads(path.read_text())
    entry = {**next(iter(metadata["tree_metadata"].values())), "key_metadata": [{"key": climbing, "key_type": 2}]}
    path.write_text(json.dumps({**metadata, "use_ocdbt": False, "tree_metadata": {f"('{climbing}',)": entry}}))
    host = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    aim = {climbing: jax.ShapeDtypeStruct((3, 4), np.float32, sharding=host)}
    for attempt in (
        lambda: stored(copy, "params"),
        lambda: read_leaves(copy, "params", [climbing]),
        lambda: restore_params(copy, aim),
    ):
        with pytest.raises(Damaged):
            attempt()
    assert any("params/ does not say" in line for line in verify(copy))


@pytest.mark.parametrize("name", ["record/experiment.json", "params/manifest.ocdbt", "data"])
def test_links_do_not_lead_out(copy, tmp_path, name):
    """Neither of a file nor of a folder, though what they lead to be the same."""
    (copy / name).rename(tmp_path / "elsewhere")
    Path(copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Damaged, match=f"{name}.*a link that leads out of the checkpoint"):
        restore_model(copy, make_mesh(MeshConfig(data=1)))
    assert all("leads out" in line for line in verify(copy))


def test_a_run_may_be_a_link(run, tmp_path):
    folder, _ = run
    (tmp_path / "link").symlink_to(folder)
    restore_model(find(tmp_path / "link"), make_mesh(MeshConfig(data=1)))
