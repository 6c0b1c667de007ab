"""TFDS datasets of any kind, found and prepared as ArrayRecord, with no TensorFlow in the process."""

import contextlib
import difflib
import importlib
import io
import os
import socket
import urllib.request
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from transformer.atomic import errors_named, exclusive
from transformer.errors import UserError

_ROOMS = ("text", "translate", "summarization", "question_answering")
"""Modules of TFDS that define what it does not list by itself."""
_EMBEDDED = ("python_stdlib", "python_docstrings")


def folder_of(cache_dir: str) -> Path:
    """Returns where prepared data lies: $TFDS_DATA_DIR, or below the cache."""
    return Path(os.environ.get("TFDS_DATA_DIR") or Path(cache_dir) / "tfds").expanduser()


def builder_of(dataset: str, folder: Path) -> Any:
    """Returns the builder of a dataset; raises UserError where there is none that loads."""
    if dataset in _EMBEDDED:
        module = importlib.import_module(f"transformer.data.text.{dataset}.{dataset}_dataset_builder")
        return module.Builder(data_dir=str(folder), file_format="array_record")
    if dataset.split("/")[0] not in tfds.list_builders(with_community_datasets=False):
        # Wikipedia, C4, WMT and others: TFDS knows them only once the modules that define them are imported.
        for room in _ROOMS:
            importlib.import_module(f"tensorflow_datasets.{room}")
    try:
        return tfds.builder(dataset, data_dir=str(folder), file_format="array_record", try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        known = [*tfds.list_builders(with_community_datasets=False), *_EMBEDDED]
        near = difflib.get_close_matches(dataset.split("/")[0], known, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else f" The embedded ones are {' and '.join(_EMBEDDED)}."
        raise UserError(f"TFDS has no dataset {dataset!r} that loads without TensorFlow.{hint}") from None
    except ImportError as error:
        raise _missing_module(dataset, error) from error
    except ValueError as error:
        raise UserError(f"TFDS dataset {dataset!r}: {_first_line(error)}") from error


def prepare(builder: Any, dataset: str, folder: Path) -> None:
    """Downloads and writes the dataset if it is not there; TFDS itself renames a whole folder into place at the end."""
    if not _prepared(builder):
        with exclusive(folder / ".lock"):  # of several processes, one prepares
            if not _prepared(builder):
                if dataset not in _EMBEDDED:
                    _check_network(dataset, folder)
                with errors_named(folder):
                    _download(builder, dataset)
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"TFDS dataset {dataset!r} in {builder.data_path} is stored as {builder.info.file_format.value}, which "
            "needs TensorFlow to read. Prepare it as array_record, or set --data.cache-dir to a new folder."
        )


def _prepared(builder: Any) -> bool:
    return (Path(builder.data_path) / "dataset_info.json").exists()


def _download(builder: Any, dataset: str) -> None:
    quiet = dataset in _EMBEDDED  # a second's work: TFDS's four progress bars would only be noise
    try:
        with contextlib.ExitStack() as stack:
            if quiet:
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            builder.download_and_prepare()
    except ImportError as error:
        raise _missing_module(dataset, error) from error
    except tfds.download.DownloadError as error:
        raise UserError(f"TFDS dataset {dataset!r} could not be downloaded: {_first_line(error)}") from error
    except OSError as error:
        if type(error).__module__.startswith("requests"):
            raise UserError(f"TFDS dataset {dataset!r} could not be downloaded: {_first_line(error)}") from error
        raise


def _check_network(dataset: str, folder: Path) -> None:
    """Fails at once where names do not resolve: TFDS would retry for minutes. Earlier downloads may still serve."""
    downloads = folder / "downloads"
    if urllib.request.getproxies() or (downloads.exists() and any(path.is_file() for path in downloads.rglob("*"))):
        return
    try:
        socket.getaddrinfo("storage.googleapis.com", 443)
    except OSError:
        raise UserError(
            f"TFDS dataset {dataset!r} is not in {folder} and there is no network to download it. Prepare it where "
            f"there is one and copy the folder, or use --data.tfds {_EMBEDDED[0]} or --data.path."
        ) from None


def _missing_module(dataset: str, error: ImportError) -> UserError:
    if (error.name or "").split(".")[0] == "tensorflow" or "tensorflow" in str(error).lower():
        return UserError(f"TFDS dataset {dataset!r} needs TensorFlow: pip install 'transformer-train[tensorflow]'")
    return UserError(f"TFDS dataset {dataset!r} needs a module that is not installed: pip install {error.name}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
