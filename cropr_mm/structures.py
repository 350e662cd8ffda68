"""Records that travel between the parts of the model.

B batch, P prefix tokens (class and register tokens), N live patch tokens, C channels, h x w patch
grid. The records are NamedTuples, because these pass through compile, export and FSDP as plain
tuples of tensors. The compiler of torch 2.1 knows neither their properties nor ``_replace``, so a
forward pass reads plain fields and changes them with :meth:`Tokens.replace`.
"""

from typing import Any, NamedTuple

from torch import Tensor

from cropr_mm.moved import renamed


class Tokens(NamedTuple):
    """Live tokens of one batch: features and the grid cell that each one came from.

    Attributes:
        x: Features, prefix first, shape (B, P + N, C).
        index: Raster id of each patch token in the h x w grid, shape (B, N), int64; -1 marks a
            token that belongs to no cell.
        grid: Patch grid (h, w) of the whole image, also after tokens were dropped.
        num_prefix: P.
        size: Number of cells that each token stands for, shape (B, N), float32; None means one
            each.
        policy: How much of each token is live, shape (B, N); None means all of it. Bool: a token
            with False is a filled place of a method that leaves different numbers in different
            images; no token attends to it and it stays as it is. Float32, 0 or 1, with gradient:
            the decisions of a method that masks in training what it drops in evaluation; see
            :func:`cropr_mm.ops.attention.masked_attention`.
        source: Place among the patch tokens of what each cell of the grid was merged into, shape
            (B, h * w), int64, -1 for a cell that left before; None where nothing was merged.
        exit: Class logits with which a token left the model for good and a 1 behind them, zeros for
            tokens that did not, shape (B, N, classes + 1); None means none did.
        position: Row and column of each patch token, in patches, shape (B, N, 2), float32, where
            tokens of no cell lie somewhere all the same: in the mean of what they were made of;
            None where no reducer needs it.
    """

    x: Tensor
    index: Tensor
    grid: tuple[int, int]
    num_prefix: int = 0
    size: Tensor | None = None
    policy: Tensor | None = None
    source: Tensor | None = None
    exit: Tensor | None = None
    position: Tensor | None = None

    def replace(self, **changes: Any) -> "Tokens":
        """Return the tokens with some fields changed; every other field stays as it is.

        Unlike ``_replace``, this method compiles, also with torch 2.1.

        Args:
            **changes: New values by the name of the field.

        Raises:
            TypeError: If there is no field of that name.
        """
        fields = {name: getattr(self, name) for name in Tokens._fields}
        return Tokens(**{**fields, **changes})

    @property
    def prefix(self) -> Tensor:
        """Prefix tokens, shape (B, P, C)."""
        return self.x[:, : self.num_prefix]

    @property
    def patches(self) -> Tensor:
        """Patch tokens, shape (B, N, C)."""
        return self.x[:, self.num_prefix :]

    @property
    def num_patches(self) -> int:
        """N, the number of live patch tokens."""
        return self.index.shape[1]


PATCH_FIELDS = ("index", "size", "policy", "exit", "position")
"""Fields of :class:`Tokens` with one entry for each patch token, in the order of the tokens."""


class Signals(NamedTuple):
    """What a reducer may look at besides the tokens; the backbone fills what ``needs`` names.

    Every tensor is aligned with the live patch tokens.

    Attributes:
        variance: Pixel variance inside each patch by channel of the image, shape (B, N, channels),
            float32.
        cls_row: Attention of the class token on each patch, mean over heads, shape (B, N), float32.
        cls_heads: The same for each head, shape (B, N, heads), float32.
        column_mean: Attention that each patch receives, mean over heads and queries (in a window
            block: the queries of its window, padding included), shape (B, N), float32; it passes
            no gradient.
        column_heads: The same for each head, shape (B, N, heads), float32.
        keys: Keys of the block's attention before RoPE, mean over heads, shape (B, N, C / heads).
        values: Values of the block's attention, heads concatenated, shape (B, N, C).
        noise: Uniform numbers in [0, 1), shape (B, N), float32.
        padding: True where a patch is padding, shape (B, N), bool; every pruner drops these first.
            The backbone fills it on ``pad_first``, whatever ``needs`` says.
    """

    variance: Tensor | None = None
    cls_row: Tensor | None = None
    cls_heads: Tensor | None = None
    column_mean: Tensor | None = None
    column_heads: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    noise: Tensor | None = None
    padding: Tensor | None = None


class Reduction(NamedTuple):
    """Result of one reduction step.

    Attributes:
        kept: Tokens that go on, prefix first.
        dropped: Tokens that leave, without prefix, in token order; None where a method merges them
            away. Where ``kept.policy`` is a training mask nothing leaves yet: these are all patch
            tokens as they are, with a bool ``policy`` that is True for those masked by this step.
        assignment: Slot in ``kept.index`` that each input patch went to, shape (B, N), int64; None
            for methods that only drop.
    """

    kept: Tokens
    dropped: Tokens | None = None
    assignment: Tensor | None = None


def __getattr__(name: str) -> object:
    replace = ("Tokens.replace", lambda tokens, x: tokens.replace(x=x))
    return renamed(__name__, name, {"with_features": replace})
