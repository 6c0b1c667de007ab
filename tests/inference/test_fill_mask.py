"""Filled masks equal those of Transformers' fill-mask pipeline; rows are framed as the model was trained."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
from etils import epath
from tokenizers import decoders, models, pre_tokenizers, processors

from tests.data.corpus import make_text
from tests.exhaustive import few
from tests.interop import parity
from transformer.checkpoint import save_params, to_json
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.inference.fill_mask import MaskFiller
from transformer.inference.restored import Restored, restore
from transformer.interop import convert
from transformer.interop.albert import ALBERT
from transformer.interop.bert import BERT
from transformer.interop.distilbert import DISTILBERT
from transformer.interop.roberta import ROBERTA
from transformer.interop.spanbert import SPANBERT
from transformer.layers.execution import Execution
from transformer.models import architecture_to_dict
from transformer.models.albert import AlbertConfig
from transformer.models.bert import BertConfig
from transformer.models.distilbert import DistilBertConfig
from transformer.models.gpt import GPTConfig
from transformer.models.roberta import RobertaConfig
from transformer.models.spanbert import SpanBertConfig
from transformer.objectives import MaskedLM
from transformer.objectives.objective import Setting
from transformer.parallel.mesh import MeshConfig
from transformer.tokenizers.huggingface import HuggingFaceTokenizer
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.tokenizers.sentencepiece import SentencePieceTokenizer
from transformer.tokenizers.sentencepiece_training import train
from transformer.tokenizers.vocabulary import Vocabulary
from transformer.training import loop
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "context_length": 48,
    "width": 16,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_width": 24,
}
FAMILIES = {
    "bert": (BERT, BertConfig(**SIZES, head="pretraining"), "word pieces"),
    "roberta": (ROBERTA, RobertaConfig(**SIZES), "byte pairs"),
    "albert": (ALBERT, AlbertConfig(**SIZES, embedding_width=8), "unigram"),
    "distilbert": (DISTILBERT, DistilBertConfig(**SIZES), "word pieces"),
    "spanbert": (SPANBERT, SpanBertConfig(**SIZES, head="masked_lm"), "word pieces"),
}
WORDS = ["the", "cat", "sat", "on", "a", "hat"]
TEXTS = ["the {} sat on the hat.", "{} cat sat", "the cat {} on {} hat", "a hat{} the {}.", "the {}"]


def tokenizer_of(kind: str) -> tokenizers.Tokenizer:
    """Tokenizers of a few pieces, made like those of BERT, RoBERTa and ALBERT."""
    if kind == "word pieces":
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##at", ".", "("]
        made = tokenizers.Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        made.add_special_tokens(names[:5])
        made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        return made
    if kind == "byte pairs":
        specials, letters = ["<s>", "<pad>", "</s>", "<unk>"], [*"thecasond.(", "Ġ"]
        merges = [("h", "e"), ("t", "he"), ("a", "t"), ("Ġ", "the"), ("c", "at"), ("Ġ", "cat"), ("s", "at")]
        names = [*specials, *dict.fromkeys(letters), *("".join(pair) for pair in merges)]
        made = tokenizers.Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, merges))
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        made.add_special_tokens([*specials, tokenizers.AddedToken("<mask>", lstrip=True, special=True)])
        made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
        return made
    specials = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    names = [*specials, *(f"▁{word}" for word in WORDS), "▁", "at", "s", ".", "("]
    made = tokenizers.Tokenizer(models.Unigram([(name, -1.0 - i / 8) for i, name in enumerate(names)], unk_id=1))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens([*specials[:4], tokenizers.AddedToken("[MASK]", lstrip=True, special=True)])
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return made


@dataclasses.dataclass(frozen=True)
class Both:
    ours: MaskFiller
    theirs: transformers.FillMaskPipeline
    mask: str


@pytest.fixture(scope="module", params=few(FAMILIES, "roberta"))
def both(request, tmp_path_factory):
    """A random checkpoint and its tokenizer.json, and Transformers' pipeline on the same, exported."""
    folder = tmp_path_factory.mktemp(request.param)
    family, config, kind = FAMILIES[request.param]
    made = tokenizer_of(kind)
    record = {"architecture.json": to_json(architecture_to_dict(config))}
    HuggingFaceTokenizer(made.to_str().encode(), kind).save(folder / "tokenizer")
    record |= {f"tokenizer/{file.name}": file.read_bytes() for file in (folder / "tokenizer").iterdir()}
    params = jax.tree.map(jnp.asarray, parity.make_pair(family, config).params)
    save_params(folder / "run" / "checkpoints" / "0", params, record)
    convert.export(folder / "run", folder / "hf")
    mask = "<mask>" if kind == "byte pairs" else "[MASK]"
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder / "hf")
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder / "hf")
    theirs = transformers.FillMaskPipeline(model=model, tokenizer=tokenizer, device=-1)
    return Both(MaskFiller(restore(folder / "run")), theirs, mask)


