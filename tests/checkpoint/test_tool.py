"""tools/checkpoint.py as people meet it: what it prints, its exit codes, and one line for each mistake."""

import jax
import pytest

from tests.checkpoint import tiny
from tests.tool_calls import caller, refuser
from tools import checkpoint as tool


@pytest.fixture(autouse=True)
def this_process(monkeypatch):
    """The commands run here, with the tests' own JAX settings and devices."""
    monkeypatch.setattr(tool, "start", lambda *_: None)


@pytest.fixture
def call(capsys):
    return caller(tool.main, capsys)


@pytest.fixture
def refused(call):
    return refuser(call)


def test_show(run, call):
    code, out, _ = call("show", run[0])
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in reversed(out.splitlines()))  # the experiment has a checkpoint too
    assert lines["checkpoint"] == str(run[0] / "checkpoints" / "3")
    assert lines["step"] == "3"
    assert lines["parameters"] == f"{tiny.MODEL.num_params():,}"
    assert lines["architecture"].startswith("family gpt, vocab_size 32, ")
    assert lines["experiment"] == "tiny"
    assert lines["optimizer"].startswith("name adamw, ")
    assert "a program that was not recorded" in lines["written"]
    assert lines["record/"].endswith(": architecture.json, digests.json, experiment.json, tokenizer")
    shares = [line.split()[1] for line in out.splitlines() if line.endswith(("embedding", "attention", "mlp"))]
    assert all(share.endswith("%") for share in shares)


def test_diff_exits_as_diff_does(run, call):
    one, two = (run[0] / "checkpoints" / step for step in "12")
    code, out, _ = call("diff", one, one)
    arrays = len(jax.tree.leaves(run[1][1]))
    assert code == 0
    assert out.splitlines()[2:] == [
        f"{arrays} of {arrays} arrays that both have are the same, bit for bit or NaN for NaN"
    ]
    code, out, _ = call("diff", one, two)
    assert code == 1
    assert "field       position.step: 1 in A, 2 in B" in out
    assert "more such lines" in out  # every array differs


def test_derived_checkpoints_are_written_shown_and_compared(run, call, tmp_path):
    folder, new = run[0], tmp_path / "new"
    code, out, _ = call("average", folder, "--last", "2", "--out", new / "mean")
    assert code == 0
    assert str(folder / "checkpoints" / "2") in out
    assert f"from        {folder / 'checkpoints' / '2'}" in call("show", new / "mean")[1]
    named = [folder / "checkpoints" / step for step in "23"]
    assert call("average", *named, "--out", new / "named")[0] == 0
    assert call("diff", new / "mean", new / "named")[0] == 0
    assert call("cast", folder, "--out", new / "small")[0] == 0
    assert call("reshard", folder, "--out", new / "cut", "--mesh.fsdp", "4", "--mesh.tensor", "2")[0] == 0
    assert call("diff", folder, new / "cut")[0] == 0
    assert call("reshard", new / "small", "--out", new / "both", "--mesh.tensor", "2")[0] == 0
    assert call("diff", new / "small", new / "both")[0] == 0
    assert call("verify", new / "cut")[:2] == (0, f"{new / 'cut' / 'checkpoints' / '3'}: whole\n")


def test_doctor(run, call):
    folder = run[0]
    code, out, _ = call("doctor", folder, "--mesh.fsdp", "4", "--mesh.tensor", "2", "--devices-per-host", "1")
    assert code == 0
    assert "mesh        8 devices: fsdp 4 x tensor 2; 1 a host" in out
    assert out.splitlines()[-1] == "restores"
    code, out, _ = call("doctor", folder, "--mesh.fsdp", "3")
    assert code == 1
    assert "'embed' dimension of 8 is not divided by fsdp = 3" in out
    code, out, _ = call("doctor", folder, "--model.context-length", "16", "--weights")
    assert code == 1
    assert "context_length 16 in place of 8" in out
    assert "shape       backbone/position_embedding/embedding: [8, 8] in the checkpoint, [16, 8] needed" in out
    assert out.splitlines()[-1] == "does not restore: 1 problems"
    code, out, _ = call("doctor", folder, "--preset", "bert-python")
    assert code == 1
    assert "missing     head/transform/kernel" in out


