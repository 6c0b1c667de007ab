"""Whole runs of each objective but the causal one: it trains, evaluates alike every time, and is reported."""

import dataclasses
import random
import re

import numpy as np
import pytest

import train as command
from tests.training.runs import rows
from tools.crash import WORDS
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.models.bert import BertConfig
from transformer.models.llama import LlamaConfig
from transformer.models.t5 import T5Config
from transformer.objectives import UL2, MaskedLM, PrefixLM, Seq2Seq, SpanCorruption
from transformer.parallel.mesh import MeshConfig
from transformer.training import loop
from transformer.training.baseline import baseline
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Experiment:
    root, rng = tmp_path_factory.mktemp("corpora"), random.Random(0)
    (root / "text").mkdir()
    for number in range(24):
        (root / "text" / f"{number:02}.txt").write_text(sentence(rng, 300) + "\n")
    sources = [sentence(rng, rng.randrange(2, 6)) for _ in range(300)]
    (root / "pairs.tsv").write_text("".join(f"{source}\t{source.upper()}\n" for source in sources))
    encoder = {"width": 16, "num_layers": 2, "num_heads": 2, "mlp_width": 32, "dropout": 0, "attention_dropout": 0}
    return Experiment(
        name="tiny",
        model=BertConfig(vocab_size=384, context_length=64, head="pretraining", **encoder),
        objective=MaskedLM(sentence="nsp"),
        data=TextConfig(
            path=str(root / "text"), tokenizer="bytes", validation_fraction=0.2, cache_dir=str(root / "cache")
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        train=TrainConfig(steps=12, batch_size=8, seq_len=64, eval_every=6, eval_batches=2, log_every=1),
        mesh=MeshConfig(data=1),
    )


def t5(base, objective, **data):
    model = T5Config(
        vocab_size=384,
        width=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        head_width=8,
        mlp_width=32,
    )
    return dataclasses.replace(base, model=model, objective=objective, data=dataclasses.replace(base.data, **data))


def losses(found):
    return [row["loss"] for row in found if "loss" in row]


def run(experiment, folder):
    said = []
    result = loop.train(experiment, folder, report=said.append)
    return result, rows(folder), "\n".join(said)


def check(result, found, capsys, *, improves):
    """What every objective's run shows; returns the report."""
    assert losses(found)[-1] < losses(found)[0] - improves
    evaluations = [row for row in found if "eval_loss" in row]
    assert len(evaluations) == 2
    assert all("eval_bits_per_byte" not in row for row in evaluations)
    assert result.evaluation.bits_per_byte is None
    # The state of the last step evaluates the same again: what is hidden is.
    again = loop.train(result.session.experiment, result.run.folder, report=lambda line: None)
    assert again.evaluation.loss == pytest.approx(evaluations[-1]["eval_loss"], rel=1e-6)
    capsys.readouterr()
    command.report(result)
    report = capsys.readouterr().out
    assert "perplexity" in report
    assert f"guessing by frequency alone: {baseline(result.session, result.session.dataset).loss:.4f}\n" in report
    assert "accuracy" in report
    assert "gzip" not in report
    assert "continu" not in report
    return report


@pytest.mark.exhaustive
def test_an_encoder_with_a_sentence_task(base, tmp_path, capsys):
    result, found, said = run(base, tmp_path / "run")
    report = check(result, found, capsys, improves=0.5)
    assert re.search(r"0\.\d{4}  sentence accuracy \(chance 0\.\d{4}\)\n", report)
    assert "padding" not in said
    assert {"sentence_nll", "sentence_accuracy", "nll"} <= set(found[0])
    assert found[0]["loss"] == pytest.approx(np.log(384) + np.log(2), rel=0.1)
    assert "8 x 64 = 512 tokens" in said


@pytest.mark.exhaustive
def test_an_encoder_on_a_mesh_and_in_microbatches(base, tmp_path):
    """A prefix language model goes through both below."""
    _, found, _ = run(base, tmp_path / "run")
    changes = {
        "mesh": {"mesh": MeshConfig(data=2, fsdp=2, tensor=2)},
        "accumulation": {"train": dataclasses.replace(base.train, accumulation=2)},
    }
    for name, change in changes.items():
        _, other, _ = run(dataclasses.replace(base, **change), tmp_path / name)
        np.testing.assert_allclose(losses(other), losses(found), atol=1e-4)


@pytest.mark.exhaustive
def test_span_corruption(base, tmp_path, capsys):
    result, found, said = run(t5(base, SpanCorruption()), tmp_path / "run")
    check(result, found, capsys, improves=0.5)
    assert "8 x (64 + 14) = 624 tokens" in said


@pytest.mark.exhaustive
def test_a_mixture_of_denoisers(base, tmp_path, capsys):
    result, found, said = run(t5(base, UL2()), tmp_path / "run")
    check(result, found, capsys, improves=0.5)
    assert "8 x (64 + 64) = 1,024 tokens" in said


@pytest.mark.exhaustive
def test_a_prefix_language_model(base, tmp_path, capsys):
    """Its windows and its prefixes go through meshes and microbatches as all inputs do."""
    model = LlamaConfig(
        vocab_size=384, context_length=64, width=16, num_layers=2, num_heads=2, num_kv_heads=2, head_width=8,
        mlp_width=32, window=24,
    )  # fmt: skip
    experiment = dataclasses.replace(base, model=model, objective=PrefixLM())
    result, found, _ = run(experiment, tmp_path / "run")
    check(result, found, capsys, improves=0.5)
    assert result.evaluation.targets == pytest.approx(2 * 8 * 64 / 2, rel=0.2)
    changed = dataclasses.replace(
        experiment,
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
        train=dataclasses.replace(experiment.train, accumulation=2),
    )
    _, other, _ = run(changed, tmp_path / "changed")
    np.testing.assert_allclose(losses(other), losses(found), atol=1e-4)


@pytest.mark.exhaustive
def test_pairs(base, tmp_path, capsys):
    pairs = str(base.data.path).replace("text", "pairs.tsv")
    experiment = t5(base, Seq2Seq(target_len=48), path=pairs)
    result, found, said = run(experiment, tmp_path / "run")
    check(result, found, capsys, improves=0.5)
    assert "8 x (64 + 48) = 896 tokens" in said
    assert f"{100 * result.session.dataset.train[0].padding:.1f} % of the rows' places are padding" in said
    assert found[0]["nll"] != found[0]["loss"]  # smoothed


def test_a_tokenizer_without_the_special_is_refused(base, tmp_path):
    import tokenizers

    built = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "[SEP]": 1}, unk_token="[UNK]"))
    built.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    built.save(str(tmp_path / "tokenizer.json"))
    data = dataclasses.replace(base.data, tokenizer=str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"none of the specials \[MASK\], <mask>"):
        loop.train(dataclasses.replace(base, data=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()
