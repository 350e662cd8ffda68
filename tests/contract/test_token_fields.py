"""Fields of a record survive every reducer and fusion, also one that none of them knows.

B batch, P prefix tokens, N live patch tokens, K tokens left, C channels.
"""

from typing import Any, NamedTuple

import pytest
import torch
from test_reducers import CASES, B, C, Case, N, P, attach_listeners, make_signals
from torch import Tensor

import cropr_mm.fusion  # noqa: F401 - registers them
from cropr_mm import structures
from cropr_mm.fusion import CrossAttentionFusion, Fusion
from cropr_mm.reducers import EViT, TokenRanker
from cropr_mm.registry import MODELS
from cropr_mm.structures import Tokens
from cropr_mm.tokens.gather import take_tokens

GRID = (3, 5)
MoreTokens: Any = NamedTuple("MoreTokens", [(name, Any) for name in (*Tokens._fields, "tag")])
for _name in ("replace", "prefix", "patches", "num_patches"):
    setattr(MoreTokens, _name, getattr(Tokens, _name))
FUSIONS = [c for c in MODELS.module_dict.values() if issubclass(c, Fusion)]

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_fusion = pytest.mark.parametrize("cls", FUSIONS, ids=lambda cls: cls.__name__)
RANKERS = [case for case in CASES if issubclass(case.cls, TokenRanker)]


def make_fields(cells: int = N) -> dict[str, Any]:
    """Tokens whose sizes and positions say which cell they are from."""
    index = torch.rand(B, GRID[0] * GRID[1]).argsort(1)[:, :cells]
    return dict(
        x=torch.randn(B, P + cells, C),
        index=index,
        grid=GRID,
        num_prefix=P,
        size=index + 1.0,
        policy=None,
        source=None,
        exit=None,
        position=torch.stack([index, -index], dim=2).float(),
    )


def build_fusion(cls: type[Fusion]) -> Fusion:
    fusion = cls(**dict(embed_dim=C, num_heads=2, grid=GRID) if cls.learned else {})
    fusion.build_steps([0], C)
    return fusion


def drop_half(tokens: Tokens) -> tuple[Tokens, list[Tokens]]:
    places = torch.arange(tokens.num_patches).expand(B, -1)
    return (
        take_tokens(tokens, places[:, :6], with_prefix=True),
        [take_tokens(tokens, places[:, 6:], with_prefix=False)],
    )


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@every_case
def test_a_field_that_no_reducer_knows_survives(
    case: Case, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structures, "Tokens", MoreTokens)
    reducer, tag = case.build().train(training), torch.rand(B)
    attach_listeners(reducer)
    tokens = MoreTokens(**make_fields(), tag=tag)
    kept, dropped, _ = reducer(tokens, 6, make_signals(reducer, tokens))
    assert kept.tag is tag
    assert dropped is None or dropped.tag is tag


@every_fusion
def test_a_field_that_no_fusion_knows_survives(
    cls: type[Fusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structures, "Tokens", MoreTokens)
    tag = torch.rand(B)
    kept, dropped = drop_half(MoreTokens(**make_fields(15), tag=tag))
    assert build_fusion(cls)(kept, dropped, None).tag is tag


def check_cells(part: Tokens) -> None:
    cells = part.index.float()
    own = part.index >= 0
    for got, expected in ((part.size, cells + 1), (part.position, torch.stack([cells, -cells], 2))):
        assert got.shape == expected.shape
        torch.testing.assert_close(got[own], expected[own])


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", RANKERS, ids=str)
def test_size_and_position_go_with_their_token(case: Case, training: bool) -> None:
    reducer, tokens = case.build().train(training), Tokens(**make_fields())
    attach_listeners(reducer)
    kept, dropped, _ = reducer(tokens, 6, make_signals(reducer, tokens))
    check_cells(kept)
    check_cells(dropped)
    if isinstance(reducer, EViT):
        torch.testing.assert_close(kept.size[:, -1], dropped.size.sum(1))


@pytest.mark.parametrize("case", [c for c in RANKERS if not c.build().num_exit_classes], ids=str)
def test_logits_of_tokens_that_exited_go_with_them(case: Case) -> None:
    reducer, tokens = case.build().eval(), Tokens(**make_fields())
    tokens = tokens.replace(exit=tokens.index.unsqueeze(2).expand(-1, -1, 4).float())
    for part in reducer(tokens, 6, make_signals(reducer, tokens))[:2]:
        cells = part.index.clamp(min=0)  # a token that the step made did not exit
        assert torch.equal(part.exit, cells.unsqueeze(2).expand(-1, -1, 4).float())


@every_fusion
def test_sizes_come_back_with_their_cells(cls: type[Fusion]) -> None:
    full = build_fusion(cls)(*drop_half(Tokens(**make_fields(15))), None)
    if cls is CrossAttentionFusion:  # its tokens are new ones
        assert full.size is None
    else:
        assert torch.equal(full.size, full.index + 1.0)
    assert (full.policy, full.source, full.exit, full.position) == (None,) * 4


def test_masked_tokens_are_not_merged_in_silence() -> None:
    for case in CASES:
        if issubclass(case.cls, TokenRanker):
            continue
        reducer, tokens = case.build().eval(), Tokens(**make_fields())
        tokens = tokens.replace(policy=torch.ones(B, N, dtype=torch.bool))
        with pytest.raises(ValueError, match="without a policy mask"):
            reducer(tokens, 6, make_signals(reducer, tokens))


def test_a_field_that_is_not_there_is_named() -> None:
    with pytest.raises(TypeError, match="'sizes'"):
        Tokens(**make_fields()).replace(sizes=torch.ones(B, N))


def test_changing_fields_compiles_whole() -> None:
    def double(tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        changed = tokens.replace(x=tokens.x * 2, size=None)
        return changed.x, changed.position

    tokens = Tokens(**make_fields())
    torch._dynamo.reset()
    x, position = torch.compile(double, backend="eager", fullgraph=True)(tokens)
    assert torch.equal(x, tokens.x * 2)
    assert torch.equal(position, tokens.position)
