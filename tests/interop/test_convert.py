"""Folders in the Hugging Face format, in and out: through the command, as a person would; and what is refused."""

import copy
import dataclasses
import errno
import json
import pickle
import struct

import jax
import numpy as np
import pytest
import torch
import transformers

from tests.exhaustive import few
from tests.tiny_models import TINY
from tools import convert as tool
from transformer import checkpoint
from transformer.errors import UserError
from transformer.interop import convert, families, folder, weights
from transformer.interop.gpt import GPT2
from transformer.models.gpt import GPTConfig
from transformer.models.siglip import SiglipConfig

from . import parity

CONFIG = GPTConfig(vocab_size=61, context_length=19, width=30, num_layers=3, num_heads=5)


@pytest.fixture(scope="module")
def pair():
    return parity.make_pair(GPT2, CONFIG)


@pytest.fixture
def saved(pair, tmp_path):
    """A folder that Transformers wrote."""
    pair.theirs.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def _tensors(path):
    with weights.open_tensors(path) as tensors:
        return dict(tensors)


def _same(path, other):
    one, two = _tensors(path), _tensors(other)
    assert set(one) == set(two)
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)


def test_import_and_export_give_the_same_folder(pair, saved, tmp_path, capsys):
    run, out = str(tmp_path / "run"), tmp_path / "out"
    tool.main(["import", str(saved), run])
    assert f"gpt2: {CONFIG.num_params():,} parameters, head language_model" in capsys.readouterr().out
    found = checkpoint.find(run)
    assert checkpoint.read_architecture(found) == CONFIG
    tool.main(["export", run, str(out)])
    _same(saved, out)
    before, after = (json.loads((path / "config.json").read_text()) for path in (saved, out))
    assert {name: after[name] for name in after if name in before and name != "architectures"}.items() <= before.items()
    again, report = transformers.GPT2LMHeadModel.from_pretrained(
        out, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values())
    tokens = torch.arange(7)[None]
    torch.testing.assert_close(again.eval()(tokens).logits, pair.theirs(tokens).logits, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_goes_through_unchanged(pair, saved, tmp_path, dtype):
    copy.deepcopy(pair.theirs).to(getattr(torch, dtype)).save_pretrained(tmp_path / "half")
    tool.main(["import", str(tmp_path / "half"), str(tmp_path / "run")])
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    out = _tensors(tmp_path / "out")
    assert {str(array.dtype) for array in out.values()} == {dtype}
    _same(tmp_path / "half", tmp_path / "out")


def test_shards_are_read_and_written(pair, saved, tmp_path):
    pair.theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    tool.main(["import", str(tmp_path / "shards"), str(tmp_path / "run")])
    convert.export(tmp_path / "run", tmp_path / "out", shard_bytes=20_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert not list((tmp_path / "out").glob("*.partial"))
    _same(saved, tmp_path / "out")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out", attn_implementation="eager")
    tokens = torch.arange(7)[None]
    torch.testing.assert_close(again.eval()(tokens).logits, pair.theirs(tokens).logits, rtol=0, atol=0)


def test_another_head_takes_the_backbone_and_names_what_is_new(saved, tmp_path, capsys):
    tool.main(["import", str(saved), str(tmp_path / "run"), "--head", "token_classification", "--num-labels", "5"])
    said = capsys.readouterr().out
    assert "new, initialised: head/out/kernel" in said
    assert "new, initialised: backbone" not in said
    architecture = checkpoint.read_architecture(checkpoint.find(tmp_path / "run"))
    assert (architecture.head, architecture.num_labels) == ("token_classification", 5)


def test_verify_finds_no_difference_and_names_the_first_layer_that_differs(saved, capsys):
    tool.main(["verify", str(saved)])
    assert "logits" in capsys.readouterr().out
    with pytest.raises(UserError, match="above the tolerance of 1e-12"):
        tool.main(["verify", str(saved), "--tolerance", "1e-12"])
    assert "layer 0                  largest difference" in capsys.readouterr().out


def test_a_pickle_is_refused_unless_asked_for_by_name(pair, saved, tmp_path):
    torch.save(pair.theirs.state_dict(), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(UserError, match="pickle alone .*--pickle"):
        tool.main(["import", str(saved), str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
    tool.main(["import", str(saved), str(tmp_path / "run"), "--pickle"])
    assert (tmp_path / "run").exists()


def test_a_pickle_that_would_execute_is_refused(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (saved / "model.safetensors").unlink()
    (saved / "pytorch_model.bin").write_bytes(pickle.dumps({"wte.weight": Evil()}))
    with pytest.raises(UserError, match="refused by weights-only loading"):
        tool.main(["import", str(saved), str(tmp_path / "run"), "--pickle"])
    assert not (tmp_path / "executed").exists()


def _edit(saved, **fields):
    config = json.loads((saved / "config.json").read_text()) | fields
    (saved / "config.json").write_text(json.dumps(config))


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _lie_about_the_header(path):
    path.write_bytes(struct.pack("<Q", 2**40) + path.read_bytes()[8:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda saved: _edit(saved, model_type="gpt9"), "model_type 'gpt9' is not supported; known: .*gpt2"),
        (lambda saved: _edit(saved, activation_function="mish"), "activation_function = 'mish' is not supported"),
        (lambda saved: _edit(saved, n_layer=4), r"missing 'transformer\.h\.3\."),
        (lambda saved: _edit(saved, n_layer=2), r"unexpected 'transformer\.h\.2\."),
        (lambda saved: _edit(saved, tie_word_embeddings=False), r"missing 'lm_head\.weight'"),
        (
            lambda saved: _edit(saved, vocab_size=62),
            r"wte\.weight' has shape \(61, 30\); the architecture needs \(62, 30\)",
        ),
        (lambda saved: (saved / "config.json").unlink(), "config.json: No such file"),
        (lambda saved: (saved / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda saved: (saved / "model.safetensors").unlink(), "no weights"),
        (lambda saved: (saved / "model.safetensors").write_bytes(b""), "not a whole safetensors file"),
        (lambda saved: _truncate(saved / "model.safetensors"), "not a whole safetensors file"),
        (lambda saved: _lie_about_the_header(saved / "model.safetensors"), "not a whole safetensors file"),
    ],
)
def test_bad_folders_are_refused_by_name_and_nothing_is_written(saved, tmp_path, damage, message):
    damage(saved)
    with pytest.raises(UserError, match=message):
        tool.main(["import", str(saved), str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"wte.weight": "missing.safetensors"}, "missing.safetensors: no such file: a shard is missing"),
        ({"wte.weight": "../hf/shard.safetensors"}, "names a file outside of its folder"),
        ({"nothing": "shard.safetensors"}, "lacks tensor 'nothing'"),
        ([], "no weight_map"),
    ],
)
def test_bad_indexes_are_refused(saved, tmp_path, weight_map, message):
    (saved / "model.safetensors").rename(saved / "shard.safetensors")
    (saved / weights.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=message):
        tool.main(["import", str(saved), str(tmp_path / "run")])


def test_folders_that_hold_something_are_not_written_into(saved, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists and is not empty"):
        tool.main(["import", str(saved), str(tmp_path / "full")])
    tool.main(["import", str(saved), str(tmp_path / "run")])
    with pytest.raises(UserError, match="exists and is not empty"):
        tool.main(["export", str(tmp_path / "run"), str(tmp_path / "full")])


def test_what_cannot_be_written_leaves_nothing(pair, saved, tmp_path, monkeypatch):
    """A disk that is full halfway, on the way out and on the way in."""

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    tool.main(["import", str(saved), str(tmp_path / "run")])
    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()

    def half_written(place, params, record):
        place.mkdir(parents=True)
        (place / "half").write_text("")
        raise UserError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_params", half_written)
    with pytest.raises(UserError, match="No space left on device"):
        tool.main(["import", str(saved), str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_an_unknown_head_is_refused_with_those_there_are(saved, tmp_path):
    with pytest.raises(UserError, match="a gpt2 model can have language_model"):
        tool.main(["import", str(saved), str(tmp_path / "run"), "--head", "pooler"])


def test_what_is_imported_generates(saved, tmp_path):
    """An imported folder is an ordinary checkpoint: with its tokenizer, it continues text."""
    import tokenizers
    from tokenizers import models, pre_tokenizers

    from transformer.inference.restored import restore
    from transformer.inference.sampling import Sampling
    from transformer.inference.text_generator import TextGenerator

    vocabulary = {"<|endoftext|>": 0} | {
        piece: i for i, piece in enumerate(pre_tokenizers.ByteLevel.alphabet()[:60], 1)
    }
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(saved / "tokenizer.json"))
    tool.main(["import", str(saved), str(tmp_path / "run")])
    generator = TextGenerator(restore(tmp_path / "run"))
    [[generated]] = generator(["a"], max_new_tokens=5, how=Sampling(temperature=0.0))
    assert isinstance(generated.text, str)
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (saved / "tokenizer.json").read_bytes()


def test_parameters_come_back_from_the_checkpoint(pair, saved, tmp_path):
    from transformer.parallel.layout import param_shardings, with_shardings
    from transformer.parallel.mesh import MeshConfig, make_mesh

    tool.main(["import", str(saved), str(tmp_path / "run")])
    abstract = CONFIG.abstract_params()
    aim = with_shardings(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), pair.params),
        param_shardings(abstract, make_mesh(MeshConfig(data=2, fsdp=2, tensor=1))),
    )
    have = checkpoint.restore_params(checkpoint.find(tmp_path / "run"), aim)
    jax.tree.map(np.testing.assert_array_equal, have, pair.params)


MOE = dataclasses.replace(TINY["llama"], mlp_width=8, experts=TINY["olmoe"].experts)
KINDS = {
    "gpt2": dataclasses.replace(TINY["gpt"], band=None),
    "openai-gpt": TINY["gpt1"],
    "llama": dataclasses.replace(TINY["llama"], window=None, head_norms=False),
    "mistral": dataclasses.replace(TINY["llama"], head_norms=False),
    "qwen2": dataclasses.replace(TINY["llama"], window=None, head_norms=False, attention_biases="qkv"),
    "qwen3": dataclasses.replace(TINY["llama"], window=None),
    "mixtral": dataclasses.replace(MOE, head_norms=False),
    "qwen3_moe": dataclasses.replace(MOE, window=None, dense_layers=(0,)),
    "olmoe": TINY["olmoe"],
    "deepseek_v3": TINY["deepseek"],
    "bert": TINY["bert"],
    "roberta": TINY["roberta"],
    "albert": TINY["albert"],
    "distilbert": TINY["distilbert"],
    "t5": dataclasses.replace(TINY["t5"], gated=False, tie_embeddings=True, activation="relu"),
    "mt5": dataclasses.replace(TINY["t5"], activation="gelu_tanh"),
    "bart": TINY["bart"],
    "marian": TINY["marian"],
    "vit": dataclasses.replace(TINY["vit"], class_token=True, pooling="class_token"),
    "deit": dataclasses.replace(TINY["vit"], class_token=True, pooling="class_token", distillation_token=True),
    "dinov2": dataclasses.replace(TINY["dinov2"], registers=0, mlp_width=64),
    "dinov2_with_registers": dataclasses.replace(TINY["dinov2"], mlp_width=64),
    "clip": dataclasses.replace(TINY["clip"], end_id=None),
    "siglip": dataclasses.replace(TINY["siglip"], initial_scale=SiglipConfig().initial_scale),
    "whisper": TINY["whisper"],
}


def test_every_model_type_is_here():
    assert set(KINDS) == {family.model_type for family in families.FAMILIES}


@pytest.mark.parametrize("kind", few(KINDS, "llama", "t5"))
def test_every_model_type_goes_in_and_out(kind, tmp_path, capsys):
    """What Transformers saved is imported, computes the same, and goes out as it was."""
    family = next(family for family in families.FAMILIES if family.model_type == kind)
    there = parity.make_pair(family, KINDS[kind])
    if kind == "mt5":  # Transformers makes it tied, and no published one is
        params = jax.tree.map(lambda leaf: leaf + 0.01 * np.arange(leaf.size).reshape(leaf.shape) % 1, there.params)
        folder.write_folder(tmp_path / "hf", family.write_config(there.config), family.stream(params, there.config))
    else:
        there.theirs.save_pretrained(tmp_path / "hf")
    tool.main(["verify", str(tmp_path / "hf"), "--length", "9", "--tolerance", "1e-5"])
    tool.main(["import", str(tmp_path / "hf"), str(tmp_path / "run")])
    assert checkpoint.read_architecture(checkpoint.find(tmp_path / "run")) == KINDS[kind]
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert "left out (of" not in capsys.readouterr().out
    before, after = _tensors(tmp_path / "hf"), _tensors(tmp_path / "out")
    for name, array in before.items():
        if name in after:  # a tied tensor may have been written under two names
            np.testing.assert_array_equal(after[name], array, err_msg=name)
    assert after.keys() >= {name for name in before if "embed_tokens" not in name and "decoder" not in name}
    configs = [json.loads((tmp_path / side / "config.json").read_text()) for side in ("hf", "out")]
    assert configs[0]["model_type"] == configs[1]["model_type"] == kind
    assert configs[0]["architectures"] == configs[1]["architectures"]


def test_of_two_model_types_that_compute_the_same_the_imported_one_goes_out():
    windowless = KINDS["llama"]
    assert families.of_architecture(windowless).model_type == "llama"
    assert families.of_architecture(windowless, "mistral").model_type == "mistral"
    assert families.of_architecture(KINDS["mistral"], "llama").model_type == "mistral"  # a LLaMA has no window
