"""Flax's weights: folders that Transformers 4.57's Flax classes wrote, with the outputs that they computed."""

import dataclasses
import functools
import json
import shutil
import zipfile

import flax.serialization
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.exhaustive import few
from tools import convert as tool
from transformer.errors import UserError
from transformer.interop import convert, flax_weights, folder
from transformer.interop.gpt import GPT2
from transformer.interop.llama import LLAMA, MISTRAL, QWEN2
from transformer.interop.verify import compared
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig
from transformer.models.llama import LlamaConfig

from . import parity
from .flax4.export import ARCHIVE

with zipfile.ZipFile(ARCHIVE) as _archive:
    CASES = sorted({name.split("/")[0] for name in _archive.namelist()})

GPT2_CASE = "GPT2LMHeadModel"

# One family of each kind, and single, sharded and safetensors files; all others are exhaustive.
_FEW = (
    "BertForMaskedLM-safetensors",
    "GPT2LMHeadModel-sharded",
    "T5ForConditionalGeneration",
)
every_case = pytest.mark.parametrize("case", few(CASES, *_FEW))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("flax4")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(out)
    return out


@pytest.fixture(scope="module")
def imported(folders):
    """Imports a case, once."""
    return functools.cache(lambda case: convert.import_folder(folders / case))


@pytest.fixture
def gpt2(folders, tmp_path):
    """A GPT-2 whose files a test may damage."""
    return shutil.copytree(folders / GPT2_CASE, tmp_path / "hf")


@pytest.fixture
def sharded(folders, tmp_path):
    return shutil.copytree(folders / f"{GPT2_CASE}-sharded", tmp_path / "hf")


def _arrays(path):
    """Flax's own reading of every array of a folder, by path."""
    if (path / "model.safetensors").exists():
        from safetensors.numpy import load_file

        return {name.replace(".", "/"): array for name, array in load_file(path / "model.safetensors").items()}
    arrays = {}
    for file in sorted(path.glob("*.msgpack")):
        arrays |= flatten_dict(flax.serialization.msgpack_restore(file.read_bytes()), sep="/")
    return arrays


def _inputs(stored, config):
    """Returns our inputs, and the number of choices where the rows are choices."""
    names = {"input_ids": "tokens", "attention_mask": "segment_ids", "token_type_ids": "token_types"}
    images = {"images": stored["pixel_values"].transpose(0, 2, 3, 1)} if "pixel_values" in stored.files else {}
    if config.kind == "image_encoder":
        return images
    read = [name for name in stored.files if name[:4] != "out_" and name != "pixel_values"]
    flat = {name: stored[name].reshape(-1, stored[name].shape[-1]) for name in read}
    ours = {names[name.removeprefix("decoder_")]: array for name, array in flat.items() if name in names}
    ours |= {f"decoder_{names[name[8:]]}": array for name, array in flat.items() if name.startswith("decoder_")}
    if config.kind == "two_towers":
        return ours | images
    for prefix in ("", "decoder_") if config.kind == "encoder_decoder" else ("",):
        tokens = ours[f"{prefix}tokens"]
        ours[f"{prefix}positions"] = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return ours


@every_case
def test_parameters_are_the_pytorch_files_and_outputs_are_flax_ones(case, folders, imported, tmp_path):
    imported = imported(case)
    shutil.copy(folders / case / "config.json", tmp_path)
    shutil.copy(folders / case / "pytorch" / "model.safetensors", tmp_path)
    torch_side = convert.import_folder(tmp_path)
    assert torch_side.architecture == imported.architecture
    assert (imported.new, imported.left) == ([], [])
    jax.tree.map(np.testing.assert_array_equal, imported.params, torch_side.params)

    stored = np.load(folders / case / "flax.npz")
    inputs = _inputs(stored, imported.architecture)
    outputs = jax.jit(imported.architecture.build(Execution()).apply)({"params": imported.params}, **inputs)
    theirs = {name[4:]: _Array(stored[name]) for name in stored.files if name.startswith("out_")}
    real = inputs.get("decoder_segment_ids", inputs.get("segment_ids", np.ones((2, 1)))) > 0
    count = 0
    for name, have, want in compared(outputs, theirs):
        have = have.reshape(want.shape) if imported.architecture.head == "multiple_choice" else have
        assert have.shape == want.shape
        difference = np.abs(have - want)[real] if want.shape[:2] == real.shape else np.abs(have - want)
        assert difference.max() <= 1e-5 * np.abs(want).max(), name
        count += 1
    assert count >= 1


