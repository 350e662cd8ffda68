"""Checks of the entries of a COCO json: their keys, their ids, and what these refer to."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cropr_mm.engine.preflight.findings import Findings
from cropr_mm.messages import plural, some

TRAINED = ("id", "image_id", "category_id", "bbox", "area")
SCORED = (*TRAINED, "iscrowd")
_LABELS = ("id", "image_id", "category_id")
_KEYS = dict(image=("id", "file_name", "width", "height"), category=("id", "name"))
_ADVICE = dict(
    area="add the pixels of the mask, or width * height of the box",
    iscrowd="add 0 for single objects",
    width="add the image's width in pixels",
    height="add the image's height in pixels",
    id="number all of them",
)


def check_entries(content: Mapping[str, Any], findings: Findings, needed: Sequence[str]) -> None:
    """Note entries without keys that host libraries read, and ids that are not unique.

    Args:
        content: Content of the file, with the lists 'images' and 'categories'.
        findings: Where errors are noted.
        needed: Keys of each annotation, :data:`TRAINED` or :data:`SCORED`.
    """
    lists = dict(
        image=content["images"],
        category=content["categories"],
        annotation=content.get("annotations", []),
    )
    for noun, entries in lists.items():
        if not isinstance(entries, list):
            got = type(entries).__name__
            findings.errors.append(f"expected a list of {plural(noun)}, got {got}")
            continue
        others = [i for i, entry in enumerate(entries) if not isinstance(entry, dict)]
        findings.error(noun, "is no dict", [f"[{i}] of the list" for i in others])
        if others:
            continue
        for key in needed if noun == "annotation" else _KEYS[noun]:
            lacking = [place(e, i) for i, e in enumerate(entries) if e.get(key) is None]
            findings.error(noun, f"has no {key!r}", lacking, _ADVICE.get(key, ""))
        _check_values(noun, entries, findings)


def check_references(content: Mapping[str, Any], findings: Findings) -> list[dict[str, Any]]:
    """Annotations whose image and category are in the file; others are noted.

    Args:
        content: Content that passed :func:`check_entries`.
        findings: Annotations of other images or categories are warned of. If there are no more,
            that is an error.
    """
    annotations = content.get("annotations", [])
    known = {}
    for noun, entries in (("image", content["images"]), ("category", content["categories"])):
        known[noun] = {entry["id"] for entry in entries}
        key = f"{noun}_id"
        others = [a[key] for a in annotations if a[key] not in known[noun]]
        note = findings.error if len(others) == len(annotations) else findings.warn
        ids = some([repr(entry["id"]) for entry in entries], 5)
        note(
            "annotation",
            f"has the {key} of no {noun}",
            Counter(others),
            f"ids of {plural(noun)}: {ids}",
        )
    return [
        annotation
        for annotation in annotations
        if annotation["image_id"] in known["image"]
        if annotation["category_id"] in known["category"]
    ]


def place(entry: Mapping[str, Any], position: int) -> str:
    """What an entry is called in messages: its id, or its position in the list."""
    return f"id {entry['id']!r}" if entry.get("id") is not None else f"[{position}] of the list"


def _check_values(noun: str, entries: Sequence[Mapping[str, Any]], findings: Findings) -> None:
    """Ids are numbers or text and unique, names are text, sizes are positive."""
    for key in _LABELS if noun == "annotation" else ("id",):
        wrong = [
            f"[{i}] of the list"
            for i, entry in enumerate(entries)
            if isinstance(entry.get(key), list | dict)
        ]
        findings.error(noun, f"has a list or dict as {key!r}", wrong)
        if wrong:
            return
    findings.error(noun, "has an id that is not unique", _repeated(entries, "id"))
    if noun == "annotation":
        return
    name = "name" if noun == "category" else "file_name"
    texts = [place(e, i) for i, e in enumerate(entries) if not isinstance(e.get(name, ""), str)]
    findings.error(noun, f"has no text as {name!r}", texts)
    if noun == "category" and not texts:
        findings.error(noun, "has a name that is not unique", _repeated(entries, "name"))
    if noun == "image" and not texts:
        repeated = _repeated(entries, "file_name")
        findings.warn(
            noun,
            "has a file_name that is not unique",
            repeated,
            "all objects of a file belong to one entry, or those of the others count as background",
        )
    for key in ("width", "height") if noun == "image" else ():
        sizes = [
            f"{place(e, i)}: {e[key]!r}"
            for i, e in enumerate(entries)
            if e.get(key) is not None and not _is_size(e[key])
        ]
        findings.error(noun, f"has no positive number as {key!r}", sizes)


def _repeated(entries: Sequence[Mapping[str, Any]], key: str) -> dict[Any, int]:
    counts = Counter(entry[key] for entry in entries if entry.get(key) is not None)
    return {value: number for value, number in counts.items() if number > 1}


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < math.inf
