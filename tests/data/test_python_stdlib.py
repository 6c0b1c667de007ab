import subprocess
import sys

import pytest

from tests.data.corpus import documents
from transformer.data.text.config import TextConfig
from transformer.data.text.python_stdlib.python_stdlib_dataset_builder import Builder, source_files
from transformer.data.text.tfds_source import TfdsSource
from transformer.errors import UserError


@pytest.fixture
def library(tmp_path, monkeypatch):
    root = tmp_path / "lib"
    files = {f"pkg{i % 5}/module{i}.py": f"value = {i}\n" for i in range(60)}
    skipped = {
        "test/a.py": b"1",
        "pkg1/tests/b.py": b"1",
        "site-packages/c.py": b"1",
        "latin.py": b"# \xe9",
        "nul.py": b"\0",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, data in {**skipped, "empty.py": b"", "notes.txt": b"no"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(root)})
    return root, files


def open_source(tmp_path, **config):
    return TfdsSource("python_stdlib", TextConfig(cache_dir=str(tmp_path / "cache"), **config))


def test_only_the_library_itself_is_taken(library):
    root, files = library
    assert dict(source_files(root)) == files
    assert [path for path, _ in source_files(root)] == sorted(files)


def test_the_dataset_is_the_library_split_by_file(library, tmp_path, capfd):
    root, files = library
    source = open_source(tmp_path)
    train, validation = (list(documents(source, split)) for split in ("train", "validation"))
    assert sorted(train + validation) == sorted(files.values())
    assert 0 < len(validation) < 12
    assert open_source(tmp_path).fingerprint == source.fingerprint
    assert capfd.readouterr() == ("", "")
    next(root.rglob("module7.py")).write_text("value = 70\n")
    changed = TfdsSource("python_stdlib", TextConfig(cache_dir=str(tmp_path / "other")))
    assert changed.fingerprint != source.fingerprint


def test_pythons_do_not_share_prepared_data(tmp_path):
    builder = Builder(data_dir=str(tmp_path), file_format="array_record")
    assert str(builder.data_path).endswith("python_stdlib/{}.{}.{}".format(*sys.version_info[:3]))


def test_bad_names_and_fields_are_explained(library, tmp_path):
    config = TextConfig(cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"Did you mean .*python_stdlib"):
        TfdsSource("python_stdlb", config)
    with pytest.raises(UserError, match=r"no text feature 'body'; it has: text, path"):
        open_source(tmp_path, text_field="body")


def test_no_network_is_one_line(tmp_path, monkeypatch):
    def unresolved(*_):
        raise OSError("Name or service not known")

    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr("socket.getaddrinfo", unresolved)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(UserError, match="no network"):
        TfdsSource("tiny_shakespeare", TextConfig(cache_dir=str(tmp_path)))


def test_a_missing_tensorflow_is_one_line(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def needs_tensorflow(*_, **__):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(tfds, "builder", needs_tensorflow)
    with pytest.raises(UserError, match=r"pip install 'transformer-train\[tensorflow\]'"):
        TfdsSource("lm1b", TextConfig(cache_dir=str(tmp_path)))


def test_neither_tensorflow_nor_jax_is_loaded(tmp_path):
    code = (
        "import sys; from transformer.data.text.python_stdlib.python_stdlib_dataset_builder import Builder\n"
        "import transformer.data.prepare, transformer.data.text.tfds_source\n"
        "sys.exit(bool({'tensorflow', 'jax'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
