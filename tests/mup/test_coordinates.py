"""The coordinate check: with muP the width changes nothing of how far updates move activations; without it, it does."""

import dataclasses

import numpy as np
import pytest

import configs
from tests.tiny_models import TINY
from transformer.models.resizing import scaled
from transformer.mup.coordinates import LOGITS, SCORES, STREAM, Coordinates, coordinates, slope
from transformer.mup.parametrization import MupConfig
from transformer.mup.widths import at_width, shrunk
from transformer.objectives import CausalLM, MaskedLM
from transformer.parallel.mesh import MeshConfig
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.session import Session

NARROW, WIDE = 64, 256
ROWS, LENGTH, VOCABULARY, UPDATES = 4, 16, 32, 3
OBJECTIVES = {"gpt": CausalLM(), "bert": MaskedLM()}


def batches():
    rng = np.random.default_rng(0)
    for tokens in rng.integers(0, VOCABULARY, (UPDATES, ROWS, LENGTH + 1), dtype=np.int32):
        yield {"tokens": tokens[:, :-1]}, tokens[:, 1:]


def experiment_of(family: str) -> Experiment:
    model = scaled(dataclasses.replace(TINY[family], vocab_size=VOCABULARY), 64, layers=2)
    changes = {"gpt": {"band": None}, "bert": {"head": "masked_lm"}}
    return Experiment(
        name="tiny",
        model=dataclasses.replace(model, **changes[family]),
        objective=OBJECTIVES[family],
        optimizer=OptimizerConfig(learning_rate=0.004),
        train=TrainConfig(steps=100, batch_size=ROWS, seq_len=LENGTH),
        mesh=MeshConfig(data=1),
    )


def measured(experiment: Experiment) -> Coordinates:
    data = []
    for inputs, targets in batches():
        data.append({"inputs": inputs, "targets": targets, "weights": np.ones(targets.shape, np.float32)})
    return coordinates(Session(experiment), data)


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_with_mup_the_width_does_not_matter_and_without_it_does(family):
    """The change after the last update; to a width of 1024: tools/coordinate_check.py (compiling takes longest).

    The GPT's heads grow wider, BERT's more.
    """
    experiment, none = experiment_of(family), MupConfig()
    heads = {"head_width": experiment.model.head_width * WIDE // NARROW} if family == "gpt" else {}
    mup = MupConfig(NARROW, base_head_width=experiment.model.head_width if heads else None)
    base = measured(at_width(experiment, NARROW, none))
    with_mup, without = (measured(at_width(experiment, WIDE, one, **heads)) for one in (mup, none))
    assert {name.split()[0] for name in base} == {STREAM, SCORES, LOGITS}
    for name, narrow in base.items():
        found = [slope({NARROW: narrow[-1, 1], WIDE: wide[name][-1, 1]}) for wide in (with_mup, without)]
        # Down to -1/2: what the initial weights, which are random, have to do with scores falls off as m^-1/2.
        assert -0.55 < found[0] < 0.25, (name, found)
        assert found[1] > 0.4, (name, found)


@pytest.mark.exhaustive
def test_with_base_layers_the_depth_does_not_matter_and_without_it_does():
    """What all blocks together add to the stream of a pre-norm model."""
    experiment = at_width(experiment_of("gpt"), NARROW, MupConfig())
    shallow = experiment.model.num_layers
    deep = dataclasses.replace(experiment.model, num_layers=8 * shallow)
    changes = {}
    for mup in (MupConfig(NARROW, base_layers=shallow), MupConfig()):
        found = measured(dataclasses.replace(experiment, model=deep, mup=mup))
        changes[mup.base_layers] = found[f"{STREAM} {8 * shallow}"][-1, 1]
    before = measured(experiment)[f"{STREAM} {shallow}"][-1, 1]
    assert abs(slope({1: before, 8: changes[shallow]})) < 0.2
    assert slope({1: before, 8: changes[None]}) > 0.4


@pytest.mark.exhaustive
def test_a_masked_autoencoder_tells_pixels():
    experiment = shrunk(
        configs.get("mae-digits"), 16, head_width=8, layers=1, optimizer={},
        train={"steps": 1, "batch_size": 2, "seq_len": None},
    )  # fmt: skip
    session = Session(at_width(experiment, 16, MupConfig()))
    with session.batches() as read:
        found = coordinates(session, [next(read)])
    assert found[LOGITS].shape == (2, 2)
    assert (found[LOGITS][1] > 0).all()
