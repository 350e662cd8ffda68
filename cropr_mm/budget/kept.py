"""Measurements that a search keeps in its folder, for the next budget."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cropr_mm.checkpoints.atomic import replacing
from cropr_mm.profiling.environment import settings_hash


def kept(file: Path, key: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """What was measured before under the same key, or a measurement that is kept from now on.

    Args:
        file: JSON file; one of another key is replaced.
        key: Everything that the result depends on, in plain types.
        measure: Gives the result, in types of JSON.
    """
    name = settings_hash(key)
    if file.is_file():
        record = json.loads(file.read_text())
        if record["key"] == name:
            print(f"taken from {file}")
            return record["result"]
    record = dict(key=name, about=dict(key), result=measure())
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    return record["result"]
