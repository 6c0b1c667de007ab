"""Fingerprints: what must be the same in all processes changes them, and what may differ from host to host does not."""

import os
import shutil

import jax
import jax.numpy as jnp
import pytest

from transformer.cluster import fingerprints
from transformer.cluster.alike import Fingerprint


def code_of(package, patch) -> Fingerprint:
    patch.setattr(fingerprints, "_PACKAGE", package)
    fingerprints._source_hashes.cache_clear()
    found = fingerprints.code()
    fingerprints._source_hashes.cache_clear()
    return found


def test_code_is_its_source_files_wherever_and_whenever_they_were_written(tmp_path, monkeypatch):
    package = tmp_path / "elsewhere" / "transformer"
    shutil.copytree(fingerprints._PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "interop", "data"))
    shutil.copytree(package, moved := tmp_path / "moved" / "transformer")
    for path in moved.rglob("*.py"):
        os.utime(path, (1, 1))
    (moved / "ops" / "__pycache__").mkdir()
    (moved / "ops" / "__pycache__" / "attention.py").write_text("stale")
    (moved / ".attention.py").write_text("an editor's")
    (moved / "ops" / "notes.txt").write_text("no code")
    here = code_of(package, monkeypatch)
    assert code_of(moved, monkeypatch) == here
    assert "transformer/ops/attention.py" in here.parts
    with (moved / "ops" / "attention.py").open("a") as file:
        file.write("\n")
    (moved / "ops" / "added.py").touch()
    there = code_of(moved, monkeypatch)
    assert here.facts != there.facts
    assert {name for name, _ in {*here.parts.items()} ^ {*there.parts.items()}} == {
        "transformer/ops/attention.py",
        "transformer/ops/added.py",
    }


def test_libraries_are_those_that_are_imported(tmp_path, monkeypatch):
    usual = fingerprints.libraries()
    assert usual.facts["jax"] == jax.__version__
    assert "libtpu" not in usual.facts
    other = tmp_path / "numpy-9.9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9.9\n")
    monkeypatch.syspath_prepend(tmp_path)
    changed = fingerprints.libraries()
    assert {name for name, _ in {*usual.facts.items()} ^ {*changed.facts.items()}} == {"numpy"}
    assert changed.facts["numpy"] == "9.9.9"


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        ("--xla_b=false --xla_a=1", True),
        ("--xla_a=1 --xla_b=false --xla_dump_to=/local/7 --xla_gpu_per_fusion_autotune_cache_dir=/x", True),
        ("--xla_a=1 --xla_b=false --xla_force_host_platform_device_count=8", True),
        ("--xla_a=2 --xla_a=1 --xla_b=false", True),
        ("--xla_a=1", False),
        ("--xla_a=1 --xla_b=true", False),
    ],
)
def test_flags_are_those_that_change_a_program_in_any_order(flags, same, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_b=false")
    usual = fingerprints.environment()
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert (fingerprints.environment() == usual) is same
    (tmp_path / "flags").write_text(flags)
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    assert (fingerprints.environment() == usual) is same


def test_settings_of_jax_that_change_numbers_count():
    usual = fingerprints.environment()
    with jax.default_matmul_precision("highest"):
        changed = fingerprints.environment()
    assert {name for name, _ in {*usual.facts.items()} ^ {*changed.facts.items()}} == {"jax_default_matmul_precision"}


def function(epsilon: float):
    return lambda x: x * jax.lax.rsqrt(jnp.mean(x**2) + epsilon)


def other_place(epsilon: float):
    return lambda x: x * jax.lax.rsqrt(jnp.mean(x**2) + epsilon)


def test_a_program_is_what_it_computes_not_where_it_stands():
    x = jnp.ones(8)
    usual, elsewhere, changed = (
        fingerprints.program(jax.jit(make(epsilon)).lower(x))
        for make, epsilon in ((function, 1e-5), (other_place, 1e-5), (function, 1e-6))
    )
    assert elsewhere == usual
    differing = [number for number, text in usual.parts.items() if changed.parts[number] != text]
    assert len(differing) == 1
    assert "9.99999997E-7" in changed.parts[differing[0]]


def test_devices_are_counted_by_kind():
    assert fingerprints.devices().facts["number of devices"] == jax.local_device_count()
