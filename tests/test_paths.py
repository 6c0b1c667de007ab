"""Bad places are one line and exit code 2 before anything is computed, in every command that writes."""

import errno
import json
import os
import re
import subprocess
import sys

import pytest
from etils import epath

import train
from tools import convert, coordinate_check, evaluate, generate, learning_rates, plot, prepare, scaling
from transformer import command, paths
from transformer.checkpoint.files import check_new
from transformer.cluster import agreement
from transformer.data.text.config import TextConfig
from transformer.data.text.sources import open_path
from transformer.errors import UserError
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.training import lock, restoring
from transformer.training.run import Run

from .processes import ROOT
from .tool_calls import caller, refuser

CPU = ["--data.tokenizer", "bytes", "--mesh.data", 1]
TINY = ["--model.width", 16, "--model.num-layers", 1, "--model.num-heads", 2, "--model.vocab-size", 400]
TINY += ["--model.context-length", 32, "--train.seq-len", 32, "--train.batch-size", 8]


@pytest.fixture(autouse=True)
def this_process(monkeypatch):
    monkeypatch.setattr(command, "start_jax", lambda **_: None)


@pytest.fixture
def refused(capsys):
    return lambda main, *args: refuser(caller(main, capsys))(*args)


BAD_FOLDERS = {
    "under a file": ("file/run", "is a file, not a folder"),
    "deep under a file": ("file/a/b", "is a file, not a folder"),
    "a long name": ("x" * 300, "300 bytes is too long"),
    "a long name below": (f"new/{'é' * 200}/run", "400 bytes is too long"),
    "a long path": ("/".join(["x" * 200] * 25), "is too long"),
    "a dangling link": ("dangling", "which is not there"),
    "below a dangling link": ("dangling/run", "which is not there"),
    "a loop": ("loop", "which is not there"),
    "below a device": ("/dev/null/run", "/dev/null is a file"),
    "no text": ("\udcff", "not UTF-8"),
    "no user": ("~nobody-here/run", "no such user"),
}
"""Folders that cannot be made, by what is wrong with them."""


@pytest.mark.parametrize("kind", BAD_FOLDERS)
def test_folders_that_cannot_be_made(tmp_path, kind, refused, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.chdir(tmp_path)
    place, words = BAD_FOLDERS[kind]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=words):
        paths.check_folder(place)
    with pytest.raises(UserError, match=words):
        check_new(epath.Path(place))
    assert words in refused(train.main, "gpt-text", "--workdir", place, "--data.path", "file", "--mesh.data", 1)
    assert sorted(tmp_path.iterdir()) == before


def test_folders_that_can_be_made(tmp_path):
    (tmp_path / "linked").symlink_to(tmp_path)
    for name in ("a", "a/b/c", "with space", "50%", "ünï", "a\nb", "linked/x", "x" * 255, "-flag", "a/../b"):
        paths.check_folder(tmp_path / name)
    paths.check_folder("gs://bucket/" + "x" * 3000)
    assert [path.name for path in tmp_path.iterdir()] == ["linked"]


def test_places_without_permission(tmp_path, monkeypatch):
    """Root may write anywhere, so what the kernel would say to others is said here."""
    monkeypatch.setattr(paths.os, "access", lambda place, mode: False)
    for name in ("new", "new/er"):
        with pytest.raises(UserError, match="cannot be written to: permission denied"):
            paths.check_folder(tmp_path / name)
    with pytest.raises(UserError, match="permission denied"):
        paths.check_file(tmp_path / "new", "--out")
    (tmp_path / "old").touch()
    with pytest.raises(UserError, match="permission denied"):
        paths.check_file(tmp_path / "old", "--out")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a disk that can only be read")
def test_a_disk_that_can_only_be_read(tmp_path, monkeypatch):
    whole = os.statvfs(tmp_path)

    class ReadOnly:
        f_flag = whole.f_flag | os.ST_RDONLY

    monkeypatch.setattr(paths.os, "statvfs", lambda place: ReadOnly())
    with pytest.raises(UserError, match="can only be read"):
        paths.check_folder(tmp_path / "new")


