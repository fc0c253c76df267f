"""Flower's records as vectors: nothing lost, nothing confused, and every change in the digest."""

from __future__ import annotations

import numpy as np
import pytest

from secure_fed_diffusion.errors import ConfigError, DataError

fl = pytest.importorskip("tests.flower_mod.federation", reason="flwr is not installed")


def content(**arrays: np.ndarray) -> object:
    return fl.RecordDict({"model": fl.ArrayRecord({name: fl.Array(a) for name, a in arrays.items()})})


def test_a_model_comes_back_under_its_names_in_its_order_shapes_and_kinds() -> None:
    arrays = {"z": np.ones((2, 3), np.float32), "a": np.array(7.5), "n": np.array([1, 2], np.int64)}
    model = fl.records.Model.of(content(**arrays))
    reply = model.reply(model.values, weight_key="w", total_weight=9, metrics={"loss": 0.5})
    assert list(reply["model"]) == ["z", "a", "n"]
    for name, array in arrays.items():
        assert np.array_equal(reply["model"][name].numpy(), array)
    assert reply["model"]["z"].numpy().dtype == np.float32
    assert reply["model"]["n"].numpy().dtype == np.float64  # as Flower's own averaging returns it
    assert dict(reply["metrics"]) == {"w": 9, "loss": 0.5}


@pytest.mark.parametrize(
    "returned",
    [
        {"a": np.ones(3)},
        {"b": np.ones(2)},
        {"a": np.ones(2), "b": np.ones(2)},
        {"a": np.array(["x", "y"])},
        {"a": np.array([1j, 2j])},
    ],
)
def test_an_app_that_returns_another_model_than_it_was_given_is_refused(
    returned: dict[str, np.ndarray],
) -> None:
    model = fl.records.Model.of(content(a=np.ones(2)))
    reply = content(**returned)
    reply["metrics"] = fl.MetricRecord({"w": 1})
    with pytest.raises(DataError):
        model.read(reply, weight_key="w", metrics=())


@pytest.mark.parametrize("metrics", [{}, {"w": [1, 2]}, {"w": 1.5}, {"w": -1}, {"w": 10**400}])
def test_a_reply_without_its_numbers_is_refused(metrics: dict[str, object]) -> None:
    model = fl.records.Model.of(content(a=np.ones(2)))
    reply = content(a=np.ones(2))
    reply["metrics"] = fl.MetricRecord(metrics)
    with pytest.raises(DataError):
        model.read(reply, weight_key="w", metrics=())


def digest_of(held: object, message_type: str = "train", group_id: str = "1") -> bytes:
    return fl.records.content_digest(held, message_type=message_type, group_id=group_id)


def test_the_digest_covers_the_function_of_the_app_and_the_group() -> None:
    held = content(a=np.ones(2))
    digests = {digest_of(held), digest_of(held, message_type="train.raw"), digest_of(held, group_id="2")}
    assert len({*digests, digest_of(held, message_type="train1", group_id="")}) == 4


def test_configuration_moved_into_the_names_of_records_has_another_digest() -> None:
    arrays = ("model", fl.ArrayRecord({"a": fl.Array(np.ones(1))}))
    as_it_was = dict([arrays, ("config", fl.ConfigRecord({"sigma": 1.0}))])
    moved = dict([arrays, ("config", fl.ConfigRecord({})), ("sigma 1.0", fl.ConfigRecord({}))])
    as_metric = dict([arrays, ("config", fl.MetricRecord({"sigma": 1.0}))])
    as_text = dict([arrays, ("config", fl.ConfigRecord({"sigma": "1.0"}))])
    forms = [as_it_was, moved, as_metric, as_text]
    assert len({digest_of(fl.RecordDict(form)) for form in forms}) == len(forms)


def test_an_array_whose_form_reads_like_a_record_has_another_digest() -> None:
    like_a_record = fl.Array("ConfigRecord", (3,), "int", b"1")
    one = {"a": fl.ArrayRecord({"b": like_a_record})}
    two = {"a": fl.ArrayRecord({}), "b": fl.ConfigRecord({"(3,)": 1})}
    assert digest_of(fl.RecordDict(one)) != digest_of(fl.RecordDict(two))


@pytest.mark.parametrize("loss", [None, [0.1], float("nan"), float("inf")])
def test_a_metric_that_is_no_number_counts_as_zero(loss: object) -> None:
    model = fl.records.Model.of(content(a=np.ones(2)))
    reply = content(a=np.ones(2))
    reply["metrics"] = fl.MetricRecord({"w": 1} if loss is None else {"w": 1, "loss": loss})
    assert model.read(reply, weight_key="w", metrics=("loss",)).metrics.tolist() == [0.0]


