"""How the pictures of a restored model are cut to size."""

from transformer.data.images.preprocessing import PREPROCESSING, Preprocessing, from_json
from transformer.errors import UserError
from transformer.inference.restored import Restored


def preprocessing_of(restored: Restored) -> tuple[Preprocessing, tuple[str, ...]]:
    """Returns how a model's pictures become arrays, and the names of its classes, if it has any.

    Raises:
      UserError: its checkpoint does not say.
    """
    path = restored.record / PREPROCESSING
    if not path.exists():
        raise UserError(
            f"{restored.checkpoint} does not say how images are cut to size ({PREPROCESSING} is missing): import "
            "it from a folder with its preprocessor_config.json"
        )
    return from_json(path.read_text())
