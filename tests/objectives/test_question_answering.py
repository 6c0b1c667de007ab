"""Question answering against PyTorch: the same losses and logits; answers of whole contexts, over their windows."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch

from tests.interop.parity import tensor
from transformer.data.examples.config import ExamplesConfig
from transformer.objectives.question_answering import QuestionAnswering
from transformer.training.session import Session

from . import fine_tuning


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Questions about contexts of one window of 32 bytes and of several, some without an answer."""
    rng, lines = np.random.default_rng(0), []
    for number in range(80):
        words = [f"w{rng.integers(99)}" for _ in range(int(rng.integers(3, 14)))]
        context, chosen = f"{number} " + " ".join(words), words[number % len(words)]
        answers = [{"text": chosen, "answer_start": context.index(chosen)}] if number % 4 else []
        lines.append(json.dumps({"question": f"which {chosen[-1]}?", "context": context, "answers": answers}))
    path = tmp_path_factory.mktemp("data") / "a.jsonl"
    path.write_text("\n".join(lines))
    names = {"text_field": "question", "pair_field": "context", "label_field": "answers", "tokenizer": "bytes"}
    return ExamplesConfig(path=str(path), stride=6, validation_fraction=0.25, **names)


def session(data, **train):
    model = dataclasses.replace(fine_tuning.TINY, head="question_answering")
    return Session(fine_tuning.experiment(model, QuestionAnswering(), data, **train))


def test_twenty_steps_equal_pytorchs(data):
    """Transformers' own loss of each window without its padding, which it lets be an answer."""
    made = session(data)

    def loss(theirs, batch):
        losses = []
        for row, length in enumerate(np.asarray(batch["inputs"]["segment_ids"]).sum(axis=1)):
            asked = {name: values[row : row + 1, :length] for name, values in fine_tuning.asked(batch).items()}
            start, end = (tensor(np.asarray(batch["targets"][side])[row : row + 1]).long() for side in ("start", "end"))
            losses.append(theirs(**asked, start_positions=start, end_positions=end).loss)
        return torch.stack(losses).mean()

    batch, state, theirs = fine_tuning.assert_updates_equal_pytorchs(made, loss)
    out = theirs(**fine_tuning.asked(batch))
    real = np.asarray(batch["inputs"]["segment_ids"]) > 0
    want = torch.stack([out.start_logits, out.end_logits], dim=-1)[torch.tensor(real)]
    have = np.asarray(fine_tuning.scores(made, state.params, batch))[real]
    # What is added to all scores of a side changes no loss: the head's bias moves by what rounding leaves of its slope.
    fine_tuning.assert_near(have - have[:1], want - want[:1])


def test_a_narrow_batch_weighs_as_the_whole_one(data):
    fine_tuning.assert_narrow_batches_weigh_as_whole_ones(session(data))


def test_meshes_and_microbatches_change_nothing(data):
    fine_tuning.assert_nothing_changes_over_meshes(session(data).experiment)


def right_logits(records):
    """Scores that are sure of each window's span."""
    logits = np.zeros((len(records), fine_tuning.SIZES["context_length"], 2), np.float32)
    for number, (start, end) in enumerate(records.spans):
        logits[number, start, 0] = logits[number, end, 1] = 30
    return logits


def test_sure_windows_answer_all_questions(data):
    made = session(data)
    dataset, objective, model = made.dataset, made.experiment.objective, made.experiment.model
    records = dataset.validation
    assert len(records) > len(records.questions)
    logits = right_logits(records)
    assert objective.score({"logits": logits}, dataset, model) == {"exact_match": 1, "f1": 1}
    answers = list(objective.answers({"logits": logits}, dataset, model))
    for answer in answers:
        assert answer["told"] == "".join(each["text"] for each in answer["answers"])
    silent = np.zeros_like(logits)
    silent[:, 0] = 30
    without = np.mean([not answer["answers"] for answer in answers])
    assert 0 < without < 1
    assert objective.score({"logits": silent}, dataset, model)["exact_match"] == pytest.approx(without)
    count, of = objective.resampling({"logits": silent}, dataset, model)
    assert of(np.arange(count)) == objective.score({"logits": silent}, dataset, model)
    table = [line.split() for line in objective.table({"logits": silent}, dataset, model).splitlines()]
    assert table[1][-2:] == ["0.0000", "0.0000"]
    assert table[2][-2:] == ["1.0000", "1.0000"]


def test_a_threshold_tells_none_from_some(data):
    """The threshold that is named makes F1 what is said of it; and each answer says which side of it it is on."""
    made = session(data)
    dataset, objective, model = made.dataset, made.experiment.objective, made.experiment.model
    logits = np.random.default_rng(0).normal(size=right_logits(dataset.validation).shape).astype(np.float32)
    scores = {"logits": logits * 3}
    table = objective.table(scores, dataset, model).splitlines()
    named = float(table[-1].split()[2].rstrip(","))
    moved = dataclasses.replace(objective, null_threshold=named)
    assert f"f1 of all would be {moved.score(scores, dataset, model)['f1']:.4f}" in table[-1]
    assert moved.score(scores, dataset, model)["f1"] > objective.score(scores, dataset, model)["f1"]
    margins = [answer["null_margin"] for answer in moved.answers(scores, dataset, model)]
    told = [answer["told"] for answer in moved.answers(scores, dataset, model)]
    assert [not text for text in told] == [margin > named for margin in margins]


def test_a_question_whose_windows_were_not_all_read_is_not_scored(data):
    made = session(data)
    records, objective = made.dataset.validation, made.experiment.objective
    [number, *_] = np.flatnonzero(np.diff(records.windows) > 1)
    read = right_logits(records)[: records.windows[number] + 1]
    count, _ = objective.resampling({"logits": read}, made.dataset, made.experiment.model)
    assert count == number


def test_an_evaluation_reads_all_windows_in_their_order(data):
    made = session(data)
    with jax.set_mesh(made.mesh):
        evaluation = made.evaluate(made.initial_state().params)
    assert evaluation.targets == len(made.dataset.validation)
    assert set(evaluation.metrics) == {"exact_match", "f1"}
