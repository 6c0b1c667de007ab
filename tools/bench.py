"""Benchmarks, side by side in one process: python tools/bench.py [loop pipeline pytorch ...] [--preset NAME].

Each figure is the median over rounds in which the contenders take turns, so that a machine whose speed drifts gives
both the same weather; what to quote is the ratio.
"""

import atexit
import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import tyro
from etils import epath

import configs
from transformer import command
from transformer.chips import device_name
from transformer.data.audio.log_mel import HOP, RATE
from transformer.data.images.config import ImagesConfig
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.models.gpt import GPTConfig
from transformer.models.llama import LlamaConfig
from transformer.parallel.mesh import MeshConfig
from transformer.training.experiment import Experiment
from transformer.training.metrics import read_rows
from transformer.training.optimizer import OptimizerConfig

ROOT = Path(__file__).resolve().parent.parent
Part = Literal["loop", "pipeline", "pytorch", "decode", "continuous", "start"]
PROMPT, NEW = 32, 64
"""Tokens that a decoder reads, and says, in `decode`."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Measure the training system on this machine; nothing else should be running."""

    parts: tyro.conf.Positional[tuple[Part, ...]] = ("loop", "pipeline", "pytorch", "start")
    """loop: the whole loop against its bare compiled step. pipeline: the input alone, by one worker. pytorch: the step
    against Transformers' GPT-2 in PyTorch. decode: greedy decoding against its `generate`, of 1 and of 8 rows.
    continuous: texts of many lengths, of which the next takes a free row, against batches that end together. start:
    from the shell to the first step, the second time."""
    preset: str = configs.DEFAULT
    """The experiment whose shapes are measured."""
    batch_size: int | None = None
    """In place of the preset's."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """In place of the preset's."""
    steps: int = 30
    """Steps a round."""
    seconds: float = 1.0
    """Length of a turn in `pipeline`."""
    rounds: int = 5
    """Turns that each contender takes."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/bench.py")
    experiment = shape(flags)
    command.start_jax()
    import jax

    device = jax.devices()[0]
    print(f"{experiment.name}: batch {Amount.of(experiment).shown}, ", end="")
    print(f"{experiment.execution.dtype}, {device_name(device.device_kind)}, {os.cpu_count()} cores")
    for part in flags.parts:
        PARTS[part](experiment, flags)


def shape(flags: Command) -> Experiment:
    """Returns the preset as the command line changes it, on the embedded corpus if it names no text.

    Images whose folder is not there are noise of the model's size in MNIST's format: as dear to read as any of it.
    """
    experiment = configs.get(flags.preset)
    train, execution, data = experiment.train, experiment.execution, experiment.data
    if flags.batch_size:
        train = dataclasses.replace(train, batch_size=flags.batch_size)
    if flags.dtype:
        execution = dataclasses.replace(execution, dtype=flags.dtype)
    if isinstance(data, TextConfig) and not (data.path or data.tfds or data.mixture):
        data = dataclasses.replace(data, tfds="python_stdlib")
    if isinstance(data, ImagesConfig) and data.path is not None and not Path(data.path).expanduser().exists():
        data = dataclasses.replace(data, path=str(noise(experiment.model.input_size)))
    return dataclasses.replace(experiment, train=train, execution=execution, data=data, mesh=MeshConfig(data=1))


def noise(input_size: tuple[int, ...]) -> Path:
    """Writes idx files of grey noise into a folder that lasts as long as the process, and returns it."""
    import numpy as np

    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    rng = np.random.default_rng(0)
    for split, count in (("train", 10_000), ("t10k", 1_000)):
        images = rng.integers(0, 256, (count, *input_size[:2]), np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", rng.integers(0, 10, count, np.uint8))):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (Path(folder) / f"{split}-{name}-ubyte").write_bytes(header + array.tobytes())
    return Path(folder)


class Amount(NamedTuple):
    """How much a batch is."""

    size: float
    unit: str
    shown: str
    """As people read it."""

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """Returns what a preset's batch is in what its data are counted in: images, seconds of audio or tokens."""
        rows = experiment.train.batch_size
        match experiment.data.kind:
            case "images":
                side, _, _ = experiment.model.input_size
                return cls(rows, "images", f"{rows} images of {side} x {side}")
            case "audio":
                seconds = experiment.model.input_size[0] * HOP / RATE
                return cls(rows * seconds, "s of audio", f"{rows} x {seconds:g} s of audio")
        length = experiment.lengths.total
        return cls(rows * length, "tokens", f"{rows} x {length} tokens")