def test_values_that_are_not_finite_are_refused_before_they_are_clipped() -> None:
    model = fl.records.Model.of(content(a=np.ones(2)))
    reply = content(a=np.array([1.0, np.inf]))
    reply["metrics"] = fl.MetricRecord({"w": 1})
    with pytest.raises(DataError, match="not finite"):
        model.read(reply, weight_key="w", metrics=())


def test_the_digest_covers_arrays_arrays_names_and_configuration_but_not_the_order_of_records() -> None:
    def digest(array: object = 1.0, name: str = "a", lr: float = 0.1, turned: bool = False) -> bytes:
        parts = [
            ("model", fl.ArrayRecord({name: fl.Array(np.array(array))})),
            ("c", fl.ConfigRecord({"lr": lr})),
        ]
        return digest_of(fl.RecordDict(dict(reversed(parts) if turned else parts)))

    assert digest() == digest(turned=True)
    others = [digest(array=1.5), digest(array=np.float32(1)), digest(name="b"), digest(lr=0.2)]
    assert len({digest(), *others}) == 5


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"threshold_share": 1.0}, "threshold_share"),
        ({"profile": "unsafe_unmasked"}, "profile"),
        ({"metrics": ("num-examples",)}, "metrics"),
        ({"metrics": "loss"}, "metrics"),
        ({"weighting": "none"}, "weighting"),
        ({"max_weight": 0}, "max_weight"),
        ({"n_rounds": 0}, "n_rounds"),
        ({"n_rounds": 2.0}, "n_rounds"),
        ({"modulus_bits": 80}, "modulus_bits"),
        ({"modulus_bits": 14}, "modulus_bits"),  # two weights of 10,000 fit no ring of 14 bits
        ({"n_neighbours": 3}, "n_neighbours"),
        ({"n_neighbours": "x"}, "n_neighbours"),
        ({"threshold_share": 0.2}, "threshold_share"),
        ({"threshold_share": 0.2, "n_neighbours": 12}, "threshold_share"),
        ({"threshold_share": 0.4, "n_neighbours": 12, "profile": "active"}, "threshold_share"),
        ({"threshold_share": "2/3"}, "threshold_share"),
        ({"clip": "8"}, "clip"),
        ({"clip": True}, "clip"),
        ({"clip": float("nan")}, "clip"),
        ({"clip": 1e300}, "clip"),
        ({"clip": 10**400}, "clip"),
        ({"clip": 1e10}, "modulus_bits"),  # nor does it fit 32 bits in steps of one
        ({"weight_key": 5}, "weight_key"),
        ({"metrics": 5}, "metrics"),
        ({"metrics": (5,)}, "metrics"),
    ],
)
def test_a_proposal_that_makes_no_sense_is_refused_by_name(changes: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        fl.Proposal(**changes)
    assert raised.value.key == key


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold_share": 1 / 2},
        {"threshold_share": 1 / 2, "n_neighbours": 12, "profile": "active"},
        {"threshold_share": 0.4, "n_neighbours": 12},  # half of the neighbours is enough under semi_honest
        {"modulus_bits": 64, "clip": 1e10},
        {"clip": 8},
        {"metrics": ["loss"]},
        {"n_rounds": 1 << 16},
    ],
)
def test_a_proposal_that_some_clients_could_take_is_made(fields: dict[str, object]) -> None:
    proposal = fl.Proposal(**fields)
    proposal.params(n_clients=13, dimension=9)
    proposal.grid(13)


def test_a_proposal_without_headroom_for_the_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="no headroom"):
        fl.Proposal(modulus_bits=15, max_weight=10_000).grid(4)


def test_every_field_of_a_proposal_is_in_its_digest() -> None:
    changed = [
        {"n_rounds": 2},
        {"profile": "active"},
        {"threshold_share": 0.7},
        {"n_neighbours": 4},
        {"modulus_bits": 24},
        {"clip": 1.0},
        {"max_weight": 5},
        {"weight_key": "w"},
        {"weighting": "equal"},
        {"metrics": ("loss",)},
    ]
    digests = {fl.Proposal(**changes).digest for changes in [{}, *changed]}
    assert len(digests) == len(changed) + 1 == len(fl.Proposal.__dataclass_fields__) + 1
