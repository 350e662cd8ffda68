"""Cropr: prune the tokens that a small auxiliary task does not look at.

B batch, P prefix tokens, N live patch tokens, M queries, C channels.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_tf_
from torch import Tensor, nn

from cropr_mm.layers.initial import reset_linear
from cropr_mm.ops.eager_backward import used_at_once
from cropr_mm.ops.precision import without_autocast
from cropr_mm.reducers.base import TokenPruner
from cropr_mm.reducers.cropr_attention import EPS, MultiHeadAttention, SimpleAttention
from cropr_mm.reducers.cropr_auxiliary import CroprAuxiliary
from cropr_mm.registry import MODELS
from cropr_mm.structures import Reduction, Signals, Tokens


@MODELS.register_module()
class Cropr(TokenPruner):
    """Keep the tokens of highest summed similarity to learned queries.

    The queries learn from an auxiliary task behind a stop-gradient, in training only. Its logits
    leave through forward hooks on ``auxiliary``; ``CroprAuxLossHook`` turns them into losses, and
    into gradients at once, so that nothing of the task is kept for the backward pass. Scores need
    only the sum of the queries, so the (M, N) matrix is built for the task alone.

    The last four options are the paper's ablations.

    Args:
        embed_dim: C, given by the backbone.
        num_queries: M: 1 for image-level targets, (rows, columns) for one per cell of a dense
            target, M their product. With these, queries of another grid are resampled on loading.
        num_classes: Classes of the auxiliary task.
        mlp_ratio: Hidden width of the auxiliary MLP in multiples of C; 0 leaves it out.
        scorer: 'simple' compares queries with the tokens themselves, 'mha' with projected keys of
            several heads. Both collapse to one C-vector.
        num_heads: Of 'mha'.
        selection: 'topk' keeps the highest scores; 'sampling' draws without repetition from the
            softmax of the scaled scores, in evaluation too.
        stop_gradient: Whether the auxiliary loss stays out of the backbone.
        deploy: Build the stripped form, one C-vector, for inference.

    Raises:
        ValueError: If an argument is none of the above, or heads do not divide C.

    Source: the Cropr paper (scorer and selector; table 4 for the ablations). The queries are summed
    before the product instead of after it; sampling perturbs the logits by Gumbel noise (Kool et
    al., Stochastic beams and where to find them, ICML 2019), and for several queries draws from
    their summed logits, which the paper leaves open. Initial values are the released code's:
    queries of std C^-1/2 before the cut at two of it; projections of std 0.02 with one query (its
    classification), torch's default with several (its segmentation).
    """

    stop_gradient = True

    def __init__(
        self,
        embed_dim: int,
        num_queries: int | tuple[int, int] = 1,
        num_classes: int = 80,
        mlp_ratio: float = 4.0,
        scorer: str = "simple",
        num_heads: int = 16,
        selection: str = "topk",
        stop_gradient: bool = True,
        deploy: bool = False,
    ) -> None:
        super().__init__(embed_dim)
        sides = (num_queries, 1) if isinstance(num_queries, int) else tuple(num_queries)
        self.query_grid = None if isinstance(num_queries, int) else sides
        if len(sides) != 2 or min(sides) < 1:
            raise ValueError(f"expected num_queries >= 1 or (rows, columns), got {num_queries}")
        if num_classes < 1:
            raise ValueError(f"expected num_classes >= 1, got {num_classes}")
        for name, value, known in (
            ("scorer", scorer, ("simple", "mha")),
            ("selection", selection, ("topk", "sampling")),
        ):
            if value not in known:
                raise ValueError(f"expected {name} {known[0]!r} or {known[1]!r}, got {value!r}")
        self.num_queries = prod(sides)
        self.deploy = deploy
        self.stop_gradient = stop_gradient
        self.normalized = scorer == "mha"  # the tokens that the deployed vector meets
        self.sampling = selection == "sampling"
        self.num_heads = num_heads
        self.needs = frozenset({"noise"}) if self.sampling else frozenset()
        attention = (
            MultiHeadAttention(embed_dim, num_heads)
            if self.normalized
            else SimpleAttention(embed_dim)
        )
        self.scale = attention.scale
        if deploy:
            # Selection passes no gradient, so there is nothing to train in this form.
            self.query = nn.Parameter(torch.zeros(embed_dim), requires_grad=False)
        else:
            self.queries = nn.Parameter(torch.empty(1, self.num_queries, embed_dim))
            trunc_normal_tf_(self.queries, std=embed_dim**-0.5)
            self.attention = attention
            self.auxiliary = CroprAuxiliary(embed_dim, num_classes, mlp_ratio)
            if self.num_queries == 1:
                reset_linear(self)

    def forward(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """As the base class; in training mode also runs ``auxiliary`` on all tokens.

        Raises:
            RuntimeError: If nothing listens to ``auxiliary`` in training mode: the queries would
                stay random.
        """
        if self.needs_aux_loss:
            self.check_listener("MultiLabelTarget")
            self._run_auxiliary(tokens.x)
        return super().forward(tokens, num_keep, signals)

    def _run_auxiliary(self, x: Tensor) -> None:
        """Run the auxiliary task on tokens (B, P + N, C); its listener takes the logits."""
        # Counters of operations hook the inputs of modules, and cannot follow a leaf in there.
        queries = self.queries.view_as(self.queries)
        if not self.stop_gradient:
            self.auxiliary(self.attention(queries, x))
            return
        with used_at_once():  # the listener computes gradients before this returns
            self.auxiliary(self.attention(queries, x.detach()))

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Sum over the queries of their products with each token, shape (B, N), float32."""
        with without_autocast(tokens.x.device.type):
            # The whole sequence, then a slice: a slice of x would be copied first.
            scores = self.logits(tokens.x.float())[:, tokens.num_prefix :]
        if self.sampling:
            assert signals.noise is not None, "needs names it"
            scores = scores * self.scale - (-signals.noise.log()).log()
        return scores

    def logits(self, x: Tensor) -> Tensor:
        """Summed over queries, shape (B, P + N), of tokens (B, P + N, C) in float32."""
        if not self.deploy:
            return self.attention.score(self._summed_query(), x)
        if self.normalized:
            x = F.layer_norm(x, x.shape[-1:], eps=EPS)
        return x @ self.query.float()

    def _summed_query(self) -> Tensor:
        return self.queries.float().sum(dim=(0, 1))  # (C,)

    @torch.no_grad()
    def collapsed_query(self) -> Tensor:
        """The vector of shape (C,) that stands for queries and attention in the deployed form."""
        return self.attention.collapse(self._summed_query())

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Weights of the other form are collapsed, or refused where that cannot be undone.

        Loaders of host libraries ignore names that they do not know: the queries would stay random.

        Raises:
            RuntimeError: If the weights are deployed, and this module is not.
        """
        other, own = ("queries", "query") if self.deploy else ("query", "queries")
        if prefix + other in state_dict and prefix + own not in state_dict:
            if not self.deploy:
                raise RuntimeError(
                    f"{prefix}query belongs to a deployed checkpoint, but this model has the form "
                    "for training: set deploy=True in its backbone"
                )
            self.collapse_weights(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def collapse_weights(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Replace weights of the training form, under ``prefix``, by the deployed form, in place.

        Raises:
            RuntimeError: If some of the queries' weights are missing.
        """
        names = [name for name in state_dict if name.startswith(prefix)]
        weights = {name[len(prefix) :]: state_dict.pop(name) for name in names}
        with torch.device("meta"):  # draws no random numbers
            twin = Cropr(
                self.embed_dim,
                weights["queries"].shape[1],
                scorer="mha" if self.normalized else "simple",
                num_heads=self.num_heads,
            )
        del twin.auxiliary
        kept = {name: v for name, v in weights.items() if not name.startswith("auxiliary.")}
        twin.load_state_dict(kept, assign=True)
        state_dict[f"{prefix}query"] = twin.collapsed_query()

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Replace queries and auxiliary task by one summed query, for inference."""
        if self.deploy:
            return
        query = self.collapsed_query()
        self.query = nn.Parameter(query, requires_grad=False)
        del self.queries, self.attention, self.auxiliary
        self.deploy = True
