"""What every command of the project does alike: one line and exit code 2 for bad input, JAX set up, flags parsed."""

import contextlib
import ctypes
import dataclasses
import functools
import importlib.util
import io
import os
import re
import select
import signal
import sys
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from transformer.checks import FieldError
from transformer.errors import Interrupted, UserError
from transformer.paths import explain
from transformer.signals import PAIR, end_at_sigterm_as_first_process, ignored_until

if TYPE_CHECKING:
    from transformer.cluster.config import Deadlines


def run(main: Callable[[], None]) -> int:
    """Returns the exit code of `main`; prints a person's mistake as a line. A traceback is for our bugs only."""
    end_at_sigterm_as_first_process()
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        return _refuse(str(error), error, error.exit_code)
    except KeyboardInterrupt as error:
        with contextlib.suppress(ValueError):  # this is no main thread
            signal.signal(signal.SIGINT, ignored_until(time.monotonic() + PAIR, signal.default_int_handler))
        return _refuse("interrupted; nothing was lost that had been saved", error)
    except BrokenPipeError as error:
        if not _output_closed():
            raise
        return _refuse("what this command prints is read no further", error)
    except Exception as error:
        if (line := explain(error)) is not None:
            return _refuse(line, error)
        _leave(error, traceback.format_exc(), 1)
        raise
    return 0


def end(code: int) -> NoReturn:
    """Ends this process with the code of `run`; after an interrupt at once, where it is alone.

    The exception that ends a wait may come while an executor's lock is held. Its worker then waits for that lock for
    ever, and an orderly end waits for the worker.
    """
    if code == Interrupted.exit_code and "jax" in sys.modules:
        from transformer.cluster.agreement import alone

        if alone():
            with contextlib.suppress(BrokenPipeError):  # nobody reads what is left
                sys.stdout.flush()
            os._exit(code)
    sys.exit(code)


def parse(cls: type, args: Sequence[str], *, prog: str, **options: Any) -> Any:
    """Returns `args` as a `cls`, by tyro; raises UserError with tyro's own words, in one line and without the box."""
    import tyro

    for arg in args:
        if (new := _RENAMED.get(arg.partition("=")[0].replace("_", "-"))) is not None:
            raise UserError(f"{arg.partition('=')[0]} has another name now: {new}")
    # Optional parts of a config (a model's experts) are tyro's subcommands: with the second, flags may stand in any
    # order around them, and a preset's own parts need not be named to be changed.
    settings = (tyro.conf.FlagCreatePairsOff, tyro.conf.CascadeSubcommandArgs)
    with _one_line(), flags_named(cls):
        return tyro.cli(cls, args=args, prog=prog, config=settings, **options)


def parse_over(cls: type, args: Sequence[str], *, first: type, default: Callable[[Any], Any], prog: str) -> Any:
    """Returns `args` as a `cls` whose defaults depend on some of the flags, such as a preset's name.

    Args:
      cls: what the command is asked.
      args: the command line.
      first: the flags that are read before all others.
      default: takes these as a `first`; returns the `cls` that the others override.
      prog: the command's name.

    Raises:
      UserError: a flag is unknown or wrong.
    """
    import tyro

    with _one_line():
        known, _ = tyro.cli(first, args=[arg for arg in args if arg not in _HELP], return_unknown_args=True)
    return parse(cls, args, prog=prog, default=default(known))


@contextlib.contextmanager
def flags_named(cls: Any) -> Iterator[None]:
    """Makes a rule that a config's field breaks name the flag of `cls` that sets the field."""
    try:
        yield
    except FieldError as error:
        raise UserError(error.worded(functools.partial(_flag, cls, error.config))) from error


def _flag(cls: Any, config: type, field: str) -> str:
    """Returns the flag of a command that sets a field of a config, or of a whole experiment; else the field's name."""
    configs = list(_configs(cls))
    first, flag = field.partition(".")[0], field.replace("_", "-")
    for kind, prefix in configs:
        if issubclass(config, kind) and first in config.__dataclass_fields__:
            return f"--{prefix}{flag}"
    for kind, prefix in configs:
        if not prefix and first in kind.__dataclass_fields__:
            hint = typing.get_type_hints(kind, include_extras=True)[first]
            return f"--{_name(first, hint)}{flag[len(first) :]}"
    return field


