"""Table of all registered reduction methods and what they can do.

It knows no method by name: whatever is registered has a row, made of what the method declares.
"""

import inspect

from cropr_mm.reducers import MergingReducer, SoftMerger, TokenMerger, TokenReducer
from cropr_mm.registry import MODELS

_EMBED_DIM = 384
# What parameters depend on, and how the table says so.
_GIVEN = {"num_slots": 137, "num_classes": 150}
_CONDITIONS = {"num_slots": "K = 137", "num_classes": "150 classes"}
_WORDS = {
    "variance": "pixels",
    "cls_row": "class token's attention",
    "cls_heads": "class token's attention by head",
    "column_mean": "attention received",
    "column_heads": "attention received by head",
    "keys": "keys",
    "values": "values",
    "noise": "random numbers",
}
_TASKS = {  # of a child ``auxiliary``
    "keep": "model's loss through masks, share of kept tokens",
    "exit": "model's loss, labels of its tokens",
}


def registered_methods() -> list[type[TokenReducer]]:
    """All reducers by name."""
    found = {c for c in MODELS.module_dict.values() if issubclass(c, TokenReducer)}
    return sorted(found, key=lambda c: c.__name__.lower())


def method_table() -> str:
    """Markdown: what each method does with the tokens, what it reads, how maps come back."""
    head = [
        "method",
        "what leaves",
        "where",
        "reads besides the tokens",
        "learns from",
        "maps come back by",
        "windows",
        "relative positions",
        f"parameters a step (C = {_EMBED_DIM})",
    ]
    rows = [head, ["---"] * (len(head) - 1) + ["---:"]]
    for kind in registered_methods():
        given, missing = _arguments(kind)
        if missing:
            row = [f"`{kind.__name__}`", f"needs {', '.join(missing)}"]
            rows.append(row + ["?"] * (len(head) - len(row)))
            continue
        method = kind(_EMBED_DIM, **given)
        learns = _teacher(method)
        method.switch_to_deploy()
        count = sum(parameter.numel() for parameter in method.parameters())
        rows.append(
            [
                f"`{kind.__name__}`",
                _kind(method),
                f"{method.site} {'attention and MLP' if method.site == 'between' else 'a block'}",
                ", ".join(_WORDS.get(name, name) for name in sorted(method.needs)) or "-",
                learns,
                _way_back(method),
                "no" if _needs_global_attention(method) else "yes",
                "no" if method.synthetic else "yes",
                f"{count:,}".replace(",", " ")
                + "".join(f" ({_CONDITIONS[name]})" for name in given),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _arguments(kind: type[TokenReducer]) -> tuple[dict[str, int], list[str]]:
    """What the table gives a method, and the names of what else it cannot do without."""
    needed = [
        parameter.name
        for parameter in list(inspect.signature(kind).parameters.values())[1:]
        if parameter.default is parameter.empty
    ]
    given = {name: _GIVEN[name] for name in needed if name in _GIVEN}
    return given, [name for name in needed if name not in _GIVEN]


def _teacher(method: TokenReducer) -> str:
    if method.stop_gradient:
        return "auxiliary task"
    if "auxiliary" in dict(method.named_children()):
        task = getattr(method.get_submodule("auxiliary"), "task", "")
        return _TASKS.get(task, "model's loss, auxiliary task")
    parameters = list(method.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return "features of the dense model, by a fit"
    return "model's loss" if parameters else "-"


def _way_back(method: TokenReducer) -> str:
    if isinstance(method, MergingReducer):
        return "copies of merged tokens"
    return "exit logits" if method.num_exit_classes else "fusion, or as left"


def _needs_global_attention(method: TokenReducer) -> bool:
    return method.synthetic or method.masking


def _kind(method: TokenReducer) -> str:
    if isinstance(method, SoftMerger):
        return "all tokens, mixed into K"
    if isinstance(method, TokenMerger):
        return "tokens, into others"
    if method.fuses_dropped:
        return "tokens, in part into others"
    return "tokens, in part into one" if method.synthetic else "tokens, whole"
