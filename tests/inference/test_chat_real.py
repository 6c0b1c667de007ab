"""SmolLM2's answers to chats, token for token Transformers'; and its numbers in lm_eval, the harness' own backend's."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.inference.test_harness import OURS, THEIRS, asked
from transformer.inference.restored import restore
from transformer.inference.sampling import Sampling
from transformer.inference.text_generator import TextGenerator
from transformer.interop import convert

WEIGHTS = Path.home() / ".cache" / "real-weights" / "smollm2-135m"
pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(not WEIGHTS.exists(), reason="needs the weights of smollm2-135m"),
    pytest.mark.filterwarnings("ignore"),
]
TOKENS = 24
PROMPTS = """What is the capital of France?
Name three colours.
Write a haiku about rain.
What is 12 + 30?
Translate "good morning" into Spanish.
Who wrote Hamlet?
Give me a synonym of happy.
What do bees make?
Explain gravity in a sentence.
List the days of the week.
How many legs has a spider?
Say hello in French.
What is the opposite of hot?
Finish: The quick brown fox
Is the earth flat?
Name a river in Egypt.
What is water made of?
Tell me a short joke.
Which planet is the largest?
How do you boil an egg?""".splitlines()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("smollm2") / "run"
    convert.save(convert.import_folder(WEIGHTS), WEIGHTS, place)
    return place


def test_greedy_answers_are_transformers(run):
    tokenizer = transformers.AutoTokenizer.from_pretrained(WEIGHTS)
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    ours = TextGenerator(restore(run))
    generated = ours(chats, max_new_tokens=TOKENS, how=Sampling(temperature=0.0), batch_size=len(chats))
    for chat, [answer] in zip(chats, generated, strict=True):
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        assert ours.encode(chat) == ids[0].tolist()
        with torch.no_grad():
            out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
        new = [token for token in out[0, ids.shape[1] :].tolist() if token != tokenizer.eos_token_id]
        assert answer.text == tokenizer.decode(new, skip_special_tokens=True)


def test_numbers_are_the_harness_backends(run):
    theirs = THEIRS(str(WEIGHTS), dtype="float32", device="cpu", batch_size=4, max_length=256)
    ours = OURS(str(run), batch_size=4, max_length=256)
    texts = [f"Question: {prompt}\nAnswer:" for prompt in PROMPTS[:6]]
    pairs = asked("loglikelihood", *((text, answer) for text in texts for answer in (" Paris", " red, green and blue")))
    for have, want in zip(ours.loglikelihood(pairs, True), theirs.loglikelihood(pairs, True), strict=True):
        assert have[0] == pytest.approx(want[0], rel=1e-4)
        assert have[1] == want[1]
    whole = asked("loglikelihood_rolling", ("\n".join(PROMPTS) * 3,), (PROMPTS[0],))
    have, want = (model.loglikelihood_rolling(whole, disable_tqdm=True) for model in (ours, theirs))
    assert have == pytest.approx(want, rel=1e-4)
    questions = asked("generate_until", *((text, {"until": ["\n"], "max_gen_toks": 16}) for text in texts))
    assert ours.generate_until(questions, True) == theirs.generate_until(questions, True)
