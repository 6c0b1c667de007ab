"""The tokenizer of a folder, whatever files say what of it: its ids are AutoTokenizer's, or it is left out by name."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.data.test_long_text import AWKWARD, SMALL, TEXTS, encoded, in_blocks, joined
from transformer.interop import tokenizers

from . import tokenizer_folders as made
from .tokenizer_folders import BERT, GPT2, ROBERTA, bert, byte_pairs, config, gpt1

FULLWIDTH_END = "<\uff5cend\u2581of\u2581sentence\uff5c>"
FULLWIDTH_BEGIN = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
SENTINELS = [f"<extra_id_{i}>" for i in range(100)]
MASK = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}


def added(start: int, *tokens: str, special: bool = False) -> dict[str, Any]:
    """An added_tokens_decoder."""
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": special}
    return {"added_tokens_decoder": {str(start + i): {"content": token, **flags} for i, token in enumerate(tokens)}}


def tokenizer_config(**options: Any) -> made.Files:
    return {"tokenizer_config.json": options}


END = len(BERT)
ROBERTAS = {**config("roberta"), **byte_pairs(ROBERTA)}
GPT2S = {**config("gpt2"), **byte_pairs(GPT2)}
QWENS = {**config("qwen2"), **byte_pairs(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])}
T5S = {**config("t5"), "spiece.model": made.t5_model()}
ALBERTS = {**config("albert"), "spiece.model": made.albert_model()}
LLAMAS = {**config("llama"), "tokenizer.model": made.llama_model()}
LLAMA = {"tokenizer_class": "LlamaTokenizer"}
PAD_340 = {"added_tokens.json": {"[PAD]": 340}}


@functools.cache
def json_of(kind: str) -> str:
    """The tokenizer.json that Transformers makes of old files."""
    old = {
        "bert": bert(),
        "cased": bert(do_lower_case=False),
        "bert, IMG": {**bert(), "added_tokens.json": {"IMG": END}},
        "roberta": ROBERTAS,
        "gpt2": GPT2S,
        "gpt2, begin": {**GPT2S, **tokenizer_config(add_bos_token=True)},
        "qwen2": QWENS,
        "t5": T5S,
        "albert": ALBERTS,
        "llama": {**LLAMAS, **tokenizer_config(**LLAMA, add_bos_token=True)},
    }
    with tempfile.TemporaryDirectory() as folder:
        return made.as_json(Path(folder), old[kind])["tokenizer.json"]


def whole(model_type: str, kind: str, **files: Any) -> made.Files:
    """A folder with a tokenizer.json, and side files."""
    return {**config(model_type), "tokenizer.json": json_of(kind), **files}


FOLDERS: dict[str, Any] = {
    # vocab.txt
    "bert": bert,
    "bert, cased": lambda: bert(do_lower_case=False),
    "bert, accents kept": lambda: bert(strip_accents=False),
    "bert, cased without accents": lambda: bert(do_lower_case=False, strip_accents=True),
    "bert, Chinese as words": lambda: bert(tokenize_chinese_chars=False),
    "bert, options without effect": lambda: bert(do_basic_tokenize=False, never_split=["covid"]),
    "bert, added_tokens_decoder": lambda: bert(**added(END, "covids", "<x>")),
    "bert, added_tokens_decoder, special": lambda: bert(**added(END, "covids", "<x>", special=True)),
    "bert, added_tokens.json": lambda: {**bert(), "added_tokens.json": {"covids": END, "IMG": END + 1}},
    "bert, added special": lambda: {
        **bert(additional_special_tokens=["IMG"]),
        "added_tokens.json": {"covids": END, "IMG": END + 1},
    },
    "bert, special_tokens_map.json": lambda: {
        **bert(),
        "special_tokens_map.json": {"cls_token": "the", "additional_special_tokens": ["IMG"], "mask_token": MASK},
    },
    "bert, of two files the decoder wins": lambda: {
        **bert(**added(END, "covids")),
        "special_tokens_map.json": {"cls_token": "the"},
        "added_tokens.json": {"IMG": END},
    },
    "bert, a token with a name": lambda: bert(image_token="IMG", extra_special_tokens={"video_token": "<x>"}),
    "bert, ends": lambda: bert(eos_token="<EOS>", bos_token="[BOS]"),
    "bert, no padding": lambda: bert(pad_token=None),
    "bert, specials are text": lambda: bert(split_special_tokens=True),
    "distilbert": lambda: bert("distilbert", tokenizer_class="DistilBertTokenizer"),
    # tokenizer.json
    "bert, tokenizer.json": lambda: whole("bert", "bert"),
    "bert, options over tokenizer.json": lambda: whole("bert", "cased"),
    "bert, options as tokenizer.json": lambda: whole("bert", "cased", **tokenizer_config(do_lower_case=False)),
    "bert, tokenizer.json alone": lambda: whole(
        "bert", "cased", **tokenizer_config(tokenizer_class="PreTrainedTokenizerFast")
    ),
    "bert, added beside tokenizer.json": lambda: whole("bert", "bert", **{"added_tokens.json": {"IMG": END}}),
    "bert, added in tokenizer.json": lambda: whole("bert", "bert, IMG"),
    "bert, added in two files": lambda: whole("bert", "bert, IMG", **tokenizer_config(**added(END, "covids"))),
    # vocab.json and merges.txt
    "roberta": lambda: ROBERTAS,
    "roberta, space before": lambda: {**ROBERTAS, **tokenizer_config(add_prefix_space=True)},
    "roberta, mask": lambda: {**ROBERTAS, "special_tokens_map.json": {"mask_token": MASK}},
    "roberta, tokenizer.json": lambda: whole("roberta", "roberta"),
    "roberta, space over tokenizer.json": lambda: whole(
        "roberta", "roberta", **tokenizer_config(add_prefix_space=True)
    ),
    "bart": lambda: {**ROBERTAS, **config("bart"), **tokenizer_config(tokenizer_class="BartTokenizer")},
    "gpt2": lambda: GPT2S,
    "gpt2, space before": lambda: {**GPT2S, **tokenizer_config(add_prefix_space=True)},
    "gpt2, begin and end": lambda: {**GPT2S, **tokenizer_config(add_bos_token=True, add_eos_token=True)},
    "gpt2, padding": lambda: {**GPT2S, "special_tokens_map.json": {"pad_token": "[PAD]"}},
    "gpt2, ends": lambda: {**GPT2S, **tokenizer_config(eos_token="<EOS>", bos_token="<BOS>", mask_token="<MASK>")},
    "gpt2, template": lambda: whole("gpt2", "gpt2, begin"),
    "gpt2, no begin over a template": lambda: whole("gpt2", "gpt2", **tokenizer_config(add_bos_token=True)),
    "gpt_neo": lambda: {**GPT2S, **config("gpt_neo"), **tokenizer_config(tokenizer_class="GPT2Tokenizer")},
    "openai-gpt": lambda: {**gpt1(), **tokenizer_config(eos_token="<unk>", do_lower_case=False)},
    "qwen2": lambda: QWENS,
    "qwen2, ends": lambda: {
        **QWENS,
        **tokenizer_config(
            **added(0, "<|endoftext|>", "<|im_start|>", "<|im_end|>", special=True), eos_token="<|im_end|>",
            bos_token=None, tokenizer_class="Qwen2Tokenizer",
        ),
    },
    "qwen2, another class": lambda: whole(
        "qwen2", "qwen2", **tokenizer_config(tokenizer_class="PreTrainedTokenizerFast", eos_token="<|im_end|>")
    ),
    "qwen3": lambda: {**QWENS, **config("qwen3")},
    # SentencePiece
    "t5": lambda: {**T5S, **tokenizer_config(extra_ids=100)},
    "t5, ten sentinels": lambda: {**T5S, **tokenizer_config(extra_ids=10)},
    "t5, no sentinels": lambda: {**T5S, **tokenizer_config(extra_ids=0)},
    "t5, sentinels named": lambda: {**T5S, **tokenizer_config(extra_ids=100, additional_special_tokens=SENTINELS)},
    "t5, sentinels in a map": lambda: {**T5S, "special_tokens_map.json": {"additional_special_tokens": SENTINELS}},
    "t5, added": lambda: {**T5S, "added_tokens.json": {"covids": 139}},
    "t5, tokenizer.json": lambda: whole("t5", "t5"),
    "t5, tokenizer.model": lambda: {**config("t5"), "tokenizer.model": made.t5_model()},
    "mt5": lambda: {**T5S, **config("mt5"), **tokenizer_config(tokenizer_class="T5Tokenizer", extra_ids=0)},
    "albert": lambda: ALBERTS,
    "albert, cased": lambda: {**ALBERTS, **tokenizer_config(do_lower_case=False, keep_accents=True)},
    "albert, added": lambda: {**ALBERTS, "added_tokens.json": {"covids": 41}},
    "albert, tokenizer.json": lambda: whole("albert", "albert"),
    "llama, no class": lambda: LLAMAS,
    "llama, no class, begin": lambda: {**LLAMAS, **tokenizer_config(add_bos_token=True)},
    "llama": lambda: {**LLAMAS, **tokenizer_config(**LLAMA, add_bos_token=True, add_eos_token=True)},
    "llama, legacy": lambda: {**LLAMAS, **tokenizer_config(**LLAMA, add_bos_token=True, legacy=True)},
    "llama, no space before": lambda: {**LLAMAS, **tokenizer_config(**LLAMA, add_prefix_space=False)},
    "llama, padding": lambda: {**LLAMAS, **tokenizer_config(**LLAMA, pad_token="[PAD]"), **PAD_340},
    "llama, renamed": lambda: {**LLAMAS, **tokenizer_config(**added(1, "<begin>", special=True))},
    "llama, tokenizer.json": lambda: whole("llama", "llama", **tokenizer_config(**LLAMA, legacy=False)),
    "llama, legacy over tokenizer.json": lambda: whole("llama", "llama", **tokenizer_config(**LLAMA, legacy=True)),
    "llama of unigrams": lambda: {**config("llama"), "tokenizer.model": made.t5_model()},
    "llama 3": lambda: whole("llama", "gpt2, begin", **tokenizer_config(**LLAMA, eos_token="<|eot_id|>")),
    "mistral": lambda: {**LLAMAS, **config("mistral"), **tokenizer_config(**LLAMA, add_bos_token=True)},
    "deepseek": lambda: {
        **config("llama"),
        "tokenizer.json": made.word_level(
            ["<unk>", "the", "cat", FULLWIDTH_BEGIN, FULLWIDTH_END], [FULLWIDTH_BEGIN, FULLWIDTH_END],
            f"{FULLWIDTH_BEGIN} $A",
        ),
        **tokenizer_config(eos_token=FULLWIDTH_END, bos_token=FULLWIDTH_BEGIN),
    },
    # Marian
    "marian": made.marian,
    "marian, added": lambda: {**made.marian(), "added_tokens.json": {"covid": 90, "Zürich": 91}},
    "marian, specials": lambda: {
        **made.marian(),
        **tokenizer_config(source_lang="en", target_lang="fr", **added(90, "IMG", special=True)),
    },
    "marian, padding": lambda: {
        **made.marian(),
        "special_tokens_map.json": {"pad_token": "[PAD]", "mask_token": "<M>"},
    },
}  # fmt: skip

FRAGMENTS = [
    *("the", " cat", "The", "CAT", "covid", "covids", "19", "naïve", "Zürich", "e\u0301", "日本", "🙂", "\n", "\t"),
    *("  ", "[MASK]", "<mask>", "</s>", "<s>", "[CLS]", "<unk>", "<extra_id_0>", "<extra_id_99>", ">>fr<<", "IMG"),
    *("<x>", " ", "<|im_end|>", "<|endoftext|>", "[PAD]", "<EOS>", "\u2581", "\ufb01", "\u0130", "``"),
    *("\ufeff", FULLWIDTH_END),
]  # fmt: skip
WRITTEN = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=12).map("".join)
TELLING = [
    "The cat sat; the CAT ran to the naïve dog.", "", " ", "  Zürich  日本 é", "covid 19 covids IMG<x>",
    "<s>cat</s><unk>", "[MASK] <mask> the <extra_id_0>cat<extra_id_99>", ">>fr<< the cat",
    "🙂 the\n\tcat e\u0301<|im_end|>",
    "thecovids",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_autotokenizers(name, tmp_path):
    folder = made.write(tmp_path, FOLDERS[name]())
    theirs, (ours, _) = made.theirs(folder), made.ours(folder)

    def agree(text: str) -> None:
        expected = theirs(text)["input_ids"]
        assert ours.encode_framed(text) == expected
        if theirs.is_fast:
            assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=True)
            plain = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            assert ours.encode(text) == plain == ours.encode_batch([text])[0].tolist()

    @settings(max_examples=25, deadline=None)
    @given(WRITTEN)
    def agrees(text):
        agree(text)

    for text in TELLING:
        agree(text)
    agrees()
    begin, end = ours.template()
    assert [*begin, *end] == theirs("")["input_ids"]
    assert ours.vocab_size == 1 + max(theirs.get_vocab().values())


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("name", FOLDERS)
def test_special_ids_are_the_declared_ones(name, tmp_path):
    folder = made.write(tmp_path, FOLDERS[name]())
    theirs, (ours, _) = made.theirs(folder), made.ours(folder)
    roles = {
        "eos_id": ("eos_token_id", "sep_token_id"),
        "bos_id": ("bos_token_id", "cls_token_id"),
        "pad_id": ("pad_token_id",),
    }
    for role, names in roles.items():
        declared = next((found for name in names if (found := getattr(theirs, name)) is not None), None)
        assert declared is None or getattr(ours, role) == declared
    if theirs.mask_token_id is not None:
        assert ours.special_id(theirs.mask_token if name.startswith("marian") else "[MASK]") == theirs.mask_token_id


def test_ends_that_no_list_of_names_has():
    for end in ("<EOS>", "[EOS]", FULLWIDTH_END, "<|eot_id|>", "<|im_end|>", "a made-up end"):
        files = {**GPT2S, **tokenizer_config(eos_token=end)}
        with tempfile.TemporaryDirectory() as folder:
            ours, _ = made.ours(made.write(Path(folder), files))
        assert ours.name_of(ours.eos_id) == end


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (gpt1(), "no end-of-sequence token"),
        (bert(auto_map={"AutoTokenizer": ["code.Mine", None]}), "auto_map names code of the folder's own"),
        (bert(tokenizer_class="BertJapaneseTokenizer"), "BertJapaneseTokenizer is not supported"),
        (bert(cls_token={"content": "[CLS]"}), "a token is not declared as Transformers reads it"),
        (bert(added_tokens_decoder={"1": "x"}), "a token is not declared as Transformers reads it"),
        (bert(extra_special_tokens="IMG"), "a token is not declared"),
        ({**bert(), "tokenizer_config.json": "{"}, "tokenizer_config.json: not JSON"),
        ({**bert(), "added_tokens.json": "[]"}, "added_tokens.json: not a JSON object"),
        ({**bert(), **config("llama")}, "needs tokenizer.json or tokenizer.model"),
        ({**T5S, **config("mt5"), **tokenizer_config(tokenizer_class="MT5Tokenizer")}, "MT5Tokenizer is not supported"),
        (
            whole("t5", "t5", **{"special_tokens_map.json": {"additional_special_tokens": SENTINELS[:9]}}),
            "extra_ids is 100 and 9 sentinels are declared",
        ),
        ({**config("llama"), "tokenizer.model": b"no model"}, "is not a SentencePiece model"),
        (
            {**config("llama"), "tokenizer.model": made.t5_model(), "added_tokens.json": {"covid": 39}},
            "reads no added_tokens.json beside a unigram tokenizer.model",
        ),
        ({**config("gpt2"), "vocab.json": "{}"}, "a GPT2Tokenizer needs tokenizer.json or merges.txt"),
        ({**config("t5"), "tokenizer.json": json_of("bert")}, "no T5Tokenizer can be made of its files"),
        ({**made.marian(), **tokenizer_config(separate_vocabs=True)}, "separate_vocabs true is not supported"),
        ({**made.marian(), **tokenizer_config(sp_model_kwargs={"alpha": 1})}, "sp_model_kwargs"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_left_out_by_name(files, message, tmp_path):
    kept, said = tokenizers.read(made.write(tmp_path, files))
    assert not kept
    assert len(said) == 1
    assert said[0].startswith("left out: ")
    assert message in said[0]
    assert "\n" not in said[0]


def test_a_stale_fact_is_said():
    for files, message in (
        (whole("bert", "cased"), "normalizer: as Transformers' BertTokenizer has it by the other files"),
        (bert(**added(END + 5, "covids")), f"gives 'covids' the id {END + 5}; Transformers numbers it {END}"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            _, said = made.ours(made.write(Path(folder), files))
        assert any(message in line for line in said), said


@pytest.mark.parametrize(
    "name",
    [
        "bert, accents kept",
        "bert, added_tokens.json",
        "t5",
        "albert, cased",
        "llama",
        "llama, no class",
        "marian, added",
    ],
)
def test_long_texts_have_the_ids_of_the_whole(name, tmp_path):
    tokenizer, _ = made.ours(made.write(tmp_path, FOLDERS[name]()))

    @settings(max_examples=20, deadline=None)
    @given(st.lists(TEXTS | WRITTEN, max_size=3), st.integers(1, 300))
    @example([AWKWARD], 50)
    @example([">>fr<< covid the cat " * 40, "covids" * 60], 77)
    def holds(texts, size):
        parts = encoded([piece for text in texts for piece in in_blocks(text, size)], tokenizer, SMALL)
        assert joined(parts) == [(tokenizer.encode(text), text) for text in texts if text]

    holds()
