"""Adapters in the format of PEFT (`adapter_config.json`, `adapter_model.safetensors`), read and written.

Names of modules follow from the family's table (`engine`). A kernel of theirs that holds several of ours (GPT-2's
c_attn) has one pair of factors: read, each of ours gets the same A and its part of B; written, unless all have one A,
it gets factors of a rank as many times as large, of which each of ours fills a block. Every tensor and every field is
accounted for: what is not known is refused by name.

Shape letters: I inputs and O outputs of a matrix of theirs, R rank.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.adapters.adaptation import Adaptation, Kernel, adaptation, linear_kernels
from transformer.adapters.config import AdapterConfig
from transformer.checkpoint.files import check_new
from transformer.errors import UserError
from transformer.interop.engine import Rule, Table, some
from transformer.interop.files import read_json
from transformer.interop.folder import written
from transformer.models.architecture import Architecture
from transformer.params import flatten

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_ENDINGS = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b", "lora_magnitude_vector": "lora_magnitude"}
_READ = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "lora_dropout", "rank_pattern", "alpha_pattern")
_HARMLESS = (
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "layers_pattern", "megatron_core", "modules_to_save", "peft_version", "qalora_group_size",
    "revision", "target_modules", "task_type",
)  # fmt: skip
"""Fields that say how an adapter was made, or what its tensors say too."""
_TASKS = {
    "language_model": "CAUSAL_LM",
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
}

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Place:
    """One tensor of theirs, and where its numbers lie in our arrays."""

    rule: Rule
    index: tuple[int, ...]
    """Indices of its layer, and its expert, in our stacked arrays."""


def read(folder: Path, architecture: Architecture, table: Table) -> tuple[Adaptation, Arrays]:
    """Returns the adapter of a folder, and its arrays (float32) by our paths.

    Raises:
      UserError: a field or a tensor that has no place here, is missing, or has another shape.
    """
    config = read_json(folder / CONFIG)
    _check_fields(config)
    tensors = _tensors(folder / WEIGHTS)
    places = _places(table, architecture)
    factors: dict[str, dict[str, np.ndarray]] = {}
    whole: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if not name.startswith(_PREFIX):
            raise UserError(f"{folder / WEIGHTS}: tensor {name!r} does not begin with {_PREFIX!r}, as all of PEFT's do")
        module, kind = _taken_apart(name.removeprefix(_PREFIX))
        if kind is None:
            whole[module] = tensor
        else:
            factors.setdefault(module, {})[kind] = tensor
    if not factors:
        raise UserError(f"{folder / WEIGHTS}: no lora_A and lora_B: it adapts nothing")
    dora = bool(config.get("use_dora"))
    ranks = {module: _of_module(config, "rank_pattern", module, config["r"]) for module in factors}
    scales = {module: _scale(config, module, rank) for module, rank in ranks.items()}
    rank = max(ranks.values(), default=config["r"])
    ours = AdapterConfig(
        rank, float(config["lora_alpha"]), bool(config.get("use_rslora")), dora, float(config.get("lora_dropout") or 0)
    )
    parts: dict[str, dict[tuple[int, ...], np.ndarray]] = {}
    kernels = linear_kernels(architecture)
    for module, given in factors.items():
        place = places.get(f"{module}.weight")
        if place is None or not place.rule.transform.inputs or not {*place.rule.ours} <= kernels.keys():
            head = getattr(architecture, "head", "none")
            raise UserError(
                f"{folder}: {module} is no linear layer of this {architecture.family} model with head {head}: is the "
                "adapter of a model with another head? Put that one on the base first (docs/adapters.md)"
            )
        wanted = {"lora_a", "lora_b"} | ({"lora_magnitude"} if dora else set())
        if given.keys() != wanted:
            names = {ours: theirs for theirs, ours in _ENDINGS.items()}
            lacking = ", ".join(f"{module}.{names[kind]}" for kind in sorted(wanted ^ given.keys()))
            raise UserError(f"{folder / WEIGHTS}: {lacking}: there, and should not be, or the other way round")
        mine = [kernels[path] for path in place.rule.ours]
        factor = scales[module] / ours.scale
        for path, array in _loaded(module, given, mine, place.rule, ranks[module], rank, factor):
            parts.setdefault(path, {})[place.index] = array
    tensors_of = _whole_tensors(folder, whole, places, architecture)
    for path, index, array in tensors_of:
        parts.setdefault(path, {})[index] = array
    paths = [path for path in kernels if f"{path.removesuffix('kernel')}lora_a" in parts]
    named = dataclasses.replace(ours, leaves="|".join(map(re.escape, paths)) or None)
    kept = {path for path in architecture.parameters if path not in parts}
    adapter = adaptation(named, architecture, kept)
    shapes = {path: leaf.value.shape for path, leaf in flatten(adapter.abstract_params()).items()}
    return adapter, {path: _stacked(folder, path, shapes[path], parts[path]) for path in shapes}


def write(
    folder: Path, adapter: Adaptation, params: Mapping[str, np.ndarray], table: Table, *, base: str, kind: str
) -> None:
    """Writes an adapter as a folder that PEFT loads.

    Args:
      folder: a new folder.
      adapter: the adapter.
      params: path -> array.
      table: the family's, of the architecture.
      base: what the config calls the base.
      kind: the architecture's.

    Raises:
      UserError: it has something that PEFT's format has no place for, or cannot be written.
    """
    check_new(folder)
    config, places = adapter.config, _places(table, adapter.architecture)
    tensors: dict[str, np.ndarray] = {}
    modules: dict[str, int] = {}  # -> how many times as large its rank is
    conv = set()
    for name, place in places.items():
        module, targets = name.removesuffix(".weight"), [path for path in place.rule.ours if path in adapter.targets]
        if not targets or not place.rule.transform.inputs:
            continue
        for ending, tensor in _saved(adapter, params, place):
            tensors[f"{_PREFIX}{module}.{ending}"] = tensor
        modules[module] = tensors[f"{_PREFIX}{module}.lora_A.weight"].shape[0] // config.rank
        conv.add(not place.rule.transform.transposed)
    written = {path for name in modules for path in places[f"{name}.weight"].rule.ours}
    if left := sorted(adapter.targets.keys() - written):
        raise UserError(f"{left[0]} is no linear layer of Hugging Face Transformers: PEFT's format has no place for it")
    if len(conv) > 1:
        raise UserError("PEFT's format holds adapters of Linear layers or of Conv1D layers, not of both at once")
    saved = sorted({name.rpartition(".")[0] for name, place in places.items() if {*place.rule.ours} & adapter.whole})
    for name, place in places.items():
        if name.rpartition(".")[0] in saved:
            if not {*place.rule.ours} <= adapter.whole:
                raise UserError(
                    f"PEFT saves modules whole, and of {name} this adapter trains a part of the module only"
                )
            arrays = [np.asarray(params[path])[place.index] for path in place.rule.ours]
            tensors[f"{_PREFIX}{name}"] = place.rule.transform.save(arrays)
    task = "SEQ_2_SEQ_LM" if kind == "encoder_decoder" else _TASKS.get(adapter.architecture.head)
    wide = {module: times for module, times in modules.items() if times > 1}
    record = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "target_modules": sorted(modules),
        "modules_to_save": saved or None,
        "fan_in_fan_out": conv == {True},
        "bias": "none",
        "inference_mode": True,
        "rank_pattern": {module: times * config.rank for module, times in wide.items()},
        # So that alpha / rank, or alpha / sqrt(rank), stays what it is.
        "alpha_pattern": {
            module: config.alpha * (math.sqrt(times) if config.rslora else times) for module, times in wide.items()
        },
    }
    _write(folder, record, {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()})


def _loaded(
    module: str,
    given: Mapping[str, np.ndarray],
    kernels: Sequence[Kernel],
    rule: Rule,
    rank: int,
    wide: int,
    factor: float,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields our path and array of a module's factors; of a rank below `wide`, the rest is zeros, which add nothing."""
    outputs = [_matrix(kernel)[1] for kernel in kernels]
    inputs = _matrix(kernels[0])[0]
    shapes = {"lora_a": (rank, inputs), "lora_b": (sum(outputs), rank), "lora_magnitude": (sum(outputs),)}
    for kind, tensor in given.items():
        if tensor.shape != shapes[kind]:
            raise UserError(f"tensor of {module}, {kind}, has shape {tensor.shape}; the model needs {shapes[kind]}")
    ends = np.cumsum(outputs)[:-1]
    b_parts = np.split(given["lora_b"], ends)
    lengths = np.split(given["lora_magnitude"], ends) if "lora_magnitude" in given else [None] * len(kernels)
    for kernel, b_OR, length_O in zip(kernels, b_parts, lengths, strict=True):
        _, ins, outs = _dims(kernel)
        a_IR = np.zeros((inputs, wide), np.float32)
        a_IR[:, :rank] = given["lora_a"].T
        b_RO = np.zeros((wide, b_OR.shape[0]), np.float32)
        b_RO[:rank] = b_OR.T * np.float32(factor)
        yield f"{kernel.module}/lora_a", a_IR.reshape(*ins, wide)
        yield f"{kernel.module}/lora_b", b_RO.reshape(wide, *outs)
        if length_O is not None:
            yield f"{kernel.module}/lora_magnitude", length_O.reshape(outs)


