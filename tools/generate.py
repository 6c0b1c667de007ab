"""Continue prompts: python tools/generate.py RUN --prompt "def " --temperature 0.8 --top-k 40 --num 3."""

import dataclasses
import sys
from typing import Literal

import tyro

from transformer import command


@dataclasses.dataclass(frozen=True)
class Command:
    """Continue prompts with the newest checkpoint of a run."""

    run: tyro.conf.Positional[str]
    """A run folder, or one of its checkpoints (RUN/checkpoints/STEP)."""
    prompt: tuple[str, ...] = ("",)
    """One or more texts to continue."""
    num: int = 1
    """Continuations of each prompt."""
    max_new_tokens: int = 128
    """Tokens of a continuation, at most; the model's context may end it before."""
    temperature: float = 1.0
    """Below 1 likelier tokens, above 1 more surprising ones; 0 is greedy."""
    top_k: int | None = None
    """Choose among the k likeliest tokens."""
    top_p: float | None = None
    """Choose among the likeliest tokens that together reach this probability."""
    seed: int = 0
    """Of the choice: the same seed gives the same text."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    asked = command.parse(Command, args, prog="tools/generate.py")
    command.start_jax()
    # After the flags are known to be good: these take a second to import.
    from transformer.errors import UserError
    from transformer.inference import pipelines
    from transformer.inference.sampling import Sampling
    from transformer.layers.execution import Execution

    if asked.num < 1:
        raise UserError(f"--num is {asked.num}: it must be at least 1")
    sampling = Sampling(temperature=asked.temperature, top_k=asked.top_k, top_p=asked.top_p)
    generator = pipelines.load(asked.run, Execution(dtype=asked.dtype))
    prompts = [prompt for prompt in asked.prompt for _ in range(asked.num)]
    texts = generator(prompts, max_new_tokens=asked.max_new_tokens, sampling=sampling, seed=asked.seed)
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True), start=1):
        if len(prompts) > 1:
            print(f"{'' if number == 1 else chr(10)}--- {number} of {len(prompts)} ---")
        print(prompt + text)


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
