"""Settings of all tests."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hosts import exempt_from_collection, forget_runs, unformatted_configs
from matplotlib.figure import Figure
from mmengine.registry import DefaultScope


@pytest.fixture(scope="session", autouse=True)
def _unformatted_configs() -> Iterator[None]:
    with unformatted_configs():
        yield


@pytest.fixture(scope="module", autouse=True)
def _exempt_imports() -> None:
    exempt_from_collection()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same random numbers in each test, whichever tests run before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - host libraries draw from the global state
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_earlier_runs() -> None:
    forget_runs()


@pytest.fixture(autouse=True)
def _own_scope() -> Iterator[None]:
    """No test leaves its registries' default scope to the tests after it."""
    scopes = DefaultScope._instance_dict
    before = dict(scopes)
    yield
    scopes.clear()
    scopes.update(before)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved, to look at what its axes show."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved
