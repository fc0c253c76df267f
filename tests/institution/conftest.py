import importlib.util

import pytest

from secure_fed_diffusion.institution import check, start


@pytest.fixture(autouse=True)
def with_flower_or_as_if(monkeypatch):
    """Without Flower every check would say that it is missing, beside what the test is about."""
    if importlib.util.find_spec("flwr") is None:
        for module in (check, start):
            monkeypatch.setattr(module, "find_spec", lambda name: object())