def test_files(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "lost").symlink_to(tmp_path / "no" / "where")
    for name in ("new", "file", "a b", "50%.txt", "dangling"):
        assert paths.check_file(tmp_path / name, "--out") == tmp_path / name
    paths.check_file("/dev/null", "--out")
    for place, words in {
        "": "--out is empty",
        str(tmp_path): "is a folder",
        f"{tmp_path}/no/new": "no such folder",
        f"{tmp_path}/file/new": "is a file, not a folder",
        f"{tmp_path}/{'x' * 256}": "256 bytes is too long",
        f"{tmp_path}/lost": "no such folder",
        "~nobody-here/x": "no such user",
    }.items():
        with pytest.raises(UserError, match=words):
            paths.check_file(place, "--out")


def test_every_tool_looks_at_where_it_is_to_write_first(tmp_path, refused):
    table = tmp_path / "runs.csv"
    table.write_text("params,tokens,loss\n")
    out = tmp_path / "no" / "such" / "out"
    (tmp_path / "file").write_text("line\n" * 100)
    pairs = ["--widths", 8, 16, "--out"]
    for main, *args in [
        (plot.main, "nowhere", "--out", out),
        (evaluate.main, "nowhere", "--out", out),
        (learning_rates.main, *pairs, out),
        (coordinate_check.main, *pairs, out),
        (scaling.main, "fit", "--table", table, "--json", out),
        (scaling.main, "plan", tmp_path / "file" / "study"),
        (convert.main, "import", tmp_path, tmp_path / "file" / "run"),
        (
            prepare.main,
            "gpt-text",
            "--data.path",
            tmp_path / "file",
            "--data.cache-dir",
            tmp_path / "file" / "cache",
            *CPU,
        ),
    ]:
        line = refused(main, *args)
        assert re.search("no such|is a file|Not a directory", line), line
    assert "not supported" in refused(learning_rates.main, *pairs, tmp_path / "a.doc")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("run", ["", "file", "file/run", "x" * 300, "\udcff", "~nobody-here/run", "empty"])
