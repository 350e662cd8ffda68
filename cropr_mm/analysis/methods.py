"""Table of all registered reduction methods and what they can do."""

import cropr_mm.reducers  # noqa: F401 - registers the methods
from cropr_mm.reducers import (
    ATS,
    DToP,
    KeepDecision,
    SoftMerger,
    TokenMerger,
    TokenPruner,
    TokenReducer,
)
from cropr_mm.registry import MODELS

_EMBED_DIM, _NUM_SLOTS, _NUM_CLASSES = 384, 137, 150
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
        method = _make(kind)
        learns = _teacher(method)
        method.switch_to_deploy()
        count = sum(parameter.numel() for parameter in method.parameters())
        rows.append(
            [
                f"`{kind.__name__}`",
                _kind(method),
                f"{method.site} {'attention and MLP' if method.site == 'between' else 'a block'}",
                ", ".join(_WORDS[name] for name in sorted(method.needs)) or "-",
                learns,
                _way_back(method),
                "no" if _needs_global_attention(method) else "yes",
                "no" if method.synthetic else "yes",
                f"{count:,}".replace(",", " ") + _condition(kind),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _make(kind: type[TokenReducer]) -> TokenReducer:
    given = {"num_slots": _NUM_SLOTS} if kind.sized else {}
    if kind is DToP:
        given = {"num_classes": _NUM_CLASSES}
    return kind(_EMBED_DIM, **given)


def _condition(kind: type[TokenReducer]) -> str:
    if kind is DToP:
        return f" ({_NUM_CLASSES} classes)"
    return f" (K = {_NUM_SLOTS})" if kind.sized else ""


def _teacher(method: TokenReducer) -> str:
    if isinstance(method, KeepDecision):
        return "model's loss through masks, share of kept tokens"
    if isinstance(method, DToP):
        return "model's loss, labels of its tokens"
    if method.isolated:
        return "auxiliary task"
    return "model's loss" if any(True for _ in method.parameters()) else "-"


def _way_back(method: TokenReducer) -> str:
    if isinstance(method, TokenMerger | SoftMerger):
        return "copies of merged tokens"
    return "exit logits" if method.num_exit_classes else "fusion, or as left"


def _needs_global_attention(method: TokenReducer) -> bool:
    return method.synthetic or method.masking or "cls_row" in method.needs


def _kind(method: TokenReducer) -> str:
    if isinstance(method, SoftMerger):
        return "all tokens, mixed into K"
    if isinstance(method, TokenMerger):
        return "tokens, into others"
    if isinstance(method, TokenPruner | ATS | DToP):
        return "tokens, whole"
    return "tokens, in part into one" if method.synthetic else "tokens, in part into others"
