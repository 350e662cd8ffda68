"""Table of all registered reduction methods and what they can do."""

import cropr_mm.reducers  # noqa: F401 - registers the methods
from cropr_mm.reducers import SoftMerger, TokenMerger, TokenPruner, TokenReducer
from cropr_mm.registry import MODELS

_EMBED_DIM, _NUM_SLOTS = 384, 137
_WORDS = {
    "variance": "pixels",
    "cls_row": "class token's attention",
    "column_mean": "attention received",
    "keys": "keys",
    "noise": "random numbers",
}
_COPIES = "copies of merged tokens"


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
        "maps come back by",
        "windows",
        "relative positions",
        f"parameters a step (C = {_EMBED_DIM})",
    ]
    rows = [head, ["---"] * (len(head) - 1) + ["---:"]]
    for kind in registered_methods():
        method = kind(_EMBED_DIM, **({"num_slots": _NUM_SLOTS} if kind.sized else {}))
        method.switch_to_deploy()
        count = sum(parameter.numel() for parameter in method.parameters())
        rows.append(
            [
                f"`{kind.__name__}`",
                _kind(method),
                f"{method.site} {'attention and MLP' if method.site == 'between' else 'a block'}",
                ", ".join(_WORDS[name] for name in sorted(method.needs)) or "-",
                _COPIES if isinstance(method, TokenMerger | SoftMerger) else "fusion, or as left",
                "no" if method.synthetic or "cls_row" in method.needs else "yes",
                "no" if method.synthetic else "yes",
                f"{count:,}".replace(",", " ") + (f" (K = {_NUM_SLOTS})" if kind.sized else ""),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _kind(method: TokenReducer) -> str:
    if isinstance(method, SoftMerger):
        return "all tokens, mixed into K"
    if isinstance(method, TokenMerger):
        return "tokens, into others"
    if isinstance(method, TokenPruner):
        return "tokens, whole"
    return "tokens, in part into one" if method.synthetic else "tokens, in part into others"
