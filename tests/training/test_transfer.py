"""A run that starts from other weights: a run's own or imported ones, under the same head or another."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import transformers

from tools import convert
from transformer.data.config import DataConfig
from transformer.errors import UserError
from transformer.models.bert import BertConfig
from transformer.models.gpt import GPTConfig
from transformer.objectives import CausalLM, MaskedLM
from transformer.sharding import MeshConfig
from transformer.training import loop
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig

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
        data=DataConfig(path=str(root / "plays.txt"), tokenizer="bytes", cache_dir=str(root / "cache")),
        optimizer=OptimizerConfig(learning_rate=1e-20, weight_decay=0.0),
        train=TrainConfig(steps=1, batch_size=8, seq_len=32, eval_batches=1),
        mesh=MeshConfig(data=1),
    )


def _train(experiment, folder):
    said = []
    return loop.train(experiment, folder, say=said.append), " ".join(said)


def test_another_head_on_a_runs_backbone_on_another_mesh(bert, tmp_path):
    first, _ = _train(bert, tmp_path / "first")
    asked = dataclasses.replace(
        bert,
        model=dataclasses.replace(bert.model, head="pretraining"),
        objective=MaskedLM(sentence="sop"),
        init_from=str(tmp_path / "first"),
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
        _train(dataclasses.replace(asked, init_from=str(tmp_path / "nowhere")), tmp_path / "third")
    assert not (tmp_path / "third").exists()


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
        init_from=str(tmp_path / "imported"),
    )
    result, _ = _train(asked, tmp_path / "run")
    assert result.corpus.tokenizer.vocab_size == len(pieces)
    assert result.corpus.tokenizer.decode(result.corpus.tokenizer.encode("to be, not to be\n")) == "to be, not to be\n"
    with pytest.raises(UserError, match=r"embedding \(99, 16\), needed \(384, 16\)"):
        _train(dataclasses.replace(asked, model=GPTConfig(**_SIZES)), tmp_path / "other")