class Step:
    """The bare compiled step on one batch that stays on the device."""

    def __init__(self, experiment: Experiment):
        import jax

        from transformer.training.session import Session

        self.session = Session(experiment)
        self.amount = Amount.of(experiment)
        with jax.set_mesh(self.session.mesh):
            self._batch = self.session.batch(1)
            self._state, self._step = self.session.program.init(), self.session.program.step
        self.run(3)

    def run(self, steps: int) -> float:
        """Returns how much a second `steps` steps train on."""
        import jax

        with jax.set_mesh(self.session.mesh):
            begun = time.perf_counter()
            for _ in range(steps):
                self._state, metrics = self._step(self._state, self._batch)
            jax.block_until_ready(metrics)
            return steps * self.amount.size / (time.perf_counter() - begun)

    def during(self, seconds: float) -> float:
        """Returns how much a second is trained on, in a turn of so many seconds."""
        return rate(lambda: self.run(1), self.amount, seconds)


def rate(make: Callable[[], object], amount: Amount, seconds: float) -> float:
    """Returns how much a second is made in a turn, a batch a call."""
    begun, made = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        make()
        made += 1
    return made * amount.size / (time.perf_counter() - begun)


def loop(experiment: Experiment, flags: Command) -> None:
    """The loop, with its pipeline, logging and progress bar, against the bare step."""
    from transformer.training.loop import train

    bare = Step(experiment)
    # Evaluation and saving come once, at the end, off the clock; metrics are written twice as often as by default.
    cadence = {"eval_every": 10**9, "eval_batches": 1, "log_every": 5}
    untimed = dataclasses.replace(experiment.train, steps=flags.steps + 5, **cadence)
    timed = dataclasses.replace(experiment, train=untimed)

    def whole() -> float:
        with tempfile.TemporaryDirectory() as folder:
            train(timed, Path(folder) / "run", report=lambda line: None)
            rows = read_rows(epath.Path(folder) / "run" / "metrics.jsonl")
        # The first rows still warm up; the mean over the rest is the round's figure.
        seconds = [row["step_seconds"] for row in rows if "step_seconds" in row and row["step"] > 5]
        return bare.amount.size / statistics.mean(seconds)

    compare("loop", whole, "bare step", lambda: bare.run(flags.steps), flags.rounds, bare.amount.unit)


def pipeline(experiment: Experiment, flags: Command) -> None:
    """The input pipeline alone, against what the step eats."""
    from transformer.data.pipeline import iterate

    bare = Step(experiment)

    def alone() -> float:
        with iterate(bare.session.training_rows, 0) as batches:
            next(batches)
            return rate(lambda: next(batches), bare.amount, flags.seconds)

    compare("pipeline", alone, "bare step", lambda: bare.during(flags.seconds), flags.rounds, bare.amount.unit)


def pytorch(experiment: Experiment, flags: Command) -> None:
    """The step against Transformers' GPT-2 of the same shape in PyTorch, eager and compiled; AdamW on both sides."""
    bare = Step(dataclasses.replace(experiment, optimizer=OptimizerConfig()))
    for compiled in (False, True):
        theirs = TorchStep(experiment, compiled=compiled)
        name = "PyTorch compiled" if compiled else "PyTorch eager"
        compare(
            "step", lambda: bare.run(flags.steps), name, lambda theirs=theirs: theirs.run(flags.steps), flags.rounds
        )


