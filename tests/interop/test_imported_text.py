"""Text from an imported folder, whole: it begins, ends and is spelled as by Transformers' tokenizer and `generate`."""

import json

import pytest
import torch
import transformers

import train
from tests.exhaustive import few
from tools import convert, generate
from transformer.errors import UserError
from transformer.inference.restored import restore
from transformer.inference.text_generator import TextGenerator

from . import tokenizer_folders as made
from .tokenizer_folders import GPT2, byte_pairs

PROMPTS = ["the cat", "", "<|im_start|>the 19 cats"]
NEW = 12
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.6}
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"]
FOLDERS = {
    "gpt2": (
        transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.6),
        byte_pairs(GPT2),
    ),
    "qwen2": (transformers.Qwen2Config(**SMALL), byte_pairs(CHAT)),
    "llama": (
        transformers.LlamaConfig(**SMALL),
        {
            "tokenizer.model": made.llama_model(),
            "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
        },
    ),
    "t5": (
        transformers.T5Config(
            d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2, decoder_start_token_id=0,
            initializer_factor=3.0,
        ),
        {"spiece.model": made.t5_model(), "tokenizer_config.json": {"extra_ids": 0}},
    ),
}  # fmt: skip


def folder_of(kind, path):
    """A folder with random weights, and Transformers' model and tokenizer of it; no file names an end."""
    config, files = FOLDERS[kind]
    made.write(path, {"config.json": {"model_type": config.model_type}, **files})
    tokenizer = made.theirs(path)
    config = type(config)(**{**config.to_dict(), "vocab_size": len(tokenizer), "tie_word_embeddings": kind != "llama"})
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        setattr(config, name, None)
    torch.manual_seed(3)
    classes = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = classes.from_config(config).eval()
    model.save_pretrained(path)
    (path / "generation_config.json").unlink()
    return model, tokenizer


def continued(model, tokenizer, text, **options):
    """What `generate` adds to a text, or answers: ids and their text."""
    rows = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    ids = rows["input_ids"].long()
    if ids.shape[1] == 0:
        ids = torch.tensor([[tokenizer.bos_token_id]])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0, **options
    )
    tokens = out[0, 1 if model.config.is_encoder_decoder else ids.shape[1] :].tolist()
    return tokens, tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("kind", "declared"),
    few(
        [
            ("gpt2", "config.json"),
            ("llama", "generation_config.json"),
            ("qwen2", "tokenizer_config.json"),
            ("t5", "tokenizer_config.json"),
        ],
        ("llama", "generation_config.json"),
    ),
)
def test_text_begins_and_ends_as_in_generate(kind, declared, tmp_path):
    """The ends, of which no list of names has one, are what some texts would come to in the middle."""
    path = tmp_path / "theirs"
    model, tokenizer = folder_of(kind, path)
    # Where no token begins a text, there is nothing that `generate` continues.
    prompts = [text for text in PROMPTS if text or tokenizer.bos_token_id is not None or tokenizer("")["input_ids"]]
    said = [continued(model, tokenizer, text)[0] for text in prompts]
    # An end that is found in a prompt would change what is read.
    unread = [[token for token in tokens if tokenizer.decode(token) not in "".join(PROMPTS)] for tokens in said]
    ends = list(dict.fromkeys(tokens[len(tokens) // 2] for tokens in unread if tokens))
    if declared == "tokenizer_config.json":
        ends = ends[:1]
        file = json.loads((path / declared).read_text()) if (path / declared).exists() else {}
        file["eos_token"] = tokenizer.convert_ids_to_tokens(ends[0])
        (path / declared).write_text(json.dumps(file))
        tokenizer = made.theirs(path)
        assert tokenizer.eos_token_id == ends[0]
    else:
        file = json.loads((path / declared).read_text()) if (path / declared).exists() else {}
        (path / declared).write_text(json.dumps({**file, "eos_token_id": ends}))
    convert.main(["import", str(path), str(tmp_path / "run")])
    generator = TextGenerator(restore(tmp_path / "run"))
    found = generator(prompts, max_new_tokens=NEW)
    for text, [ours] in zip(prompts, found, strict=True):
        tokens, expected = continued(model, tokenizer, text, eos_token_id=ends)
        if tokens[-1] in ends:
            expected = tokenizer.decode(tokens[:-1], skip_special_tokens=True)
        assert ours.text == expected
    assert any(len(continued(model, tokenizer, text, eos_token_id=ends)[0]) < NEW for text in prompts)


def test_ids_beyond_the_table_are_one_line_in_every_tool(tmp_path, capsys):
    """An added token with the id of a row that the embedding lacks."""
    path, run = tmp_path / "theirs", str(tmp_path / "run")
    _, tokenizer = folder_of("gpt2", path)
    (path / "added_tokens.json").write_text(json.dumps({"covid": len(tokenizer)}))
    convert.main(["import", str(path), run])
    line = f"{len(tokenizer) + 1} pieces and the model room for {len(tokenizer)} (id {len(tokenizer)} is 'covid')"
    assert line in capsys.readouterr().out
    with pytest.raises(UserError) as error:
        generate.main([run, "--prompt", "the cat"])
    assert line in str(error.value)
    assert "resize_token_embeddings" in str(error.value)
    shape = ["--model.vocab-size", str(len(tokenizer)), "--model.width", "16", "--model.num-layers", "2"]
    shape += ["--model.num-heads", "2", "--model.context-length", "64", "--train.seq-len", "64"]
    with pytest.raises(UserError, match=f"room for {len(tokenizer)} "):
        train.main(
            ["gpt-python", "--init.path", run, *shape, "--train.steps", "1", "--workdir", str(tmp_path / "tuned")]
        )
    assert not (tmp_path / "tuned" / "checkpoints").exists()
