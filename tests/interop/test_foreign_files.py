"""Files of weights in other shapes than a folder's own: parameters are read, and all the rest is one clear line."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tools import convert as tool
from transformer.errors import UserError
from transformer.interop import convert

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder that Transformers wrote, and the model in it."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    model = transformers.GPT2LMHeadModel(config)
    path = tmp_path_factory.mktemp("made") / "hf"
    model.save_pretrained(path)
    return path, model


@pytest.fixture
def saved(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "hf")
    return tmp_path / "hf"


def _assert_same(path, made, **how):
    want = convert.import_folder(made[0]).params
    jax.tree.map(np.testing.assert_array_equal, convert.import_folder(path, **how).params, want)


def _prefixed(prefix):
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": state, "loss": torch.tensor(1.0)},
        lambda state: {"model": state, "args": None},
        lambda state: {"module": _prefixed("module.")(state), "global_steps": 1},
        _prefixed("module."),
        _prefixed("_orig_mod."),
        _prefixed("module._orig_mod."),
        lambda state: {name.replace(".h.0.", ".h.0._checkpoint_wrapped_module."): t for name, t in state.items()},
        lambda state: {name: torch.nn.Parameter(tensor) for name, tensor in state.items() if name != "lm_head.weight"},
    ],
)
def test_weights_of_training_checkpoints_are_read(wrap, saved, made):
    torch.save(wrap(dict(made[1].state_dict())), saved / "pytorch_model.bin")
    _assert_same(saved, made, pickle=True)


def test_the_wrappers_names_come_off_in_safetensors_too(saved, made):
    tensors = load_file(saved / "model.safetensors")
    save_file(_prefixed("_orig_mod.")(tensors), saved / "model.safetensors")
    _assert_same(saved, made)


def test_parameters_by_name_and_bfloat16_are_read(saved, made):
    torch.save(dict(made[1].named_parameters()), saved / "pytorch_model.bin")
    _assert_same(saved, made, pickle=True)
    torch.save({n: t.to(torch.bfloat16) for n, t in made[1].state_dict().items()}, saved / "pytorch_model.bin")
    assert set(convert.import_folder(saved, pickle=True).dtypes.values()) == {"bfloat16"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list, not tensors by name"),
        (torch.zeros(2), "holds a Tensor, not tensors by name"),
        (None, "holds a NoneType, not tensors by name"),
        ({}, "holds no tensors"),
        ({"epoch": 3}, "'epoch' is a int, not a tensor"),
        ({"model": {"a": torch.zeros(2)}, "state_dict": {"a": torch.zeros(2)}}, "in 'state_dict' and in 'model'"),
        ({"state_dict": {"step": 3}}, "'state_dict': 'step' is a int, not a tensor"),
        ({"state_dict": [1]}, "'state_dict' is a list, not a tensor"),
        ({3: torch.zeros(2)}, "3 is a Tensor"),
        ({"a": torch.zeros(2), "module.a": torch.zeros(2), "_orig_mod.a": torch.zeros(2)}, "are both 'a'"),
        ({"transformer.wte.weight": torch.zeros(2, 2).to_sparse()}, "missing"),
    ],
)
def test_pickles_of_something_else_are_one_line(content, message, saved):
    torch.save(content, saved / "pytorch_model.bin")
    with pytest.raises(UserError, match=message) as caught:
        convert.import_folder(saved, pickle=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "vocab.txt", "spiece.model",
        "generation_config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json", "shard.safetensors",
    ],
)  # fmt: skip
def test_a_pointer_of_git_lfs_is_said_of_any_file(name, saved, tmp_path):
    pickled = name.startswith("pytorch")
    if name == "shard.safetensors":
        (saved / "model.safetensors").unlink()
        (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    (saved / name).write_bytes(POINTER)
    flags = ["--pickle"] if pickled else []
    with pytest.raises(UserError, match=f"{name} is a git-lfs pointer, not the file: run git lfs pull"):
        tool.main(["import", str(saved), str(tmp_path / "run"), *flags])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_of_nothing_is_refused(content, index, saved):
    (saved / "model.safetensors").unlink()
    (saved / index).write_text(content)
    with pytest.raises(UserError, match="no weight_map of names to files"):
        convert.import_folder(saved, pickle=index.startswith("pytorch"))


def _sources(folder, model):
    """Writes weights to all four places where a folder may have them, each with numbers of its own."""
    for number, (name, index) in enumerate(
        {
            "model.safetensors": None,
            "part.safetensors": "model.safetensors.index.json",
            "pytorch_model.bin": None,
            "part.bin": "pytorch_model.bin.index.json",
        }.items()
    ):
        tensors = {name: t + number for name, t in model.state_dict().items() if name != "lm_head.weight"}
        (save_file if name.endswith("safetensors") else torch.save)(tensors, str(folder / name))
        if index is not None:
            (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}))


def test_of_several_files_of_weights_the_one_that_transformers_reads_is_read(saved, made):
    _sources(saved, made[1])
    order = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]
    for name in order:
        pickle = name.startswith("pytorch")
        theirs = transformers.GPT2LMHeadModel.from_pretrained(saved, use_safetensors=not pickle)
        ours = convert.import_folder(saved, pickle=pickle)
        have = ours.params["backbone"]["token_embedding"]["embedding"]
        np.testing.assert_array_equal(have, theirs.transformer.wte.weight.detach().numpy(), err_msg=name)
        (saved / name).unlink()


@pytest.mark.parametrize("pickle", [True, False])
def test_a_tensor_in_two_shards_is_refused_with_both(pickle, saved, made):
    state = {name: tensor for name, tensor in made[1].state_dict().items() if name != "lm_head.weight"}
    ending = "bin" if pickle else "safetensors"
    (saved / "model.safetensors").unlink()
    for part in "ab":
        (torch.save if pickle else save_file)(state, str(saved / f"{part}.{ending}"))
    weight_map = {name: f"{'ab'[i % 2]}.{ending}" for i, name in enumerate(state)}
    index = "pytorch_model.bin.index.json" if pickle else "model.safetensors.index.json"
    (saved / index).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=rf"[ab]\.{ending} and .*[ab]\.{ending} both hold tensor"):
        convert.import_folder(saved, pickle=pickle)
