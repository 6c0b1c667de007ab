"""The loop: an experiment and a folder in, a trained run out."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grain
import jax
from etils import epath
from jax.sharding import Mesh

from transformer import checkpoint
from transformer.checkpoint import Checkpoints, Damaged, reading
from transformer.cluster.agreement import LONG, alone, lead_does, together, together_do
from transformer.data import pipeline
from transformer.data.prepare import Corpora, prepare
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_kinds import load_tokenizer
from transformer.data.workers import check_workers
from transformer.errors import Interrupted, UserError
from transformer.objectives.objective import ExampleMaker, Setting
from transformer.sharding import BatchLayout, MeshConfig, batch_divisor, make_mesh
from transformer.training import experiment as experiments
from transformer.training import opening, transfer
from transformer.training.capsule import Capsules
from transformer.training.evaluation import Evaluation, evaluate
from transformer.training.experiment import Experiment
from transformer.training.interrupt import Now, stop_on_signal
from transformer.training.lock import RunLock
from transformer.training.metrics import MetricsLog
from transformer.training.profile import Profiler
from transformer.training.program import Program
from transformer.training.progress import Progress
from transformer.training.run import Run
from transformer.training.saving import Saver
from transformer.training.state import Batch, TrainState, checkpointables
from transformer.training.throughput import Throughput, peak_flops


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run leaves to tell."""

    run: Run
    experiment: Experiment
    evaluation: Evaluation
    corpus: Corpora
    params: Any
    mesh: Mesh
    step: int