class _Array(np.ndarray):
    """An array with a tensor's `numpy`."""

    def __new__(cls, array):
        return np.asarray(array).view(cls)

    def numpy(self):
        return np.asarray(self)


@every_case
def test_export_is_the_tree_that_the_flax_class_wrote(case, folders, imported, tmp_path):
    imported = imported(case)
    family, config = imported.family, imported.architecture
    tensors = family.flax_stream(imported.params, config)
    folder.write_folder(tmp_path / "out", family.write_config(config), tensors, flax=True)
    want, have = _arrays(folders / case), _arrays(tmp_path / "out")
    assert have.keys() == want.keys()
    for path, array in want.items():
        assert have[path].shape == array.shape
        np.testing.assert_array_equal(have[path], array.astype(np.float32), err_msg=path)


@pytest.mark.parametrize("case", ["GPT2LMHeadModel-bfloat16", "GPT2LMHeadModel-mixed", "LlamaForCausalLM-tied"])
def test_the_command_gives_the_folder_back(case, folders, tmp_path):
    tool.main(["import", str(folders / case), str(tmp_path / "run")])
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--flax"])
    assert not list((tmp_path / "out").glob("*.safetensors"))
    want, have = _arrays(folders / case), _arrays(tmp_path / "out")
    assert have.keys() == want.keys()
    for path, array in want.items():
        assert (have[path].dtype, have[path].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(have[path], array, err_msg=path)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [case.split("-")[0]]


def test_shards_and_their_index(folders, tmp_path, gpt2):
    imported = convert.import_folder(gpt2)
    tensors = GPT2.flax_stream(imported.params, imported.architecture)
    config = GPT2.write_config(imported.architecture)
    folder.write_folder(tmp_path / "out", config, tensors, shard_bytes=4000, flax=True)
    index = json.loads((tmp_path / "out" / flax_weights.INDEX).read_text())
    files = {file.name for file in (tmp_path / "out").glob("*.msgpack")}
    assert set(index["weight_map"].values()) == files
    assert len(files) > 1
    assert f"flax_model-00001-of-{len(files):05}.msgpack" in files
    again = convert.import_folder(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.params, imported.params)


def test_arrays_above_a_gigabyte_come_in_chunks(gpt2, tmp_path, monkeypatch):
    whole = convert.import_folder(gpt2)
    file = gpt2 / flax_weights.WEIGHTS
    tree = flax.serialization.msgpack_restore(file.read_bytes())
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 256)
    file.write_bytes(flax.serialization.msgpack_serialize(tree))
    jax.tree.map(np.testing.assert_array_equal, convert.import_folder(gpt2).params, whole.params)


def test_safetensors_win(gpt2):
    """As in Transformers: a PyTorch model reads Flax's file only where it is asked for."""
    (gpt2 / flax_weights.WEIGHTS).write_bytes(b"not read")
    shutil.move(gpt2 / "pytorch" / "model.safetensors", gpt2)
    convert.import_folder(gpt2)


def _rewrite(change):
    def damage(path):
        file = path / flax_weights.WEIGHTS
        tree = flax.serialization.msgpack_restore(file.read_bytes())
        file.write_bytes(flax.serialization.msgpack_serialize(change(tree)))

    return damage


