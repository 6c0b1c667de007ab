"""A model that knows no mesh gives one device's losses and gradients on eight: every family does.

Of a family of each kind, `tests/parallel/test_meshes.py` tries the other axes, and pairs of them.
"""

import pytest

from tests.exhaustive import few
from tests.tiny_experiments import batch_of, experiment_of
from tests.tiny_models import TINY, random_params
from transformer.debugging.parallel_check import Reference
from transformer.models import FAMILIES
from transformer.objectives.causal_lm import CausalLM
from transformer.parallel.mesh import MeshConfig


def test_every_family_is_here():
    assert set(TINY) == set(FAMILIES)


CASES = [(family, MeshConfig(2, 2, 2), None) for family in TINY]
CASES += [("gpt", MeshConfig(1, 2, 2, 2), CausalLM(chunk=4))]


@pytest.mark.parametrize(("family", "mesh", "objective"), few(CASES), ids=str)
def test_any_mesh_gives_the_one_device_gradients(family, mesh, objective):
    config = TINY[family]
    experiment = experiment_of(config, objective=objective)
    assert Reference(experiment, [batch_of(config)], random_params(config)).compare(mesh).first is None