def train(
    experiment: Experiment, workdir: epath.PathLike, *, profile: bool = False, say: Callable[[str], None] = print
) -> Result:
    """Trains `experiment` in the folder `workdir`, going on where that run stopped.

    Args:
      experiment: what to do.
      workdir: a new or empty folder, or that of the same experiment.
      profile: write a trace of a few steps to `workdir/profile`.
      say: gets a line for people now and then.

    Raises:
      UserError: something about the input is wrong; the message says what.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    experiment = experiments.absolute(experiment)
    length = experiment.train
    lead = jax.process_index() == 0
    say = say if lead else lambda line: None
    run = Run(workdir)
    resume = f"To go on: python train.py --workdir {run.folder}"
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_on_signal(*experiment.checkpoint.signals, resume=resume))
        with stop.free():
            lock = stack.enter_context(RunLock(run.folder, say))
            begun = opening.look(run, lock, experiment, say)
            check_workers(experiment.data.workers)
            mesh = make_mesh(experiment.mesh)
            program = build(experiment, mesh)
            with together("preparing the data", deadline=LONG):
                corpus = prepare_corpus(experiment, known_tokenizer(experiment, run, begun=begun))
            record = opening.begin(run, lock, experiment, corpus, begun=begun, say=say)
            experiment = opening.recorded(experiment)
            stack.enter_context(jax.set_mesh(mesh))
            checkpoints = stack.enter_context(Checkpoints(run.checkpoints, experiment.checkpoint))
            state, evaluated = start(program, checkpoints, experiment, mesh, say)
        checkpoints.prepare(**checkpointables(program.abstract))
        first = step = int(state.step)
        throughput = describe(experiment, corpus, mesh, first, run, say)
        saver = Saver(checkpoints, experiment.checkpoint, record, first, stop, say)
        score = functools.partial(evaluate_now, experiment, program, corpus=corpus, mesh=mesh, through=stop.each)
        # A stop came before this evaluation, or in it.
        owed = not evaluated and (first % length.eval_every == 0 or first == length.steps)
        evaluation, stopped = None, False
        layout = BatchLayout(mesh, length.batch_size)
        data: Any = training_data(experiment, corpus, layout)

        capsules = Capsules(
            run, experiment, corpus, program, mesh, lambda step: data[step - 1], layout.place, lead=lead, say=say
        )
        with (
            pipeline.iterate(data, first, workers=experiment.data.workers) as batches,
            MetricsLog(run, resume_from=first, owed=owed, lead=lead, say=say) as log,
            Progress(
                log,
                throughput,
                length,
                first,
                watch=lambda step, values: capsules.look(step, values, state),
            ) as progress,
            Profiler(run.folder / "profile" if profile else None, first) as profiler,
        ):
            placed = to_devices(batches, layout)
            try:
                if owed:
                    evaluation = score(state.params)
                    progress.evaluated(first, evaluation.row())
                while step < length.steps:
                    with stop.waiting():
                        batch = next(placed)
                    step += 1
                    profiler.before(step)
                    with stop.compiling() if step == first + 1 else contextlib.nullcontext():
                        if step == first + 1:
                            compile_together(program, state, batch)
                        state, metrics = program.step(state, batch)
                    progress.step(step, metrics)
                    evaluation = None
                    stop.check()
                    if step % length.eval_every == 0 or step == length.steps:
                        progress.flush()
                        evaluation = score(state.params)
                        progress.evaluated(step, evaluation.row())
                    saver.after(step, state, evaluation, pause=progress.flush)
            except Now:
                stopped = True
            progress.flush()
            saver.finish(step, state, evaluation)
        saver.summary(step - first)
        if stopped:
            raise Interrupted(f"{stop.signal}: stopped after step {step} of {length.steps}, saved. {resume}")
        if evaluation is None:  # nothing was left to train
            evaluation = evaluate_now(experiment, program, state.params, corpus, mesh)
    return Result(run, experiment, evaluation, corpus, state.params, mesh, int(state.step))


def build(experiment: Experiment, mesh: Mesh, *, trains: bool = True) -> Program:
    """Returns the functions that an experiment compiles to.

    Raises:
      UserError: what the mesh does not divide; or what is to be trained is computed in float16.
    """
    length = experiment.train
    if trains and experiment.execution.dtype == "float16":
        raise UserError(
            "--execution.dtype float16 does not train: gradients leave its range, which ends at 65,504, and losses are "
            "not scaled to keep them in it: choose bfloat16, which has the range of float32 (float16 is for inference)"
        )
    rows = length.batch_size // length.accumulation
    parts = batch_divisor(mesh)
    if rows % parts:
        cut = f" / accumulation {length.accumulation}" if length.accumulation > 1 else ""
        raise UserError(
            f"--train.batch-size {length.batch_size}{cut} = {rows} rows are not divided by the mesh's "
            f"data x fsdp = {parts} devices: change one of them"
        )
    return Program(experiment, mesh)


def compile_together(program: Program, state: TrainState, batch: Batch) -> None:
    """Compiles the step on all processes before the first one runs it; alone, running compiles it.

    One process may find it compiled and another not, and who runs it waits for the others half a minute, no longer.
    """
    if not alone():
        together_do("compiling the step", lambda: program.compile_step(state, batch), deadline=LONG)


def known_tokenizer(experiment: Experiment, run: Run, *, begun: bool) -> Tokenizer | None:
    """Returns that of the run that goes on, or of the weights that it starts from; None: the corpus decides."""
    if begun:
        return load_tokenizer(str(run.tokenizer))
    return transfer.tokenizer_for(experiment) if experiment.init_from else None


def prepare_corpus(experiment: Experiment, tokenizer: Tokenizer | None = None, *, whole: bool = False) -> Corpora:
    """Returns the corpus as tokens, by this tokenizer, or by the one that the experiment asks for.

    With `whole`, all of it is validation text.

    Raises:
      UserError: the tokenizer lacks a special, or anything about the corpus.
    """
    corpus = prepare(
        experiment.data,
        vocab_size=experiment.model.vocab_size,
        reading=experiment.objective.reading(experiment.train.seq_len),
        tokenizer=tokenizer,
        whole=whole,
    )
    experiment.objective.check(_setting(experiment, corpus))
    return corpus


def example_maker(experiment: Experiment, corpus: Corpora) -> pipeline.MakeExample:
    """Returns the objective's `example`, for this tokenizer, this length and this model."""
    return ExampleMaker(experiment.objective, _setting(experiment, corpus))


