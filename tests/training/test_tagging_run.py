"""A tagger's run by train.py: it learns, ends with a table of names, and goes on exactly where it stopped."""

import json

import jax
import numpy as np
import pytest

import train as command
from tests.training.runs import evaluations, losses, quiet, stopped, train
from transformer.training.fitting import fitted

FLAGS = [
    "--model.vocab-size", "400", "--model.width", "16", "--model.mlp-width", "32", "--model.num-heads", "2",
    "--data.tokenizer", "bytes", "--mesh.data", "1", "--train.batch-size", "8", "--train.seq-len", "32",
    "--train.steps", "12", "--train.eval-every", "4", "--train.log-every", "1", "--checkpoint.every", "4",
]  # fmt: skip


@pytest.mark.exhaustive
def test_a_stopped_run_goes_on_exactly_and_ends_with_a_table(tmp_path, monkeypatch, capsys):
    rng, lines = np.random.default_rng(0), []
    for number in range(100):
        words = [*["see"] * int(rng.integers(1, 3)), ["Rome", "Oslo"][number % 2], str(number)]
        lines.append(json.dumps({"tokens": words, "tags": [*["O"] * (len(words) - 2), "B-LOC", "I-LOC"]}))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    args = ["tag", "--data.path", str(tmp_path / "a.jsonl"), "--workdir", str(tmp_path / "whole"), *FLAGS]
    experiment = fitted(command.parse(args).experiment, quiet)
    assert experiment.model.labels == ("B-LOC", "I-LOC", "O")
    result = train(experiment, tmp_path / "whole")
    command.report(result)
    assert "LOC" in capsys.readouterr().out.split("validation loss")[1]
    assert result.evaluation.loss < losses(tmp_path / "whole")[1]
    stopped(experiment, tmp_path / "run", monkeypatch, after=6)
    again = train(experiment, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert evaluations(tmp_path / "run") == evaluations(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, again.params, result.params)
