"""DistilBERT (Sanh et al. 2019): tiny ones that train on a CPU, alone or taught, and the published size."""

import dataclasses

from configs.recipe import SHORT_ENCODER, Preset, linear, published, short
from transformer.distillation.config import TeacherConfig
from transformer.models.distilbert import DistilBertConfig
from transformer.objectives.masked_lm import MaskedLM
from transformer.training.experiment import Experiment
from transformer.transfer.config import InitConfig


@Preset
def distilbert_python() -> Experiment:
    """A small DistilBERT on the source of Python's standard library, without a teacher; minutes on a CPU."""
    model = DistilBertConfig(**SHORT_ENCODER)
    return short(model, MaskedLM(), steps=1800)


@Preset
def distilbert_python_taught() -> Experiment:
    """The first layer of the bert-python in runs/bert-python, which teaches it (--teacher.path); minutes on a CPU."""
    model = dataclasses.replace(DistilBertConfig(**SHORT_ENCODER), num_layers=1)
    return _taught(short(model, MaskedLM(), steps=300, eval_every=100), "runs/bert-python", (0,))


@Preset
def distilbert_base() -> Experiment:
    """DistilBERT base, 67M parameters, taught by the bert-base in runs/bert-base, or another (--teacher.path)."""
    optimizer = linear(learning_rate=5e-4, warmup_steps=4000, weight_decay=0.0, b2=0.98, clip_norm=5.0)
    # Section 3: dynamic masks, no next sentence, batches of up to 4,000 sequences; its released code has the rest,
    # such as the layers (`scripts/extract_distilbert.py`). Both models score all tokens, a part of a row at a time.
    objective = MaskedLM(chunk=64)
    alone = published(DistilBertConfig(), objective, optimizer, steps=80_000, batch_size=4000, seq_len=512)
    return _taught(alone, "runs/bert-base", (0, 2, 4, 7, 9, 11))


def _taught(student: Experiment, teacher: str, layers: tuple[int, ...]) -> Experiment:
    """Returns a student that begins with layers of its teacher, a BERT, whose token types it has no use for."""
    init = InitConfig(teacher, leaves="(?!backbone/type_embedding).*", layers=layers)
    return dataclasses.replace(student, init=init, teacher=TeacherConfig(teacher))