def _setting(experiment: Experiment, corpus: Corpora) -> Setting:
    start_id = getattr(experiment.model, "decoder_start_id", 0)  # an encoder-decoder has one
    return Setting(corpus.vocabulary, experiment.train.seq_len, start_id)


def start(
    program: Program, checkpoints: Checkpoints, experiment: Experiment, mesh: Mesh, say: Callable[[str], None]
) -> tuple[TrainState, bool]:
    """Returns the newest checkpoint's state; or a fresh one, with the weights that the experiment starts from.

    And whether the state was evaluated already, if its step is one to evaluate at. All processes go on from the same:
    what is damaged as one of them sees it is damaged for all.

    Raises:
      Damaged: the newest checkpoint is, and the one before it is not to be used instead.
    """
    steps = lead_does("listing the checkpoints", lambda: checkpoints.steps)
    while steps:
        step = steps.pop()
        try:
            params, rest, evaluated = checkpoints.restore(step, **checkpointables(program.abstract))
        except Damaged as error:  # which all processes raise, whichever of them saw it
            if not experiment.checkpoint.fallback:
                offer = f" To go on from step {steps[-1]}: --checkpoint.fallback True" if steps else ""
                raise Damaged(f"{error}.{offer}") from error
            say(f"{error}. It is set aside as {checkpoints.set_aside(step)}")
            continue
        return dataclasses.replace(rest, params=params), evaluated
    return fresh(program, experiment, mesh, say), True


def fresh(program: Program, experiment: Experiment, mesh: Mesh, say: Callable[[str], None]) -> TrainState:
    """Returns the state before the first update, with the weights that the experiment starts from."""
    state = program.init()
    if experiment.init_from is None:
        return state
    with together("looking at the weights to start from"):
        reading.check(checkpoint.find(experiment.init_from))
    return dataclasses.replace(state, params=transfer.transferred(experiment, state.params, mesh, say))


def training_data(experiment: Experiment, corpus: Corpora, layout: BatchLayout | None = None) -> grain.MapDataset:
    """Returns the rows of a layout that this host needs, of the batch of every step, by step; None: all rows."""
    return pipeline.train_batches(
        corpus.train,
        corpus.weights,
        example=example_maker(experiment, corpus),
        batch_size=experiment.train.batch_size,
        seed=experiment.train.seed,
        copies=experiment.objective.copies,
        skip=experiment.train.skip_samples,
        rows=None if layout is None else layout.rows,
    )


