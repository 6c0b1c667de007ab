"""What a checkpoint is, saved and restored through Orbax."""

from transformer.checkpoint.adapted import restore_model
from transformer.checkpoint.checkpoints import Checkpoints, save_params
from transformer.checkpoint.config import CheckpointConfig
from transformer.checkpoint.files import Files, to_json, write_atomically
from transformer.checkpoint.reading import Damaged, find, read_architecture, restore_params
from transformer.checkpoint.saved import Saved
from transformer.checkpoint.verifying import verify

__all__ = [
    "CheckpointConfig",
    "Checkpoints",
    "Damaged",
    "Files",
    "Saved",
    "find",
    "read_architecture",
    "restore_model",
    "restore_params",
    "save_params",
    "to_json",
    "verify",
    "write_atomically",
]
