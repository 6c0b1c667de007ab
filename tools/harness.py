"""Evaluate a decoder with lm_eval, the field's own harness: python tools/harness.py RUN --tasks TASK ..."""

import dataclasses
import json
import os
import sys
from typing import Any, Literal

import tyro

from transformer import checks, command
from transformer.errors import UserError
from transformer.parallel.mesh import MeshConfig
from transformer.paths import check_file, write_file


@dataclasses.dataclass(frozen=True)
class Command:
    """Evaluate the newest checkpoint of a run, a decoder's, on tasks of lm_eval, on all devices."""

    run: tyro.conf.Positional[str]
    """A run folder, or one of its checkpoints (RUN/checkpoints/STEP)."""
    tasks: tuple[str, ...]
    """Names of tasks, as lm_eval or the files of --include-path have them."""
    include_path: str | None = None
    """A folder with tasks of your own, a YAML file each."""
    num_fewshot: int | None = None
    """Solved examples before each question; None: as the task says."""
    limit: int | None = None
    """Questions of each task, from the front; None: all."""
    apply_chat_template: bool = False
    """Whether questions are put by the chat template."""
    system: str | None = None
    """With the chat template, the system's message."""
    batch_size: int = 16
    """Texts that are read together."""
    max_length: int | None = None
    """Tokens that are read at once; None: the model's context."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in."""
    mesh: MeshConfig = MeshConfig()
    """Which devices split what; by default all split the texts."""
    download: bool = False
    """Fetch data sets that are not on this machine; otherwise nothing is asked of the network."""
    out: str | None = None
    """A JSON file that gets all results."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/harness.py")
    with command.flags_named(Command):
        checks.at_least(flags, 1, "batch_size", "limit", "max_length")
        checks.at_least(flags, 0, "num_fewshot")
    if flags.out is not None:
        check_file(flags.out, "--out")
    if not flags.download:  # before the libraries read it
        os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    command.start_jax()
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
        from lm_eval.utils import make_table
    except ImportError:
        raise UserError("tools/harness.py needs lm_eval: pip install lm_eval") from None
    from transformer.inference.harness import HarnessModel

    manager = TaskManager(include_path=flags.include_path)
    if unknown := [task for task in flags.tasks if not manager.match_tasks([task])]:
        raise UserError(f"--tasks {unknown[0]}: lm_eval knows no such task, and --include-path has none of that name")
    make: Any = HarnessModel  # the harness' decorator hides its arguments
    evaluate: Any = simple_evaluate  # likewise
    model = make(
        flags.run, batch_size=flags.batch_size, max_length=flags.max_length, dtype=flags.dtype, mesh=flags.mesh
    )
    results = evaluate(
        model,
        tasks=list(flags.tasks),
        num_fewshot=flags.num_fewshot,
        limit=flags.limit,
        apply_chat_template=flags.apply_chat_template,
        system_instruction=flags.system,
        task_manager=manager,
        log_samples=False,
    )
    print(make_table(results))
    if flags.out is not None:
        shown = {name: results[name] for name in ("results", "n-shot", "n-samples", "versions", "configs")}
        write_file(flags.out, json.dumps(shown, indent=2, default=str) + "\n")


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
