"""A task's way as people go it: train.py from weights, evaluate.py on a test file, an export; and what is refused."""

import json

import numpy as np
import pytest

import train
from tests import processes
from tests.tasks import folders
from tests.tool_calls import caller, refuser
from tests.training import runs
from tools import convert, evaluate
from transformer import checkpoint, command, pipeline
from transformer.training import experiment as experiments

SENTIMENT = {"good": "pos", "fine": "pos", "bad": "neg", "awful": "neg"}
TOPIC = {"goal": "sport", "match": "sport", "vote": "politics", "film": "culture"}
SIZE = ("--model.vocab-size", 400, "--model.width", 16, "--model.mlp-width", 32, "--model.num-heads", 2)
SHORT = ("--train.batch-size", 8, "--train.seq-len", 24, "--mesh.data", 1, "--train.eval-every", 5)


def write(path, words, count=60):
    rng = np.random.default_rng(len(words))
    picked = [str(rng.choice([*words])) for _ in range(count)]
    rows = [{"text": f"it is {word}, number {i}", "label": words[word]} for i, word in enumerate(picked)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(autouse=True)
def _no_start(monkeypatch):
    monkeypatch.setattr(command, "start_jax", lambda **_: None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small classifier of sentiments, and what was printed."""
    folder = tmp_path_factory.mktemp("weights")
    data = ("--data.path", write(folder / "sentiment.jsonl", SENTIMENT), "--data.tokenizer", "bytes")
    flags = ["classify", "--workdir", folder / "run", *data, *SIZE, *SHORT, "--train.epochs", 2]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(command, "start_jax", lambda **_: None)
        train.main([str(flag) for flag in flags])
    return folder / "run"


@pytest.fixture(scope="module")
def fine_tuned(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fine-tuned")
    flags = ["--init.path", weights, "--data.path", write(folder / "topic.jsonl", TOPIC), *SHORT, "--train.steps", 6]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(command, "start_jax", lambda **_: None)
        train.main(["classify", "--workdir", str(folder / "run"), *map(str, flags)])
    return folder / "run"


def test_labels_are_the_datas_and_epochs_are_counted(weights):
    experiment = experiments.read(checkpoint.find(weights) / "record" / "experiment.json")
    assert experiment.model.labels == ("neg", "pos")
    assert experiment.model.problem == "single_label_classification"
    held = 60 - experiment.train.steps * 8 / 2
    assert 0 < held < 20  # two epochs of what is not held out, in batches of 8


def test_weights_give_their_architecture_and_tokenizer_and_other_classes_a_new_head(weights, fine_tuned):
    before, after = (checkpoint.read_architecture(checkpoint.find(run)) for run in (weights, fine_tuned))
    assert after.labels == ("culture", "politics", "sport")
    assert (after.width, after.head) == (before.width, "sequence_classification")
    tokenizers = [
        (checkpoint.find(run) / "record" / "tokenizer" / "kind.json").read_text() for run in (weights, fine_tuned)
    ]
    assert tokenizers[0] == tokenizers[1]
    assert experiments.read(checkpoint.find(fine_tuned) / "record" / "experiment.json").train.epochs is None


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoders_learn_classes_and_transformers_tells_the_same(kind, tmp_path, capsys):
    hf = folders.save(tmp_path / "hf", kind, "ForConditionalGeneration")
    data = write(tmp_path / "topic.jsonl", TOPIC)
    flags = ("--data.path", data, "--train.steps", 3, "--train.batch-size", 8, "--train.seq-len", 24, "--mesh.data", 1)
    classify = ("classify", "--init.path", tmp_path / "run", "--workdir", tmp_path / "c", *flags)
    importing, exporting = ("import", hf, tmp_path / "run"), ("export", tmp_path / "c", tmp_path / "out")
    for main, flags in ((convert.main, importing), (train.main, classify), (convert.main, exporting)):
        code, _, said = caller(main, capsys)(*flags)
        assert code == 0, said
    ours, theirs = folders.both(tmp_path / "out", "text-classification", top_k=None)
    folders.check_equal(ours(folders.TEXTS), theirs(folders.TEXTS, top_k=None))
    trained = pipeline("text-classification", model=tmp_path / "c", top_k=None)
    folders.check_equal(trained(folders.TEXTS), ours(folders.TEXTS))


def test_the_same_classes_keep_their_head_and_order(weights, tmp_path, capsys):
    data = write(tmp_path / "more.jsonl", {"good": "pos", "awful": "neg"})
    code, shown, _ = caller(train.main, capsys)(
        "classify",
        "--init.path",
        weights,
        "--data.path",
        data,
        "--workdir",
        tmp_path / "run",
        *SHORT,
        "--train.steps",
        1,
    )
    assert code == 0
    assert "new:" not in shown
    assert "head/*" in shown or "head/out" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith(("neg", "pos"))] != []


def test_a_test_file_is_evaluated_with_intervals_and_answers(fine_tuned, tmp_path, capsys):
    data = write(tmp_path / "test.jsonl", TOPIC, count=20)
    code, shown, _ = caller(evaluate.main, capsys)(fine_tuned, "--path", data, "--out", tmp_path / "answers.jsonl")
    assert code == 0
    lines = shown.splitlines()
    [accuracy] = [line for line in lines if line.startswith("accuracy")]
    assert "(95 % interval 0." in accuracy
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sorted(answer["text"] for answer in answers) == sorted(
        json.loads(line)["text"] for line in data.read_text().splitlines()
    )
    right = np.mean([answer["told"] == answer["label"] for answer in answers])
    assert float(accuracy.split()[1]) == pytest.approx(right, abs=1e-4)
    assert all(max(answer["scores"], key=answer["scores"].get) == answer["told"] for answer in answers)
    assert sum(answers[0]["scores"].values()) == pytest.approx(1)
    table = [line.split() for line in lines[lines.index("") + 1 :]]
    assert sum(int(cell) for row in table[1:] for cell in row[1:]) == 20


def test_the_export_has_the_labels(fine_tuned, tmp_path, capsys):
    assert caller(convert.main, capsys)("export", fine_tuned, tmp_path / "hf")[0] == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["id2label"] == {"0": "culture", "1": "politics", "2": "sport"}
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_the_same_command_goes_on_and_other_labels_do_not(fine_tuned, capsys):
    folder = fine_tuned.parent
    flags = ("--data.path", folder / "topic.jsonl", *SHORT, "--train.steps", 8)
    experiment = experiments.read(fine_tuned / "experiment.json")
    init = ("--init.path", experiment.init.path)
    code, _, said = caller(train.main, capsys)("classify", "--workdir", fine_tuned, *init, *flags)
    assert (code, (fine_tuned / "checkpoints" / "8").exists()) == (0, True), said
    write(folder / "topic.jsonl", TOPIC | {"rain": "weather"})
    code, _, said = caller(train.main, capsys)("classify", "--workdir", fine_tuned, *init, *flags)
    assert code == 2
    assert "model.labels" in said or "model.num_labels" in said or "--model" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--init.path", "nowhere"), "nowhere"),
        (("--objective.problem", "regression"), ": it must be a number"),
        (("--data.label-field", "class"), "no 'class'; it has: text, label. Name another with --data.label-field"),
        (("--train.epochs", 0), "--train.epochs"),
        (("--train.patience", 0), "--train.patience"),
        (("--init.weights", "False"), "there is no `path`|--init.weights"),
    ],
)
def test_what_is_wrong_is_a_line(flags, words, tmp_path, capsys):
    data = ("--data.path", write(tmp_path / "a.jsonl", SENTIMENT), "--data.tokenizer", "bytes")
    said = refuser(caller(train.main, capsys))("classify", "--workdir", tmp_path / "run", *data, *SIZE, *SHORT, *flags)
    assert any(word in said for word in words.split("|"))
    assert not (tmp_path / "run").exists()


def test_epochs_of_what_is_not_counted_are_refused(tmp_path, capsys):
    said = refuser(caller(train.main, capsys))("gpt-python", "--train.epochs", 2, "--workdir", tmp_path / "run")
    assert "--train.epochs 2: the examples of causal_lm are not counted: give --train.steps" in said


def test_a_label_that_the_model_does_not_know_is_refused_where_it_is_evaluated(fine_tuned, tmp_path, capsys):
    data = write(tmp_path / "test.jsonl", {"rain": "weather"}, count=4)
    said = refuser(caller(evaluate.main, capsys))(fine_tuned, "--path", data)
    assert "the label 'weather' is none of the model's 3 (culture, politics, sport)" in said


@pytest.mark.exhaustive
def test_two_processes_read_batches_of_every_width_as_one_does(tmp_path):
    """Each makes its rows at the width of all, and both compile for a new width together."""
    rng = np.random.default_rng(0)
    rows = [{"text": f"{i} {'x' * int(rng.integers(1, 120))}", "label": "ab"[i % 2]} for i in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = ["--data.path", str(tmp_path / "a.jsonl"), "--data.tokenizer", "bytes", *map(str, SIZE)]
    flags = ["--train.batch-size", "8", "--train.steps", "8", "--train.eval-every", "4", "--train.log-every", "1"]
    found = []
    for name, count in (("one", 1), ("two", 2)):
        args = ["train.py", "classify", *data, *flags, "--workdir", str(tmp_path / name)]
        ended = processes.run([*args, *(["--distributed"] if count > 1 else [])], count, devices=2 // count)
        assert [each.code for each in ended] == [0] * count, ended[-1].err
        found.append(runs.rows(tmp_path / name))
    assert len({len(row) for row in found[0]}) > 1  # updates and evaluations
    for one, two in zip(*found, strict=True):
        for name in ("loss", "eval_loss", "eval_accuracy", "eval_matthews"):
            assert (name in one) == (name in two)
            if name in one:
                assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-7)