def _configs(kind: Any, prefix: str = "") -> Iterator[tuple[type, str]]:
    """Yields the dataclasses that a command is made of, itself first, each with what its flags begin with.

    A part may be of any class that derives from the one that is named: a family's config, with parts of its own.
    """
    if not isinstance(kind, type):  # subcommands, an annotated or an optional field
        for part in typing.get_args(kind):
            yield from _configs(part, prefix)
    elif dataclasses.is_dataclass(kind):
        yield kind, prefix
        for field, hint in typing.get_type_hints(kind, include_extras=True).items():
            name = _name(field, hint)
            yield from _configs(hint, f"{prefix}{name}." if name else prefix)
        for derived in kind.__subclasses__():
            yield from _configs(derived, prefix)


def _name(field: str, hint: Any) -> str:
    """Returns what tyro calls a field, which `tyro.conf.arg` may say."""
    names = [getattr(note, "name", None) for note in getattr(hint, "__metadata__", ())]
    return next((name for name in names if name is not None), field.replace("_", "-"))


_HELP = ("-h", "--help")
_RENAMED = {
    "--init-from": "--init.path",
    "--init-leaves": "--init.leaves",
    "--init-vocabulary": "--init.vocabulary",
    "--init-positions": "--init.positions",
}
"""Flags of older versions -> what they are called now."""


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turns what tyro prints before it exits with an error into a UserError of one line."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        # Without the frame, whose title, before its first rule, says again what stands first in it.
        framed = re.split(r"[\u2500-]{4,}", printed.getvalue(), maxsplit=1)[-1]
        words = re.sub(r"[\u2500-\u257f]|-{4,}", " ", framed).split()
        raise UserError(" ".join(words)) from None


def start_jax(*, distributed: bool = False, shared_hosts: bool = False, deadlines: "Deadlines | None" = None) -> None:
    """Turns on the persistent compilation cache, joins a distributed run, and on a CPU keeps freed memory.

    The cache lies in `$JAX_COMPILATION_CACHE_DIR`, or in `~/.cache/transformer/xla`.

    Args:
      distributed: whether this is one process of several; see `transformer.cluster.joining`.
      shared_hosts: whether devices that such a job leaves unused are not its own.
      deadlines: of a distributed run, which is watched from here to its end; None: it is not.
    """
    import jax

    from transformer.checkpoint.orbax_patches import quiet_log

    if cpu_alone():
        _keep_freed_memory()
    quiet_log()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/transformer/xla").expanduser()))
    # Everything is worth keeping: the second start of a run should not compile at all.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if distributed:
        from transformer.cluster.joining import join

        join(shared_hosts=shared_hosts, deadlines=deadlines)
        if deadlines is not None:
            from transformer.cluster.watchdog import begin

            begin(deadlines, with_others=True)


def _output_closed() -> bool:
    """Whether nobody reads the standard output any more, as after `| head`; what is left of it is thrown away then."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # a test's
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def cpu_alone() -> bool:
    """Whether JAX can only run on the CPU. Asking JAX itself would start its threads, each with a heap of its own."""
    accelerators = ("jax_plugins", "libtpu")  # where JAX finds GPUs and TPUs
    return os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(importlib.util.find_spec, accelerators))


def _keep_freed_memory() -> None:
    """Makes glibc keep the memory that is freed, in one heap, for the next step.

    XLA's CPU client allocates its buffers anew each step. By default glibc maps each from the system and gives it back:
    72,000 page faults a step of the default preset, a quarter of its time.
    """
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it; musl, macOS and Windows do without
    if mallopt is not None:
        mallopt(m_arena_max, 1)
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def _refuse(message: str, error: BaseException, exit_code: int = UserError.exit_code) -> int:
    # Names may hold anything: it stays one line, which any terminal shows.
    message = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", lambda match: repr(match[0])[1:-1], message)
    if exit_code == Interrupted.exit_code:
        # On which all processes agreed. Once the first has left, a launcher ends the others with SIGTERM, and then
        # reports that signal in place of the exit code.
        with contextlib.suppress(ValueError):  # this is no main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        _leave(error, f"error: {message}", exit_code)
    print(f"error: {message}", file=sys.stderr)
    return exit_code


def _leave(error: BaseException, line: str, exit_code: int) -> None:
    """Ends this process, and the others of the job, if it is one of several."""
    if "jax" in sys.modules:  # a tool that needs none does not wait for its import
        from transformer.cluster.leaving import leave

        leave(error, line, exit_code)
