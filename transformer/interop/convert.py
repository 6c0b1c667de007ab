"""Conversion of whole models: a folder in the Hugging Face format to a checkpoint, and back."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from transformer import checkpoint
from transformer.adapters.adaptation import Adaptation
from transformer.checkpoint import adapted, provenance
from transformer.checkpoint.compare import record_files
from transformer.checkpoint.files import check_new
from transformer.checkpoint.seal import sealed_files
from transformer.data.images.preprocessing import PREPROCESSING, from_json
from transformer.errors import UserError
from transformer.interop import (
    engine,
    families,
    folder,
    peft_folder,
    preprocessing,
    sentence_transformers,
    tokenizers,
    weights,
)
from transformer.interop.family import Family, count_labels
from transformer.models import Architecture, architecture_to_dict
from transformer.parallel.layout import abstract_on
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.params import flatten, unflatten
from transformer.transfer.graft import graft

ORIGIN = "huggingface"
"""Folder in a checkpoint's record with the files that it was imported from (subfolders too, weights aside), which an
export writes again."""
DTYPES = "huggingface_dtypes.json"
"""File in a checkpoint's record with the dtypes of the imported tensors, by our parameters' paths."""

_DTYPE_FIELDS = ("dtype", "torch_dtype")


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model that was imported from a folder."""

    family: Family
    architecture: Architecture
    params: Any
    """float32 jax arrays in the host's memory."""
    new: list[str]
    """Parameters that the folder lacks, such as those of another head."""
    left: list[str]
    """Tensors that the architecture has no place for, such as those of other heads."""
    dtypes: dict[str, Any]
    """Dtypes of the folder's tensors, by our parameters' paths; see `engine.Loaded`."""


def import_folder(
    path: Path, *, head: str | None = None, num_labels: int | None = None, pickle: bool = False
) -> Imported:
    """Returns the model of a folder in the Hugging Face format; a tensor is read at a time.

    Args:
      path: the folder.
      head: the head to put on the backbone; None: the head whose weights the folder holds.
      num_labels: number of a new head's classes; None: as in config.json.
      pickle: whether to read PyTorch's pickle file, with weights-only loading.

    Raises:
      UserError: something in the folder is wrong; the message names the file, field or tensor.
    """
    sentence_transformers.modules(path)  # first: it reports a transformer that lies in a subfolder
    config = folder.read_config(path)
    family = families.of_folder(config)
    if head is not None and head not in family.heads:
        raise UserError(f"--head {head!r}: a {family.model_type} model can have {', '.join(family.heads)}")
    with weights.open_tensors(path, pickle=pickle) as tensors:
        own_head, left = families.choose_head(family, config, tensors)
        labels = count_labels(config)
        architecture = family.read_config(config, own_head, labels)
        loaded = family.load(tensors, architecture, leave=left)
    params = _to_jax(loaded.params)
    if head is None and num_labels is None:
        return Imported(family, architecture, params, [], left, loaded.dtypes)
    wanted = dataclasses.replace(
        architecture, head=head or own_head, num_labels=num_labels or labels, labels=(), problem_type=None
    )
    if (wanted.head, wanted.num_labels) == (own_head, labels):
        wanted = architecture
    params, new, dropped = graft(architecture, wanted, params)
    dtypes = {path: dtype for path, dtype in loaded.dtypes.items() if path not in {*new, *dropped}}
    return Imported(family, wanted, params, new, [*left, *dropped], dtypes)


