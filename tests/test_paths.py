"""Bad places are one line and exit code 2 before anything is computed, in every command that writes."""

import errno
import os

import pytest

import train
from tools import convert, coordinate_check, evaluate, learning_rates, plot, scaling
from transformer import command, paths
from transformer.checkpoint.files import check_new
from transformer.cluster import agreement
from transformer.data.config import DataConfig
from transformer.data.sources import open_path
from transformer.errors import UserError
from transformer.training.run import Run

from .tool_calls import caller, refuser


@pytest.fixture(autouse=True)
def this_process(monkeypatch):
    monkeypatch.setattr(command, "start_jax", lambda **_: None)


@pytest.fixture
def refused(capsys):
    return lambda main, *args: refuser(caller(main, capsys))(*args)


def places(root):
    """Folders that cannot be made, by what is wrong with them."""
    (root / "file").write_text("x")
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "loop").symlink_to(root / "loop")
    return {
        "under a file": (root / "file" / "run", "is a file, not a folder"),
        "deep under a file": (root / "file" / "a" / "b", "is a file, not a folder"),
        "long name": (root / ("x" * 300), "300 bytes is too long"),
        "long name below": (root / "new" / ("é" * 200) / "run", "400 bytes is too long"),
        "long path": (root / "/".join(["x" * 200] * 25), "is too long"),
        "dangling": (root / "dangling", "which is not there"),
        "below dangling": (root / "dangling" / "run", "which is not there"),
        "loop": (root / "loop", "which is not there"),
        "/dev/null": ("/dev/null/run", "/dev/null is a file"),
        "surrogate": (f"{root}/\udcff", "not UTF-8"),
        "no user": ("~nobody-here/run", "no such user"),
    }


KINDS = list(
    places.__code__.co_consts
    and [
        *(
            "under a file",
            "deep under a file",
            "long name",
            "long name below",
            "long path",
            "dangling",
            "below dangling",
        ),
        *("loop", "/dev/null", "surrogate", "no user"),
    ]
)


@pytest.mark.parametrize("kind", KINDS)
def test_folders_that_cannot_be_made(tmp_path, kind, refused):
    place, words = places(tmp_path)[kind]
    before = sorted(tmp_path.iterdir())
    for check in (paths.check_folder, check_new):
        with pytest.raises(UserError, match=words):
            check(os.fspath(place) if check is paths.check_folder else epath_of(place))
    corpus = tmp_path / "file"
    line = refused(train.main, "gpt-text", "--workdir", place, "--data.path", corpus, "--mesh.data", 1)
    assert words in line
    assert sorted(tmp_path.iterdir()) == before


def epath_of(place):
    from etils import epath

    return epath.Path(place)


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


def bad_file(tmp_path):
    return tmp_path / "no" / "such" / "out"


def test_every_tool_looks_at_where_it_is_to_write_first(tmp_path, refused):
    table = tmp_path / "runs.csv"
    table.write_text("params,tokens,loss\n")
    out = bad_file(tmp_path)
    (tmp_path / "file").touch()
    pairs = ["--widths", 8, 16, "--out"]
    for main, *args in [
        (plot.main, "nowhere", "--out", out),
        (evaluate.main, "nowhere", "--out", out),
        (learning_rates.main, *pairs, out),
        (coordinate_check.main, *pairs, out),
        (scaling.main, "fit", "--table", table, "--json", out),
        (scaling.main, "plan", tmp_path / "file" / "study"),
        (convert.main, "import", tmp_path, tmp_path / "file" / "run"),
    ]:
        line = refused(main, *args)
        assert "no such" in line or "is a file" in line, line
    assert "not supported" in refused(learning_rates.main, *pairs, tmp_path / "a.doc")
    assert not (tmp_path / "no").exists()


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
    from transformer.data.build import build_store
    from transformer.data.byte_tokenizer import ByteTokenizer

    (tmp_path / "a.txt").write_text("line\n" * 100)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for cache in (tmp_path / "a.txt", tmp_path / "a.txt" / "b", tmp_path / ("x" * 300), tmp_path / "loop"):
        source = open_path(str(tmp_path / "a.txt"), DataConfig(cache_dir=str(cache)))
        with pytest.raises(UserError, match=r"Cannot write to .* --data.cache-dir"):
            build_store(source, "train", ByteTokenizer(), cache)
    with pytest.raises(UserError, match="--data.cache-dir is empty"):
        DataConfig(cache_dir="")


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
    assert described == {"message": paths.explain(OSError(number, os.strerror(number), "a")), "exit_code": 2}


@pytest.mark.parametrize("error", [OSError("odd"), OSError(errno.ENOENT, "no", "x"), OSError(errno.EISDIR, "no")])
def test_other_errors_keep_their_traceback(error):
    def fail():
        raise error

    with pytest.raises(OSError):
        command.run(fail)
