"""What verification calls a fault."""

import pytest

from cropr_mm.export.evaluation import Metrics, largest_gap
from cropr_mm.export.limits import LIMITS
from cropr_mm.export.verification import Verification

NAN = float("nan")


def faults(dtype: str = "fp32", **found: object) -> list[str]:
    verification = Verification(**{"images": ["a", "b"], **found})  # type: ignore[arg-type]
    verification.judge(LIMITS[dtype])
    return verification.faults


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (dict(difference=0.002), "outputs of the file differ by 0.002"),
        (dict(instrumented=0.002), "outputs of the file with kept ids"),
        (dict(rms=0.002), "root mean square"),
        (dict(pixels=0.02), "prepared images"),
        (dict(results=0.01), "results of an image"),
        (dict(detections=100, unmatched=2), "detections differ"),
        (dict(ties=2), "nothing was compared"),
        (dict(difference=NAN), "outputs of the file differ"),
        (dict(metrics=Metrics(9, {"a": 1.0}, {"a": 2.0}, points=1.0)), "metrics differ"),
    ],
)
def test_each_limit_is_held(found: dict[str, object], fault: str) -> None:
    assert faults() == []
    (text,) = faults(**found)
    assert fault in text


def test_rounding_may_move_tokens_but_not_many() -> None:
    few = dict(kept_total=10, kept_equal=2, kept_shared=9.8, difference=0.3, rms=0.01)
    assert faults("fp16", **few) == []
    (text,) = faults("fp16", **{**few, "kept_shared": 9.0})
    assert text == "kept tokens differ, as a share, by 0.1, more than 0.03"


def test_metrics_that_are_no_numbers_on_one_side_only_differ() -> None:
    assert largest_gap({"a": 1.0, "b": NAN}, {"a": 1.5, "b": NAN}) == 0.5
    assert largest_gap({"a": 1.0}, {"a": NAN}) == float("inf")
    assert largest_gap({}, {}) == 0.0


def test_a_dense_model_has_no_kept_sets_to_compare() -> None:
    assert "kept sets   none" in str(Verification(images=["a"]))
    assert "kept sets   3 of 4 equal" in str(Verification(kept_equal=3, kept_total=4))