def test_guesses_are_transformers(both):
    texts = [text.replace("{}", both.mask) for text in TEXTS]
    ours = both.ours(texts, top_k=40)
    for text, masks in zip(texts, ours, strict=True):
        wanted = both.theirs(text, top_k=40)
        wanted = [wanted] if len(masks) == 1 else wanted  # without the list of masks, where there is one
        for guesses, expected in zip(masks, wanted, strict=True):
            assert [guess.token for guess in guesses] == [one["token"] for one in expected]
            np.testing.assert_allclose(
                [guess.probability for guess in guesses], [one["score"] for one in expected], atol=1e-5
            )
            if len(masks) == 1:  # their texts are decoded, with the spaces that their decoder puts
                have, want = [guess.text for guess in guesses], [one["sequence"] for one in expected]
                want = [text.removeprefix("##") for text in want]
                assert [text.replace(" ", "") for text in have] == [text.replace(" ", "") for text in want]


def filler(tokenizer, family="bert", objective=None, params=None) -> MaskFiller:
    config = FAMILIES[family][1]
    config = dataclasses.replace(config, vocab_size=max(config.vocab_size, tokenizer.vocab_size))
    return MaskFiller(
        Restored(config, config.build(Execution()), params, Execution(), tokenizer, objective, epath.Path("runs/mine"))
    )


def hugging_face(made: tokenizers.Tokenizer) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(made.to_str().encode(), "tokenizer.json")


@functools.cache
def unigram() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train("unigram", 600, [make_text(400)]), "unigram")


@pytest.fixture(scope="module")
def bert():
    family, config, kind = FAMILIES["bert"]
    params = jax.tree.map(jnp.asarray, parity.make_pair(family, config).params)
    return filler(hugging_face(tokenizer_of(kind)), params=params)


def test_padding_changes_nothing(bert):
    """A text is read alone, and in batches that are wider, with more masks, and filled up."""
    text, long = "the [MASK] sat on [MASK].", "the cat sat " * 12 + "on [MASK]"
    [alone] = bert([text], top_k=40)
    assert sum(guess.probability for guess in alone[0]) == pytest.approx(1, abs=1e-5)
    for batch_size in (2, 32):
        *_, last = bert([long, "[MASK] " * 9, text], top_k=40, batch_size=batch_size)
        for guesses, others in zip(alone, last, strict=True):
            assert [guess.token for guess in guesses] == [guess.token for guess in others]
            np.testing.assert_allclose(
                [guess.probability for guess in guesses], [guess.probability for guess in others], atol=1e-6
            )


def test_both_spellings_are_the_mask_and_other_specials_are_text(bert):
    row = bert.encode("the [MASK] [SEP] <mask>.")
    assert row.tokens == [2, 5, 4, 1, 1, 1, 4, 13, 3]  # "[", "SEP" and "]" are not known
    assert row.masks == [2, 6]
    [[masked]], [[named]] = bert(["the [MASK] sat"]), bert(["the <mask> sat"])
    assert masked == named


def test_filled_texts_keep_what_was_written(bert):
    """Spaces are not among word pieces: a word is set off from a word before it, and only from one."""
    [masks] = bert(["[MASK] (CAT)  [MASK], x[MASK] ([MASK]"], top_k=40)
    [first, second, third, fourth] = [{guess.piece: guess.text for guess in guesses} for guesses in masks]
    assert first[" hat"] == "hat (CAT)  [MASK], x[MASK] ([MASK]"
    assert second[" hat"] == "[MASK] (CAT)  hat, x[MASK] ([MASK]"
    assert third[" hat"] == "[MASK] (CAT)  [MASK], x hat ([MASK]"
    assert third["s"] == "[MASK] (CAT)  [MASK], xs ([MASK]"
    assert third[""] == "[MASK] (CAT)  [MASK], x ([MASK]"  # a special, or an id that no piece has
    assert fourth[" hat"] == "[MASK] (CAT)  [MASK], x[MASK] (hat"


def test_a_word_is_hidden_with_its_space():
    """A space before a mask belongs to the hidden word where pieces hold spaces, as in training; bytes do not."""
    made, text = unigram(), "fogu <mask> dime"
    mask = made.special_id("<mask>")
    assert filler(made).encode(text).tokens[1:-1] == [*made.encode("fogu"), mask, *made.encode(" dime")]
    of_bytes = ByteTokenizer()
    assert filler(of_bytes).encode(text).tokens[1:-1] == [*of_bytes.encode("fogu "), mask, *of_bytes.encode(" dime")]


