"""Measurements that a search keeps in its folder, for the next budget."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cropr_mm.checkpoints.atomic import replacing
from cropr_mm.engine.preflight import SetupError
from cropr_mm.profiling.environment import settings_hash


def kept(
    file: Path,
    key: Mapping[str, Any],
    measure: Callable[[], Any],
    counts: Callable[[Any], bool] = lambda result: True,
) -> Any:
    """What was measured before under the same key, or a measurement that is kept from now on.

    Args:
        file: JSON file; one of another key is replaced.
        key: Everything that the result depends on, in plain types.
        measure: Gives the result, in types of JSON.
        counts: Whether a result may serve again; one that may not is returned, and not kept.

    Raises:
        SetupError: If the file is damaged.
    """
    name = settings_hash(key)
    if file.is_file():
        try:
            record = json.loads(file.read_text())
            stored, result = record["key"], record["result"]
        except (ValueError, TypeError, KeyError) as error:
            raise SetupError(
                f"{file} is damaged: expected what an earlier search measured; remove it"
            ) from error
        if stored == name:
            print(f"taken from {file}")
            return result
    record = dict(key=name, about=dict(key), result=measure())
    if not counts(record["result"]):
        return record["result"]
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(record, indent=2, default=str) + "\n")
    return record["result"]
