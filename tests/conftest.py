"""Settings of all tests."""

import random

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same random numbers in each test, whichever tests run before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - host libraries draw from the global state
    torch.manual_seed(0)
