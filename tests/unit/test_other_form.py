"""Weights of Cropr's two forms, training and deployed, meet on loading, whoever loads."""

import copy
from collections.abc import Callable

import pytest
import torch
from mmengine.runner import load_state_dict
from torch import Tensor, nn

from cropr_mm.checkpoints.queries import has_deployed_query
from cropr_mm.reducers.cropr import Cropr

LOADERS: dict[str, Callable[[nn.Module, dict[str, Tensor]], object]] = {
    "torch": lambda model, weights: model.load_state_dict(weights),
    "torch, not strict": lambda model, weights: model.load_state_dict(weights, strict=False),
    "mmengine": lambda model, weights: load_state_dict(model, weights, strict=False),
}
FORMS: dict[str, dict] = {
    "simple": dict(num_queries=3),
    "grid": dict(num_queries=(2, 3)),
    "mha": dict(scorer="mha", num_heads=4, mlp_ratio=0),
}


def wrapped(**options: object) -> nn.Sequential:
    """A reducer inside of a model."""
    return nn.Sequential(nn.Linear(2, 2), Cropr(8, num_classes=5, **options))  # type: ignore[arg-type]


@pytest.fixture(params=LOADERS)
def load(request: pytest.FixtureRequest) -> Callable[[nn.Module, dict[str, Tensor]], object]:
    return LOADERS[request.param]


@pytest.mark.parametrize("form", FORMS)
def test_training_weights_are_collapsed_in_a_deployed_model(form: str, load: Callable) -> None:
    trained = wrapped(**FORMS[form])
    if form == "mha":
        nn.init.normal_(trained[1].attention.norm.weight)
    weights = trained.state_dict()
    before = copy.deepcopy(weights)
    deployed = wrapped(**FORMS[form], deploy=True)
    numbers = torch.get_rng_state()
    load(deployed, weights)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert weights.keys() == before.keys()  # the caller's dict stays
    trained[1].switch_to_deploy()
    assert trained[1].query.abs().sum() > 0
    torch.testing.assert_close(deployed.state_dict(), trained.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_deployed_weights_are_refused_by_a_model_for_training(form: str, load: Callable) -> None:
    weights = wrapped(**FORMS[form], deploy=True).state_dict()
    model = wrapped(**FORMS[form])
    with pytest.raises(RuntimeError, match=r"1\.query belongs to a deployed checkpoint.*deploy=Tr"):
        load(model, weights)


@pytest.mark.parametrize("deploy", [False, True])
def test_a_dense_checkpoint_leaves_the_queries_as_they_are(deploy: bool) -> None:
    model = wrapped(deploy=deploy)
    before = copy.deepcopy(model.state_dict())
    dense = {name: value for name, value in before.items() if name.startswith("0.")}
    model.load_state_dict(dense, strict=False)
    torch.testing.assert_close(model.state_dict(), before)


def test_half_of_the_training_form_is_refused() -> None:
    weights = wrapped(scorer="mha", num_heads=4).state_dict()
    del weights["1.attention.k.weight"]
    with pytest.raises(RuntimeError, match=r"attention\.k\.weight"):
        wrapped(scorer="mha", num_heads=4, deploy=True).load_state_dict(weights, strict=False)


@pytest.mark.parametrize(
    ("name", "deployed"),
    [
        ("backbone.reducers.3.query", True),
        ("reducers.3.query", True),
        ("backbone.reducers.3.queries", False),
        ("decode_head.query", False),  # of a decoder, not of a reducer
    ],
)
def test_a_deployed_reducer_is_known_by_its_query(name: str, deployed: bool) -> None:
    assert has_deployed_query(["backbone.norm.weight", name]) is deployed
