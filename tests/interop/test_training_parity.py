"""Twenty updates equal PyTorch's: here the whole path from text to update, there Transformers' models, losses and
schedules in a plain loop with torch's AdamW. (GPT-2's are in tests/training/test_program.py.)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from tests.data.corpus import make_text
from transformer.data import pipeline
from transformer.data.prepare import prepare
from transformer.data.text.config import TextConfig
from transformer.interop.bart import BART
from transformer.interop.bert import BERT
from transformer.interop.t5 import T5
from transformer.models.bart import BartConfig
from transformer.models.bert import BertConfig
from transformer.models.t5 import T5Config
from transformer.objectives import Denoising, MaskedLM, SpanCorruption
from transformer.objectives.objective import Setting
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.program import Program
from transformer.training.state import Batch

from . import parity

STEPS, ROWS = 20, 8
IGNORED = -100  # a label of Transformers' that weighs nothing
_SIZES: dict[str, Any] = {"vocab_size": 512, "width": 32, "dropout": 0.0}
_SIDES: dict[str, Any] = {"num_encoder_layers": 2, "num_decoder_layers": 2}

Loss = Callable[[Any, Batch], torch.Tensor]
"""Their model, our batch -> Transformers' own loss."""


def labels(batch: Batch) -> torch.Tensor:
    return parity.tensor(np.where(batch["weights"] > 0, batch["targets"], IGNORED))


def seq2seq_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The decoder's tokens are left to Transformers, which shifts the labels."""
    inputs = batch["inputs"]
    return model(
        parity.tensor(inputs["tokens"]),
        attention_mask=parity.tensor(inputs["segment_ids"]),
        decoder_attention_mask=parity.tensor(inputs["decoder_segment_ids"]),
        labels=labels(batch),
    ).loss


def pretraining_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The mean over hidden tokens plus the mean over rows (Devlin et al. 2019, appendix A.2)."""
    inputs = batch["inputs"]
    places, weights = inputs["masked_positions"], batch["weights"]
    hidden = np.full(inputs["tokens"].shape, IGNORED)
    row, slot = np.nonzero(weights)
    hidden[row, places[row, slot]] = batch["targets"][row, slot]
    return model(
        parity.tensor(inputs["tokens"]),
        attention_mask=parity.tensor(inputs["segment_ids"]),
        token_type_ids=parity.tensor(inputs["token_types"]),
        labels=parity.tensor(hidden),
        next_sentence_label=parity.tensor(batch["sentence_targets"]),
    ).loss


def weighted_pretraining_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Each row's own loss, a row weighing as many times as it has hidden tokens: ours where those differ."""
    counts = batch["weights"].sum(axis=1)
    rows = [jax.tree.map(lambda x, row=row: x[row : row + 1], batch) for row in np.flatnonzero(counts)]
    losses = [pretraining_loss(model, row) * float(row["weights"].sum()) for row in rows]
    return torch.stack(losses).sum() / float(counts.sum())


@dataclasses.dataclass(frozen=True)
class Case:
    family: Any
    model: Any
    objective: Any
    seq_len: int
    loss: Loss
    rate: float
    schedule: Any
    """Our schedule, and the name of Transformers' own."""
    clip_norm: float = 1.0


