"""Folders of tiny models with random weights, as Transformers saves them, with tokenizers; and answers compared."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import transformer
from tests.interop import tokenizer_folders
from tests.interop.parity import randomise

CONTEXT = 128
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXTS = [
    "the cat sat",
    "a dog ran to the cat; 19 Zürich!",
    "covid",
    "naïve 日本 dogs ran to THE CAT, the dog  sat . the cat ran",
    "unheard words, é!",
]

_TOKENIZERS = {
    "bert": {**tokenizer_folders.bert(), "tokenizer_config.json": {"model_max_length": CONTEXT}},
    "roberta": {
        **tokenizer_folders.byte_pairs(tokenizer_folders.ROBERTA),
        "tokenizer_config.json": {"model_max_length": CONTEXT, "tokenizer_class": "RobertaTokenizer"},
    },
    "gpt2": {
        **tokenizer_folders.byte_pairs(tokenizer_folders.GPT2),
        "tokenizer_config.json": {"model_max_length": CONTEXT, "tokenizer_class": "GPT2Tokenizer"},
    },
    "t5": {"spiece.model": tokenizer_folders.t5_model()},
    "marian": tokenizer_folders.marian(),
}
_TOKENIZERS["distilbert"], _TOKENIZERS["bart"] = _TOKENIZERS["bert"], _TOKENIZERS["roberta"]


@functools.cache
def _tokenizer(kind: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        files = {**tokenizer_folders.config(kind), **_TOKENIZERS[kind]}
        return tokenizer_folders.theirs(tokenizer_folders.write(Path(folder), files))


def _config(kind: str, **fields: Any) -> Any:
    """Returns the config.json of a tiny model."""
    size = len(_tokenizer(kind))
    if kind in ("bert", "roberta"):
        context = CONTEXT + 2 * (kind == "roberta")
        sizes = {**_SIZES, "vocab_size": size, "max_position_embeddings": context}
        ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} if kind == "roberta" else {}
        return transformers.AutoConfig.for_model(kind, **sizes, **ids, **fields)
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": CONTEXT}
        return transformers.DistilBertConfig(vocab_size=size, **sizes, **fields)
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "vocab_size": size}
        return transformers.GPT2Config(**sizes, pad_token_id=0, bos_token_id=0, eos_token_id=0, **fields)
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": size}
        return transformers.T5Config(**sizes, decoder_start_token_id=0, **fields)
    ids = {"decoder_start_token_id": 2}
    if kind == "marian":
        pad = size - 1
        ids = {"pad_token_id": pad, "decoder_start_token_id": pad, "eos_token_id": 0, "bos_token_id": None}
        ids |= {"forced_eos_token_id": 0, "scale_embedding": True}
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder")
             for name, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 48}.items()}  # fmt: skip
    sizes = {"d_model": 32, "vocab_size": size, "max_position_embeddings": CONTEXT}
    return transformers.AutoConfig.for_model(kind, **sizes, **sides, **ids, **fields)


def save(folder: Path, kind: str, cls: str, **fields: Any) -> Path:
    """Saves a model of a class, such as ForSequenceClassification, with its tokenizer; returns the folder."""
    names = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "gpt2": "GPT2", "t5": "T5",
             "bart": "Bart", "marian": "Marian"}  # fmt: skip
    torch.manual_seed(0)
    labels = fields.pop("labels", None)
    if labels:
        fields |= {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    model = getattr(transformers, names[kind] + cls)(_config(kind, **fields)).eval()
    randomise(model)
    model.save_pretrained(folder)
    if kind == "marian":
        tokenizer_folders.write(
            folder, {name: content for name, content in _TOKENIZERS[kind].items() if "config" not in name}
        )
    else:
        _tokenizer(kind).save_pretrained(folder)
    return folder


def both(folder: Path, task: str, **options: Any) -> tuple[Any, Any]:
    """Returns our pipeline of a folder and Transformers'."""
    theirs = transformers.pipeline(task, model=str(folder), device=-1)
    return transformer.pipeline(task, model=folder, **options), theirs


def check_equal(ours: Any, theirs: Any, place: str = "", tolerance: float = 1e-4) -> None:
    """Asserts the same structure, keys in the same order, and numbers to a tolerance."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict), place
        assert list(ours) == list(theirs), place
        for name in theirs:
            check_equal(ours[name], theirs[name], f"{place}.{name}", tolerance)
    elif isinstance(theirs, list):
        assert isinstance(ours, list), place
        assert len(ours) == len(theirs), place
        for number, (own, their) in enumerate(zip(ours, theirs, strict=True)):
            check_equal(own, their, f"{place}[{number}]", tolerance)
    elif isinstance(theirs, float | np.floating):
        assert isinstance(ours, float), f"{place}: {type(ours)}"
        assert abs(ours - float(theirs)) <= tolerance, f"{place}: {ours} {theirs}"
    else:
        assert type(ours) is type(theirs), f"{place}: {type(ours)}, {type(theirs)}"
        assert ours == theirs, place
