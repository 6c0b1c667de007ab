"""An imported model generates as its folder declares: Transformers' own reading of the same folder is the truth."""

import json
import logging

import pytest
import torch
import transformers
from etils import epath

from tests.tiny_models import TINY
from tools import convert, generate
from transformer import command
from transformer.errors import UserError
from transformer.inference.beam_search import BeamSearch
from transformer.inference.restored import Restored, restore
from transformer.inference.sampling import Sampling
from transformer.inference.settings import Settings
from transformer.inference.text_generator import TextGenerator
from transformer.layers.execution import Execution

SUMMARY = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 3, "min_length": 5}
"""Settings in the config.json of BART for summaries, which has no generation_config.json."""
CASES = [
    ({"eos_token_id": [4, 5]}, None),
    ({"eos_token_id": 4}, {"eos_token_id": [5, 6]}),
    ({"eos_token_id": 4, "no_repeat_ngram_size": 3}, {"max_length": 12}),
    ({"eos_token_id": 4, **SUMMARY, "max_length": 20, "forced_bos_token_id": 0}, None),
    ({"force_bos_token_to_be_generated": True, "bos_token_id": 3}, None),
    ({}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9}),
    ({"num_beams": 2}, {"suppress_tokens": [1, 2], "bad_words_ids": [[3]], "repetition_penalty": 1.2}),
]
APPLIED = [
    "no_repeat_ngram_size", "repetition_penalty", "forced_bos_token_id", "bad_words_ids", "suppress_tokens",
]  # fmt: skip


@pytest.fixture(autouse=True)
def this_process(monkeypatch):
    """The commands run here, with the tests' own JAX settings."""
    monkeypatch.setattr(command, "start_jax", lambda **_: None)


@pytest.fixture
def saved(tmp_path):
    """A tiny random GPT-2 with a tokenizer of one token a word."""
    import tokenizers
    from tokenizers import models, pre_tokenizers

    config = transformers.GPT2Config(
        vocab_size=12, n_embd=8, n_layer=1, n_head=2, n_positions=32, bos_token_id=None, eos_token_id=None
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "hf")
    words = {"<|endoftext|>": 0, "<unk>": 1} | {f"w{number}": number for number in range(2, 12)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "hf" / "tokenizer.json"))
    return tmp_path / "hf"


