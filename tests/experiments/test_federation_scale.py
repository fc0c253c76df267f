import json
from collections import Counter

import pytest

from experiments.federation_scale import run
from secure_fed_diffusion import config


@pytest.mark.parametrize("clients", [100, 1000])
def test_one_client_in_twenty_is_lost_in_each_round_and_every_loss_is_another_client(clients):
    events = run.losses(clients, 3)
    assert Counter(event["round"] for event in events) == dict.fromkeys((1, 2, 3), clients // 20)
    for number in (1, 2, 3):
        lost = [event["client"] for event in events if event["round"] == number]
        assert len(set(lost)) == len(lost)
        assert set(lost) <= set(range(clients))


def test_the_committed_configuration_is_the_one_that_is_run_at_a_thousand_clients():
    path = run.HERE / "config.toml"
    plain, run_with = config.load(path), config.load(path, run.overrides(1000, 10))
    assert plain.secagg == run_with.secagg
    assert plain.modes == run_with.modes
    assert len(run_with.federation.vanish) == 500
    assert plain.federation.min_survivors == run_with.federation.min_survivors == 900


@pytest.mark.slow
def test_a_hundred_clients_give_a_record_a_round(tmp_path):
    folder = tmp_path / "run"
    embedded = ['data.name="digits"', "model.patch=1", "modes.central.sampling_rate=0.25"]
    measured = run.run(folder, run.HERE / "config.toml", [*run.overrides(100, 2), *embedded])
    whole, *rounds = run.records(folder, measured)
    assert [record["round"] for record in rounds] == [1, 2]
    # five are lost, one of them after its masked vector was in
    assert [record["survivors"] for record in rounds] == [96, 96]
    assert whole["peak_bytes"] > 10**8
    assert json.loads((folder / "summary.json").read_text())["finished"]
    assert run.run(folder, run.HERE / "config.toml", []) == measured
