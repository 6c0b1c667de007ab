"""Batches as they were when examples were made one at a time: a run that goes on must go on with the same ones."""

import numpy as np
import pytest

from transformer.objectives.objective import Setting

from . import golden

# Of training on one corpus, on two, with a sample left out and on two hosts, and of evaluation.
DIGESTS = {
    "causal": ["c318cd2fcb7523b7", "9f90542ebac4f790", "bd0c2dcf3e0e1993", "534d82c59a889099"],
    "prefix": ["de61d0e0808b2f04", "a96d6b02bd21e6f5", "380f5160b9af609d", "3cbd318cec5dfcce"],
    "masked": ["b748d558bb7a823a", "f270c2d66e6b553c", "75b42698c5421dee", "95a4d2c994d2c1cf"],
    "masked-few": ["da9b8df51de28b49", "d5ee8feac236b94b", "d21f7b01f94bda82", "bde7899045bd987d"],
    "masked-words": ["1cd882dd2c87860e", "d7ab13f6f97f9d7f", "3a4ad91c72050352", "923f3e396c0c1699"],
    "masked-spans": ["19da96d5c8180934", "5e965fd2cb1213d6", "5a9709fbdd47fd6c", "daa538e8df88b817"],
    "masked-nsp": ["c4c00c27dc190743", "552a3dc25ab2efa9", "2e67621b8839562a", "0a8c215a85a5f5fb"],
    "masked-sop": ["10d396c3765900a6", "3675e3bcc8343357", "d8067ba607d88470", "2c9cba2cf2462395"],
    "spans": ["17fc0071f5afc32a", "0bad5f2c7b41dc94", "8c3482b5a47dd274", "0abd956dd906e9d0"],
    "ul2": ["7c772ef0007336af", "6a82ee1e57431a65", "960ba1cb7fef6d03", "9edab7829db11e8f"],
    "denoising": ["baf80cac53fd6e06", "f06c05b7245c7df4", "e3954d0b877945b2", "59183d8842ae58db"],
    "pairs": ["61e71b9dc61f1bad", "c77185dde5069581", "7a1116ca616dd229", "c854262721fe1f81"],
}


@pytest.mark.parametrize("name", DIGESTS)
def test_batches_are_what_they_were(name):
    assert golden.digests(name) == DIGESTS[name]


@pytest.mark.parametrize("name", ["masked", "masked-spans", "masked-nsp", "spans", "causal", "pairs"])
def test_examples_made_together_are_those_made_alone(name):
    assert golden.digests(name, golden.one_at_a_time) == DIGESTS[name]


@pytest.mark.parametrize("name", golden.OBJECTIVES)
def test_an_example_does_not_depend_on_its_neighbours(name):
    objective, setting = golden.OBJECTIVES[name], Setting(golden.make_vocabulary(), golden.SEQ_LEN, 0)
    records = golden.make_records(objective, seed=1, drop_remainder=False)
    indices = np.array([len(records) - 1, 0, 2, len(records) - 1])

    def made(rows):
        rngs = [np.random.default_rng(int(seed)) for seed in rows]
        drawn = records.draw_many(indices[rows], rngs)
        return objective.examples(drawn, rngs, setting)

    together, alone = made(np.arange(4)), [made(np.array([row])) for row in range(4)]
    assert golden.digest(golden.rows(together, row) for row in range(4)) == golden.digest(
        golden.rows(example, 0) for example in alone
    )
