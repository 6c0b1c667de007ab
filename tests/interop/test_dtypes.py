"""Bits and bookkeeping: what is imported goes out as it came, whatever config.json says of dtypes."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from tests.exhaustive import few
from tools import convert as tool
from transformer.errors import UserError
from transformer.interop import convert, families, folder

from . import parity
from .test_convert import KINDS


def _folder(path, kind, tensors=None, **fields):
    """Writes a folder of a kind, its tensors in any dtypes, with further fields in its config.json."""
    family = next(family for family in families.FAMILIES if family.model_type == kind)
    pair = parity.make_pair(family, KINDS[kind])
    own = dict(family.stream(pair.params, pair.config))
    folder.write_folder(path, {**family.write_config(pair.config), **fields}, (tensors or (lambda x: x))(own).items())


def _through(tmp_path, *flags):
    """Returns the tensors and config.json before and after an import and an export."""
    tool.main(["import", str(tmp_path / "hf"), str(tmp_path / "run")])
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out"), *flags])
    files = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "out"))
    configs = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "out"))
    return *files, *configs


def _assert_bits(before, after):
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert after[name].dtype == array.dtype, name
        assert after[name].tobytes() == array.tobytes(), name


def _mixed(tensors):
    """Matrices in bfloat16, vectors in float32, and where there is a second layer, its vectors in float16."""
    bits = lambda array, dtype: array.astype(dtype)  # noqa: E731
    result = {}
    for name, array in tensors.items():
        other = np.float16 if ".1." in name else np.float32
        result[name] = bits(array, ml_dtypes.bfloat16 if array.ndim > 1 else other)
    return result


@pytest.mark.parametrize("kind", few(KINDS, "gpt2", "t5"))
def test_every_family_keeps_each_tensors_dtype(kind, tmp_path):
    _folder(tmp_path / "hf", kind, _mixed, torch_dtype="bfloat16")
    before, after, config, out = _through(tmp_path)
    assert {str(array.dtype) for array in before.values()} >= {"bfloat16", "float32"}
    _assert_bits(before, after)
    assert (out["torch_dtype"], "dtype" in out) == (config["torch_dtype"], False)


@pytest.mark.parametrize(
    ("dtype", "said", "want"),
    [
        ("float32", "float16", "float16"),
        ("bfloat16", "float32", "float32"),
        ("float16", "bfloat16", "bfloat16"),
        ("float32", "torch.float32", "float32"),  # the last two no Transformers 5 reads
        ("float32", "auto", None),
        ("float64", "float64", "float64"),
    ],
)
@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
def test_the_tensors_decide_and_not_the_word(dtype, said, want, field, tmp_path):
    numbers = {"float32": 1e6, "bfloat16": 1e30, "float16": 6e4, "float64": 1e6}[dtype]  # no other dtype holds them
    stored = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    scale = lambda tensors: {name: (array * np.float32(numbers) / 10).astype(stored) for name, array in tensors.items()}  # noqa: E731
    _folder(tmp_path / "hf", "gpt2", scale, **{field: said})
    before, after, _, config = _through(tmp_path)
    _assert_bits(before, after)
    assert config.get(field) == want
    transformers.AutoConfig.from_pretrained(tmp_path / "out")


def test_a_dtype_that_is_asked_for_is_taken_by_all_and_said(tmp_path):
    _folder(tmp_path / "hf", "gpt2", _mixed, torch_dtype="bfloat16")
    _, after, _, config = _through(tmp_path, "--dtype", "float16")
    assert {str(array.dtype) for array in after.values()} == {"float16"}
    assert (config["dtype"], "torch_dtype" in config) == ("float16", False)


def test_numbers_that_a_dtype_cannot_hold_are_refused_by_name(tmp_path):
    _folder(tmp_path / "hf", "gpt2", lambda tensors: {name: array * 1e6 for name, array in tensors.items()})
    with pytest.raises(UserError, match=r"wte\.weight' has numbers that float16 cannot hold"):
        _through(tmp_path, "--dtype", "float16")
    assert not (tmp_path / "out").exists()


def test_doubles_that_float32_would_round_are_refused_by_name(tmp_path):
    _folder(tmp_path / "hf", "gpt2", lambda tensors: {name: array / np.float64(3) for name, array in tensors.items()})
    with pytest.raises(UserError, match=r"wte\.weight' is float64, with numbers that float32"):
        tool.main(["import", str(tmp_path / "hf"), str(tmp_path / "run")])


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", "bool", "complex64"])
@pytest.mark.parametrize("pickled", [True, False])
def test_what_is_no_plain_float_is_refused_by_name(dtype, pickled, tmp_path):
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    _folder(tmp_path / "hf", "gpt2")
    tensors = load(tmp_path / "hf" / "model.safetensors")
    tensors["transformer.ln_f.weight"] = tensors["transformer.ln_f.weight"].to(getattr(torch, dtype))
    if pickled:
        torch.save(tensors, tmp_path / "hf" / "pytorch_model.bin")
    else:
        save(tensors, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(UserError, match=r"tensor 'transformer\.ln_f\.weight' .*is (of )?(F8_E4M3|\w*8|bool|complex64)"):
        convert.import_folder(tmp_path / "hf", pickle=pickled)


LABELS = {
    "id2label": {"0": "NEGATIVE", "1": "NEUTRAL", "2": "POSITIVE"},
    "label2id": {"NEGATIVE": 0, "NEUTRAL": 1, "POSITIVE": 2},
    "problem_type": "single_label_classification",
}


@pytest.mark.parametrize(
    ("family", "head"),
    [(f, h) for f in families.FAMILIES for h in f.heads if h in ("sequence_classification", "token_classification")],
    ids=lambda value: value if isinstance(value, str) else value.config.family,
)
def test_labels_stay_and_a_head_of_other_labels_has_fresh_ones(family, head):
    """Every family and head that has labels, by its config.json alone."""
    kind = next(c for k, c in KINDS.items() if k == family.model_type)
    kind = kind if isinstance(kind, family.config) else family.config()
    config = dataclasses.replace(kind, head=head, num_labels=3)
    before = {**family.write_config(config), **LABELS, "finetuning_task": "mood"}
    assert family.rewrite_config(config, before) == before
    five = family.rewrite_config(dataclasses.replace(config, num_labels=5), before)
    assert five["id2label"] == {str(label): f"LABEL_{label}" for label in range(5)}
    assert "problem_type" not in five
    assert five["finetuning_task"] == "mood"


def test_labels_and_other_bookkeeping_go_through_the_command(tmp_path):
    """Marian's padding too, which is not always the token that a decoder starts with."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, **LABELS
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "hf")
    before, after, config, out = _through(tmp_path)
    _assert_bits(before, after)
    assert {name: out[name] for name in LABELS} == LABELS
    marian = next(family for family in families.FAMILIES if family.model_type == "marian")
    written = {**marian.write_config(KINDS["marian"]), "pad_token_id": 7}
    assert marian.rewrite_config(KINDS["marian"], written)["pad_token_id"] == 7


def test_a_new_head_keeps_the_backbones_dtypes(tmp_path):
    _folder(tmp_path / "hf", "gpt2", _mixed)
    new = ["--head", "token_classification", "--num-labels", "3"]
    tool.main(["import", str(tmp_path / "hf"), str(tmp_path / "run"), *new])
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert after.pop("classifier.weight").dtype == after.pop("classifier.bias").dtype == np.float32
    _assert_bits(load_file(tmp_path / "hf" / "model.safetensors"), after)