def evaluate_now(
    experiment: Experiment,
    program: Program,
    params: Any,
    corpus: Corpora,
    mesh: Mesh,
    through: Callable[[Iterable[Batch]], Iterable[Batch]] = iter,
) -> Evaluation:
    """Evaluates on the validation text, or on the first `eval_batches` batches of it, which pass `through` a function
    on their way.
    """
    layout = BatchLayout(mesh, experiment.train.batch_size // experiment.train.accumulation)
    dataset = pipeline.eval_batches(
        corpus.validation,
        example=example_maker(experiment, corpus),
        batch_size=layout.batch_size,
        rows=layout.rows,
    )
    with pipeline.iterate(dataset, 0) as batches:
        limited = itertools.islice(batches, experiment.train.eval_batches)
        per_byte = corpus.figures.targets_per_byte if experiment.objective.scores_text else None
        return evaluate(program.evaluate, params, through(to_devices(limited, layout)), targets_per_byte=per_byte)


def validation_batches(experiment: Experiment, corpus: Corpora) -> tuple[int, int]:
    """Returns how many batches an evaluation reads, and how many the validation text has."""
    rows = experiment.train.batch_size // experiment.train.accumulation
    total = -(-len(corpus.validation) // rows)
    return min(total, experiment.train.eval_batches or total), total


def evaluate_checkpoint(
    experiment: Experiment,
    path: epath.PathLike,
    *,
    whole: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Evaluation, Corpora]:
    """Evaluates the weights that `path` names, a run or a checkpoint, on all of the validation text and on all devices.

    Returns:
      What came of it, and the corpus; with `whole`, all of the corpus is validation text.

    Raises:
      UserError: there is no checkpoint, or something about the data is wrong.
    """
    everything = dataclasses.replace(experiment.train, eval_batches=None)
    experiment = dataclasses.replace(experiment, train=everything, mesh=MeshConfig())
    found, mesh = checkpoint.find(path), make_mesh(experiment.mesh)
    program = build(experiment, mesh, trains=False)
    corpus = prepare_corpus(experiment, transfer.tokenizer_of(str(found)), whole=whole)
    for note in corpus.notes:
        say(note)
    if left_out := sum(records.left_out for records in corpus.validation.parts):
        say(f"{left_out:,} pairs are left out of the loss: they are longer than a row")
    with jax.set_mesh(mesh):
        _, params = checkpoint.restore_model(found, mesh)
        return evaluate_now(experiment, program, params, corpus, mesh), corpus


def to_devices(batches: Iterable[Batch], layout: BatchLayout) -> Iterator[Batch]:
    """Puts this host's rows on its devices, a batch ahead of the one that is asked for."""
    ahead = None
    for batch in batches:
        placed = layout.place(batch)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead


def describe(
    experiment: Experiment, corpus: Corpora, mesh: Mesh, first: int, run: Run, say: Callable[[str], None]
) -> Throughput:
    """Says what is about to happen, and returns the clock that measures it."""
    model, length = experiment.model, experiment.train
    target_length = experiment.objective.target_length(length.seq_len)
    tokens = length.batch_size * (length.seq_len + target_length)
    flops = model.flops_per_token(length.seq_len, target_length)
    peak, source = peak_flops(list(mesh.devices.flat))
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    trained_on = sum(records.tokens for records in corpus.train)
    text = sum(records.text_bytes for records in corpus.train)
    shape = f"({length.seq_len} + {target_length})" if target_length else f"{length.seq_len}"
    devices = f"{mesh.size} {mesh.devices.flat[0].device_kind} device{'s' if mesh.size > 1 else ''}"
    say(
        f"{experiment.name}: {model.num_params():,} parameters; {text / 1e6:,.1f} MB of training text, {trained_on:,} "
        f"tokens of {corpus.tokenizer.vocab_size:,} kinds; {corpus.validation.text_bytes / 1e6:,.2f} MB for validation"
    )
    say(
        f"{length.steps:,} steps of {length.batch_size} x {shape} = {tokens:,} tokens, from step {first:,}, "
        f"on {devices}{f' ({axes})' if axes else ''}, {experiment.execution.dtype}, in {run.folder}"
    )
    for note in corpus.notes:
        say(note)
    evaluated, total = validation_batches(experiment, corpus)
    more = "; --train.eval-batches None for all" if evaluated < total else ""
    say(f"evaluates on {evaluated:,} of {total:,} validation batches{more}")
    if experiment.objective.reading(length.seq_len).kind == "pairs":
        shares = zip(corpus.weights, corpus.train, strict=True)
        padding = sum(weight * records.padding for weight, records in shares) / sum(corpus.weights)
        say(f"{100 * padding:.1f} % of the rows' places are padding")
    if left_out := sum(records.left_out for records in corpus.train):
        say(f"{left_out:,} training pairs are left out: they are longer than a row")
    if late := [place for place in length.skip_samples if place < first * length.batch_size]:
        say(f"{len(late):,} of --train.skip-samples came before step {first:,}: what was learnt from them stays")
    rate = f"{peak / 1e12:.3g} TFLOP/s" if peak else "unknown"
    say(f"MFU counts {flops / 1e6:.3g} MFLOP a token (PaLM, appendix B); peak {rate}: {source}")
    return Throughput(tokens, flops, peak)
