"""Small folders with tokenizer files of every kind, made by hand; and Transformers' AutoTokenizer on them."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import sentencepiece
import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from transformer.interop import tokenizers as folders
from transformer.tokenizers.kinds import load_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer

Files = dict[str, Any]
"""Name -> content: bytes, text, or what becomes JSON."""

WORDS = "the cat sat ran to a dog covid naive naïve Zürich 日 本 é ! . , ; 1 2 19 The CAT zurich 日本".split()  # noqa: SIM905
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"##{c}" for c in "abcdeïnrstvî本")]
LETTERS = [chr(i) for i in range(33, 127)]
LINES = ["the cat sat on the mat", "a dog ran after the cat; 19 Zürich!", "naïve dogs, THE END", "日本 is far"] * 8


def config(model_type: str, **fields: Any) -> Files:
    return {"config.json": {"model_type": model_type, **fields}}


def bert(model_type: str = "bert", **options: Any) -> Files:
    files = {**config(model_type), "vocab.txt": "\n".join(BERT) + "\n"}
    return {**files, "tokenizer_config.json": options} if options else files


def byte_pairs(specials: list[str]) -> Files:
    """vocab.json and merges.txt of bytes, as GPT-2, RoBERTa and Qwen2 have them."""
    return _merged(
        [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())], ["t h", "Ġ th", "th e", "Ã ¯", "1 9", "o g"]
    )


def gpt1() -> Files:
    """Words as characters, the last of each marked."""
    letters = ["<unk>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    return {**config("openai-gpt"), **_merged(letters, ["t h", "th e</w>", "c a", "ca t</w>"])}


def _merged(letters: list[str], merges: list[str]) -> Files:
    pieces = [*letters, *(pair.replace(" ", "") for pair in merges)]
    return {
        "vocab.json": {piece: i for i, piece in enumerate(pieces)},
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
    }


ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
GPT2 = ["<|endoftext|>"]


@functools.cache
def sentencepiece_model(**options: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.txt"
        path.write_text("\n".join(LINES))
        given = {"vocab_size": 70, "hard_vocab_limit": False, "minloglevel": 2, **options}
        sentencepiece.SentencePieceTrainer.train(input=str(path), model_prefix=f"{folder}/m", **given)
        return (Path(folder) / "m.model").read_bytes()


def t5_model() -> bytes:
    return sentencepiece_model(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def albert_model() -> bytes:
    return sentencepiece_model(
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols="[CLS],[SEP]", user_defined_symbols="[MASK]"
    )


def llama_model() -> bytes:
    return sentencepiece_model(
        model_type="bpe", byte_fallback=True, vocab_size=340, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=True,
    )  # fmt: skip


def marian() -> Files:
    model = sentencepiece_model()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(3, processor.get_piece_size())]
    names = ["</s>", "<unk>", ">>fr<<", ">>de<<", *pieces, "<pad>"]
    ids = {piece: i for i, piece in enumerate(names)}
    return {**config("marian"), "source.spm": model, "target.spm": model, "vocab.json": ids}


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))
    return folder


def theirs(folder: Path) -> Any:
    # SentencePiece's generated description of its files refuses an older protobuf: Transformers has one of its own.
    from transformers.utils import sentencepiece_model_pb2_new

    with mock.patch("transformers.convert_slow_tokenizer.import_protobuf", return_value=sentencepiece_model_pb2_new):
        return transformers.AutoTokenizer.from_pretrained(folder)


def ours(folder: Path, vocab_size: int | None = None) -> tuple[Tokenizer, list[str]]:
    """Returns the tokenizer as a checkpoint keeps it, and the notes about it."""
    files, said = folders.read(folder, vocab_size)
    assert files, said
    with tempfile.TemporaryDirectory() as kept:
        for name, content in files.items():
            (Path(kept) / name).write_bytes(content)
        return load_tokenizer(kept), said


def as_json(folder: Path, files: Files) -> Files:
    """The tokenizer.json that Transformers makes of a folder's old files."""
    made = theirs(write(folder, files))
    return {"tokenizer.json": made.backend_tokenizer.to_str()}


def word_level(names: list[str], specials: list[str], template: str | None = None) -> str:
    """A tokenizer.json of whole words, framed as the template says."""
    made = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=names[0]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    made.add_special_tokens([AddedToken(name, special=True) for name in specials])
    if template:
        ids = [(name, made.token_to_id(name)) for name in specials if name in template.split()]
        made.post_processor = processors.TemplateProcessing(single=template, pair=None, special_tokens=ids)
    return made.to_str()
