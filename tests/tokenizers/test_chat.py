"""Chat templates, against Transformers' `apply_chat_template` on the same folders."""

import json

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from tests.tokenizers.chat_templates import CHATML, KINDS
from transformer.errors import UserError
from transformer.interop import tokenizers as folders
from transformer.tokenizers.chat import TRAINING_DAY, ChatTemplate, check_messages
from transformer.tokenizers.kinds import load_tokenizer
from transformer.tokenizers.raw_bytes import ByteTokenizer

QUESTIONS = [{"role": "user", "content": "  What is <b>1+1</b>?\n"}]
CHAT = [
    *QUESTIONS,
    {"role": "assistant", "content": " Two, naïve ☃. "},
    {"role": "user", "content": "And\n\n2+2 </s>?"},
    {"role": "assistant", "content": "Four\n"},
]
SYSTEM = {"role": "system", "content": "Be brief. "}


def write_folder(folder, kind, *, in_config=False):
    """Writes the tokenizer of a kind of chat model: bytes, a few merges, its specials and its template."""
    source, specials, further, _ = KINDS[kind]
    letters = [*specials.values(), *further, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = [("Ġ", "T"), ("Ċ", "Ċ"), ("Ġ", "Ġ")]
    vocabulary = {piece: i for i, piece in enumerate([*letters, *map("".join, merges)])}
    built = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([*specials.values(), *further])
    folder.mkdir(parents=True)
    built.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **specials}
    if in_config:
        config["chat_template"] = source
    else:
        (folder / "chat_template.jinja").write_text(source)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def read(folder, tmp_path):
    files, notes = folders.read(folder)
    assert files, notes
    (tmp_path / "ours").mkdir()
    for name, content in files.items():
        (tmp_path / "ours" / name).write_bytes(content)
    return load_tokenizer(tmp_path / "ours")


@pytest.mark.parametrize("in_config", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_text_and_ids_are_transformers(kind, in_config, tmp_path):
    folder = write_folder(tmp_path / "hf", kind, in_config=in_config)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), ChatTemplate(read(folder, tmp_path))
    chats = [QUESTIONS, CHAT, CHAT[:3]]
    chats += [[SYSTEM, *chat] for chat in chats] if KINDS[kind].prompted else []
    for messages in chats:
        for prompt in (False, True):
            want = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            assert ours.render(messages, add_generation_prompt=prompt) == want
            ids = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
            assert ours.encode(messages, add_generation_prompt=prompt) == ids


def test_marked_answers_are_transformers_mask(tmp_path):
    folder = write_folder(tmp_path / "hf", "marked")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), ChatTemplate(read(folder, tmp_path))
    messages = [{**SYSTEM, "extra": {"a": "<é>"}}, {"role": "user", "content": "skip"}, *CHAT]
    want = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    have = ours.turns(messages)
    assert have.ids.tolist() == want["input_ids"]
    assert have.is_answer.astype(int).tolist() == want["assistant_masks"]
    assert sum(want["assistant_masks"]) > 10
    assert ours.end_of_turn() == ours.tokenizer.eos_id


ENDS = {
    "chatml": "<|im_end|>",
    "llama-2": " </s>",
    "llama-3": "<|eot_id|>",
    "mistral": "</s>",
    "gemma": "<end_of_turn>",
}


@pytest.mark.parametrize("kind", ENDS)
def test_answers_are_their_texts_and_what_ends_a_turn(kind, tmp_path):
    tokenizer = read(write_folder(tmp_path / "hf", kind), tmp_path)
    template = ChatTemplate(tokenizer)
    ids, is_answer = template.turns(CHAT)
    assert ids.tolist() == template.encode(CHAT, add_generation_prompt=False)
    library = tokenizers.Tokenizer.from_str((tmp_path / "ours" / "tokenizer.json").read_text())
    said = ids[is_answer].tolist()
    runs = "".join(str(library.id_to_token(i)) if template.is_special[i] else library.decode([i]) for i in said)
    # Bytes of a character that are tokens of their own are no text.
    stripped = kind in ("llama-2", "llama-3", "gemma")
    first, second = ("Two, na\ufffd\ufffdve \ufffd\ufffd\ufffd.", "Four")
    begin = " " if kind == "llama-2" else ""
    want = [f"{begin}{first}" if stripped else f" {first} ", f"{begin}{second}" if stripped else f"{second}\n"]
    assert runs == "".join(f"{text}{ENDS[kind]}" for text in want)
    assert template.end_of_turn() == tokenizer.special_id(ENDS[kind].strip())


