"""Errors of single samples: they name the file, from worker processes too."""

import re
from typing import Any

from mmengine.dataset import Compose

from cropr_mm.engine.preflight.data import built_datasets
from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.engine.preflight.images import open_image


class SampleError(SetupError):
    """A file that a loading step of a pipeline fails on."""


class NamedLoading(Compose):
    """A pipeline whose loading steps name the files that they fail on.

    Args:
        transforms: Those of a built pipeline.
    """

    def __call__(self, data: dict[str, Any]) -> dict[str, Any] | None:
        """Run all steps.

        Raises:
            SampleError: If a step whose name starts with 'Load' fails.
        """
        for step in self.transforms:
            name = type(step).__name__
            paths = [data.get("img_path"), data.get("seg_map_path")]
            try:
                data = step(data)
            except Exception as error:
                if not name.startswith("Load"):
                    raise
                files = [path for path in paths if isinstance(path, str)]
                raise SampleError(f"{name} failed on {_faults(files, error)}") from error
            if data is None:
                return None
        return data


def name_damaged_files(dataset: Any) -> None:
    """Let the loading steps of a built dataset name the files that they fail on; in place."""
    for part in built_datasets(dataset):
        if isinstance(getattr(part, "pipeline", None), Compose):
            part.pipeline = NamedLoading(part.pipeline.transforms)


def short_message(error: SampleError) -> str:
    """What it says, without the traceback that a worker process puts around it."""
    found = re.search(rf"{SampleError.__name__}: (.*)\s*$", str(error))
    return found[1] if found else str(error)


def _faults(files: list[str], error: Exception) -> str:
    """Files with what is wrong with each, or all with what the step said."""
    for file in files:
        try:
            open_image(file)
        except FileNotFoundError:
            return f"{file}: it is missing"
        except OSError as damage:
            return f"{file}: it {damage}"
    said = " ".join(str(error).split())
    return f"{', '.join(files) or 'a sample'}: {type(error).__name__}: {said}"
