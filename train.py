"""Train a Transformer: python train.py [PRESET] [--workdir DIR] [--GROUP.FIELD VALUE ...]."""

import gc

if __name__ == "__main__":
    gc.disable()  # until all is imported, of which nothing is garbage: looking through it takes a tenth of a start

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

import tyro

import configs
from transformer import command
from transformer.training import experiment as experiments
from transformer.training.experiment import Experiment
from transformer.training.run import Run

if TYPE_CHECKING:
    from transformer.data.text.dataset import TextDataset
    from transformer.training.loop import Result

PROMPT_TOKENS = 48
SAMPLE_TOKENS = 120


@dataclasses.dataclass(frozen=True)
class Command:
    """Train a preset with any of its fields overridden; the same command again goes on where the run stopped.

    PRESET is the first argument; --list names the presets. Without it, a --workdir that holds an experiment.json goes
    on with that one, and a new one gets the default preset.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    """What to train."""
    workdir: str
    """The run folder: new or empty, or that of the same experiment."""
    profile: bool = False
    """Write a trace of a few steps to WORKDIR/profile."""
    distributed: bool = False
    """This is one process of several (Slurm, Open MPI, Kubernetes, Cloud TPU, or JAX's own variables): find the others
    first. Devices of a host that no process would use are refused."""
    shared_hosts: bool = False
    """With --distributed: the hosts are shared with other jobs, to which devices belong that this one does not use."""
    list: bool = False
    """Name the presets, a line each, and stop."""


@dataclasses.dataclass(frozen=True)
class Start:
    """The weights that a run starts from."""

    path: str | None = None


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a run is."""

    steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Where:
    """The flags that are needed before all others: they say whose defaults these have."""

    workdir: str | None = None
    init: Start = Start()
    train: Length = Length()


def main(args: list[str]) -> None:
    """Runs the command line."""
    if "--list" in args:
        width = max(map(len, configs.PRESETS))
        for name, summary in configs.summaries().items():
            print(f"{name:{width}}  {summary}{' (the default)' if name == configs.DEFAULT else ''}")
        return
    chosen = parse(args)
    command.start_jax(
        distributed=chosen.distributed,
        shared_hosts=chosen.shared_hosts,
        deadlines=chosen.experiment.cluster.deadlines,
    )
    # After the flags are known to be good: this imports the data libraries, which --help need not wait for.
    import jax

    from transformer.cluster.watchdog import watching
    from transformer.training.fitting import fitted
    from transformer.training.loop import train

    if __name__ == "__main__":
        gc.freeze()  # nor later
        gc.enable()
    with watching(chosen.experiment.cluster.deadlines):
        run, lead = Run(chosen.workdir), jax.process_index() == 0
        tokenizer_dir = run.tokenizer if run.begun else None
        experiment = fitted(chosen.experiment, print if lead else lambda line: None, tokenizer_dir)
        report(train(experiment, chosen.workdir, profile=chosen.profile, whole_process=__name__ == "__main__"))


def parse(args: list[str]) -> Command:
    """Returns what the command line asks for: a preset or a recorded experiment, with the overrides."""
    preset, flags = configs.split(args)

    def default(where: Where) -> Command:
        base = configs.get(preset or configs.DEFAULT)
        if where.init.path is not None and base.objective.fine_tunes:
            from transformer.training.fitting import model_at

            base = configs.get(base.name, pretrained=True)
            model = model_at(where.init.path, base.objective)
            # A shorter length is given by flags alone, which come after: here it need only be one that the model reads.
            seq_len = min(base.train.seq_len, model.longest_input or base.train.seq_len)
            base = dataclasses.replace(base, model=model, train=dataclasses.replace(base.train, seq_len=seq_len))
        workdir = f"runs/{base.name}"
        run = Run(workdir if where.workdir is None else where.workdir)
        if preset is None and run.experiment_path.exists():
            base = experiments.read(run.experiment_path)
        if where.train.steps is not None:  # which a person gives, and epochs a preset
            base = dataclasses.replace(base, train=dataclasses.replace(base.train, epochs=None))
        return Command(experiment=base, workdir=workdir)

    return command.parse_over(Command, flags, first=Where, default=default, prog="train.py [PRESET]")


def report(result: "Result") -> None:
    """Says what a finished run came to, of text beside a trivial guess and a compressor, and where everything is."""
    import jax

    from transformer.data.text.dataset import TextDataset
    from transformer.training.baseline import baseline

    evaluation, session, run = result.evaluation, result.session, result.run
    text = session.dataset if isinstance(session.dataset, TextDataset) else None
    goes_on = text is not None and session.experiment.objective.scores_text  # as a model of text does with a text
    decodes = session.mesh.shape["pipeline"] == 1  # a cache has no pipeline; tools/generate.py needs none
    continued = sampled_continuation(result, text) if text and goes_on and decodes else None
    if jax.process_index() > 0:
        return
    trivial = baseline(session, text) if text else None
    objective, predictions = session.experiment.objective, evaluation.predictions
    table = objective.table(predictions, session.dataset, session.experiment.model) if predictions else None
    print(f"\nvalidation loss {evaluation.loss:.4f}", end="" if trivial else "\n")
    if trivial:
        print(f" nats a token, perplexity {evaluation.perplexity:.2f}; guessing by frequency alone: {trivial.loss:.4f}")
    for name, value in evaluation.metrics.items():
        chance = f" (chance {trivial.sentence_accuracy:.4f})" if trivial and name == "sentence_accuracy" else ""
        print(f"  {value:.4f}  {name.replace('_', ' ')}{chance}")
    if table is not None:
        print(f"\n{table}")
    if text and evaluation.bits_per_byte is not None:
        evaluated, total = session.validation_batches
        part = f" (the model's: of the first {evaluated:,} of its {total:,} batches)" if evaluated < total else ""
        print(f"bits per byte of the validation text{part}:")
        print(f"  {evaluation.bits_per_byte:.4f}  this model")
        print(f"  {text.figures.gzip9_bits_per_byte:.4f}  gzip -9")
        print(f"  {text.figures.xz9_bits_per_byte:.4f}  xz -9")
    if continued:
        print("\nthe beginning of the validation text, then the model's continuation:\n{}>>>{}<<<".format(*continued))
    print(f"\nrun folder     {run.folder}")
    print(f"metrics        {run.metrics}  (tensorboard --logdir {run.tensorboard})")
    print(f"checkpoint     {run.checkpoints / str(result.step)}")
    if goes_on:
        print(f'continue text  python tools/generate.py {run.folder} --prompt "..."')


def sampled_continuation(result: "Result", dataset: "TextDataset") -> tuple[str, str]:
    """Returns the first words of the validation text and what the model makes of them."""
    import jax

    from transformer.inference.decode import generate
    from transformer.inference.sampling import Sampling

    experiment = result.session.experiment
    prompt_tokens = max(min(PROMPT_TOKENS, experiment.train.seq_len // 2), 1)
    prompt = dataset.validation[0]["tokens"][:prompt_tokens].tolist()
    with jax.set_mesh(result.session.mesh):
        [[generated]] = generate(
            experiment.model.build(experiment.execution),
            result.session.weights(result.params),
            [prompt],
            max_new_tokens=SAMPLE_TOKENS,
            how=Sampling(temperature=0.8, top_k=40),
            seed=experiment.train.seed,
            stop_ids=[dataset.tokenizer.eos_id],
        )
    return dataset.tokenizer.decode(prompt), dataset.tokenizer.decode(generated.tokens)


if __name__ == "__main__":
    command.end(command.run(lambda: main(sys.argv[1:])))
