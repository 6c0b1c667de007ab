"""Fine-tuning on chats by the commands: a run from imported weights, its answers, its scores."""

import json

import pytest

import train
from tests.inference.chat_models import write_model
from tests.tokenizers.chat_templates import CHATML
from tests.tool_calls import caller, refuser
from tools import convert, evaluate, generate
from transformer.training import experiment as experiments
from transformer.training.session import Session


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model that was imported, a file of chats, and a run that was fine-tuned on it."""
    place = tmp_path_factory.mktemp("chats")
    write_model(place)
    rows = [{"prompt": f"Say {number}", "completion": f"<{number}>"} for number in range(40)]
    (place / "chats.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return place


def flags(place, **further):
    given = {
        "--init.path": place / "run",
        "--data.path": place / "chats.jsonl",
        "--data.cache-dir": place / "cache",
        "--data.validation-fraction": 0.2,
        "--train.steps": 30,
        "--train.seq-len": 72,
        "--train.batch-size": 8,
        "--train.eval-every": 15,
        "--checkpoint.every": 30,
        "--optimizer.learning-rate": 0.02,
        "--mesh.data": 1,
        "--workdir": place / "tuned",
    }
    return [str(part) for pair in (given | further).items() for part in pair]


def test_a_model_is_fine_tuned_answers_and_is_scored(place, capsys):
    call = caller(train.main, capsys)
    code, out, err = call("chat", *flags(place))
    assert code == 0, err
    assert "validation loss" in out
    losses = [json.loads(line) for line in (place / "tuned" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row["eval_loss"] for row in losses if "eval_loss" in row]
    assert evaluated[-1] < evaluated[0]
    assert (place / "tuned" / "tokenizer" / "chat_template.jinja").read_text() == CHATML

    code, out, err = caller(generate.main, capsys)(place / "tuned", "--chat", "Say 3", "--max-new-tokens", 8)
    assert code == 0, err
    assert out.startswith("<")  # as all answers that it learnt from

    code, out, err = caller(evaluate.main, capsys)(place / "tuned", "--metric", "loss", "exact_match")
    assert code == 0, err
    assert "exact match 0." in out
    right = [json.loads(line) for line in (place / "chats.jsonl").read_text().splitlines()]
    (place / "own.jsonl").write_text(json.dumps(right[0]) + "\n")
    code, out, err = caller(evaluate.main, capsys)(
        place / "run", "--metric", "exact_match", "perplexity", "--path", place / "own.jsonl", "--max-new-tokens", 4
    )
    assert code == 0, err  # an imported model, which has no data of its own
    assert "(0 of 1 conversations" in out
    assert "perplexity" in out

    code, _, err = caller(convert.main, capsys)("export", place / "tuned", place / "exported")
    assert code == 0, err
    assert (place / "exported" / "chat_template.jinja").read_text() == CHATML


def test_epochs_count_the_rows(place, capsys):
    """The rows are of the tokenizer that the weights have; of its own, where a run goes on and the weights are gone."""
    given = flags(place, **{"--train.epochs": 2, "--workdir": place / "epochs"})
    place_of = given.index("--train.steps")
    del given[place_of : place_of + 2]
    call = caller(train.main, capsys)
    code, _, err = call("chat", *given)
    assert code == 0, err
    experiment = experiments.read(place / "epochs" / "experiment.json")
    rows = Session(experiment).dataset.train[0]
    assert experiment.train.steps == -(-2 * len(rows) // 8)
    moved = (place / "run").rename(place / "moved")  # a run that goes on has a tokenizer of its own
    code, _, err = call("--workdir", place / "epochs", "--train.epochs", 4)
    moved.rename(place / "run")
    assert code == 0, err
    assert experiments.read(place / "epochs" / "experiment.json").train.steps == -(-4 * len(rows) // 8)


def test_mistakes_are_one_line(place, tmp_path, capsys):
    refused = refuser(caller(train.main, capsys))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "assistant", "content": "x"}]}\n')
    said = refused("chat", *flags(place, **{"--data.path": bad, "--workdir": tmp_path / "new"}))
    assert f"{bad}, line 1: a chat without a user" in said
    answer = refuser(caller(generate.main, capsys))
    assert "--system is of a chat" in answer(place / "run", "--prompt", "x", "--system", "y")
    assert "line 1: a chat without a user" in answer(place / "run", "--messages", bad)
    assert "has an empty content" in answer(place / "run", "--chat", " ")
    score = refuser(caller(evaluate.main, capsys))
    assert "give its file with --path" in score(place / "tuned", "--metric", "perplexity")