class TorchStep:
    """Transformers' GPT-2 or LLaMA with AdamW and clipping: forward, backward, update, as one trains it."""

    def __init__(self, experiment: Experiment, *, compiled: bool):
        import torch

        train = experiment.train
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = twin(experiment)
        network.to(device).train()
        adamw = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
        tokens = torch.randint(0, network.config.vocab_size, (train.batch_size, train.seq_len + 1), device=device)
        half = torch.autocast(device, torch.bfloat16, enabled=experiment.execution.dtype == "bfloat16")

        def forward():
            with half:
                logits = network(tokens[:, :-1], use_cache=False).logits
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

        loss_of = torch.compile(forward) if compiled else forward

        def step():
            loss = loss_of()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            adamw.step()
            adamw.zero_grad()
            return loss

        self.step, self._tokens = step, train.batch_size * train.seq_len
        self.run(3)

    def run(self, steps: int) -> float:
        """Returns tokens per second over `steps` steps."""
        begun = time.perf_counter()
        for _ in range(steps):
            loss = self.step()
        loss.item()
        return steps * self._tokens / (time.perf_counter() - begun)


def twin(experiment: Experiment) -> Any:
    """Returns Transformers' GPT-2 or LLaMA of the preset's shape, with random weights; UserError for other families."""
    import transformers

    model = experiment.model
    if isinstance(model, LlamaConfig):
        from transformer.interop.llama import LLAMA

        theirs: Any = transformers.LlamaConfig.from_dict(LLAMA.write_config(model))
        theirs._attn_implementation = "sdpa"
        return transformers.LlamaForCausalLM(theirs)
    if not isinstance(model, GPTConfig):
        raise UserError(f"{experiment.name}: only GPT and LLaMA have a twin in PyTorch to be measured against so far")
    config: Any = transformers.GPT2Config(  # its signature is made at run time
        vocab_size=model.vocab_size,
        n_positions=model.context_length,
        n_embd=model.width,
        n_layer=model.num_layers,
        n_head=model.num_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    config._attn_implementation = "sdpa"
    return transformers.GPT2LMHeadModel(config)


def decode(experiment: Experiment, flags: Command) -> None:
    """Greedy decoding with a cache against Transformers' `generate`, on the same weights; tokens said a second."""
    import jax
    import numpy as np
    import torch

    from transformer.inference.decode import generate
    from transformer.inference.sampling import Sampling
    from transformer.inference.unstacked import for_decoding
    from transformer.interop.gpt import GPT2

    network = twin(experiment).eval()
    architecture = GPT2.read_config(network.config.to_dict(), "language_model")
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    params = jax.tree.map(jax.numpy.asarray, GPT2.from_hf(tensors, architecture))
    model, params = for_decoding(architecture, params, experiment.execution)
    for rows in (flags.batch_size,) if flags.batch_size else (1, 8):
        prompts = np.random.default_rng(0).integers(0, architecture.vocab_size, (rows, PROMPT))
        tokens = torch.tensor(prompts)

        def ours(prompts=prompts.tolist()) -> float:
            begun = time.perf_counter()
            generate(model, params, prompts, max_new_tokens=NEW, how=Sampling(temperature=0))
            return len(prompts) * NEW / (time.perf_counter() - begun)

        def theirs(tokens=tokens) -> float:
            begun = time.perf_counter()
            network.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, do_sample=False)
            return len(tokens) * NEW / (time.perf_counter() - begun)

        ours()
        theirs()
        compare(f"decoding, {rows} rows:", ours, "Transformers", theirs, flags.rounds)


