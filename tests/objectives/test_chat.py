"""The loss on answers alone, against PyTorch's with Transformers' own mask of what the assistant says."""

import numpy as np
import pytest
import torch
import transformers

from tests.inference.chat_models import write_model
from tests.tokenizers.test_chat import CHAT, QUESTIONS, SYSTEM
from transformer.data.chats.reading import ChatReading
from transformer.inference.restored import restore
from transformer.objectives.chat import Chat
from transformer.tokenizers.chat import ChatTemplate

LENGTH = 240


def test_loss_is_pytorchs(tmp_path):
    folder, run = write_model(tmp_path, "marked", max_position_embeddings=LENGTH)
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours = restore(run)
    template = ChatTemplate(ours.tokenizer)
    chats = [CHAT, [SYSTEM, *QUESTIONS, CHAT[1]]]
    record, begin, total, count = ChatReading(LENGTH + 1).padding(()), 0, 0.0, 0
    for segment, messages in enumerate(chats, 1):
        encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = torch.tensor([encoded["input_ids"]]), torch.tensor([encoded["assistant_masks"]])
        labels = torch.where(mask == 1, ids, -100)
        with torch.no_grad():
            total += float(theirs(ids, labels=labels).loss) * int(mask.sum())
        count += int(mask.sum())
        tokens, is_answer = template.turns(messages)
        part = slice(begin, begin + len(tokens))
        record["tokens"][part], record["answers"][part] = tokens, is_answer
        record["segment_ids"][part], record["positions"][part] = segment, np.arange(len(tokens))
        begin += len(tokens)
    objective = Chat()
    records = {name: values[None] for name, values in record.items()}
    example = objective.examples(records, [np.random.default_rng(0)])
    one = objective.example(record, np.random.default_rng(0))
    np.testing.assert_array_equal(example["weights"][0], one["weights"])
    outputs = ours.model.apply({"params": ours.params}, **example["inputs"])
    loss, weight, metrics = objective.loss(outputs, example)
    assert float(weight) == count
    assert float(loss) / count == pytest.approx(total / count, rel=1e-5)
    assert float(metrics["nll"]) == pytest.approx(float(loss))