def _to_jax(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the tree as jax arrays in the host's memory; empties `params` on the way, so that no two copies exist."""
    cpu = jax.local_devices(backend="cpu")[0]
    result = {}
    for name in list(params):
        leaf = params.pop(name)
        result[name] = _to_jax(leaf) if isinstance(leaf, dict) else jax.device_put(leaf, cpu).block_until_ready()
    return result


def save(imported: Imported, path: Path, run: epath.PathLike) -> tuple[epath.Path, list[str]]:
    """Writes a checkpoint of an imported model into a new run folder.

    Returns:
      The checkpoint, and lines about the folder's other files.

    Raises:
      UserError: the run folder is not empty, or cannot be written.
    """
    run = epath.Path(run).expanduser()
    check_new(run)
    record, lines = record_of(imported, path)
    checkpoint_dir = run / "checkpoints" / "0"
    try:
        checkpoint.save_params(checkpoint_dir, imported.params, record)
    except BaseException:
        run.rmtree(missing_ok=True)  # the folder is new, and nothing half-written may stay
        raise
    return checkpoint_dir, lines


def record_of(imported: Imported, path: Path) -> tuple[dict[str, bytes], list[str]]:
    """Returns what lies beside the weights of an imported model's checkpoint, by name, and lines about it.

    Args:
      imported: the model.
      path: the folder that it was imported from.
    """
    record = {"architecture.json": checkpoint.to_json(architecture_to_dict(imported.architecture))}
    kept = tokenizers.files(path)
    record |= {f"{ORIGIN}/{name}": content for name, content in kept.items()}
    record[f"{ORIGIN}/{folder.CONFIG}"] = (path / folder.CONFIG).read_bytes()
    record[DTYPES] = checkpoint.to_json(imported.dtypes)
    record[provenance.NAME] = provenance.written_by("tools/convert.py import", [path])
    lines = []
    if len(imported.architecture.input_size) == 3:
        lines += _of_images(record, kept, imported.architecture)
    if imported.architecture.vocab_size is not None:
        tokenizer, notes = tokenizers.read(path, imported.architecture.vocab_size)
        record |= {f"tokenizer/{name}": content for name, content in tokenizer.items()}
        lines += [f"tokenizer   {line}" for line in notes]
    if (
        not imported.new and imported.architecture.vocab_size is not None
    ):  # a model with a new head is no longer a model of sentences
        kept, sentences = sentence_transformers.read(path, dataclasses.asdict(imported.architecture)["width"])
        record |= {f"{ORIGIN}/{name}": content for name, content in kept.items()}
        lines += [f"sentences   {sentences}"] if sentences else []
    return record, lines


def _of_images(record: dict[str, bytes], files: Mapping[str, bytes], architecture: Architecture) -> list[str]:
    """Adds to a record how an imported model's images are cut to size, and returns lines about that."""
    cut = preprocessing.read(files, architecture.input_size[2])
    if cut is None:
        return [f"images      the folder has no {preprocessing.FILE}: tools/classify.py cannot tell how to cut them"]
    record[PREPROCESSING] = checkpoint.to_json(cut.to_dict() | {"labels": architecture.labels})
    return [f"images      {cut}"]


def export(
    path: epath.PathLike,
    out: Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = folder.SHARD_BYTES,
    flax: bool = False,
) -> Family:
    """Writes a checkpoint as a folder that Transformers loads; returns its family there.

    Args:
      path: a run or a checkpoint.
      out: the new folder.
      dtype: dtype of the weights: float32, bfloat16 or float16. None: each tensor's dtype at its import, or float32.
      shard_bytes: size above which weights go to several files with an index.
      flax: whether to write flax_model.msgpack, for the Flax classes of Transformers 4, in place of safetensors.

    Raises:
      UserError: no checkpoint, an architecture that Transformers does not have, a folder that cannot be written.
    """
    check_new(out)
    checkpoint_dir = checkpoint.find(path)
    architecture = checkpoint.read_architecture(checkpoint_dir)
    record = checkpoint_dir / "record"
    origin, stored = record / ORIGIN, record / DTYPES
    if origin.exists():
        files = {name: file.read_bytes() for name, file in sealed_files(origin).items()}
        before = json.loads(files.pop(folder.CONFIG))
        family = families.of_architecture(architecture, before.get("model_type"))
        config = _with_dtype(family.rewrite_config(architecture, before), dtype)
    else:
        files, ids = tokenizers.export(record / "tokenizer")
        family = families.of_architecture(architecture)
        config = {**ids, **family.write_config(architecture), "dtype": dtype or "float32"}
        if (record / PREPROCESSING).exists():
            cut, labels = from_json((record / PREPROCESSING).read_text())
            files[preprocessing.FILE] = preprocessing.write(cut, architecture.family)
            if len(labels) == architecture.num_labels:
                config["id2label"] = {str(number): label for number, label in enumerate(labels)}
                config["label2id"] = {label: number for number, label in enumerate(labels)}
    if flax:
        family.flax_classes(architecture)  # refused before anything is read
    _, params = checkpoint.restore_model(checkpoint_dir, make_mesh(MeshConfig(data=1)))
    dtypes = json.loads(stored.read_text()) if stored.exists() else {}
    tensors = (family.flax_stream if flax else family.stream)(params, architecture, dtypes)
    folder.write_folder(out, config, tensors, files, dtype=dtype, shard_bytes=shard_bytes, flax=flax)
    return family


def import_adapter(path: Path, run: epath.PathLike, base: str) -> tuple[Adaptation, epath.Path]:
    """Writes a checkpoint of an adapter in PEFT's format, in a new run folder; returns it, and what it is.

    Args:
      path: the folder.
      run: the new run folder.
      base: the run or the checkpoint that the adapter is of.

    Raises:
      UserError: something in the folder is wrong or does not fit the base, or the run folder cannot be written.
    """
    run = epath.Path(run).expanduser()
    check_new(run)
    source = checkpoint.find(base)
    architecture = checkpoint.read_architecture(source)
    family = _family_of(source, architecture)
    adapter, arrays = peft_folder.read(path, architecture, family.table(architecture))
    about = adapted.base_of(base, adapter.config)
    record = record_files(source) | {adapted.NAME: about.to_json()}
    record[provenance.NAME] = provenance.written_by("tools/convert.py import", [path, source])
    place = run / "checkpoints" / "0"
    checkpoint.save_params(place, _to_jax(unflatten(arrays)), record)
    return adapter, place


def export_adapter(path: epath.PathLike, out: Path) -> Family:
    """Writes the adapter of a run or a checkpoint as a folder that PEFT loads; returns the base's family there.

    Raises:
      UserError: it is no adapter, PEFT's format has no place for it, or the folder cannot be written.
    """
    checkpoint_dir = checkpoint.find(path)
    base = adapted.of(checkpoint_dir)
    if base is None:
        raise UserError(f"{checkpoint_dir} is a whole model, no adapter: export it without --adapter")
    adapter = adapted.adaptation_of(checkpoint_dir, base.config)
    architecture = adapter.architecture
    family = _family_of(checkpoint_dir, architecture)
    mesh = make_mesh(MeshConfig(data=1))
    params = checkpoint.restore_params(checkpoint_dir, abstract_on(adapter.abstract_params(), mesh))
    arrays = {name: np.asarray(array) for name, array in flatten(params).items()}
    peft_folder.write(out, adapter, arrays, family.table(architecture), base=base.path, kind=architecture.kind)
    return family


def _family_of(checkpoint_dir: epath.Path, architecture: Architecture) -> Family:
    """Returns the family of a checkpoint's model in Transformers: that of the folder that it was imported from."""
    origin = checkpoint_dir / "record" / ORIGIN / folder.CONFIG
    before = json.loads(origin.read_bytes()) if origin.exists() else {}
    return families.of_architecture(architecture, before.get("model_type"))


def _with_dtype(config: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    """Returns a config.json that names a dtype; for None, its own dtype in a spelling that Transformers reads."""
    if dtype is not None:
        return {name: value for name, value in config.items() if name not in _DTYPE_FIELDS} | {"dtype": dtype}
    for name in _DTYPE_FIELDS:
        value = config.get(name)
        if isinstance(value, str):
            config[name] = value.removeprefix("torch.")
        if name in config and config[name] not in (None, *engine.FLOATS):  # such as "auto"
            del config[name]
    return config