def test_prune(call, tmp_path):
    tiny.make_run(tmp_path, steps=(1, 2, 3))
    code, out, _ = call("prune", tmp_path, "--keep", "1", "--dry-run")
    assert (code, out) == (0, f"would remove  {tmp_path / 'checkpoints' / '2'}\n")
    assert (tmp_path / "checkpoints" / "2").exists()
    assert call("prune", tmp_path, "--keep", "1")[0] == 0
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "3"]
    assert call("prune", tmp_path, "--drop", "3")[0] == 0
    assert call("verify", tmp_path)[1] == f"{tmp_path / 'checkpoints' / '1'}: whole\n"


def test_mistakes_are_one_line(run, refused, tmp_path):
    folder, empty = run[0], tmp_path / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    new = ("--out", tmp_path / "new")
    for args, words in [
        (["show", tmp_path / "nowhere"], "no such run or checkpoint"),
        (["show", empty], "no checkpoint here"),
        (["diff", folder, folder / "checkpoints" / "77"], "77: no such run or checkpoint"),
        (["verify", empty], "no checkpoint here"),
        (["doctor", empty], "no checkpoint here"),
        (["doctor", "--mesh.fsdp", "2", folder], "name the run or the checkpoint before the flags"),
        (["doctor", folder, "--mesh.fsdp", "0"], "--mesh.fsdp is 0"),
        (["doctor", folder, "--preset", "bert-pyton"], "did you mean bert-python"),
        (["doctor", folder, "--model.widht", "8"], "--model.width"),
        (["doctor", folder, "--model.num-heads", "3"], "--model.num-heads 3 does not divide --model.width 8"),
        (["doctor", folder, "--mesh.fsdp", "4", "--devices-per-host", "3"], "--devices-per-host"),
        (["average", folder, *new], "--last 5: "),
        (["average", *new], "name a run"),
        (["average", empty, *new], "no checkpoint here"),
        (["average", folder / "checkpoints" / "3", *new], "has 0 checkpoints"),
        (["cast", folder, "--out", folder], "exists and is not empty"),
        (["reshard", folder, *new, "--mesh.fsdp", "3"], "not divided by fsdp = 3"),
        (["reshard", folder, *new, "--mesh.fsdp", "0"], "--mesh.fsdp is 0: it must be at least 1"),
        (["prune", folder, "--keep", "7"], "has no step 7"),
        (["prune", folder], "either --keep STEPS or --drop STEPS"),
        (["prune", empty, "--keep", "7"], "no checkpoint here"),
        (["look", folder], "show"),
    ]:
        assert words in refused(*args), args
    assert not (tmp_path / "new").exists()


def test_weights_alone_are_told_from_a_whole_state(run, refused, call, tmp_path):
    assert call("cast", run[0], "--out", tmp_path / "small")[0] == 0
    assert "holds weights alone, no optimizer state" in refused("doctor", tmp_path / "small")
    assert call("doctor", tmp_path / "small", "--weights")[0] == 0
    # Without an experiment there is no optimizer to ask for.
    record = {name: content for name, content in tiny.RECORD.items() if name != "experiment.json"}
    tiny.make_run(tmp_path / "plain", steps=(1,), record=record)
    assert "give --preset NAME or --weights" in refused("doctor", tmp_path / "plain")
    assert call("doctor", tmp_path / "plain", "--weights")[0] == 0


def test_a_damaged_checkpoint_is_one_line(refused, call, tmp_path):
    tiny.make_run(tmp_path, steps=(1,))
    tiny.damage(tmp_path / "checkpoints" / "1")
    for args in (["show"], ["doctor"], ["diff", tmp_path], ["cast", "--out", tmp_path / "new"]):
        assert "damaged: " in refused(args[0], tmp_path, *args[1:])
    assert not (tmp_path / "new").exists()
    code, out, _ = call("verify", tmp_path)
    assert code == 1
    assert "bytes, sealed with" in out
