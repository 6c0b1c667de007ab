"""A run's folder: what it records, and whether an experiment may go on in it."""

import os
from typing import Any

from etils import epath

from transformer.checkpoint import adapted, provenance, to_json, write_atomically
from transformer.checkpoint.adapted import Base
from transformer.checkpoint.compare import read_json
from transformer.checkpoint.reading import reachable, steps
from transformer.data.dataset import Dataset
from transformer.data.tokenized import TokenizedDataset
from transformer.errors import UserError
from transformer.models import architecture_to_dict
from transformer.paths import check_folder
from transformer.training import corpus_record, lock
from transformer.training import experiment as experiments
from transformer.training.experiment import Experiment


class Run:
    """The folder of one run; nothing is written before `begin`.

    It holds `experiment.json`, `architecture.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/STEP/` and, of steps
    that spiked, `spikes/STEP.json`; `goodput/START.json`, where the time of each start went; `data.json`, which tells
    the data by their content; `tokenizer/`, where the data are text; `adapter.json`, of an adapter, which names its
    base; `local.json`, where there are local checkpoints; and, while the run goes on, `lock.json`.
    """

    def __init__(self, folder: epath.PathLike):
        if not os.fspath(folder):
            raise UserError("the run folder's name is empty: --workdir must name a folder")
        self.folder = reachable(epath.Path(folder).expanduser())

    @property
    def command(self) -> str:
        """The command that goes on with it."""
        return f"python train.py --workdir {self.folder}"

    @property
    def experiment_path(self) -> epath.Path:
        return self.folder / "experiment.json"

    @property
    def checkpoints(self) -> epath.Path:
        return self.folder / "checkpoints"

    @property
    def tokenizer(self) -> epath.Path:
        return self.folder / "tokenizer"

    @property
    def metrics(self) -> epath.Path:
        return self.folder / "metrics.jsonl"

    @property
    def tensorboard(self) -> epath.Path:
        return self.folder / "tensorboard"

    @property
    def data(self) -> epath.Path:
        return self.folder / corpus_record.NAME

    @property
    def spikes(self) -> epath.Path:
        return self.folder / "spikes"

    @property
    def goodput(self) -> epath.Path:
        return self.folder / "goodput"

    @property
    def begun(self) -> bool:
        """Whether something was learnt here. Until then, a corrected experiment may replace the recorded one."""
        if not self.experiment_path.exists():
            return False
        return bool(steps(self.checkpoints)) or (self.metrics.exists() and self.metrics.stat().length > 0)

    def check(self, experiment: Experiment, *, corpus_changed: bool = False) -> dict[str, tuple]:
        """Returns the fields that differ from the record, as field -> (recorded, now).

        Args:
          experiment: as it is to go on.
          corpus_changed: it may be on another corpus.

        Raises:
          UserError: the folder holds another experiment, or something else than a run.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file: --workdir must name a folder")
        check_folder(self.folder)
        if not self.folder.exists():
            return {}
        if not self.experiment_path.exists():
            if any(path.name != lock.NAME for path in self.folder.iterdir()):
                raise UserError(f"{self.folder} is not empty and holds no run: give another --workdir")
            return {}
        for place in (self.checkpoints, self.tokenizer, self.tensorboard, self.spikes, self.goodput):
            if place.exists() and not place.is_dir():
                raise UserError(f"{place} is a file, and a run keeps a folder of that name: move it away")
        for place in (self.experiment_path, self.metrics, self.data):
            if place.is_dir():
                raise UserError(f"{place} is a folder, and a run keeps a file of that name: move it away")
        if not self.begun:
            return {}
        changed = experiments.differences(experiments.read(self.experiment_path), experiment)
        free = [f"data.{name}" for name in experiment.data.identity] if corpus_changed else []
        refused = [name for name in changed if not experiments.may_change(name) and name not in free]
        if refused:
            fields = ", ".join(f"{name} was {changed[name][0]!r}, now {changed[name][1]!r}" for name in refused)
            raise UserError(
                f"{self.folder} holds another experiment: {fields}. Give another --workdir, or go on with the "
                f"recorded one: {self.command}"
            )
        return changed

    def recorded_data(self) -> dict[str, Any] | None:
        """Returns what is recorded of the corpus, also by the newest checkpoint; None of an older run, or a new one."""
        if not self.begun:
            return None
        saved = steps(self.checkpoints)
        newest = [self.checkpoints / str(saved[-1]) / "record" / corpus_record.NAME] if saved else []
        return next((read_json(path) for path in (self.data, *newest) if path.exists()), None)

    def begin(self, experiment: Experiment, dataset: Dataset, base: Base | None = None) -> dict[str, bytes]:
        """Records the experiment, its dataset and the tokenizer, if there is one; returns the same files, for every
        checkpoint takes them along.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # First: by it a folder that a full disk leaves unfinished is known as this run's.
        record = {
            "experiment.json": to_json(experiments.to_dict(experiment)),
            "architecture.json": to_json(architecture_to_dict(experiment.model)),
            corpus_record.NAME: to_json(dataset.about.identity),
            **dataset.files,
            **({} if base is None else {adapted.NAME: base.to_json()}),
        }
        for name, content in record.items():
            write_atomically(self.folder / name, content)
        if not self.begun and self.tokenizer.exists():
            self.tokenizer.rmtree()
        record[provenance.NAME] = provenance.written_by("train.py")
        if not isinstance(dataset, TokenizedDataset):
            return record
        if not self.tokenizer.exists():
            try:
                dataset.tokenizer.save(str(self.tokenizer))
            except OSError:
                if self.tokenizer.exists():
                    self.tokenizer.rmtree()
                raise
        return record | {f"tokenizer/{path.name}": path.read_bytes() for path in self.tokenizer.iterdir()}
