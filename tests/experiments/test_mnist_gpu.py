import json
import subprocess

import pytest

from experiments.mnist_gpu import once, run
from secure_fed_diffusion import config
from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.federation.prepare import plan_for
from secure_fed_diffusion.federation.workbench import Workbench

SMALL = [
    'run.device="cpu"',
    "run.workers=1",
    'data.name="digits"',
    'data.partition="iid"',
    "data.train_limit=120",
    "federation.clients=4",
    "federation.clients_per_round=4",
    "federation.min_survivors=4",
    "federation.declared_records=120",
    "secagg.threshold=4",
    "model.patch=1",
    "model.channels=[8, 8]",
    "diffusion.noise_multiplicity=2",
    "warmup.steps=2",
    "warmup.covariances.frequencies=4",
    "modes.distributed.rounds=2",
    "modes.distributed.divisor=9",
    "modes.distributed.micro_batch=16",
    "sampler.steps=2",
    "evaluation.every=1000",
    "evaluation.samples=100",
    "evaluation.tstr_epochs=1",
]


@pytest.mark.parametrize("case", run.CASES)
def test_each_case_is_a_configuration_of_ten_clients_with_noise_in_shares_on_a_gpu(case):
    settings = config.load(run.HERE / f"{case}.toml")
    recipe = settings.modes.distributed
    assert settings.privacy.mode == "distributed"
    assert settings.privacy.delta == 1e-5
    assert settings.run.device == "cuda"
    assert settings.federation.clients == settings.federation.clients_per_round == 10
    assert recipe.divisor == pytest.approx(recipe.sampling_rate * 55_000, rel=1e-3)
    assert settings.privacy.epsilon == (1.0 if case == "epsilon1" else 10.0)


@pytest.mark.parametrize("case", ["epsilon1", "epsilon10"])
def test_a_case_can_be_planned_within_its_budget(case):
    settings = config.load(run.HERE / f"{case}.toml", ['run.device="cpu"'])
    known = facts(settings.data.name)
    bench = Workbench.make(settings, image_shape=known.image_shape, n_classes=known.n_classes)
    assert plan_for(settings, known, bench.model).noise_multiplier > 0.5


def test_what_has_not_run_has_no_figures():
    results = json.loads((run.HERE / "results.json").read_text(encoding="utf-8"))
    if results["state"] == "not run":
        assert results["records"] == []
    else:
        assert all(record["gpu"] for record in results["records"])


def test_a_call_whose_minutes_are_over_is_interrupted_and_reported_as_unfinished(tmp_path, monkeypatch):
    started = []

    class Sleeping:
        """A run that ends on the first signal."""

        signalled = False

        def __init__(self, command, **_):
            started.append(command)

        def wait(self, seconds=None):
            if not self.signalled:
                raise subprocess.TimeoutExpired("run", seconds)
            return 130

        def send_signal(self, number):
            Sleeping.signalled = True

    monkeypatch.setattr(run.subprocess, "Popen", Sleeping)
    monkeypatch.setattr(run, "commit", lambda: "some commit")
    assert not run.advance("epsilon10", tmp_path, [], minutes=0.01)
    assert Sleeping.signalled
    assert "--resume" not in started[0]
    (tmp_path / "epsilon10").mkdir()
    (tmp_path / "epsilon10" / "ledger.jsonl").touch()
    Sleeping.signalled = False
    run.advance("epsilon10", tmp_path, [], minutes=0.01)
    assert "--resume" in started[1]


def test_without_a_gpu_its_bytes_are_none_and_the_host_s_are_not(monkeypatch):
    monkeypatch.setattr(once.torch.cuda, "is_available", lambda: False)
    used = once.used(0.0)
    assert used["gpu_peak_bytes"] is None
    assert used["host_peak_bytes"] > 10**7


@pytest.mark.slow
def test_a_case_runs_on_the_processor_and_is_written_down_beside_the_others(tmp_path):
    assert run.advance("epsilon10", tmp_path, SMALL, minutes=9)
    assert run.advance("epsilon10", tmp_path, SMALL, minutes=0)  # finished: nothing is run again
    record = run.found("epsilon10", tmp_path)
    assert record["calls"] == 1
    assert record["rounds"] == 2 + 2  # the two releases of the warm-up first
    assert 0 < record["epsilon_spent"] <= 10
    results = tmp_path / "results.json"
    run.write(results, {**record, "case": "large"})
    run.write(results, record)
    assert [each["case"] for each in json.loads(results.read_text())["records"]] == ["epsilon10", "large"]
    (tmp_path / "epsilon10" / "summary.json").unlink()
    with pytest.raises(SystemExit, match="another configuration"):
        run.advance("epsilon10", tmp_path, [], minutes=1)