def _saved(adapter: Adaptation, params: Mapping[str, np.ndarray], place: Place) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (ending of a name, tensor) of the factors of one matrix of theirs."""
    kernels = linear_kernels(adapter.architecture)
    a_parts, b_parts, lengths = [], [], []
    for path in place.rule.ours:
        kernel = kernels[path]
        inputs, outputs = _matrix(kernel)
        if path not in adapter.targets:
            if adapter.config.dora:
                raise UserError(
                    f"{path} has no factors, and other kernels of the same matrix have: PEFT's DoRA adapts all of it"
                )
            a_parts.append(None)
            b_parts.append(np.zeros((outputs, 0), np.float32))
            continue
        factors = {
            name: np.asarray(params[leaf.path])[place.index] for name, leaf in kernel.factors(adapter.config).items()
        }
        a_parts.append(factors["lora_a"].reshape(inputs, -1).T)
        b_parts.append(factors["lora_b"].reshape(-1, outputs).T)
        lengths.append(factors.get("lora_magnitude", np.zeros(0)).reshape(-1))
    held = [a for a in a_parts if a is not None]
    if all(np.array_equal(a, held[0]) for a in held):
        a_RI, rank = held[0], len(held[0])
        blocks = [b if b.shape[1] else np.zeros((len(b), rank), np.float32) for b in b_parts]
    else:
        a_RI, blocks, start = np.concatenate(held), [], 0
        for b in b_parts:
            block = np.zeros((len(b), len(a_RI)), np.float32)
            block[:, start : start + b.shape[1]] = b
            blocks.append(block)
            start += b.shape[1]
    yield "lora_A.weight", a_RI
    yield "lora_B.weight", np.concatenate(blocks)
    if adapter.config.dora:
        yield "lora_magnitude_vector", np.concatenate(lengths)


def _places(table: Table, architecture: Architecture) -> dict[str, Place]:
    """Returns full name of each tensor of theirs -> its place."""
    shapes = {path: leaf.shape for path, leaf in architecture.parameters.items()}
    return {
        name.removeprefix(table.prefix) if table.bare else name: Place(rule, index)
        for rule in table.rules
        for name, index in rule.tensors(shapes).items()
    }


def _whole_tensors(
    folder: Path, whole: Mapping[str, np.ndarray], places: Mapping[str, Place], architecture: Architecture
) -> Iterator[tuple[str, tuple[int, ...], np.ndarray]]:
    """Yields our path, the index in the stacked array, and the array of what is saved whole."""
    unknown = sorted(whole.keys() - places.keys())
    if unknown:
        raise UserError(f"{folder / WEIGHTS}: unexpected {some(unknown)}")
    for name, tensor in whole.items():
        rule, index = places[name].rule, places[name].index
        parts = [architecture.parameters[path].shape[len(index) :] for path in rule.ours]
        if tensor.shape != (needed := rule.transform.their_shape(parts)):
            raise UserError(f"tensor {name!r} has shape {tensor.shape}; the model needs {needed}")
        for path, array in zip(rule.ours, rule.transform.load(tensor, parts), strict=True):
            yield path, index, array


def _stacked(
    folder: Path, path: str, shape: tuple[int, ...], parts: Mapping[tuple[int, ...], np.ndarray]
) -> np.ndarray:
    """Returns an array of all layers (and experts), of which none may be missing."""
    depth = len(next(iter(parts)))
    wanted = [*np.ndindex(shape[:depth])]
    if missing := [index for index in wanted if index not in parts]:
        where = " and expert ".join(map(str, missing[0]))
        raise UserError(f"{folder / WEIGHTS}: nothing for {path} of layer {where}, and something for other layers")
    result = np.empty(shape, np.float32)
    for index, array in parts.items():
        result[index] = array
    return result


def _taken_apart(name: str) -> tuple[str, str | None]:
    """Returns the module and the kind of a factor; of another tensor its full name, and None."""
    for ending, kind in _ENDINGS.items():
        for spelled in (ending, f"{ending}.weight"):
            if name.endswith(f".{spelled}"):
                return name.removesuffix(f".{spelled}"), kind
    return name, None


def _dims(kernel: Kernel) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Returns the sizes of a kernel's stacked axes, of its inputs and of its outputs."""
    (stacked, inputs), shape = kernel.axes.values(), kernel.parameter.shape
    return shape[:stacked], shape[stacked : stacked + inputs], shape[stacked + inputs :]


