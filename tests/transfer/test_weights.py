"""A run that starts from other weights: a run's own or imported ones, under another head, larger, or in part."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from flax.traverse_util import flatten_dict

from tools import convert
from transformer import checkpoint
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.models.bert import BertConfig
from transformer.models.gpt import GPTConfig
from transformer.objectives import CausalLM, MaskedLM
from transformer.parallel.layout import param_shardings
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.training import loop
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.transfer import weights as transfer
from transformer.transfer.config import InitConfig
from transformer.transfer.graft import plan

_SIZES = {"vocab_size": 384, "context_length": 32, "width": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """An experiment whose learning rate is 0: what it starts from is what it ends with."""
    root = tmp_path_factory.mktemp("text")
    text = "".join(f"line {n}: to be, or not to be, that is question {n % 7}\n" for n in range(400))
    (root / "plays.txt").write_text(text)
    return Experiment(
        name="tiny",
        model=BertConfig(**_SIZES, mlp_width=32, attention_dropout=0.0),
        objective=MaskedLM(),
        data=TextConfig(path=str(root / "plays.txt"), tokenizer="bytes", cache_dir=str(root / "cache")),
        optimizer=OptimizerConfig(learning_rate=1e-20, weight_decay=0.0),
        train=TrainConfig(steps=1, batch_size=8, seq_len=32, eval_batches=1),
        mesh=MeshConfig(data=1),
    )


def _train(experiment, folder):
    said = []
    return loop.train(experiment, folder, report=said.append), " ".join(said)


@pytest.mark.exhaustive
def test_another_head_on_a_runs_backbone_on_another_mesh(bert, tmp_path):
    first, _ = _train(bert, tmp_path / "first")
    asked = dataclasses.replace(
        bert,
        model=dataclasses.replace(bert.model, head="pretraining"),
        objective=MaskedLM(sentence="sop"),
        init=InitConfig(str(tmp_path / "first")),
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
    )
    second, said = _train(asked, tmp_path / "second")
    assert "new: pooler/dense/bias, pooler/dense/kernel, sentence/out/bias" in said
    for part in ("backbone", "head"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), second.params[part], first.params[part])
    wrong = dataclasses.replace(asked, model=dataclasses.replace(asked.model, width=32))
    with pytest.raises(UserError, match=r"backbone/embedding_norm/bias \(16,\), needed \(32,\)"):
        _train(wrong, tmp_path / "third")
    with pytest.raises(UserError, match="no such run"):
        _train(dataclasses.replace(asked, init=InitConfig(str(tmp_path / "nowhere"))), tmp_path / "third")
    assert not (tmp_path / "third").exists()


@pytest.mark.exhaustive
def test_imported_weights_are_trained_on_with_their_tokenizer(bert, tmp_path):
    pieces = ["<|endoftext|>", *(chr(i) for i in range(33, 127)), "Ġ", "Ċ", "Ġt", "to"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    config = transformers.GPT2Config(
        vocab_size=len(pieces), n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "hf" / "merges.txt").write_text("#version: 0.2\nĠ t\nt o\n")
    convert.main(["import", str(tmp_path / "hf"), str(tmp_path / "imported")])
    asked = dataclasses.replace(
        bert,
        model=GPTConfig(**(_SIZES | {"vocab_size": len(pieces)})),
        objective=CausalLM(),
        init=InitConfig(str(tmp_path / "imported")),
    )
    result, _ = _train(asked, tmp_path / "run")
    tokenizer = result.session.dataset.tokenizer
    assert tokenizer.vocab_size == len(pieces)
    assert tokenizer.decode(tokenizer.encode("to be, not to be\n")) == "to be, not to be\n"
    with pytest.raises(UserError, match=r"embedding \(99, 16\), needed \(384, 16\)"):
        _train(dataclasses.replace(asked, model=GPTConfig(**_SIZES)), tmp_path / "other")


_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(i) for i in range(33, 127))]  # 99: an odd vocabulary


def _tokenizer(path, pieces):
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.add_special_tokens([piece for piece in pieces if piece.startswith("[") and len(piece) > 1])
    made.save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A tiny BERT of Transformers': the run that it was imported into, its folder, and its tensors."""
    root = tmp_path_factory.mktemp("imported")
    config = transformers.BertConfig(
        vocab_size=len(_PIECES), max_position_embeddings=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, hidden_act="gelu",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(config)
    model.cls.predictions.bias.data.normal_()
    model.save_pretrained(root / "hf")
    _tokenizer(root / "hf" / "tokenizer.json", _PIECES)
    convert.main(["import", str(root / "hf"), str(root / "run")])
    return str(root / "run"), root / "hf", {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.fixture
def longer(bert, imported):
    """An experiment on two devices that divide its vocabulary, and not the one that it starts from."""
    return dataclasses.replace(
        bert,
        model=dataclasses.replace(bert.model, vocab_size=104, context_length=45),
        init=InitConfig(imported[0], vocabulary="mean", positions="interpolate"),
        mesh=MeshConfig(data=1, tensor=2),
    )


def _transferred(experiment):
    """Returns path -> what a run starts from, what it would start from without, and what was said."""
    mesh = make_mesh(experiment.mesh)
    boxed = experiment.model.abstract_params()
    rng = np.random.default_rng(0)
    fresh = jax.tree.map(
        lambda leaf, sharding: jax.device_put(rng.normal(size=leaf.shape).astype(np.float32), sharding),
        nn.meta.unbox(boxed),
        param_shardings(boxed, mesh),
    )
    said = []
    params = transfer.transferred(experiment.init, experiment.model, fresh, mesh, said.append)
    jax.tree.map(_assert_alike, params, fresh)
    return flatten_dict(params, sep="/"), flatten_dict(fresh, sep="/"), "\n".join(said)


def _tokenizer_for(experiment):
    return transfer.tokenizer_for(experiment.init, experiment.model, experiment.data)


def _assert_alike(made, fresh):
    assert (made.shape, made.dtype) == (fresh.shape, fresh.dtype)
    assert made.sharding.is_equivalent_to(fresh.sharding, made.ndim)


@pytest.mark.exhaustive
def test_an_imported_models_vocabulary_and_context_grow_on_two_devices(longer, imported, monkeypatch):
    read = []
    restore = checkpoint.restore_params

    def restore_params(path, abstract, *, partial):
        read.extend(flatten_dict(abstract, sep="/"))
        return restore(path, abstract, partial=partial)

    monkeypatch.setattr(checkpoint, "restore_params", restore_params)
    have, _, said = _transferred(longer)
    theirs = imported[2]
    for path, name in (
        ("backbone/token_embedding/embedding", "bert.embeddings.word_embeddings.weight"),
        ("head/unembedding/bias", "cls.predictions.bias"),
    ):
        old = theirs[name]
        np.testing.assert_array_equal(have[path][:99], old)
        np.testing.assert_allclose(have[path][99:], np.stack([old.mean(0)] * 5), rtol=0, atol=1e-7)
    places, old = np.linspace(0, 31, 45), theirs["bert.embeddings.position_embeddings.weight"]
    want = np.stack([np.interp(places, np.arange(32), column) for column in old.T], axis=1)
    np.testing.assert_allclose(have["backbone/position_embedding/embedding"], want, rtol=0, atol=1e-7)
    up = np.stack([theirs[f"bert.encoder.layer.{i}.intermediate.dense.weight"].T for i in range(2)])
    np.testing.assert_array_equal(have["backbone/stack/layers/mlp/up/kernel"], up)
    assert sorted(read) == sorted(have)  # each once; the pooler and the sentences' head are left where they are
    assert (
        "taken: backbone/embedding_norm/* (2), backbone/stack/* (16), backbone/type_embedding/embedding, head/" in said
    )
    assert "extended along vocab by mean: backbone/token_embedding/embedding (99, 16) -> (104, 16), head/unemb" in said
    assert "extended along positions by interpolate: backbone/position_embedding/embedding (32, 16) -> (45, 16)" in said
    assert "left out: pooler/dense/bias, pooler/dense/kernel, sentence/out/bias, sentence/out/kernel" in said
    assert "new:" not in said


def test_the_leaves_asked_for_are_taken_and_the_mesh_need_divide_no_others(longer):
    asked = dataclasses.replace(longer, init=InitConfig(longer.init.path, "backbone/stack/.*"))
    have, fresh, said = _transferred(asked)
    for path in have:
        assert path.startswith("backbone/stack/") != np.array_equal(have[path], fresh[path])
    assert "taken: backbone/stack/* (16)" in said
    assert "new: backbone/embedding_norm/* (2), backbone/position_embedding/embedding, " in said
    assert _tokenizer_for(asked) is None


def test_a_classification_head_has_as_many_classes_as_are_asked_for(imported, tmp_path, capsys):
    convert.main(["import", str(imported[1]), str(tmp_path), "--head", "sequence_classification", "--num-labels", "5"])
    said = capsys.readouterr().out
    assert "new, initialised: head/out/kernel" in said
    assert "new, initialised: pooler" not in said
    found, params = checkpoint.restore_model(checkpoint.find(tmp_path), make_mesh(MeshConfig(data=1)))
    np.testing.assert_array_equal(params["pooler"]["dense"]["kernel"], imported[2]["bert.pooler.dense.weight"].T)
    assert params["head"]["out"]["kernel"].shape == (16, 5)
    other = plan(found, dataclasses.replace(found, num_labels=3))
    assert other.new == other.left == ["head/out/bias", "head/out/kernel"]


def test_a_longer_tokenizer_keeps_the_ids_that_the_weights_know(longer, tmp_path):
    def tokenizer(pieces):
        name = _tokenizer(tmp_path / "tokenizer.json", pieces)
        return _tokenizer_for(dataclasses.replace(longer, data=dataclasses.replace(longer.data, tokenizer=name)))

    known = _tokenizer_for(longer)  # whatever kind the preset names
    assert known.vocab_size == 99
    assert tokenizer([*_PIECES, "new", "[EXTRA]"]).vocab_size == 101
    swapped = [*_PIECES[:5], *reversed(_PIECES[5:])]
    roles = ["[PAD]", "[UNK]", "[SEP]", "[CLS]", *_PIECES[4:]]
    for pieces, message in (
        (_PIECES[:-1], "tokenizer.json has 98 pieces, and the weights know 99"),
        (swapped, "tokenizer.json gives id 5 to ' ~', and the weights know it as ' !'"),
        (roles, "tokenizer.json has the id 3 for the beginning, and the weights know 2"),
        ([*_PIECES, "</s>"], "tokenizer.json has the id 99 for the end, and the weights know 3"),
        ([*_PIECES, *map(str, range(10, 20))], "The tokenizer has 109 pieces and the model room for 104"),
    ):
        with pytest.raises(UserError, match=message):
            tokenizer(pieces)


def test_weights_that_came_without_a_tokenizer_need_its_name(longer, imported, tmp_path):
    (tmp_path / "hf").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "hf" / name).symlink_to(imported[1] / name)
    convert.main(["import", str(tmp_path / "hf"), str(tmp_path / "run")])
    asked = dataclasses.replace(longer, init=dataclasses.replace(longer.init, path=str(tmp_path / "run")))
    assert _tokenizer_for(asked) is None
    trained = dataclasses.replace(asked, data=dataclasses.replace(asked.data, tokenizer="unigram"))
    with pytest.raises(UserError, match="came without its tokenizer"):
        _tokenizer_for(trained)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"leaves": ".*"}, "leaves is .*: there is no path"),
        ({"positions": "repeat"}, "positions is repeat: there is no path"),
        ({"path": "x", "leaves": "(a"}, r"leaves '\(a' is not a regular expression: missing \)"),
    ],
)
def test_flags_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        InitConfig(**fields)
