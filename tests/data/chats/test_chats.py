"""Conversations as data: rows, splits, what is left out, and the lines that are no conversations."""

import json

import cloudpickle
import numpy as np
import pytest

from tests.tokenizers.test_chat import read, write_folder
from transformer.data.chats.config import ChatConfig
from transformer.data.chats.conversations import conversations
from transformer.data.chats.dataset import open_chats
from transformer.data.chats.reading import ChatReading
from transformer.errors import UserError
from transformer.objectives.chat import Chat
from transformer.tokenizers.chat import TRAINING_DAY, ChatTemplate
from transformer.tokenizers.raw_bytes import ByteTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return read(write_folder(folder / "hf", "llama-3"), folder)


def chat(number, words=3):
    answer = {"role": "assistant", "content": f"Answer {number}. " + "word " * (number % words)}
    question = {"role": "user", "content": f"Question {number}?"}
    return [question, answer] * (1 + number % 2)


def write(path, chats):
    path.write_text("".join(f"{json.dumps({'messages': messages})}\n" for messages in chats))
    return str(path)


def opened(tmp_path, path, tokenizer, length=400, **fields):
    config = ChatConfig(path=path, cache_dir=str(tmp_path / "cache"), **fields)
    return open_chats(config, ChatReading(length), vocab_size=tokenizer.vocab_size, tokenizer=tokenizer)


def pieces(records):
    """Each conversation of some rows: its tokens and which of them are answers."""
    for index in range(len(records)):
        row = records[index]
        for segment in range(1, row["segment_ids"].max() + 1):
            place = row["segment_ids"] == segment
            assert row["positions"][place].tolist() == list(range(place.sum()))
            yield tuple(row["tokens"][place].tolist()), tuple(row["answers"][place].astype(bool).tolist())


def test_each_conversation_is_in_one_row_as_the_template_has_it(tmp_path, tokenizer):
    chats = [chat(number) for number in range(60)]
    dataset = opened(tmp_path, write(tmp_path / "chats.jsonl", chats), tokenizer, validation_fraction=0.2)
    template = ChatTemplate(tokenizer, TRAINING_DAY)
    want = [(tuple(ids.tolist()), tuple(said.tolist())) for ids, said in map(template.turns, chats)]
    train, held = list(pieces(dataset.train[0])), list(pieces(dataset.validation))
    assert sorted([*train, *held]) == sorted(want)
    assert 0 < len(held) < 30
    filled = [(dataset.train[0][index]["segment_ids"] > 0).mean() for index in range(len(dataset.train[0]))]
    assert np.mean(filled) > 0.7  # several share a row


def test_the_loss_is_of_answers_alone(tmp_path, tokenizer):
    chats = [chat(number) for number in range(20)]
    dataset = opened(tmp_path, write(tmp_path / "chats.jsonl", chats), tokenizer)
    record = dataset.train[0][0]
    example = Chat().example(record, np.random.default_rng(0))
    targets = example["targets"][example["weights"] > 0]
    text = "".join(tokenizer.name_of(i) if i == tokenizer.eos_id else tokenizer.decode([i]) for i in targets.tolist())
    parts = text.split("<|eot_id|>")
    assert parts[-1] == ""
    assert all(part.startswith("Answer") for part in parts[:-1])
    assert len(parts) > 3
    assert Chat().example(Chat().reading(8).padding(()), np.random.default_rng(0))["weights"].sum() == 0


def test_rows_do_not_depend_on_the_process_or_the_start(tmp_path, tokenizer):
    path = write(tmp_path / "chats.jsonl", [chat(number) for number in range(30)])
    first, again = (opened(tmp_path, path, tokenizer) for _ in range(2))
    sent = cloudpickle.loads(cloudpickle.dumps(first.train[0]))
    elsewhere = opened(tmp_path / "other", path, tokenizer)
    for other in (again.train[0], sent, elsewhere.train[0]):
        for name, values in first.train[0][1].items():
            np.testing.assert_array_equal(other[1][name], values)
    assert first.fingerprint == again.fingerprint == elsewhere.fingerprint
    changed = opened(tmp_path, write(tmp_path / "chats.jsonl", [chat(n) for n in range(31)]), tokenizer)
    assert changed.fingerprint != first.fingerprint


