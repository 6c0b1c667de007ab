"""The command line as people meet it: every mistake is one line and exit code 2, and leaves nothing half-made."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import configs
import train
from tools import evaluate, generate, plot, prepare, scaling
from transformer import checks, command
from transformer.errors import UserError

ROOT = Path(__file__).parent.parent
TINY = [
    *("--model.width", "16", "--model.num-layers", "1", "--model.num-heads", "2", "--model.vocab-size", "400"),
    *("--model.context-length", "32", "--data.tokenizer", "bytes", "--train.seq-len", "32", "--train.batch-size", "8"),
    *("--train.eval-every", "1000", "--train.steps", "2"),
]


@pytest.fixture(autouse=True)
def this_process(monkeypatch):
    """The commands run here, with the tests' own JAX settings."""
    monkeypatch.setattr(command, "start_jax", lambda **_: None)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "plays.txt"
    path.write_text("".join(f"line {n}: to be, or not to be, that is question {n % 7}\n" for n in range(400)))
    return path


def refused(capsys, main, args) -> str:
    """Returns the one line that `main` refuses `args` with."""
    code = command.run(lambda: main([str(arg) for arg in args]))
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def refuse(capsys, tmp_path):
    """Runs train.py on arguments that must be refused; returns the line. Nothing may be left in the run folder."""

    def run(*args, preset="gpt-text"):
        cache = ("--data.cache-dir", tmp_path / "cache")
        line = refused(capsys, train.main, [preset, "--workdir", tmp_path / "run", *cache, *args])
        assert not (tmp_path / "run").exists()
        return line

    return run


def test_list_names_every_preset(capsys):
    train.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("gpt-python") and "(the default)" in line for line in lines)
    assert all(len(line.split()) > 2 for line in lines)


