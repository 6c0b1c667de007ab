"""Steps compiled for GPUs that are not there, in a process of its own: the CUDA plugin disturbs no other test.

`python -m tests.planning.ahead` takes the command line of tools/plan.py and prints a JSON record.
"""

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
WHEELS = Path(sys.prefix) / "aot"
"""Where `make test-all` installs the compiler."""


@dataclass(frozen=True)
class Sent:
    """A collective of the compiled step; see `transformer.parallel.collectives.Collective`."""

    kind: str
    axes: tuple[str, ...]
    times: int
    arrays: tuple[tuple[str, int], ...]
    """Dtype and number of elements of each."""
    payload: int
    backward: bool


@dataclass(frozen=True)
class Step:
    collectives: tuple[Sent, ...]
    memory: dict[str, int]
    kernels: dict[str, int]
    """cuDNN's kernels, and how many calls the program's text has; a loop over layers counts once."""
    products: dict[str, int]
    """cuBLAS's matrix products, so counted: of 8-bit floats (`f8`), and all others (`wide`)."""
    shapes: frozenset[str]
    """The arrays of the program, as bf16[2,8]."""
    on_host: frozenset[str]
    """Those of them that are in the host's memory."""

    def over(self, *axes: str, kind: str | None = None, times: int | None = None) -> list[Sent]:
        """The collectives along these axes, of a kind, that a step executes so often."""
        return [
            sent
            for sent in self.collectives
            if sent.axes == axes and kind in (None, sent.kind) and times in (None, sent.times)
        ]


@functools.cache
def compiled(*flags: str) -> Step:
    """The step that `tools/plan.py FLAGS` compiles."""
    path = os.pathsep.join([str(ROOT), str(WHEELS), os.environ.get("PYTHONPATH", "")])
    unset = {"JAX_COMPILATION_CACHE_DIR", "JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"}  # tests' own
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", "tests.planning.ahead", *flags],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr[-2000:]}\n(make test-all installs what compiles for GPUs)"
    record = json.loads(done.stdout.splitlines()[-1])
    collectives = [
        Sent(**sent | {"axes": tuple(sent["axes"]), "arrays": tuple(map(tuple, sent["arrays"]))})
        for sent in record["collectives"]
    ]
    shapes, on_host = frozenset(record["shapes"]), frozenset(record["on_host"])
    return Step(tuple(collectives), record["memory"], record["kernels"], record["products"], shapes, on_host)


def main(args: list[str]) -> dict[str, Any]:
    import collections
    import dataclasses
    import math
    import re

    from tools import plan
    from transformer.planning import absent
    from transformer.planning.chips import topology_of

    absent.prepare()
    asked = plan.parse(args)
    from transformer.planning import step as planned

    texts, read = [], planned.read
    planned.read = lambda text, mesh: (texts.append(text), read(text, mesh))[1]
    step = planned.compile_step(asked.experiment, topology_of(asked.chips))
    return {
        "memory": dataclasses.asdict(step.memory),
        "kernels": collections.Counter(re.findall(r'custom_call_target="__cudnn\$([^"]*)"', texts[0])),
        "shapes": sorted(set(re.findall(r"\b[a-z]+[0-9]+\[[0-9,]*\]|\bpred\[[0-9,]*\]", texts[0]))),
        "products": {
            "f8": texts[0].count('custom_call_target="__cublas$lt$matmul$f8"'),
            "wide": texts[0].count('custom_call_target="__cublas$lt$matmul"'),
        },
        "on_host": sorted(set(re.findall(r"\b([a-z0-9]+\[[0-9,]*\])\{[^}]*S\(5\)\}", texts[0]))),
        "collectives": [
            {
                "kind": collective.kind,
                "axes": collective.axes,
                "times": collective.times,
                "arrays": [(array.dtype, math.prod(array.dims)) for array in collective.arrays],
                "payload": collective.payload,
                "backward": "transpose(" in collective.operation,
            }
            for collective in step.collectives
        ],
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
