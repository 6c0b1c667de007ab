"""Real runs in processes of their own, killed and started again: tools/crash.py, a few kills long."""

import random
import signal

import pytest

from tools import crash
from tools.crash import Kill


@pytest.mark.parametrize(
    ("processes", "kills"),
    [
        (1, [Kill(signal.SIGTERM, "step"), Kill(signal.SIGKILL, "save"), Kill(signal.SIGTERM, "evaluation")]),
        (2, [Kill(signal.SIGTERM, "step")]),
    ],
)
def test_a_killed_run_is_the_run_that_was_not(processes, kills, tmp_path):
    crash.write_corpus(tmp_path / "corpus")
    whole, killed = (crash.Run(tmp_path / name, tmp_path / "corpus", processes) for name in ("whole", "killed"))
    crash.survive(whole, [], random.Random(0))
    assert crash.survive(killed, kills, random.Random(0)).total() == len(kills)
    assert crash.differences(killed, whole) == []
    # The comparison can fail.
    rows = killed.rows()
    (tmp_path / "killed" / "metrics.jsonl").write_text("\n".join(map(crash.json.dumps, rows[:-1])))
    assert crash.differences(killed, whole)