def declare(folder, in_config, in_file) -> None:
    """Puts settings into config.json, and into generation_config.json, or takes that away."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | in_config))
    file = folder / "generation_config.json"
    file.unlink(missing_ok=True)
    if in_file is not None:
        file.write_text(json.dumps(in_file))


@pytest.mark.parametrize(("in_config", "in_file"), CASES)
def test_the_same_file_decides_as_in_transformers(saved, in_config, in_file):
    declare(saved, in_config, in_file)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(saved).generation_config
    defaults = transformers.GenerationConfig._get_default_generation_params()
    value = lambda name: defaults.get(name) if getattr(theirs, name) is None else getattr(theirs, name)  # noqa: E731
    ours = Settings.read(saved)
    eos = value("eos_token_id")
    assert ours.stop_ids == (() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos))
    for name in APPLIED:
        plain = json.loads(json.dumps(getattr(ours.rules, name)))  # tuples as lists
        assert plain == ([] if value(name) is None and plain == [] else value(name)), name
    assert (ours.max_length, ours.max_new_tokens) == (theirs.max_length, theirs.max_new_tokens)
    assert ours.min_length == value("min_length")
    if value("num_beams") > 1:
        assert ours.how == BeamSearch(value("num_beams"), value("length_penalty"), value("early_stopping"))
    elif value("do_sample"):
        assert ours.how == Sampling(value("temperature"), value("top_k"), value("top_p"))
    else:
        assert ours.how == Sampling(temperature=0.0)


@pytest.mark.parametrize(
    "in_file",
    [
        {"eos_token_id": [4, 5], "max_length": 14, "no_repeat_ngram_size": 2},
        {"eos_token_id": 4, "num_beams": 3, "max_new_tokens": 9, "min_new_tokens": 4, "forced_eos_token_id": 4},
    ],
)
def test_an_imported_folder_generates_as_generate_does_without_arguments(saved, tmp_path, in_file):
    declare(saved, {}, in_file)
    convert.main(["import", str(saved), str(tmp_path / "run")])
    generator = TextGenerator(restore(tmp_path / "run"))
    texts = ["w2 w3", "w9 w9 w2 w5"]
    model = transformers.GPT2LMHeadModel.from_pretrained(saved)
    for text, [found] in zip(texts, generator(texts), strict=True):
        row = torch.tensor([generator.encode(text)])
        said = model.generate(row, attention_mask=torch.ones_like(row), pad_token_id=0)[0, row.shape[1] :].tolist()
        ends = [said.index(stop) for stop in generator.settings.stop_ids if stop in said]
        assert found.text == generator.decode(said[: min(ends, default=len(said))])
    convert.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    name = "generation_config.json"
    assert (tmp_path / "out" / name).read_bytes() == (saved / name).read_bytes()


def test_what_is_not_applied_is_named(saved, tmp_path, caplog):
    declare(saved, {}, {"guidance_scale": 1.5, "pad_token_id": 0, "typical_p": 0.9, "of_the_future": 3})
    convert.main(["import", str(saved), str(tmp_path / "run")])
    with caplog.at_level(logging.WARNING):
        TextGenerator(restore(tmp_path / "run"))
    assert caplog.messages == ["generation_config.json: not applied: guidance_scale 1.5; of_the_future 3"]
    declare(saved, {}, {"typical_p": 0.9, "do_sample": True, "num_beams": 2})
    assert [words.split()[0] for words in Settings.read(saved).not_applied] == ["typical_p", "do_sample"]


@pytest.mark.parametrize(
    ("in_file", "message"),
    [
        ({"eos_token_id": "</s>"}, 'eos_token_id is "</s>": it must be a token id or a list of them'),
        ({"repetition_penalty": -1.0}, "generation_config.json: repetition_penalty is -1.0: it must be above 0"),
        ({"no_repeat_ngram_size": "3"}, 'no_repeat_ngram_size is "3": it must be a whole number'),
        ({"early_stopping": "soon"}, "early_stopping"),
    ],
)
def test_impossible_settings_are_refused_at_import(saved, tmp_path, in_file, message):
    declare(saved, {}, in_file)
    with pytest.raises(UserError, match=message):
        convert.main(["import", str(saved), str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_flags_go_first(saved, tmp_path, capsys):
    declare(saved, {}, {"num_beams": 3, "length_penalty": 0.5, "eos_token_id": 4, "max_new_tokens": 3})
    convert.main(["import", str(saved), str(tmp_path / "run")])
    asked = lambda *flags: generate.Command(str(tmp_path / "run"), **dict(flags))  # noqa: E731
    settings = Settings.read(saved)
    assert generate.strategy(asked(), settings) == BeamSearch(3, 0.5)
    assert generate.strategy(asked(("beams", 2)), settings) == BeamSearch(2, 0.5)
    assert generate.strategy(asked(("temperature", 0.7)), settings) == Sampling(0.7)
    assert generate.rules(asked(("no_repeat_ngram_size", 2)), settings).no_repeat_ngram_size == 2
    capsys.readouterr()
    generate.main([str(tmp_path / "run"), "--prompt", "w2", "--stop", "w5"])
    assert "generation_config.json: beam search (beams 3" in capsys.readouterr().err
    with pytest.raises(UserError, match="greedy, every text would be the same"):
        generate.main([str(tmp_path / "run"), "--prompt", "w2", "--temperature", "0", "--num", "2"])


def test_a_draft_says_the_same(saved, tmp_path, capsys):
    run = str(tmp_path / "run")
    convert.main(["import", str(saved), run])
    said = []
    for flags in ([], ["--draft", run], ["--draft", run, "--draft-tokens", "2"]):
        capsys.readouterr()
        generate.main([run, "--prompt", "w2", "--temperature", "0", "--max-new-tokens", "9", *flags])
        said.append(capsys.readouterr().out)
    assert said == said[:1] * 3
    with pytest.raises(UserError, match="--draft proposes text and --mask asks for none"):
        generate.main([run, "--mask", "w2 <mask>", "--draft", run])


def test_a_speech_model_says_that_it_reads_no_text():
    config = TINY["whisper"]
    restored = Restored(config, config.build(Execution()), {}, Execution(), None, None, epath.Path("runs/heard"))
    with pytest.raises(UserError, match=r"runs/heard is a whisper model: it writes down sound and reads no text"):
        TextGenerator(restored)