def test_help_documents_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["gpt-python", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    flags = re.findall(r"^\W*? (--[a-z][\w.-]+)", text, re.MULTILINE)
    assert {"--train.steps", "--mesh.tensor", "--model.width", "--data.path", "--optimizer.learning-rate"} <= set(flags)
    for field, flag in flags_of(configs.get("gpt-python")):
        assert flag in flags, f"{field} has no such flag"
    for flag in flags:
        after = text.split(f" {flag} ", 1)[1]
        assert re.search(r"[a-z]{3}", after.split(" --", 1)[0].partition("(default")[0]), f"{flag} has no description"


def flags_of(config) -> Iterator[tuple[str, str]]:
    """Yields each field of an experiment's configs with what a broken rule calls its flag."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{type(config).__name__}.{field.name}"
        if dataclasses.is_dataclass(value):
            yield from flags_of(value)
            continue
        with pytest.raises(UserError) as refusal, command.flags_named(train.Command):
            checks.require(config, False, f"`{field.name}`")
        yield name, str(refusal.value)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--train.steps", "0"], "--train.steps is 0: it must be at least 1"),
        (["--train.accumulation", "3"], "--train.accumulation 3 does not divide --train.batch-size 8"),
        (["--train.seq-len", "512"], "raise --model.context-length or lower --train.seq-len"),
        (["--optimizer.name", "lamb", "--mup.base-width", "192"], "or leave out --mup.base-width"),
        (["--mup.base-layers", "2"], "--mup.base-head-width and --mup.base-layers need --mup.base-width"),
        (["--init.leaves", "x"], "--init.leaves is x: there is no --init.path to take weights from"),
        (["--mesh.fsdp", "0"], "--mesh.fsdp is 0: it must be at least 1"),
        (["--execution.attention", "flash"], "unknown --execution.attention 'flash'; choose from: auto, reference"),
    ],
)
def test_a_rule_that_is_broken_names_its_flags(refuse, flags, line):
    assert line in refuse(*flags, preset="gpt-python")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--model.experts.experts-per-token", "9"], "9: a token can reach 8 of --model.experts.num-experts 8"),
        (["--model.experts.groups", "3"], "--model.experts.groups 3 does not divide --model.experts.num-experts 8"),
    ],
)
def test_a_rule_of_a_familys_own_part_names_its_flags(refuse, flags, line):
    assert line in refuse(*flags, preset="moe-python-tiny")


@pytest.mark.parametrize(
    ("args", "width"),
    [
        (["moe-python-tiny", "--model.experts.mlp-width", "48", "--train.steps", "3"], 48),
        (["llama-python", "model.experts:experts-config", "--train.steps", "3", "--model.experts.mlp-width", "48"], 48),
        (["llama-python", "--train.steps", "3", "model.experts:experts-config", "--model.experts.mlp-width", "48"], 48),
        (["moe-python-tiny", "model.experts:none", "--train.steps", "3"], None),
    ],
)
def test_flags_of_experts_stand_in_any_order(args, width):
    experiment = train.parse(args).experiment
    assert experiment.train.steps == 3
    routing = experiment.model.routing
    assert (routing and routing.mlp_width) == width


def test_unknown_flag_offers_the_nearest(refuse):
    line = refuse("--train.stepz", "3")
    assert line.count("Unrecognized options") == 1
    assert "--train.steps" in line
    assert "─" not in line


@pytest.mark.parametrize(
    "old", ["--init-from", "--init_from", "--init-leaves=.*", "--init-vocabulary", "--init-positions"]
)
@pytest.mark.parametrize("main", [train.main, lambda args: scaling.main(["plan", *args]), prepare.main])
def test_the_old_names_of_flags_are_refused_with_the_new_ones(capsys, main, old):
    new = old.partition("=")[0].replace("_", "-").replace("init-", "init.").replace("from", "path")
    assert f"{old.partition('=')[0]} has another name now: {new}" in refused(capsys, main, [old, "x"])


def test_a_flag_that_decides_others_defaults_needs_its_value(capsys):
    assert "--workdir" in refused(capsys, train.main, ["--workdir"])


def test_wrong_value_is_named(refuse):
    assert "--train.steps" in refuse("--train.steps", "many")


def test_unknown_preset_offers_the_nearest(refuse):
    assert "unknown preset 'gpt-pyton': did you mean gpt-python" in refuse(preset="gpt-pyton")


def test_no_text_is_named(refuse):
    assert "--data.path" in refuse(*TINY)


def test_missing_file(refuse, tmp_path):
    assert str(tmp_path / "nothing.txt") in refuse(*TINY, "--data.path", tmp_path / "nothing.txt")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"\x00\x01\x02" * 100, "binary"), ("grüße\n".encode("latin-1") * 50, "UTF-8")],
)
def test_bad_files(refuse, tmp_path, content, words):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    line = refuse(*TINY, "--data.path", path)
    assert str(path) in line
    assert words in line


def test_a_corpus_smaller_than_a_window(refuse, tmp_path):
    path = tmp_path / "small.txt"
    path.write_text("two lines\nof text\n")
    assert "--train.seq-len" in refuse(*TINY, "--data.path", path)


def test_a_vocabulary_larger_than_the_corpus_supports(refuse, corpus):
    line = refuse("--data.path", corpus, "--data.tokenizer", "unigram", "--model.vocab-size", "8000")
    assert "--model.vocab-size" in line


def test_a_vocabulary_too_small_for_the_tokenizer(refuse, corpus):
    assert "--model.vocab-size" in refuse(*TINY, "--data.path", corpus, "--model.vocab-size", "100")


def test_a_batch_that_the_mesh_does_not_divide(refuse, corpus):
    assert "not divided" in refuse(*TINY, "--data.path", corpus, "--mesh.data", "3")


def test_more_devices_than_there_are(refuse, corpus):
    assert "needs 16 devices and there are 8" in refuse(*TINY, "--data.path", corpus, "--mesh.data", "16")


def test_heads_that_tensor_parallelism_does_not_divide(refuse, corpus):
    line = refuse(*TINY, "--data.path", corpus, "--mesh.data", "1", "--mesh.tensor", "4")
    assert "heads' dimension of 2 is not divided by tensor = 4" in line


def test_heads_that_do_not_divide_the_width(refuse, corpus):
    line = refuse(*TINY, "--data.path", corpus, "--model.num-heads", "5")
    assert "--model.num-heads 5 does not divide --model.width 16" in line


def test_a_sequence_longer_than_the_context(refuse, corpus):
    assert "--train.seq-len 64 is longer" in refuse(*TINY, "--data.path", corpus, "--train.seq-len", "64")


def test_an_unknown_flag_of_the_objective(refuse):
    assert "Perhaps you meant: --objective.z-loss" in refuse("--objective.z-los", "3")


def test_an_impossible_objective(refuse):
    assert "--objective.label-smoothing is 1.5: it must lie in [0, 1)" in refuse("--objective.label-smoothing", "1.5")


def test_an_unknown_data_set(refuse):
    assert "python_stdlib" in refuse(*TINY, "--data.tfds", "python_stdlb")


def test_a_run_in_a_pipeline_ends_well_without_a_continuation(corpus, tmp_path, capsys):
    """Decoding has no pipeline, of which the end of a long run is no time to hear."""
    flags = [*TINY, "--data.path", corpus, "--data.cache-dir", tmp_path / "cache", "--workdir", tmp_path / "run"]
    mesh = ["--model.num-layers", "2", "--mesh.pipeline", "2", "--mesh.data", "1", "--train.eval-batches", "1"]
    assert command.run(lambda: train.main(["gpt-text", *map(str, flags), *mesh])) == 0
    said = capsys.readouterr().out
    assert "continuation" not in said
    assert f"continue text  python tools/generate.py {tmp_path / 'run'}" in said


def test_a_run_goes_from_the_command_line_to_generated_text(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/relative")
    flags = [*TINY, "--data.path", str(corpus), "--data.cache-dir", str(tmp_path / "cache"), "--mesh.data", "1"]
    assert command.run(lambda: train.main(["gpt-text", "--workdir", str(folder), *flags])) == 0
    said = capsys.readouterr().out
    for words in ("bits per byte", "gzip -9", "xz -9", "perplexity", str(folder), "continuation"):
        assert words in said

    # The same folder with no preset goes on with what is recorded; more steps are welcome, another model is not.
    assert command.run(lambda: train.main(["--workdir", str(folder), "--train.steps", "4"])) == 0
    assert "train.steps is 4 from here on (it was 2)" in capsys.readouterr().out
    assert json.loads((folder / "experiment.json").read_text())["train"]["steps"] == 4
    line = refused(capsys, train.main, ["--workdir", folder, "--model.width", "32"])
    assert "model.width was 16, now 32" in line

    asked = [folder, "--prompt", "line 1", "--temperature", "0.8", "--top-k", "40", "--num", "3"]
    assert command.run(lambda: generate.main([str(arg) for arg in [*asked, "--max-new-tokens", "8"]])) == 0
    assert capsys.readouterr().out.count("line 1") == 3
    assert "context holds 32" in refused(capsys, generate.main, [folder, "--prompt", "x" * 100])
    assert "--top-k is 0" in refused(capsys, generate.main, [folder, "--top-k", "0"])
    assert "no such run" in refused(capsys, generate.main, [tmp_path / "nowhere"])


@pytest.mark.exhaustive
def test_an_encoder_run_fills_in_and_does_not_continue_text(corpus, tmp_path, capsys):
    flags = ["--model.mlp-width", 32, "--data.path", corpus, "--data.cache-dir", tmp_path / "cache", "--mesh.data", 1]
    tiny, folder = [str(flag) for flag in [*TINY, *flags]], str(tmp_path / "run")
    assert command.run(lambda: train.main(["roberta-python", "--workdir", folder, *tiny])) == 0
    assert "accuracy" in capsys.readouterr().out
    assert "is a roberta model: give it --mask TEXT" in refused(capsys, generate.main, [folder])
    assert command.run(lambda: generate.main([folder, "--mask", "be, or <mask>ot [MASK]", "--num", "3"])) == 0
    assert capsys.readouterr().out.count("be, or ") == 2 * (1 + 3)
    assert "has no mask" in refused(capsys, generate.main, [folder, "--mask", "to be"])
    assert "0 guesses a mask" in refused(capsys, generate.main, [folder, "--mask", "<mask>", "--num", "0"])
    line = refused(capsys, evaluate.main, [folder, "--metric", "bleu"])
    assert "the objective masked_lm has no pairs" in line
    assert command.run(lambda: evaluate.main([folder])) == 0
    loss = float(re.search(r"^loss (\d+\.\d+) nats", capsys.readouterr().out, re.MULTILINE)[1])
    assert 1 < loss < 9


@pytest.mark.exhaustive
def test_an_encoder_decoder_run_answers_and_is_scored(tmp_path, capsys, monkeypatch):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"count {n} {n % 7}\tzählt {n} {n % 7}\n" for n in range(200)))
    sizes = [f"--model.num-{part} 1" for part in ("encoder-layers", "decoder-layers")]
    sizes += [f"--model.num-{side}-heads 2 --model.{side}-mlp-width 32" for side in ("encoder", "decoder")]
    flags = [*" ".join(sizes).split(), "--model.width", "16", "--model.vocab-size", "400", "--data.tokenizer", "bytes"]
    flags += ["--objective.target-len", "32", "--train.seq-len", "32", "--train.batch-size", "8", "--train.steps", "2"]
    flags += ["--data.path", str(pairs), "--data.cache-dir", str(tmp_path / "cache"), "--mesh.data", "1"]
    folder = str(tmp_path / "run")
    assert command.run(lambda: train.main(["transformer-multi30k", "--workdir", folder, *flags])) == 0
    assert "% of the rows' places are padding" in capsys.readouterr().out

    said = ["--max-new-tokens", "8"]
    assert (
        command.run(lambda: generate.main([folder, "--source", "count 1 1", "--beams", "3", "--num", "2", *said])) == 0
    )
    assert capsys.readouterr().out.count("score -") == 2
    monkeypatch.setattr("sys.stdin", ["count 1 1\n", "count 2 2\n"])
    assert command.run(lambda: generate.main([folder, "--source", "-", *said])) == 0
    assert "---" not in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", [])
    assert command.run(lambda: generate.main([folder, "--source", "-", *said])) == 0
    assert capsys.readouterr().out == ""
    for flags, message in [
        (["--prompt", "a"], "is a transformer model: give it --source TEXT"),
        (["--prompt", "a", "--source", "b"], "--prompt and --source: give one"),
        (["--source", "a", "--beams", "2", "--top-k", "3"], "--top-k is of drawing and --beams of searching"),
        (["--source", "a", "--beams", "2", "--num", "3"], "raise --beams to at least 3"),
        (["--source", "a", "--num", "0"], "0 continuations"),
        (["--source", "a", "--stop", "ab"], "'ab' is 2 tokens"),
    ]:
        assert message in refused(capsys, generate.main, [folder, *flags])

    out = tmp_path / "answers.txt"
    asked = ["--metric", "bleu", "chrf", "--beams", "2", "--batch-size", "4", "--out", str(out), *said]
    assert command.run(lambda: evaluate.main([folder, *asked])) == 0
    printed = capsys.readouterr().out
    assert "tok:13a" in printed
    assert "chrF2 = " in printed
    pairs_scored = int(re.search(r"\((\d+) pairs", printed)[1])
    assert len(out.read_text().splitlines()) == pairs_scored
    assert "--limit is 0" in refused(capsys, evaluate.main, [folder, "--limit", "0"])
    assert "no such file or folder" in refused(capsys, evaluate.main, [folder, "--metric", "bleu", "--path", "nowhere"])

    picture = tmp_path / "losses.png"
    assert command.run(lambda: plot.main([folder, "--out", str(picture)])) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "not supported" in refused(capsys, plot.main, [folder, "--out", tmp_path / "losses.doc"])
    assert "is it a run folder?" in refused(capsys, plot.main, [tmp_path])


def test_an_objective_that_the_model_does_not_fit_is_named(refuse, corpus):
    path = ["--data.path", corpus]
    line = refuse(*path, "--objective.sentence", "nsp", preset="roberta-python")
    assert "needs --model.head pretraining" in line
    line = refuse(*path, "--objective.choose", "spans", "--objective.boundary", "True", preset="bert-python")
    assert "needs boundary scores, which a bert model does not give" in line


def start(*arguments) -> subprocess.Popen[str]:
    """Starts train.py as a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_a_damaged_checkpoint_is_named(corpus, tmp_path):
    folder = tmp_path / "run"
    flags = [*TINY, "--data.path", str(corpus), "--data.cache-dir", str(tmp_path / "cache"), "--mesh.data", "1"]
    assert command.run(lambda: train.main(["gpt-text", "--workdir", str(folder), *flags])) == 0
    for path in (folder / "checkpoints" / "2" / "params").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    process = start("--workdir", folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert errors.count("\n") == 1, errors
    assert re.search(r"checkpoints/2: damaged: params/\S+: \d+ bytes, sealed with \d+", errors), errors


def test_ctrl_c_saves_and_says_how_to_go_on(corpus, tmp_path):
    """A real signal to a real process."""
    folder = tmp_path / "run"
    flags = [*TINY, "--data.path", corpus, "--data.cache-dir", tmp_path / "cache", "--train.steps", "100000"]
    process = start("gpt-text", "--workdir", folder, *flags, "--checkpoint.every", "100000")
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    last = errors.strip().splitlines()[-1]
    found = re.search(r"error: SIGINT: stopped after step (\d+) of 100000, saved. To go on: python train.py", last)
    assert found, errors
    assert "Traceback" not in errors
    assert (folder / "checkpoints" / found[1]).is_dir()


def test_an_interrupted_process_waits_for_no_worker():
    """Whose executor's lock was held when the interrupt came."""
    script = """
import concurrent.futures, jax, time
from transformer import command
from transformer.errors import Interrupted
jax.devices()
executor = concurrent.futures.ThreadPoolExecutor(1)
def main():
    executor.submit(time.sleep, 1)  # after which the worker says that it is idle
    executor._idle_semaphore._cond.acquire()
    raise Interrupted("stopped")
command.end(command.run(main))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (75, "error: stopped\n")


def test_an_interrupted_process_whose_output_nobody_reads_keeps_its_exit_code():
    script = """
import jax, os, sys
from transformer import command
from transformer.errors import Interrupted
reader, writer = os.pipe()
os.dup2(writer, 1), os.close(writer), os.close(reader)
sys.stdout = open(1, "w", buffering=8192, closefd=False)  # not written through, whatever the environment says
def main():
    print("a line")
    raise Interrupted("stopped")
command.end(command.run(main))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (75, "error: stopped\n")


def test_published_weights_that_are_not_there_are_one_line(tmp_path):
    """And without the variable nothing of them is collected, nor skipped."""
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm" / "config.json").write_text("{}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/published"]
    for variable, code, said in [
        ({"REAL_WEIGHTS": str(tmp_path)}, 4, f"{tmp_path} has no Hugging Face folder called smollm2-135m"),
        ({}, 5, "no tests ran"),
    ]:
        environment = {name: value for name, value in os.environ.items() if name != "REAL_WEIGHTS"} | variable
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line]
        assert (done.returncode, len(lines)) == (code, 1), lines
        assert said in lines[0]