def _bytes(change):
    def damage(path):
        file = path / flax_weights.WEIGHTS
        file.write_bytes(change(file.read_bytes()))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_bytes(lambda content: content[:-5]), "not a whole file"),
        (_bytes(lambda content: content[: len(content) // 2]), "not a whole file"),
        (_bytes(lambda content: b""), "not a whole file"),
        (_bytes(lambda content: content + b"\x00"), "more after its end"),
        (_bytes(lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git-lfs pointer"),
        (_bytes(lambda content: b"\x93\x01\x02\x03"), "not a tree of Flax's arrays"),
        (_bytes(lambda content: b"\x81\x01\x02"), "not a string"),
        (_bytes(lambda content: b"\x81\xa1a" * 40 + b"\x01"), "levels"),
        (_bytes(lambda content: content.replace(b"float32", b"object0", 1)), "cannot be read"),
        (_rewrite(lambda tree: {"params": tree}), "unexpected 'params.transformer"),
        (_rewrite(lambda tree: tree | {"step": 3}), "unexpected 'step'"),
        (_rewrite(lambda tree: {"transformer": tree["transformer"] | {"ln_f": {"scale": 3, "bias": 4}}}), "no array"),
        (_rewrite(lambda tree: {"transformer": tree["transformer"] | {"ln_f": {}}}), "missing 'transformer.ln_f"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(damage, said, gpt2):
    damage(gpt2)
    with pytest.raises(UserError, match=said) as error:
        convert.import_folder(gpt2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: next(path.glob("*00002-of*")).unlink(), "a shard is missing"),
        (lambda path: (path / flax_weights.INDEX).write_text("{}"), "weight_map"),
        (lambda path: (path / flax_weights.INDEX).write_text('{"weight_map": {"a": "../b"}}'), "outside"),
        (
            lambda path: (path / flax_weights.INDEX).write_text(
                json.dumps({"weight_map": {"a/kernel": next(path.glob("*00001-of*")).name}})
            ),
            "lacks array 'a/kernel'",
        ),
    ],
)
def test_what_is_wrong_with_shards_is_one_line(damage, said, sharded):
    damage(sharded)
    with pytest.raises(UserError, match=said):
        convert.import_folder(sharded)


TINY = LlamaConfig(
    rotary_base=10000.0,
    window=None,
    vocab_size=23,
    context_length=16,
    width=16,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_width=4,
    mlp_width=20,
)


@pytest.mark.parametrize(
    ("family", "fields", "said"),
    [
        (LLAMA, {"rotary_base": 5e5}, "base 10000"),
        (LLAMA, {"head_width": 8}, "width of heads"),
        (LLAMA, {"mlp_biases": True}, "biases"),
        (LLAMA, {"head": "sequence_classification"}, "no FlaxLlamaForSequenceClassification"),
        (MISTRAL, {"window": 8}, "one token further"),
        (QWEN2, {"attention_biases": "qkv"}, "no FlaxQwen2ForCausalLM"),
    ],
)
def test_what_flax_would_compute_otherwise_is_refused(family, fields, said):
    with pytest.raises(UserError, match=said):
        family.flax_classes(dataclasses.replace(TINY, **fields))


@pytest.mark.parametrize("fields", [{"divide_scores_by_layer": True}, {"scale_scores": False}])
def test_scores_that_flax_scales_otherwise_are_refused(fields):
    config = GPTConfig(vocab_size=11, context_length=8, width=8, num_layers=1, num_heads=2, **fields)
    with pytest.raises(UserError, match="FlaxGPT2LMHeadModel divides all scores by the square root of the head width"):
        GPT2.flax_classes(config)


def test_a_refused_export_leaves_no_folder(tmp_path):
    from transformer import checkpoint
    from transformer.models import architecture_to_dict

    config = GPTConfig(
        vocab_size=11, context_length=8, width=8, num_layers=1, num_heads=2, head="sequence_classification"
    )
    pair = parity.make_pair(GPT2, config, pad_token_id=0)
    record = {"architecture.json": checkpoint.to_json(architecture_to_dict(config))}
    checkpoint.save_params(tmp_path / "run" / "checkpoints" / "0", pair.params, record)
    with pytest.raises(UserError, match="no FlaxGPT2ForSequenceClassification"):
        convert.export(tmp_path / "run", tmp_path / "out", flax=True)
    assert not (tmp_path / "out").exists()
