"""Every folder of folders.zip imported here and exported with --flax: python -m tests.interop.flax4.export EXPORTS."""

import sys
import tempfile
import zipfile
from pathlib import Path

from transformer.interop import convert

ARCHIVE = Path(__file__).parent / "folders.zip"


def main(out: Path) -> None:
    """Writes a folder a case."""
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(ARCHIVE) as archive:
            archive.extractall(scratch)
        for folder in sorted(Path(scratch).iterdir()):
            run = Path(scratch) / "runs" / folder.name
            convert.save(convert.import_folder(folder), folder, run)
            convert.export(run, out / folder.name, flax=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