def test_an_imported_row_has_the_template_of_its_tokenizer():
    made = tokenizer_of("unigram")
    made.add_special_tokens(["<s>", "</s>"])  # another begin and end than the template's
    assert filler(hugging_face(made), "albert").encode("[MASK]").tokens == [2, 4, 3]
    trained_here = filler(hugging_face(made), "roberta", MaskedLM())
    assert trained_here.encode("[MASK]").tokens == [made.token_to_id("<s>"), 4, made.token_to_id("</s>")]
    made = tokenizer_of("byte pairs")
    made.post_processor = processors.ByteLevel()  # as vocab.json with merges.txt are read: no template
    assert filler(hugging_face(made), "roberta").encode("<mask>").tokens == [0, made.token_to_id("<mask>"), 2]


@pytest.mark.parametrize("kind", ["unigram", "bytes"])
@pytest.mark.parametrize("sentence", ["none", "nsp"])
def test_rows_are_framed_as_in_training(kind, sentence):
    """A text is read as the objective's example of a document of this text, with its hidden tokens put back."""
    tokenizer = unigram() if kind == "unigram" else ByteTokenizer()
    vocabulary, text = Vocabulary.of(tokenizer), "fogu lame = 42\n"
    ids = np.array(tokenizer.encode(text), np.int32)
    objective = MaskedLM(sentence=sentence)
    record = {"tokens": ids, "segment_ids": np.ones_like(ids)}
    if sentence == "nsp":
        record |= {f"other_{name}": array for name, array in record.items()}
    setting = Setting(vocabulary, len(ids) + 3)
    example = objective.example(record, np.random.default_rng(0), setting)
    row = example["inputs"]["tokens"].copy()
    real = example["weights"] > 0
    row[example["inputs"]["masked_positions"][real]] = example["targets"][real]
    row = row[example["inputs"]["segment_ids"] > 0]

    family = "roberta" if sentence == "none" else "bert"
    read = filler(tokenizer, family, objective).encode(text + "<mask>").tokens
    if sentence == "none":
        assert read == [*row[:-1], vocabulary.mask, row[-1]]
    else:
        assert (read[0], read[-1]) == (row[0], row[-1]) == (vocabulary.cls, vocabulary.sep)
        assert read[1:-2] == ids.tolist()


def test_a_run_fills_in_what_it_was_trained_on(tmp_path):
    """Documents of one text that fill a row: a letter is known by its place, so rows must begin as in training."""
    text = "abcdefgh" * 3 + "abcd"
    (tmp_path / "text.jsonl").write_text(f'{{"text": "{text}"}}\n' * 64)
    model = RobertaConfig(
        vocab_size=ByteTokenizer.vocab_size, context_length=32, width=16, num_layers=1, num_heads=2, mlp_width=32,
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    experiment = Experiment(
        name="letters",
        model=model,
        objective=MaskedLM(),
        data=TextConfig(path=str(tmp_path / "text.jsonl"), tokenizer="bytes", cache_dir=str(tmp_path / "cache")),
        optimizer=OptimizerConfig(learning_rate=2e-2, warmup_steps=2),
        train=TrainConfig(steps=60, batch_size=16, seq_len=32, eval_batches=1),
        mesh=MeshConfig(data=1),
    )
    loop.train(experiment, tmp_path / "run", report=lambda line: None)
    masked = "a<mask>" + text[2:14] + "<mask>" + text[15:]
    [[[b, _], [g, _]]] = MaskFiller(restore(tmp_path / "run"))([masked], top_k=2)
    assert (b.piece, g.piece) == ("b", "g")
    assert (b.text, g.text) == (masked.replace("a<mask>", "ab"), masked.replace("<mask>h", "gh"))
    assert min(b.probability, g.probability) > 0.9


@pytest.mark.parametrize(
    ("texts", "top_k", "message"),
    [
        (["the cat"], 5, r"'the cat' has no mask: write \[MASK\] or <mask>"),
        (["the [MASK]", "[MASK]" * 47], 5, "a text has 49 tokens and the model's context holds 48"),
        (["the [MASK]"], 0, "0 guesses a mask asked for: give 1 to 40"),
        (["the [MASK]"], 41, "41 guesses a mask asked for: give 1 to 40"),
    ],
)
def test_refuses_texts(bert, texts, top_k, message):
    with pytest.raises(UserError, match=message):
        bert(texts, top_k=top_k)


def test_refuses_models():
    decoder = GPTConfig(vocab_size=512, context_length=8, width=8, num_layers=1, num_heads=1)
    classifier = BertConfig(**SIZES, head="sequence_classification")
    for config, said in ((decoder, "gpt model with the head language_model"), (classifier, "sequence_classification")):
        with pytest.raises(UserError, match=f"{said}: only encoders with the head masked_lm or pretraining"):
            MaskFiller(
                Restored(
                    config, config.build(Execution()), None, Execution(), ByteTokenizer(), None, epath.Path("runs/mine")
                )
            )
    made = tokenizers.Tokenizer(models.WordLevel({"</s>": 0, "a": 1}, unk_token="a"))
    with pytest.raises(UserError, match="runs/mine: its tokenizer has neither"):
        filler(hugging_face(made))