def _matrix(kernel: Kernel) -> tuple[int, int]:
    """Returns how many inputs and outputs a kernel has."""
    _, inputs, outputs = _dims(kernel)
    return math.prod(inputs), math.prod(outputs)


def _check_fields(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise UserError(f"{CONFIG}: peft_type is {config.get('peft_type')!r}: only LORA is read")
    for name in ("r", "lora_alpha"):
        if not isinstance(config.get(name), int | float) or config[name] <= 0:
            raise UserError(f"{CONFIG}: {name} is {config.get(name)!r}, and should be a number above 0")
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise UserError(
            f"{CONFIG}: init_lora_weights = {config['init_lora_weights']!r} changes the base too: only adapters of the "
            "base as it is are read"
        )
    if config.get("bias", "none") != "none":
        raise UserError(f"{CONFIG}: bias = {config['bias']!r}: only adapters without biases of their own are read")
    known = {*_READ, *_HARMLESS, "init_lora_weights", "bias"}
    others = [name for name, value in config.items() if name not in known and value]
    if others:
        raise UserError(f"{CONFIG}: {some(sorted(others))}: fields that are not known, and may change the model")


def _of_module(config: Mapping[str, Any], field: str, module: str, default: Any) -> Any:
    """Returns the value that a pattern field has for a module, as PEFT finds it."""
    patterns = config.get(field) or {}
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = _of_module(config, "alpha_pattern", module, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _tensors(path: Path) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.exists():
        raise UserError(f"{path}: no such file: an adapter of PEFT has {CONFIG} and {WEIGHTS}")
    try:
        return {name: array.astype(np.float32) for name, array in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not safetensors: {error}") from error


def _write(folder: Path, config: Mapping[str, Any], tensors: Arrays) -> None:
    from safetensors.numpy import save_file

    with written(folder):
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        # Last, so that an unfinished folder, which lacks it, is no adapter.
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
