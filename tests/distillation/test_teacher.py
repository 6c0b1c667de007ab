"""Which teachers a student can learn from: all others are refused in a line that says what to do."""

import dataclasses

import pytest
import tokenizers

from tests.distillation.runs import STUDENT, TEACHER, experiment_of, write_teacher
from tests.tiny_models import TINY
from tests.training.runs import train
from transformer.data.text.config import TextConfig
from transformer.distillation.config import TeacherConfig
from transformer.distillation.teacher import check
from transformer.errors import UserError
from transformer.objectives import CausalLM, ImageClassification, MaskedLM, Seq2Seq, TextClassification
from transformer.tokenizers.kinds import read_tokenizer
from transformer.training.session import Session


def changed(model, **fields):
    return dataclasses.replace(model, **fields)


BART, GPT, VIT = TINY["bart"], TINY["llama"], TINY["vit"]
PLAIN = changed(GPT, window=None)
CLASSES = changed(TEACHER, head="sequence_classification", problem_type="multi_label_classification")
OPEN = {"cosine": 0.0}


@pytest.mark.parametrize(
    ("teacher", "student", "objective", "fields", "message"),
    [
        (GPT, STUDENT, MaskedLM(), {}, "it is of another kind: llama, and the model distilbert$"),
        (changed(TEACHER, head="none"), STUDENT, MaskedLM(), {}, "it has the head none, and the model masked_lm$"),
        (changed(TEACHER, vocab_size=400), STUDENT, MaskedLM(), {}, "it tells 400 words, and the model 384$"),
        (changed(VIT, num_labels=3), VIT, ImageClassification(), {}, "it tells 3 classes, and the model 5$"),
        (changed(VIT, image_size=16), VIT, ImageClassification(), {}, r"it reads inputs of \(16, 16, 3\), and the"),
        (changed(TEACHER, width=32), STUDENT, MaskedLM(), {}, "32 wide and the model 16.*: give --teacher.cosine 0$"),
        (changed(TEACHER, width=32), STUDENT, MaskedLM(), OPEN | {"hidden": 1.0}, "give --teacher.hidden 0$"),
        (STUDENT, TEACHER, MaskedLM(sentence="nsp"), {}, "the objective's sentence scores read, only the same family"),
        (changed(TEACHER, head="none"), changed(STUDENT, head="none"), MaskedLM(), {}, "head none learns from no"),
        (changed(TEACHER, num_layers=3), STUDENT, MaskedLM(), {"hidden": 1.0}, "name them by --teacher.layers$"),
        (TEACHER, STUDENT, MaskedLM(), {"hidden": 1.0, "layers": (0, 4)}, "--teacher.layers 2 numbers from 0 to 3$"),
        (changed(TEACHER, num_heads=4), STUDENT, MaskedLM(), {"attention": 1.0}, "give --teacher.attention 0$"),
        (BART, BART, Seq2Seq(), {"hidden": 1.0}, "bart has no single stack of layers"),
        (GPT, GPT, CausalLM(), {"attention": 1.0}, "llama has attention of its own kind"),
        (CLASSES, CLASSES, TextClassification("multi_label_classification"), {}, "of a multi_label_classification are"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_teacher_that_does_not_fit_is_refused(teacher, student, objective, fields, message):
    with pytest.raises(UserError, match=message):
        check(TeacherConfig("not read", **fields), teacher, student, objective)


@pytest.mark.parametrize(
    ("teacher", "student", "objective", "fields"),
    [
        (TEACHER, STUDENT, MaskedLM(), {"hidden": 1.0, "attention": 1.0}),
        (changed(TEACHER, width=32), STUDENT, MaskedLM(), OPEN),
        (TINY["gpt"], changed(GPT, window=None), CausalLM(), {}),  # another family, of as many words
        (PLAIN, PLAIN, CausalLM(), {"attention": 1.0}),
        (TINY["bart"], TINY["marian"], Seq2Seq(), {}),
        (VIT, TINY["dinov2"], ImageClassification(), {}),
    ],
    ids=["bert", "wider", "gpt", "llama", "bart", "vit"],
)
def test_any_other_teacher_will_do(teacher, student, objective, fields):
    if student.head == "none":
        student = changed(student, head="image_classification")
    check(TeacherConfig("not read", **fields), teacher, student, objective)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0: it must be above 0"),
        ({"kl": -1.0}, "kl is -1.0: it must be at least 0"),
        ({"kl": 0.0, "cosine": 0.0}, "are 0: nothing is learnt from the teacher. Make path None"),
        ({"layers": (0, 2)}, "only hidden and attention use it"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        TeacherConfig("a teacher", **fields)
    if "layers" not in fields and "kl" in fields:
        with pytest.raises(UserError, match="there is no path to a teacher"):
            TeacherConfig(**{name: abs(value) for name, value in fields.items()})


def test_another_tokenizer_is_refused(tmp_path):
    """Also where the student's is named, is a resumed run's, or the teacher came without one."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(i) for i in range(33, 127))]
    words = {piece: number for number, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="[UNK]"))
    made.add_special_tokens(pieces[:5])
    made.save(str(tmp_path / "tokenizer.json"))
    write_teacher(tmp_path / "words", tokenizer=read_tokenizer(str(tmp_path / "tokenizer.json"), 384))
    write_teacher(tmp_path / "bytes")
    write_teacher(tmp_path / "none", tokenizer=None)
    student = experiment_of(tmp_path, tmp_path / "bytes")

    def taught_by(name, **fields):
        teacher = changed(student.teacher, path=str(tmp_path / name))
        return changed(student, teacher=teacher, **fields)

    apart = r"words.* has another tokenizer: 99 pieces \(fingerprint .*\), and this run's has \d+ \(.*\): a student"
    with pytest.raises(UserError, match=apart):
        train(taught_by("words"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="none.* came without its tokenizer"):
        train(taught_by("none"), tmp_path / "run")
    alone = changed(student, init=type(student.init)())
    named = changed(alone.data, tokenizer=str(tmp_path / "tokenizer.json"))
    assert isinstance(named, TextConfig)
    with pytest.raises(UserError, match="has another tokenizer"):
        train(changed(alone, data=named), tmp_path / "run")
    # The name of a kind gives way to the teacher's.
    trained = changed(alone, data=changed(alone.data, tokenizer="bpe"))
    assert Session(trained).dataset.tokenizer.fingerprint == Session(student).dataset.tokenizer.fingerprint


def test_a_teacher_that_is_not_there_is_named(tmp_path):
    student = experiment_of(tmp_path, tmp_path / "nowhere")
    told = r"--teacher.path: .*/nowhere: no such run or checkpoint. Train the teacher first, or name another$"
    with pytest.raises(UserError, match=told):
        train(student, tmp_path / "run")
    assert not (tmp_path / "run").exists()
