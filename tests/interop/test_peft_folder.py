"""PEFT's format: written by PEFT and read here, written here and read by PEFT; nothing passes in silence."""

import itertools
import json
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tests.adapters.bases import base_from
from tests.exhaustive import few
from tests.tiny_models import TINY
from transformer import checkpoint
from transformer.adapters.adaptation import adaptation
from transformer.adapters.config import AdapterConfig
from transformer.errors import UserError
from transformer.interop import convert, peft_folder
from transformer.interop.gpt import GPT2
from transformer.interop.llama import LLAMA
from transformer.interop.olmoe import OLMOE
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig
from transformer.models.llama import LlamaConfig
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.params import flatten, unflatten

pytestmark = [
    # PEFT asks Transformers by an older name.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
    # It says that it turns fan_in_fan_out on for Conv1D, and that a base without a name is not looked up.
    pytest.mark.filterwarnings("ignore:fan_in_fan_out"),
    pytest.mark.filterwarnings("ignore:Could not find a config file"),
]
SIZES: dict[str, Any] = {"vocab_size": 48, "context_length": 16, "width": 16, "num_layers": 2, "num_heads": 4}
EXPERTS = TINY["olmoe"]
MODELS: dict[str, Any] = {
    "llama": (LlamaConfig(**SIZES, num_kv_heads=2, head_width=8, mlp_width=24), LLAMA, transformers.LlamaForCausalLM),
    "gpt2": (GPTConfig(**SIZES, dropout=0.0), GPT2, transformers.GPT2LMHeadModel),
}


def theirs_of(name):
    model, family, cls = MODELS[name]
    torch.manual_seed(0)
    config = cls.config_class(**{**family.write_config(model), "initializer_range": 0.2, "eos_token_id": None})
    return model, family, cls(config).eval()


def drawn(theirs):
    """PEFT's model, far from where it begins."""
    torch.manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
        elif "magnitude" in name:
            parameter.data *= 1.3
        elif "modules_to_save" in name:
            parameter.data += 0.1
    return theirs


def inputs_of(model):
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (2, 16), dtype=np.int32)
    places = np.broadcast_to(np.arange(16, dtype=np.int32), tokens.shape)
    return {"tokens": tokens, "positions": places, "segment_ids": np.ones_like(tokens)}


def logits_of(theirs, inputs):
    with torch.no_grad():
        return theirs(torch.tensor(inputs["tokens"]).long()).logits.numpy()


def ours_of(model, params, inputs):
    outputs = model.build(Execution()).apply({"params": params}, **inputs, deterministic=True)
    return np.asarray(outputs.logits)


def restored(run, model, inputs):
    _, params = checkpoint.restore_model(checkpoint.find(run), make_mesh(MeshConfig(data=1)))
    return ours_of(model, params, inputs)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"target_modules": "all-linear", "use_rslora": True, "modules_to_save": ["lm_head"]}),
        ("llama", {"target_modules": ["q_proj", "down_proj"], "use_dora": True, "alpha_pattern": {"q_proj": 2}}),
        ("gpt2", {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True, "rank_pattern": {"c_attn": 3}}),
        ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True}),
    ],
    ids=["llama", "llama-dora", "gpt2", "gpt2-dora"],
)
def test_both_ways(name, settings, tmp_path):
    model, family, theirs = theirs_of(name)
    base = base_from(tmp_path / "base", family, model, theirs)
    plain = logits_of(theirs, inputs := inputs_of(model))
    theirs = drawn(peft.get_peft_model(theirs, peft.LoraConfig(r=2, lora_alpha=6, task_type="CAUSAL_LM", **settings)))
    theirs.save_pretrained(tmp_path / "peft")
    want = logits_of(theirs, inputs)
    size = np.abs(want).max()
    assert np.abs(want - plain).max() > 0.05 * size

    adapter, _ = convert.import_adapter(tmp_path / "peft", tmp_path / "run", base)
    np.testing.assert_allclose(restored(tmp_path / "run", model, inputs), want, atol=2e-5 * size)

    convert.export_adapter(tmp_path / "run", tmp_path / "again")
    _, _, fresh = theirs_of(name)
    again = peft.PeftModel.from_pretrained(fresh, tmp_path / "again").eval()
    np.testing.assert_allclose(logits_of(again, inputs), want, atol=2e-5 * size)
    if "rank_pattern" not in settings and "alpha_pattern" not in settings:
        have, wanted = (load_file(tmp_path / folder / peft_folder.WEIGHTS) for folder in ("again", "peft"))
        assert have.keys() == wanted.keys()
        for key, array in wanted.items():
            np.testing.assert_array_equal(have[key], array, err_msg=key)
    assert adapter.config.dora == bool(settings.get("use_dora"))


