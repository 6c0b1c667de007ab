"""Progress of a run: the bar that people see, and the rows of metrics behind it."""

from collections.abc import Callable, Mapping

import jax
from tqdm import tqdm

from transformer.errors import UserError
from transformer.training.experiment import TrainConfig
from transformer.training.goodput import Account
from transformer.training.metrics import MetricsLog
from transformer.training.throughput import Throughput


class Progress:
    """Reports steps one behind: a step's metrics are fetched once the next is dispatched, so the device never waits.

    A context manager, which closes the bar. `watch` is called with every step's number and metrics, and returns whether
    it took time, which the throughput must not count. `account` tells where the run's time went so far.
    """

    def __init__(
        self,
        log: MetricsLog,
        throughput: Throughput,
        config: TrainConfig,
        first: int,
        watch: Callable[[int, Mapping[str, float]], bool],
        account: Callable[[], Account],
    ):
        self._watch, self._account = watch, account
        self._log, self._throughput, self._config = log, throughput, config
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._bar = tqdm(
            initial=first,
            total=config.steps,
            unit="step",
            desc="train",
            dynamic_ncols=True,
            mininterval=0.5,
            disable=not log.is_lead,
        )
        self._bar.set_postfix_str("compiling")
        self._shown: dict[str, str] = {}

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def step(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of update number `step` (1 for the first), and reports the update before."""
        pending, self._pending = self._pending, (step, metrics)
        self._report(pending)

    def flush(self) -> None:
        """Reports the last step and the goodput, makes its row safe from a kill, and stops the clock until the next."""
        pending, self._pending = self._pending, None
        self._report(pending)
        if pending is not None and self._log.is_lead:
            self._log.draw(pending[0], self._account().scalars())
        self._log.flush()
        self._throughput.pause()

    def evaluated(self, step: int, row: dict[str, float]) -> None:
        """Writes and shows an evaluation's row."""
        self._log.write(step, row)
        self._shown["eval"] = f"{row['eval_loss']:.3f}"
        if "eval_bits_per_byte" in row:
            self._shown["bits/byte"] = f"{row['eval_bits_per_byte']:.3f}"
        self._bar.set_postfix(self._shown)

    def _report(self, pending: tuple[int, dict[str, jax.Array]] | None) -> None:
        if pending is None:
            return
        step, metrics = pending
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._throughput.step_done()
        if self._watch(step, values):
            self._throughput.pause()
        if values["skipped"] >= self._config.max_skipped:
            raise UserError(
                f"the loss or a gradient was not finite in {int(values['skipped'])} updates in a row, the last of them "
                f"{step}: lower --optimizer.learning-rate; the newest checkpoint is from before"
            )
        if step % self._config.log_every == 0 or step in (1, self._config.steps):
            values |= self._throughput.report()
            self._log.write(step, values)
            self._show(values)
        self._bar.update(step - self._bar.n)

    def _show(self, values: dict[str, float]) -> None:
        self._shown["loss"] = f"{values['loss']:.3f}"
        if "tokens_per_second" in values:
            self._shown["tokens/s"] = f"{values['tokens_per_second']:,.0f}"
        if "mfu" in values:
            self._shown["MFU"] = f"{values['mfu']:.1%}"
        if values["skipped"]:
            self._shown["skipped"] = f"{values['skipped']:.0f}"
        self._bar.set_postfix(self._shown, refresh=False)
