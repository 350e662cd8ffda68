"""Where the time of a call goes."""

import pytest
import torch

from cropr_mm.profiling.op_profile import operator_shares


def test_the_largest_share_is_that_of_the_largest_operator() -> None:
    left, right = torch.randn(2, 600, 600)
    shares = operator_shares(lambda: (left @ right).relu())
    assert sum(shares.values()) == pytest.approx(1.0)
    assert next(iter(shares)) == "aten::mm"
    assert shares["aten::mm"] > 0.5
    assert "aten::relu" in shares
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_a_call_without_operators_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a call that runs operators, got none"):
        operator_shares(lambda: None)