FUSED, SOME = ".*/(query|key|value)/.*", ".*/(query|value|up)/.*"


@pytest.mark.parametrize(
    ("leaves", "rslora"), few(itertools.product((FUSED, SOME), (False, True)), (FUSED, False), (SOME, True))
)
def test_kernels_that_are_one_matrix_of_theirs(leaves, rslora, tmp_path):
    """Query, key and value that were trained here have A's of their own: blocks of a larger rank."""
    model, family, theirs = theirs_of("gpt2")
    adapter = adaptation(AdapterConfig(rank=2, rslora=rslora, leaves=leaves), model, list(model.parameters))
    rng = np.random.default_rng(0)
    arrays = {
        path: rng.normal(size=leaf.value.shape, scale=0.1).astype(np.float32)
        for path, leaf in flatten(adapter.abstract_params()).items()
    }
    table = family.table(model)
    peft_folder.write(tmp_path / "peft", adapter, arrays, table, base="gpt2", kind=model.kind)
    base_params = family.from_hf({name: tensor.numpy() for name, tensor in theirs.state_dict().items()}, model)
    base = {"params": base_params, "scales": {}}
    inputs = inputs_of(model)
    want = ours_of(model, adapter.merged(unflatten(arrays), base), inputs)
    loaded = peft.PeftModel.from_pretrained(theirs, tmp_path / "peft").eval()
    np.testing.assert_allclose(logits_of(loaded, inputs), want, atol=2e-5 * np.abs(want).max())
    again, read = peft_folder.read(tmp_path / "peft", model, table)
    have = ours_of(model, again.merged(unflatten(read), base), inputs)
    np.testing.assert_allclose(have, want, atol=2e-5 * np.abs(want).max())


def test_experts_have_a_pair_each(tmp_path):
    adapter = adaptation(AdapterConfig(rank=2), EXPERTS, list(EXPERTS.parameters))
    rng = np.random.default_rng(0)
    arrays = {
        path: rng.normal(size=leaf.value.shape).astype(np.float32)
        for path, leaf in flatten(adapter.abstract_params()).items()
    }
    table = OLMOE.table(EXPERTS)
    peft_folder.write(tmp_path / "peft", adapter, arrays, table, base="x", kind="decoder")
    tensors = load_file(tmp_path / "peft" / peft_folder.WEIGHTS)
    name = "base_model.model.model.layers.1.mlp.experts.3.down_proj.lora_A.weight"
    np.testing.assert_array_equal(tensors[name], arrays["backbone/stack/layers/mlp/down/lora_a"][1, 3].T)
    _, read = peft_folder.read(tmp_path / "peft", EXPERTS, table)
    assert read.keys() == arrays.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(read[path], array)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of PEFT's for a tiny Llama."""
    place = tmp_path_factory.mktemp("peft")
    _, _, theirs = theirs_of("llama")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    drawn(peft.get_peft_model(theirs, config)).save_pretrained(place)
    return place


Q = "base_model.model.model.layers.0.self_attn.q_proj"