def continuous(experiment: Experiment, flags: Command) -> None:
    """Texts of many lengths in the rows of a batch: the next text takes a free row, or all rows end together."""
    import flax.linen as nn
    import jax
    import numpy as np

    from transformer.inference.continuous import Text, applies, continued
    from transformer.inference.decode import generate
    from transformer.inference.rules import DecodingRules
    from transformer.inference.sampling import Sampling
    from transformer.inference.unstacked import for_decoding

    architecture, rules, how = experiment.model, DecodingRules(), Sampling(temperature=0)
    init = jax.jit(lambda: architecture.build(experiment.execution).init(jax.random.key(0), **inputs))
    inputs = architecture.example_inputs()
    model, params = for_decoding(architecture, nn.meta.unbox(init())["params"], experiment.execution)
    words = architecture.vocab_size
    if words is None or not applies(model, rules):
        raise UserError(f"{experiment.name}: texts are continued in free rows by decoders that keep all tokens alone")
    rng, rows = np.random.default_rng(0), flags.batch_size or 8
    texts = [
        Text(number, rng.integers(words, size=PROMPT).tolist(), int(rng.integers(8, 201)), 0)
        for number in range(8 * rows)
    ]
    said = sum(text.max_new for text in texts)

    def free_rows() -> float:
        begun = time.perf_counter()
        for _ in continued(model, params, texts, rows, how=how, rules=rules, stop_ids=(), seed=0):
            pass
        return said / (time.perf_counter() - begun)

    def together() -> float:
        begun = time.perf_counter()
        for first in range(0, len(texts), rows):
            batch = texts[first : first + rows]
            new = [text.max_new for text in batch]
            generate(model, params, [text.tokens for text in batch], max_new_tokens=new, how=how)
        return said / (time.perf_counter() - begun)

    free_rows()
    together()
    compare(f"{len(texts)} texts in {rows} rows:", free_rows, "batches that end together", together, flags.rounds)


def start(experiment: Experiment, flags: Command) -> None:
    """Seconds from the shell to the first step of a run that is started for the second time."""
    del flags
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        arguments = [sys.executable, str(ROOT / "train.py"), experiment.name, "--workdir", str(run)]
        arguments += ["--train.log-every", "1", "--train.eval-batches", "1", "--checkpoint.every", "2"]
        seconds = []
        for steps in range(2, 8, 2):
            begun = time.perf_counter()
            process = subprocess.Popen(
                [*arguments, "--train.steps", str(steps)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
            )
            while not done(run / "metrics.jsonl", steps - 1) and process.poll() is None:
                time.sleep(0.02)
            seconds.append(time.perf_counter() - begun)
            if process.wait():
                sys.exit(f"the run failed with exit code {process.returncode}")
    print(f"start to first step: first time {seconds[0]:.1f} s, second {seconds[1]:.1f} s, third {seconds[2]:.1f} s")


def done(metrics: Path, step: int) -> bool:
    """Whether a run has reported update number `step`."""
    return metrics.exists() and any(f'"step": {step},' in line for line in metrics.read_text().splitlines())


def compare(
    a: str, run_a: Callable[[], float], b: str, run_b: Callable[[], float], rounds: int, unit: str = "tokens"
) -> None:
    """Prints the medians of both, and of the ratio of each round."""
    pairs = [(run_a(), run_b()) for _ in range(rounds)]
    ratios = [x / y for x, y in pairs]
    ours, theirs, ratio = (statistics.median(values) for values in (*zip(*pairs, strict=True), ratios))
    spread = f"from {min(ratios):.3f} to {max(ratios):.3f}, {rounds} rounds"
    print(f"{a} {ours:,.0f} {unit}/s, {b} {theirs:,.0f} {unit}/s, ratio {ratio:.3f} ({spread})")


PARTS: dict[Part, Callable[[Experiment, Command], None]] = {
    "loop": loop,
    "pipeline": pipeline,
    "pytorch": pytorch,
    "decode": decode,
    "continuous": continuous,
    "start": start,
}

if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
