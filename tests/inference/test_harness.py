"""Our model in lm_eval, against the harness' own Hugging Face backend on the same weights; nothing is downloaded."""

import json
import os
from typing import Any

os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tests.inference.chat_models import write_model
from tests.tool_calls import caller, refuser
from tools import harness
from transformer.errors import UserError
from transformer.inference.harness import HarnessModel

OURS: Any = HarnessModel  # the harness' decorators hide the arguments
THEIRS: Any = HFLM
pytestmark = pytest.mark.filterwarnings("ignore")  # the harness' libraries warn of each other

LONG = "The cat sat on the mat. " * 9


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder, run = write_model(tmp_path_factory.mktemp("model"))
    return THEIRS(str(folder), dtype="float32", device="cpu", batch_size=2), OURS(str(run), batch_size=4), run


def asked(kind, *arguments):
    return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


def test_log_likelihoods_are_the_backends(models):
    theirs, ours, _ = models
    pairs = [("Is it so? ", "Yes"), ("Is it so?", " no, it's naïve"), ("", "a text"), (LONG, " and slept"), ("x", "y")]
    requests = asked("loglikelihood", *pairs, ("<|im_start|>user\nHi<|im_end|>\n", "Hi"))
    for have, want in zip(ours.loglikelihood(requests, True), theirs.loglikelihood(requests, True), strict=True):
        assert have[0] == pytest.approx(want[0], rel=1e-5)
        assert have[1] == want[1]


def test_rolling_log_likelihoods_are_the_backends(models):
    theirs, ours, _ = models
    requests = asked("loglikelihood_rolling", ("short",), (LONG * 2,), (LONG[:95],), (LONG[:96],), (LONG[:97],))
    have, want = (model.loglikelihood_rolling(requests, disable_tqdm=True) for model in (ours, theirs))
    assert have == pytest.approx(want, rel=1e-5)


def test_answers_are_the_backends(models):
    theirs, ours, _ = models
    options = {"until": ["e", "\n"], "max_gen_toks": 50}
    contexts = ["Once", "What is 1+1?", LONG, "naïve"]
    requests = asked("generate_until", *((context, options) for context in contexts), ("A", {"max_gen_toks": 9}))
    have, want = (model.generate_until(requests, disable_tqdm=True) for model in (ours, theirs))
    assert have == want
    assert len(set(have)) > 2
    never = asked("generate_until", *((context, {"until": [], "max_gen_toks": 60}) for context in contexts))
    assert ours.generate_until(never, True) == theirs.generate_until(never, True)


def test_chats_are_put_as_the_backend_puts_them(models):
    theirs, ours, _ = models
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes "}]
    assert ours.apply_chat_template(history[:1]) == theirs.apply_chat_template(history[:1])
    assert ours.apply_chat_template(history, False) == theirs.apply_chat_template(history, False)
    assert ours.chat_template(True) == theirs.chat_template(True)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with a task of choices, a text to score, and one to answer; their data beside them."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"question": f"{n} or {n + 1}?", "choices": [f"{n}", f"{n + 1} it is"], "answer": n % 2} for n in range(8)]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "fewshot_split": "test",
        "doc_to_text": "{{question}}",
    }
    choice = {
        "task": "own_choice",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    text = {
        "task": "own_text",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{choices[1]}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    }
    for task in (choice, text):
        (folder / f"{task['task']}.yaml").write_text(json.dumps(shared | task))  # JSON is YAML
    return folder


def test_the_tool_gives_the_backends_numbers(models, tasks, tmp_path, capsys):
    import lm_eval
    from lm_eval.tasks import TaskManager

    simple_evaluate: Any = lm_eval.simple_evaluate

    theirs, _, run = models
    out = tmp_path / "results.json"
    flags = ("--tasks", "own_choice", "own_text", "--include-path", tasks, "--num-fewshot", 2, "--out", out)
    code, said, err = caller(harness.main, capsys)(run, *flags)
    assert code == 0, err
    assert "own_choice" in said
    manager = TaskManager(include_path=str(tasks))
    want = simple_evaluate(theirs, tasks=["own_choice", "own_text"], num_fewshot=2, task_manager=manager)
    have = json.loads(out.read_text())["results"]
    for task, numbers in want["results"].items():
        for name, value in numbers.items():
            if isinstance(value, float):
                assert have[task][name] == pytest.approx(value, rel=1e-5), name


def test_mistakes_are_one_line(models, tasks, capsys):
    _, ours, run = models
    refused = refuser(caller(harness.main, capsys))
    assert "--tasks nothing: lm_eval knows no such task" in refused(run, "--tasks", "nothing")
    with pytest.raises(UserError, match="max_gen_toks 96: the model reads 96 tokens at once"):
        ours.generate_until(asked("generate_until", ("x", {"max_gen_toks": 96})), disable_tqdm=True)
    with pytest.raises(UserError, match="generate with num_beams, which is not supported"):
        ours.generate_until(asked("generate_until", ("x", {"num_beams": 4})), disable_tqdm=True)
    with pytest.raises(UserError, match="batch_size auto"):
        OURS(str(run), batch_size="auto")
    with pytest.raises(UserError, match="max_length 97: the model's context holds 96"):
        OURS(str(run), max_length=97)