def renamed(old, new):
    def damage(tensors):
        tensors[new] = tensors.pop(old)

    return damage


def transposed(tensors):
    tensors[f"{Q}.lora_A.weight"] = np.ascontiguousarray(tensors[f"{Q}.lora_A.weight"].T)


def without_layer(tensors):
    for name in [name for name in tensors if "layers.1.self_attn" in name]:
        del tensors[name]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (renamed(f"{Q}.lora_A.weight", Q.removeprefix("base_model.model.") + ".lora_A.weight"), "does not begin with"),
        (renamed(f"{Q}.lora_A.weight", f"{Q.replace('q_proj', 'p_proj')}.lora_A.weight"), r"p_proj is no linear layer"),
        (lambda tensors: tensors.pop(f"{Q}.lora_B.weight"), r"q_proj.lora_B.weight: there, and should not be, or"),
        (transposed, r"q_proj, lora_a, has shape \(16, 2\); the model needs \(2, 16\)"),
        (
            without_layer,
            r"nothing for backbone/stack/layers/attention/query/lora_a of layer 1, and something for other",
        ),
        (lambda tensors: tensors.update(other=np.zeros(2, np.float32)), "'other' does not begin with"),
        (lambda t: t.update({"base_model.model.other": np.zeros(2, np.float32)}), "unexpected 'other'"),
        (lambda tensors: tensors.clear(), "it adapts nothing"),
    ],
    ids=["prefix", "module", "half", "transposed", "layer", "stray", "unknown", "empty"],
)
def test_damaged_tensors_are_refused(damage, message, folder, tmp_path):
    tensors = load_file(folder / peft_folder.WEIGHTS)
    damage(tensors)
    save_file(tensors, tmp_path / peft_folder.WEIGHTS)
    (tmp_path / peft_folder.CONFIG).write_bytes((folder / peft_folder.CONFIG).read_bytes())
    check_refused(tmp_path, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3': only LORA is read"),
        ({"bias": "lora_only"}, "bias = 'lora_only': only adapters without biases"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' changes the base too"),
        ({"layers_to_transform": [1]}, "'layers_to_transform': fields that are not known"),
        ({"trainable_token_indices": [3]}, "'trainable_token_indices': fields that are not known"),
        ({"r": None}, "r is None, and should be a number above 0"),
        ({"r": 3}, r"has shape \(2, \d+\); the model needs \(3, \d+\)"),
        ({"use_dora": True}, "lora_magnitude_vector: there, and should not be, or the other way round"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_fields_that_would_change_the_model_are_refused(fields, message, folder, tmp_path):
    config = json.loads((folder / peft_folder.CONFIG).read_text())
    (tmp_path / peft_folder.CONFIG).write_text(json.dumps(config | fields))
    (tmp_path / peft_folder.WEIGHTS).write_bytes((folder / peft_folder.WEIGHTS).read_bytes())
    check_refused(tmp_path, message)


def check_refused(folder, message):
    model, family, _ = MODELS["llama"]
    with pytest.raises(UserError, match=message) as caught:
        peft_folder.read(folder, model, family.table(model))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_refused(folder, tmp_path):
    check_refused(tmp_path, f"{peft_folder.CONFIG}: No such file")
    (tmp_path / peft_folder.CONFIG).write_bytes((folder / peft_folder.CONFIG).read_bytes())
    check_refused(tmp_path, "no such file: an adapter of PEFT has")
    (tmp_path / peft_folder.WEIGHTS).write_bytes(b"short")
    check_refused(tmp_path, "not safetensors")


def test_a_whole_model_is_no_adapter(tmp_path):
    model, family, theirs = theirs_of("llama")
    base = base_from(tmp_path / "base", family, model, theirs)
    with pytest.raises(UserError, match="is a whole model, no adapter: export it without --adapter"):
        convert.export_adapter(base, tmp_path / "out")