def test_every_tool_that_reads_a_run_says_that_it_is_none(tmp_path, run, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for main, *args in [
        (generate.main, run),
        (evaluate.main, run),
        (convert.main, "export", run, "out"),
        (convert.main, "import", run, "out"),
        (convert.main, "verify", run),
        (plot.main, run),
        (scaling.main, "report", run),
    ]:
        refused(main, *args)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_names_that_a_run_needs_for_itself(tmp_path):
    from transformer.checkpoint import reading

    run = tmp_path / "run"
    run.mkdir()
    (run / "experiment.json").write_text("{}")
    (run / "checkpoints").touch()
    with pytest.raises(UserError, match=r"checkpoints is a file, and a run keeps"):
        Run(run).check(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"checkpoints is a file"):
        reading.find(run)
    (run / "checkpoints").unlink()
    (run / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics.jsonl is a folder, and a run keeps"):
        Run(run).check(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is empty: --workdir"):
        Run("")


def test_caches_that_cannot_be_made(tmp_path):
    from transformer.data.text.build import find_or_build

    (tmp_path / "a.txt").write_text("line\n" * 100)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for cache in (tmp_path / "a.txt", tmp_path / "a.txt" / "b", tmp_path / ("x" * 300), tmp_path / "loop"):
        source = open_path(str(tmp_path / "a.txt"), TextConfig(cache_dir=str(cache)))
        with pytest.raises(UserError, match=r"Cannot write to .* --data.cache-dir"):
            find_or_build(source, "train", ByteTokenizer(), cache)
    with pytest.raises(UserError, match="cache_dir is empty"):
        TextConfig(cache_dir="")


@pytest.mark.parametrize("code", ["ENOSPC", "EACCES", "EROFS", "ENOTDIR", "ENAMETOOLONG", "EISDIR", "ELOOP"])
def test_errors_of_the_file_system_are_one_line(code, capsys, monkeypatch):
    number = getattr(errno, code)

    def fail():
        raise OSError(number, os.strerror(number), "a\nb")

    assert command.run(fail) == 2
    said = capsys.readouterr().err
    assert said.startswith(rf"error: a\nb: {os.strerror(number)}: ")
    assert said.count("\n") == 1
    # So the other processes of a job end with the same line and code.
    described = agreement.describe(OSError(number, os.strerror(number), "a"))
    assert described["message"] == paths.explain(OSError(number, os.strerror(number), "a"))
    assert described["exit_code"] == 2


@pytest.mark.parametrize("error", [OSError("odd"), OSError(errno.ENOENT, "no", "x"), OSError(errno.EISDIR, "no")])
def test_other_errors_keep_their_traceback(error):
    def fail():
        raise error

    with pytest.raises(OSError, match="odd|no") as raised:
        command.run(fail)
    assert raised.value is error


def full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestFullDisk:
    def test_a_file_is_whole_or_as_it_was(self, tmp_path, monkeypatch):
        place = tmp_path / "out"
        paths.write_file(place, "old")
        monkeypatch.setattr(paths.Path, "replace", full)
        with pytest.raises(UserError, match="out: No space left on device: make room"):
            paths.write_file(place, "new")
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "old")]

    def test_what_is_no_file_is_written_to(self, tmp_path):
        paths.write_file("/dev/null", "text")
        (tmp_path / "link").symlink_to(tmp_path / "target")
        paths.write_file(tmp_path / "link", b"text")
        assert (tmp_path / "target").read_text() == "text"
        assert (tmp_path / "link").is_symlink()
        paths.write_file(tmp_path / ("x" * 255), "text")

    def test_a_file_in_a_folder_where_none_can_be_made_is_written_to(self, tmp_path, monkeypatch):
        (tmp_path / "out").write_text("old")
        monkeypatch.setattr(paths.os, "access", lambda place, mode: place != tmp_path)
        monkeypatch.setattr(paths.Path, "replace", full)
        assert paths.check_file(tmp_path / "out", "--out") == tmp_path / "out"
        paths.write_file(tmp_path / "out", "new")
        assert (tmp_path / "out").read_text() == "new"

    def test_a_device_that_is_full(self):
        if not os.path.exists("/dev/full"):
            pytest.skip("no /dev/full here")
        with pytest.raises(UserError, match="/dev/full: No space left on device"):
            paths.write_file("/dev/full", "text")

    @pytest.mark.parametrize("place", ["lock.json", "experiment.json", "data.json", "tokenizer"])
    def test_a_run_that_finds_no_room_begins_when_there_is_some(self, tmp_path, place, monkeypatch, refused, capsys):
        corpus = tmp_path / "corpus.txt"
        corpus.write_text("".join(f"line {n}: to be, or not to be\n" for n in range(200)))
        folder = tmp_path / "run"
        flags = ["--workdir", folder, "--data.path", corpus, "--data.cache-dir", tmp_path / "cache", *CPU, *TINY]
        with monkeypatch.context() as patched:
            fill(patched, place)
            line = refused(train.main, "gpt-text", *flags)
        assert line.startswith(f"error: {folder}: No space left on device: make room")
        left = {path.name for path in folder.iterdir()}
        assert left <= {"experiment.json", "architecture.json", "data.json"}
        for name in left:
            json.loads((folder / name).read_text())
        with monkeypatch.context() as patched:  # as far as the same place, which has room now
            patched.setattr(restoring, "first_state", stop)
            assert "stopped here" in caller(train.main, capsys)("gpt-text", *flags)[2]
        assert {path.name for path in folder.iterdir()} >= {"experiment.json", "data.json", "tokenizer"}


def fill(patched, place):
    """Leaves no room for what a run writes at a place."""
    if place == "lock.json":
        patched.setattr(lock, "to_json", full)
    elif place == "tokenizer":
        write = ByteTokenizer.save

        def half(self, folder):
            write(self, folder)
            full()

        patched.setattr(ByteTokenizer, "save", half)
    else:
        replace = epath.Path(place).replace.__func__
        kind = type(epath.Path(place))
        patched.setattr(kind, "replace", lambda path, to: full() if to.name == place else replace(path, to))


def stop(*args):
    raise UserError("stopped here")


def test_output_that_nobody_reads(tmp_path):
    """As of `train.py --list | head -1`."""
    program = "import sys, train; from transformer.command import run; sys.exit(run(lambda: train.main(['--list'])))"
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (2, "error: what this command prints is read no further\n")