_BERT: dict[str, Any] = {
    "context_length": 70,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_width": 48,
    "attention_dropout": 0.0,
}
_T5: dict[str, Any] = {"num_heads": 4, "head_width": 6, "mlp_width": 48}
_BART: dict[str, Any] = {
    "context_length": 44,
    "num_encoder_heads": 4,
    "num_decoder_heads": 2,
    "encoder_mlp_width": 48,
    "decoder_mlp_width": 40,
    "attention_dropout": 0.0,
    "mlp_dropout": 0.0,
}
CASES = {
    "bert": Case(
        BERT,
        BertConfig(**_SIZES, **_BERT, head="pretraining"),
        MaskedLM(sentence="nsp"),
        70,
        weighted_pretraining_loss,
        1e-2,
        "linear",
    ),
    "t5": Case(
        T5, T5Config(**_SIZES, **_SIDES, **_T5), SpanCorruption(), 48, seq2seq_loss, 3e-2, "inverse_sqrt", clip_norm=0.3
    ),
    "bart": Case(BART, BartConfig(**_SIZES, **_SIDES, **_BART), Denoising(), 44, seq2seq_loss, 1e-2, "cosine"),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """PyTorch's threads would wait for each other: the products are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 documents of about 300 tokens, and a cache."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text").mkdir()
    for number in range(24):
        (folder / "text" / f"{number:02}.txt").write_text(make_text(30, seed=number))
    return folder


def batches_of(case: Case, folder: Any, count: int = STEPS) -> list[Batch]:
    """Returns batches as the loop makes them; in the middle the last of validation: rows of padding, short rows."""
    corpus = prepare(
        TextConfig(path=str(folder / "text"), cache_dir=str(folder / "cache"), validation_fraction=0.3),
        vocab_size=case.model.vocab_size,
        reading=case.objective.reading(case.seq_len),
    )
    setting = Setting(corpus.vocabulary, case.seq_len, case.model.first_decoder_token)
    kinds: dict[str, Any] = {"example": functools.partial(case.objective.example, setting=setting), "batch_size": ROWS}
    training: Any = pipeline.train_batches(corpus.train, corpus.weights, seed=0, **kinds)
    held_out: Any = pipeline.eval_batches(corpus.validation, **kinds)
    batches = [training[step] for step in range(count - 2)]
    return [*batches[:8], held_out[-2], held_out[-1], *batches[8:]]


def even(batches: list[Batch]) -> list[Batch]:
    """Returns as many batches of the rows that hide as many tokens as there is room for."""
    rows = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
    full = np.flatnonzero(rows["weights"].all(axis=1))[: STEPS * ROWS]
    return [jax.tree.map(lambda x, part=part: x[part], rows) for part in full.reshape(STEPS, ROWS)]


def optimizer_of(case: Case) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=case.rate,
        schedule=case.schedule,
        warmup_steps=4,
        final_fraction=0.0,
        weight_decay=0.1,
        epsilon=1e-6,  # BERT's
        clip_norm=case.clip_norm,
    )


def our_losses(case: Case, params: Any, batches: list[Batch], accumulation: int = 1) -> np.ndarray:
    """Returns [steps, 2]: losses, and norms of the gradients before they are clipped."""
    mesh, optimizer = make_mesh(MeshConfig(data=1)), optimizer_of(case)
    train = TrainConfig(steps=STEPS, batch_size=ROWS, seq_len=case.seq_len, accumulation=accumulation)
    program = Program(Experiment("tiny", case.model, case.objective, optimizer=optimizer, train=train), mesh)
    found = []
    with jax.set_mesh(mesh):
        state = dataclasses.replace(program.init(), params=jax.tree.map(jnp.array, params))
        for batch in batches:
            state, metrics = program.step(state, batch)
            found.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    return np.array(found)


def their_losses(case: Case, model: Any, batches: list[Batch]) -> np.ndarray:
    """Returns PyTorch's losses and norms, likewise."""
    config = optimizer_of(case)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.b1, config.b2), eps=config.epsilon)
    # Our last update has the final rate, in Transformers the one after it would.
    schedule = transformers.get_scheduler(config.schedule, adamw, config.warmup_steps, STEPS - 1)
    model.train()
    found = []
    for batch in batches:
        loss = case.loss(model, batch)
        adamw.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), case.clip_norm)
        adamw.step()
        schedule.step()
        found.append((loss.item(), norm.item()))
    return np.array(found)


def assert_equal_and_falling(case: Case, have: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(have, want, atol=1e-5)
    losses, norms = want.T
    assert losses[-4:].mean() < losses[:4].mean() - 1.0
    assert (norms > case.clip_norm).any()


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_twenty_updates_equal_pytorchs(name, folder):
    case = CASES[name]
    pair, batches = parity.make_pair(case.family, case.model, pad_token_id=0), batches_of(case, folder)
    weights = np.concatenate([batch["weights"] for batch in batches]).sum(axis=1)
    assert len(set(weights)) > 2  # full rows, short ones, rows of padding
    assert_equal_and_falling(case, our_losses(case, pair.params, batches), their_losses(case, pair.theirs, batches))


@pytest.mark.exhaustive
def test_berts_loss_is_transformers_where_rows_hide_as_many_tokens(folder):
    """The mean over hidden tokens plus the mean over rows, of whole batches."""
    case = dataclasses.replace(CASES["bert"], loss=pretraining_loss)
    pair, batches = parity.make_pair(case.family, case.model), even(batches_of(case, folder, count=2 * STEPS))
    assert_equal_and_falling(case, our_losses(case, pair.params, batches), their_losses(case, pair.theirs, batches))


@pytest.mark.exhaustive
def test_microbatches_give_the_losses_of_whole_batches(folder):
    """Microbatches may hide different numbers of tokens."""
    case = CASES["bert"]
    params, batches = parity.make_pair(case.family, case.model).params, batches_of(case, folder)
    whole, cut = (our_losses(case, params, batches, accumulation) for accumulation in (1, 2))
    np.testing.assert_allclose(cut, whole, atol=1e-5)