def test_answers_come_with_transformers_generation_prompt(tmp_path):
    """What is learnt begins where a generation prompt ends, and all that a model would say is learnt."""
    template = ChatTemplate(read(write_folder(tmp_path / "hf", "chatml"), tmp_path))
    ids, is_answer = template.turns(CHAT)
    prompt = template.encode(CHAT[:3])
    assert ids[: len(prompt)].tolist() == prompt
    said = ids[len(prompt) :]
    assert is_answer[len(prompt) :].tolist() == [True] * (len(said) - 1) + [False]  # a line's end follows <|im_end|>


def test_templates_in_training_know_no_day(tmp_path):
    tokenizer = read(write_folder(tmp_path / "hf", "llama-3"), tmp_path)
    assert "26 Jul 2024" in ChatTemplate(tokenizer, TRAINING_DAY).render(QUESTIONS)


def test_the_default_of_several_templates_is_read(tmp_path):
    folder = write_folder(tmp_path / "hf", "chatml", in_config=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert read(folder, tmp_path).chat_template == CHATML
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.get_chat_template() == CHATML


def test_an_export_keeps_the_template(tmp_path):
    tokenizer = read(write_folder(tmp_path / "hf", "gemma"), tmp_path)
    tokenizer.save(tmp_path / "saved")
    files, _ = folders.export(tmp_path / "saved")
    (tmp_path / "out").mkdir()
    for name, content in files.items():
        (tmp_path / "out" / name).write_bytes(content)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.apply_chat_template(CHAT, return_dict=False) == ChatTemplate(tokenizer).turns(CHAT).ids.tolist()


def test_a_tokenizer_that_was_made_here_carries_a_template(tmp_path):
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ bos_token + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ bos_token }}{% endif %}"
    )
    tokenizer.save(tmp_path)
    template = ChatTemplate(load_tokenizer(tmp_path))
    ids, is_answer = template.turns([{"role": "user", "content": "a"}, {"role": "assistant", "content": "é"}])
    byte = lambda value: tokenizer.vocab_size - 256 + value  # noqa: E731
    assert ids.tolist() == [1, byte(97), 2, 1, byte(0xC3), byte(0xA9), 2]
    assert is_answer.tolist() == [False] * 4 + [True] * 3
    assert template.end_of_turn() == 2


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "no list"),
        ("hello", "no list"),
        (["hello"], "message 1 is no object"),
        ([{"content": "x"}], "role None"),
        ([{"role": "narrator", "content": "x"}], "role 'narrator'"),
        ([*QUESTIONS, {"role": "assistant", "content": " \n"}], "message 2 \\(assistant\\) has an empty content"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a content that is no text"),
        ([SYSTEM, {"role": "assistant", "content": "x"}], "a chat without a user"),
    ],
)
def test_conversations_that_are_none_are_refused(messages, said):
    with pytest.raises(UserError, match=f"^chats.jsonl, line 3: .*{said}"):
        check_messages(messages, "chats.jsonl, line 3")


def test_bad_templates_are_refused():
    def of(source):
        tokenizer = ByteTokenizer()
        tokenizer.chat_template = source
        return ChatTemplate(tokenizer)

    with pytest.raises(UserError, match="no chat template"):
        ChatTemplate(ByteTokenizer())
    with pytest.raises(UserError, match="is not Jinja: .*endfor"):
        of("{% for m in messages %}")
    with pytest.raises(UserError, match="refuses the conversation: no thanks"):
        of("{{ raise_exception('no thanks') }}").render(QUESTIONS)
    with pytest.raises(UserError, match="refuses the conversation"):
        of("{{ messages.__class__.__mro__ }}").render(QUESTIONS)
    with pytest.raises(UserError, match="so that it is not found again"):
        of("{% for m in messages %}{{ m.content[:2] }}{% endfor %}").turns(CHAT)
    with pytest.raises(UserError, match="so that it is not found again"):
        of("{% for m in messages %}{{ m.content | length }}{{ m.content }}{% endfor %}").turns(CHAT)
