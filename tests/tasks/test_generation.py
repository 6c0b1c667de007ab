"""Generated text: `transformer.pipeline` against Transformers' pipeline and `generate` on the same folder."""

import json

import pytest
import torch
import transformers

import transformer
from tests.exhaustive import few
from tests.tasks.folders import CONTEXT, both, check_equal, save
from transformer.errors import UserError

PROMPTS = ["the cat", "a dog ran to the", "naïve 日本"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = [{"role": "user", "content": "the cat?"}]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = save(tmp_path_factory.mktemp("m"), "gpt2", "LMHeadModel")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def test_prompts_are_continued_as_by_transformers(gpt2):
    ours, theirs = both(gpt2, "text-generation")
    greedy = {"do_sample": False, "max_new_tokens": 7}
    check_equal(ours(PROMPTS[0], **greedy), theirs(PROMPTS[0], **greedy))
    for options in (
        {**greedy, "return_full_text": False, "prefix": "covid "},
        {**greedy, "num_beams": 3, "num_return_sequences": 2, "repetition_penalty": 1.5, "min_new_tokens": 5},
    ):
        check_equal(ours(PROMPTS, **options), theirs(PROMPTS, **options), f"{options}")
    by_length = {"do_sample": False, "max_length": 24}
    check_equal(ours(PROMPTS, **by_length), [theirs(prompt, **by_length, max_new_tokens=None) for prompt in PROMPTS])


def test_chats_are_continued_as_by_transformers(gpt2):
    ours, theirs = both(gpt2, "text-generation")
    greedy = {"do_sample": False, "max_new_tokens": 5}
    chats = [
        CHAT,
        [{"role": "system", "content": "a dog"}, *CHAT],
        [*CHAT, {"role": "assistant", "content": "the dog"}],
    ]
    wanted = [theirs(chat, **greedy) for chat in chats]
    answers = ours(chats, **greedy)
    check_equal(answers, wanted)
    check_equal(ours(chats[0], **greedy), wanted[0])
    assert list(ours(iter(chats), **greedy)) == answers
    check_equal(ours(chats[0], **greedy, return_full_text=False), theirs(chats[0], **greedy, return_full_text=False))
    with pytest.raises(UserError, match="^input 0: message 1 has the role 'robot'"):
        ours([{"role": "robot", "content": "a"}])


def test_draws_are_the_defaults_and_depend_on_seed_and_place(gpt2):
    """256 tokens at a temperature of 0.7, as Transformers' pipeline has it, or less where the context ends."""
    ours, theirs = both(gpt2, "text-generation")
    assert dict(ours.task.defaults) == {
        name: getattr(theirs._default_generation_config, name)
        for name in ("max_new_tokens", "do_sample", "temperature")
    }
    answers = ours([PROMPTS[0]] * 6, max_new_tokens=8)
    assert len({answer["generated_text"] for [answer] in answers}) > 1
    assert ours([PROMPTS[0]] * 6, max_new_tokens=8, batch_size=2) == answers
    assert list(ours(iter([PROMPTS[0]] * 6), max_new_tokens=8, batch_size=2)) == answers
    assert ours([PROMPTS[0]] * 6, max_new_tokens=8, seed=1) != answers


def test_what_a_prompt_may_not_be(gpt2):
    ours, _ = both(gpt2, "text-generation", max_new_tokens=3)
    with pytest.raises(UserError, match=f"^input 1 has .* tokens and the model reads {CONTEXT}: shorten it, or give"):
        ours(["the cat", "the cat " * CONTEXT])
    with pytest.raises(UserError, match="has no option 'max_tokens'; did you mean max_new_tokens"):
        ours("a", max_tokens=3)
    with pytest.raises(UserError, match='^text-generation: max_new_tokens is "x": it must be a whole number'):
        ours("a", max_new_tokens="x")
    with pytest.raises(UserError, match="^input 0 is a int: give a text, or a list of messages"):
        ours(3)


ANSWERS = {"text2text-generation": "generated_text", "summarization": "summary_text", "translation": "translation_text",
           "translation_en_to_fr": "translation_text"}  # fmt: skip
T5_TASKS = {
    "summarization": {"prefix": "a dog ", "max_length": 9, "num_beams": 2, "no_repeat_ngram_size": 2},
    "translation_en_to_fr": {"prefix": "covid ", "max_length": 7, "num_beams": 3, "early_stopping": True},
}


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("kind", few(("bart", "t5", "marian"), "t5"))
def test_texts_are_answered_as_generate_does(tmp_path, kind):
    """Prefix and settings of config.json's task_specific_params, as Transformers 4's pipelines applied them."""
    cls = {"marian": "MTModel"}.get(kind, "ForConditionalGeneration")
    folder = save(tmp_path, kind, cls)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"task_specific_params": T5_TASKS}))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["the cat sat", "a dog ran to the cat"]
    for task, key in ANSWERS.items():
        ours = transformer.pipeline(task, model=folder)
        for options in ({"max_new_tokens": 6}, {"max_new_tokens": 6, "num_beams": 1}, {}):
            settings = {"num_beams": 4, "max_new_tokens": 256, **T5_TASKS.get(task, {}), **options}
            if "max_length" in settings and "max_new_tokens" not in options:
                settings.pop("max_new_tokens")
            if "max_new_tokens" in options:
                settings.pop("max_length", None)
            elif "max_length" not in settings:
                continue  # 256 tokens: long
            prefix, answers = settings.pop("prefix", ""), []
            for text in texts:
                encoded = tokenizer(prefix + text, return_tensors="pt")
                with torch.no_grad():
                    ids = model.generate(**encoded, do_sample=False, **settings)[0]
                answers.append({key: tokenizer.decode(ids, skip_special_tokens=True)})
            check_equal(ours(texts, **options), answers, f"{task} {options}")
            if not options or "num_beams" in options:
                check_equal(ours(texts[0], **options), answers[:1], f"{task} {options}")


def test_a_source_that_is_too_long(tmp_path):
    folder = save(tmp_path, "bart", "ForConditionalGeneration")
    ours = transformer.pipeline("summarization", model=folder, max_new_tokens=4)
    long = "the cat sat " * CONTEXT
    with pytest.raises(UserError, match=f"^input 0 has .* tokens and the model reads {CONTEXT}: shorten it, or give"):
        ours(long)
    assert ours(long, truncation=True)
    with pytest.raises(UserError, match="^input 1: a text is empty"):
        ours(["a", " "])
    with pytest.raises(UserError, match="needs a decoder with the head language_model"):
        transformer.pipeline("text-generation", model=folder)
