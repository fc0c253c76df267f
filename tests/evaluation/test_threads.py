from __future__ import annotations

import pytest
import torch

from secure_fed_diffusion.evaluation.threads import torch_threads, usable_threads


def test_threads_are_given_back_even_after_an_error():
    before = torch.get_num_threads()

    def fail() -> None:
        with torch_threads(before + 1):
            seen.append(torch.get_num_threads())
            raise ZeroDivisionError

    seen: list[int] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_the_environment_limits_the_cores_and_nonsense_in_it_does_not(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    every = usable_threads()
    assert every >= 1
    for wished, cores in (("1", 1), ("10000", every), ("0", every), ("many", every), ("", every)):
        monkeypatch.setenv("OMP_NUM_THREADS", wished)
        assert usable_threads() == cores
