"""The way of tokens through the blocks of a backbone, its reducers and its fusion.

B batch, P prefix tokens, N live patch tokens of an h x w grid, C channels.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

from torch import Tensor

from cropr_mm.backbones.plan import Plan
from cropr_mm.backbones.scheduled import ScheduledBackbone
from cropr_mm.backbones.signals import image_signals, live_signals
from cropr_mm.fusion import Fusion
from cropr_mm.ops.window import window_major_order
from cropr_mm.structures import Tokens
from cropr_mm.tokens.gather import ascending_order, take_tokens

NO_SIGNALS: frozenset[str] = frozenset()


class Encoded(NamedTuple):
    """Result of :meth:`ReducingBackbone.run_blocks`.

    Attributes:
        tokens: Tokens that are alive after the last block.
        dropped: Tokens that each step dropped and no fusion brought back, without prefix.
        outputs: Outputs of the blocks asked for.
    """

    tokens: Tokens
    dropped: list[Tokens]
    outputs: list[Tensor]


class ReducingBackbone(ScheduledBackbone):
    """A backbone with reducers at some of its blocks.

    A subclass sets ``depth``, ``embed_dim``, ``grid`` and ``patch_size``, calls
    :meth:`build_schedule` and, as the last thing in its constructor, :meth:`build_reducers`. It
    says how a block is applied (:meth:`apply_attention` and :meth:`apply_mlp`); its ``forward``
    makes the first :class:`Tokens`, calls :meth:`run_blocks` and turns the result into maps.
    """

    def run_blocks(
        self,
        tokens: Tokens,
        img: Tensor,
        context: Any = None,
        order: Tensor | None = None,
        out_blocks: Collection[int] = (),
    ) -> Encoded:
        """Apply all blocks to the tokens, reduce where the schedule says so, and fuse.

        Args:
            tokens: Embedded tokens of the whole image, prefix first.
            img: Images that they are of, shape (B, channels, H, W).
            context: What the backbone hands to its blocks; see :meth:`renew_context`.
            order: Raster ids in the token order of the model, shape (N,), int64; None for
                ascending ones.
            out_blocks: Blocks (0-based) whose output is made, see :meth:`make_output`.

        Raises:
            ValueError: If the grid does not fit the schedule.
        """
        plan = self.plan(tokens.grid)
        image = self._image_signals(img)
        dropped: list[Tokens] = []
        outputs = []
        for i in range(self.depth):
            fusion = self._fusion_at(i, "before", dropped)
            if fusion is not None:
                tokens, dropped = fusion(tokens, dropped, order), []
                context = self.renew_context(context)
            tokens, context = self.enter_block(i, tokens, context)
            reducer = self.reducers[str(i)] if i in plan.num_keep else None
            site = None if reducer is None else reducer.site
            needs = NO_SIGNALS if reducer is None else reducer.needs
            signals: dict[str, Tensor] = {}
            if site == "before":
                tokens, dropped = self._reduce(i, tokens, dropped, plan, signals, image)
                context = self.renew_context(context)
            if site == "between":
                tokens, signals = self.apply_attention(i, tokens, needs, context)
                tokens, dropped = self._reduce(i, tokens, dropped, plan, signals, image)
                context = self.renew_context(context)
                tokens = self.apply_mlp(i, tokens, context)
            else:
                tokens, signals = self.apply_block(i, tokens, needs, context)
            if site == "after":
                tokens, dropped = self._reduce(i, tokens, dropped, plan, signals, image)
                context = self.renew_context(context)
            fusion = self._fusion_at(i, "after", dropped)
            if fusion is not None:
                tokens, dropped = fusion(tokens, dropped, order), []
            if i in out_blocks:
                outputs.append(self.make_output(i, tokens, dropped))
        return Encoded(tokens, dropped, outputs)

    def enter_block(self, block: int, tokens: Tokens, context: Any) -> tuple[Tokens, Any]:
        """Prepare tokens and context for a block, dropped tokens being back where they come back.

        A backbone in which other tokens join for the last blocks adds them here.
        """
        return tokens, context

    def apply_attention(
        self, block: int, tokens: Tokens, needs: frozenset[str], context: Any
    ) -> tuple[Tokens, dict[str, Tensor]]:
        """Apply the attention half of a block, its residual connection included.

        Args:
            block: Number of the block (0-based).
            tokens: Live tokens, prefix first.
            needs: Signals that the step of this block reads.
            context: As given to :meth:`run_blocks`, or renewed.

        Returns:
            The tokens with other features, and the signals about attention that ``needs`` names,
            each of shape (B, P + N) or (B, P + N, ...).
        """
        raise NotImplementedError

    def apply_mlp(self, block: int, tokens: Tokens, context: Any) -> Tokens:
        """Apply the MLP half of a block, its residual connection included."""
        raise NotImplementedError

    def apply_block(
        self, block: int, tokens: Tokens, needs: frozenset[str], context: Any
    ) -> tuple[Tokens, dict[str, Tensor]]:
        """Apply a whole block; arguments and result are those of :meth:`apply_attention`."""
        tokens, signals = self.apply_attention(block, tokens, needs, context)
        return self.apply_mlp(block, tokens, context), signals

    def renew_context(self, context: Any) -> Any:
        """Return the context for other live tokens; called after each reduction and fusion.

        A backbone that computes something once for the tokens that are alive, such as their
        rotation, keeps it in the context and forgets it here.
        """
        return context

    def make_output(self, block: int, tokens: Tokens, dropped: list[Tokens]) -> Tensor:
        """Make the output of a block in ``out_blocks``.

        Args:
            block: Number of the block (0-based).
            tokens: Live tokens after it.
            dropped: Tokens that the steps so far dropped, without prefix.
        """
        raise NotImplementedError

    def _image_signals(self, img: Tensor) -> dict[str, Tensor]:
        if not len(self.reducers):
            return {}
        variance = any("variance" in reducer.needs for reducer in self.reducers.values())
        return image_signals(img, self.patch_size, variance, self.pad_first)

    def _fusion_at(self, block: int, site: str, dropped: list[Tokens]) -> Fusion | None:
        """The fusion, if it acts at this site and there is something to bring back."""
        if not dropped or self.fusion is None or self.fusion.site != site:
            return None
        first = self.depth - (self.fusion.num_blocks if site == "before" else 1)
        return self.fusion if block >= first else None

    def _reduce(
        self,
        block: int,
        tokens: Tokens,
        dropped: list[Tokens],
        plan: Plan,
        attention: dict[str, Tensor],
        image: dict[str, Tensor],
    ) -> tuple[Tokens, list[Tokens]]:
        """Reduce at one block: the tokens that go on, and all that were dropped so far."""
        reducer = self.reducers[str(block)]
        signals = live_signals(tokens, attention, image, noise="noise" in reducer.needs)
        kept, left, _ = reducer(tokens, plan.num_keep[block], signals)
        if left is not None:
            dropped = [*dropped, left]
        if block in plan.rectangles and self.window_size is not None:
            rectangle = plan.rectangles[block]
            layout = window_major_order(rectangle, self.window_size, kept.index.device)
            raster = ascending_order(kept.index, kept.grid[0] * kept.grid[1])
            kept = take_tokens(kept, raster.index_select(1, layout), with_prefix=True)
        return kept, dropped