def test_a_folder_has_a_validation_file(tmp_path, tokenizer):
    folder = tmp_path / "chats"
    folder.mkdir()
    write(folder / "train.jsonl", [chat(number) for number in range(9)])
    write(folder / "validation.jsonl", [chat(number) for number in range(9, 12)])
    dataset = opened(tmp_path, str(folder), tokenizer)
    assert (len(list(pieces(dataset.train[0]))), len(list(pieces(dataset.validation)))) == (9, 3)
    assert "Question 11" in "".join(dataset.show(dataset.validation[0]))


def test_long_conversations_are_cut_and_those_without_an_answer_left_out(tmp_path, tokenizer):
    long = [{"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "y"}]
    cut = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y" * 300}]
    chats = [long, cut, *(chat(0) for _ in range(8))]
    dataset = opened(tmp_path, write(tmp_path / "chats.jsonl", chats), tokenizer, length=150, validation_fraction=0.1)
    notes = "\n".join([*dataset.about.training, *dataset.about.validation])
    assert "1 conversations left out: no answer within 150 tokens" in notes
    assert "conversations are cut at 150 tokens" in notes
    with pytest.raises(UserError, match="no conversation has an answer within 9 tokens: raise --train.seq-len"):
        opened(tmp_path, str(tmp_path / "chats.jsonl"), tokenizer, length=9)


def test_prompts_and_completions_are_conversations(tmp_path):
    system = {"role": "system", "content": "s"}
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": [system, {"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    want = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert [chat.messages for chat in conversations(path)] == [want, [system, *want]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"text": "x"}', "neither messages nor a prompt and its completion; its fields are 'text'"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "a chat without a user"),
        ('{"messages": [{"role": "bot", "content": "x"}]}', "message 1 has the role 'bot'"),
        ('{"messages": [{"role": "user", "content": ""}]}', "message 1 \\(user\\) has an empty content"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "the assistant says nothing"),
        ('{"prompt": "", "completion": "x"}', "message 1 \\(user\\) has an empty content"),
    ],
)
def test_a_bad_line_is_named(line, said, tmp_path, tokenizer):
    path = tmp_path / "chats.jsonl"
    path.write_text(f"{json.dumps({'messages': chat(1)})}\n\n{line}\n")
    with pytest.raises(UserError, match=f"^{path}, line 3: {said}"):
        opened(tmp_path, str(path), tokenizer)


def test_other_mistakes_are_named(tmp_path, tokenizer):
    with pytest.raises(UserError, match="no chats named"):
        opened(tmp_path, None, tokenizer)
    with pytest.raises(UserError, match="no such file"):
        opened(tmp_path, str(tmp_path / "none.jsonl"), tokenizer)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="has no conversation"):
        opened(tmp_path, str(tmp_path / "empty.jsonl"), tokenizer)
    one = write(tmp_path / "one.jsonl", [chat(1)])
    with pytest.raises(UserError, match="leaves none to train on or none to validate on"):
        opened(tmp_path, one, tokenizer)
    with pytest.raises(UserError, match="has no train.jsonl"):
        opened(tmp_path, str(tmp_path), tokenizer)
    with pytest.raises(UserError, match="the tokenizer has no chat template.*--data.template FILE"):
        opened(tmp_path, one, ByteTokenizer())
    (tmp_path / "template.jinja").write_text("{{ raise_exception('never') }}")
    with pytest.raises(UserError, match=f"^{one}, line 1: the chat template refuses the conversation: never"):
        opened(tmp_path, one, ByteTokenizer(), template=str(tmp_path / "template.jinja"))


def test_a_template_of_ones_own_travels_with_the_tokenizer(tmp_path):
    source = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    (tmp_path / "template.jinja").write_text(source)
    path = write(tmp_path / "chats.jsonl", [chat(number) for number in range(5)])
    tokenizer = ByteTokenizer()
    dataset = opened(tmp_path, path, tokenizer, template=str(tmp_path / "template.jinja"))
    assert (dataset.tokenizer.chat_template, tokenizer.chat_template) == (source, None)
