"""Keys, roster, certificates and the file: what an engineer can get wrong, and what is said to it."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from secure_fed_diffusion.cli import app, main
from secure_fed_diffusion.errors import ConfigError, DataError, RunError
from secure_fed_diffusion.institution import certificates, keys, start
from secure_fed_diffusion.institution.check import check
from secure_fed_diffusion.institution.institution import Institution
from secure_fed_diffusion.institution.own_records import read_records
from secure_fed_diffusion.institution.settings import InstitutionSettings, load
from tests.federation.small import seeded
from tests.institution.consortium import Coordinator, coordinator


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    return coordinator(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def own(consortium: Coordinator, tmp_path: Path) -> Path:
    """One institution's file, in a folder that a test may spoil."""
    home = tmp_path / "own"
    shutil.copytree(consortium.paths[0].parent, home)
    return home / "institution.toml"


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_node_key_is_what_flower_loads(tmp_path: Path) -> None:
    keys.make_keys(tmp_path)
    found = load_ssh_private_key((tmp_path / "node.key").read_bytes(), None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    assert isinstance(found.curve, ec.SECP384R1)
    assert keys.check_node_key(tmp_path / "node.key") == (tmp_path / "node.pub").read_text().strip()


def test_keys_come_from_the_entropy_that_is_given(tmp_path: Path) -> None:
    for name in ("one", "two"):
        keys.make_keys(tmp_path / name, seeded("keys"))
    for file in ("signing.key", "node.pub"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_draw_at_the_order_of_the_curve_is_thrown_away(tmp_path: Path) -> None:
    draws = iter([bytes([1]) * 32, b"\xff" * 48, bytes(48), bytes([2]) * 48])
    keys.make_keys(tmp_path, lambda n: next(draws))
    secret = load_ssh_private_key((tmp_path / "node.key").read_bytes(), None).private_numbers().private_value
    assert secret == int.from_bytes(bytes([2]) * 48, "big")


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    keys.make_keys(tmp_path)
    before = (tmp_path / "signing.key").read_bytes()
    with pytest.raises(RunError, match="a key is made once"):
        keys.make_keys(tmp_path)
    assert (tmp_path / "signing.key").read_bytes() == before


def test_private_files_are_the_owner_s_alone(tmp_path: Path) -> None:
    keys.make_keys(tmp_path)
    certificates.make_trial_certificates(tmp_path)
    for name in ("signing.key", "node.key", "server.key"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_roster_is_the_order_of_its_keys(consortium: Coordinator, tmp_path: Path) -> None:
    publics = [path.parent / "signing.pub" for path in consortium.paths]
    assert keys.make_roster(publics, tmp_path / "same.json") == consortium.roster
    assert keys.make_roster(publics[::-1], tmp_path / "other.json") != consortium.roster


def test_the_same_key_twice_is_no_roster(consortium: Coordinator, tmp_path: Path) -> None:
    public = consortium.paths[0].parent / "signing.pub"
    with pytest.raises(ConfigError, match="same public key"):
        keys.make_roster([public, public], tmp_path / "roster.json")
    assert not (tmp_path / "roster.json").exists()


def test_a_secret_key_never_gets_onto_a_roster(consortium: Coordinator, tmp_path: Path) -> None:
    secret = consortium.paths[0].parent / "signing.key"
    with pytest.raises(ConfigError, match=r"secret key by its name.*name signing\.pub") as caught:
        keys.make_roster([secret], tmp_path / "roster.json")
    assert secret.read_text().strip() not in str(caught.value)
    assert not (tmp_path / "roster.json").exists()


MISTAKES = [
    ('key = "signing.key"', 'key = "node.key"', "were identity.key and superlink.node_key exchanged?"),
    (
        'node_key = "node.key"',
        'node_key = "signing.key"',
        "were identity.key and superlink.node_key exchanged?",
    ),
    ('node_key = "node.key"', 'node_key = "node.pub"', "node.pub is a public key"),
    ('key = "signing.key"', 'key = "gone.key"', "`sfd institution keys` makes it"),
    ('roster = "roster.json"', 'roster = "gone.json"', "is missing: ask the coordinator for it"),
    ('roster = "roster.json"', 'roster = "signing.pub"', "holds no roster"),
    ('file = "records.npz"', 'file = "gone.npz"', "data.file: there is no file"),
    ('file = "records.npz"', 'file = "roster.json"', "cannot be read as an .npz archive"),
    ('ca_certificate = "ca.crt"', 'ca_certificate = "gone.crt"', "the coordinator hands it out"),
    ('ca_certificate = "ca.crt"', 'ca_certificate = "node.pub"', "holds no certificate in PEM form"),
]


@pytest.mark.parametrize(("old", "new", "said"), MISTAKES)
def test_a_mistake_in_the_file_is_named_by_the_check_and_by_no_other_line(
    own: Path, old: str, new: str, said: str
) -> None:
    spoil(own, old, new)
    wrong = [finding for finding in check(own, connect=False) if not finding.holds]
    assert wrong
    assert any(said in finding.found for finding in wrong)
    assert len({finding.what for finding in wrong} - {"place on the roster"}) == 1


def test_a_good_set_up_passes_every_check(own: Path) -> None:
    assert [finding for finding in check(own, connect=False) if not finding.holds] == []


def test_a_key_that_others_may_read_is_refused(own: Path) -> None:
    (own.parent / "signing.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Institution.open(own)


def test_a_key_that_is_not_on_the_roster_is_named_by_its_public_half(own: Path, tmp_path: Path) -> None:
    keys.make_keys(tmp_path / "stranger")
    shutil.copy(tmp_path / "stranger" / "signing.key", own.parent)
    public = (tmp_path / "stranger" / "signing.pub").read_text().strip()
    with pytest.raises(ConfigError, match=f"{public} is not on the roster"):
        Institution.open(own)


def test_a_roster_that_was_exchanged_is_noticed_by_its_root(own: Path, consortium: Coordinator) -> None:
    roster = own.parent / "roster.json"
    publics = json.loads(roster.read_text())
    publics["3"] = keys.SigningKey(bytes(32)).public.hex()
    roster.write_text(json.dumps(publics))
    with pytest.raises(ConfigError, match="it is not the roster that was compared"):
        Institution.open(own)


def test_a_root_that_was_never_compared_is_asked_for(own: Path, consortium: Coordinator) -> None:
    spoil(own, f'roster_root = "{consortium.roster.root.hex()}"', "")
    with pytest.raises(ConfigError, match="over another channel"):
        Institution.open(own)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("colluders = 1", ("coluders = 1", "policy.coluders: no such key; did you mean policy.colluders?")),
        ("colluders = 1", ('modes = ["none"]', "policy.modes")),
        ("epsilon = 8.0", ("epsilon = 0", "budget.epsilon: expected > 0")),
        ("epsilon = 8.0", ("", "epsilon")),
        ('address = "localhost:9092"', ('address = "localhost"', 'superlink.address: expected "host:port"')),
        ('relation = "add_remove"', ('relation = "zero_out"', "budget.relation: expected add_remove")),
    ],
)
def test_a_wrong_key_or_value_is_named(own: Path, line: str, said: tuple[str, str]) -> None:
    spoil(own, line, said[0])
    with pytest.raises(ConfigError) as caught:
        load(own)
    assert said[1] in str(caught.value)


def test_paths_are_taken_from_the_file_s_own_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert load(own).data.file == str(own.parent / "records.npz")


def arrays(**changed: object) -> dict[str, object]:
    return {"images": np.zeros((8, 4, 4), dtype=np.uint8), "labels": np.zeros(8, dtype=np.int32)} | changed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"images": np.zeros((8, 4, 4), dtype=np.float32)}, "expected images of uint8"),
        ({"images": np.zeros((8, 16), dtype=np.uint8)}, "expected images of uint8"),
        ({"labels": np.zeros(7, dtype=np.int64)}, "integer labels, one an image"),
        ({"labels": np.zeros(8)}, "integer labels, one an image"),
        ({"labels": np.full(8, -1)}, "labels >= 0"),
        ({"images": np.zeros((2, 4, 4), dtype=np.uint8), "labels": np.zeros(2, dtype=int)}, "at least 4"),
        ({"labels": np.array(["a"] * 8, dtype=object)}, "cannot be read"),
    ],
)
def test_records_of_another_form_are_refused(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    np.savez(tmp_path / "records.npz", **arrays(**changed))
    with pytest.raises(DataError, match=said):
        read_records(tmp_path / "records.npz")


def test_grey_images_may_come_without_their_channel(tmp_path: Path) -> None:
    np.savez(tmp_path / "records.npz", **arrays())
    assert read_records(tmp_path / "records.npz").images.shape == (8, 1, 4, 4)


def test_trial_certificates_name_this_machine_alone(tmp_path: Path) -> None:
    certificates.make_trial_certificates(tmp_path)
    found = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    issuer = found.issuer.rfc4514_string()
    assert "NOT a real CA" in issuer
    assert not list(tmp_path.glob("ca.key"))


def test_an_expired_certificate_is_named_with_its_date(own: Path, tmp_path: Path) -> None:
    certificates.make_trial_certificates(tmp_path / "old", valid_for=timedelta(days=-3))
    shutil.copy(tmp_path / "old" / "ca.crt", own.parent)
    (wrong,) = [finding for finding in check(own, connect=False) if not finding.holds]
    day = x509.load_pem_x509_certificate((own.parent / "ca.crt").read_bytes()).not_valid_after_utc
    assert timedelta(days=2) < datetime.now(UTC) - day < timedelta(days=4)
    assert f"ca.crt expired on {day:%Y-%m-%d}" in wrong.found


@pytest.fixture
def listening(consortium: Coordinator) -> Iterator[int]:
    """Somebody who speaks TLS with the consortium's certificate."""
    folder = consortium.folder / "coordinator"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


def test_a_connection_is_tried_and_given_up(consortium: Coordinator, listening: int) -> None:
    ca = consortium.folder / "coordinator" / "ca.crt"
    certificates.check_connection(f"localhost:{listening}", ca)
    certificates.check_connection(f"127.0.0.1:{listening}", ca)


def test_a_certificate_of_another_ca_is_refused(listening: int, tmp_path: Path) -> None:
    certificates.make_trial_certificates(tmp_path)
    with pytest.raises(ConfigError, match="does not vouch for"):
        certificates.check_connection(f"localhost:{listening}", tmp_path / "ca.crt")


def test_an_address_where_nobody_listens_is_named(consortium: Coordinator) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ca = consortium.folder / "coordinator" / "ca.crt"
    with pytest.raises(ConfigError, match=f"nobody listens at localhost:{port}"):
        certificates.check_connection(f"localhost:{port}", ca)


def test_a_proposal_is_priced_before_anything_is_joined(
    own: Path, consortium: Coordinator, tmp_path: Path
) -> None:
    (tmp_path / "agreement.json").write_bytes(consortium.agreement.encode())
    last = check(own, proposal=tmp_path / "agreement.json", connect=False)[-1]
    assert last.holds
    assert f"plan {consortium.plan.digest}" in last.found
    paid = [f"{consortium.plan.reserved(name)} of {name}" for name in consortium.plan.releases]
    assert f"paid for in advance: {', '.join(paid)};" in last.found
    spoil(own, "colluders = 1", "colluders = 2")
    last = check(own, proposal=tmp_path / "agreement.json", connect=False)[-1]
    assert not last.holds
    assert "policy.colluders" in last.found
    assert not (own.parent / "state" / "runs").exists()


def test_the_node_is_started_with_tls_both_keys_and_its_own_file(own: Path) -> None:
    settings = load(own)
    words = start.command(own, settings)
    assert "--insecure" not in words
    assert words[words.index("--root-certificates") + 1] == str(own.parent / "ca.crt")
    assert words[words.index("--auth-supernode-private-key") + 1] == str(own.parent / "node.key")
    assert words[-1] == f'institution="{own}"'
    environment = start.environment(settings, {"PATH": "/bin"})
    assert environment["PATH"] == "/bin"
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"


def test_a_budget_has_no_default() -> None:
    with pytest.raises(TypeError):
        InstitutionSettings()  # type: ignore[call-arg]


def typed(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    import sys

    sys.argv = ["sfd", *map(str, words)]
    with pytest.raises(SystemExit) as caught:
        main()
    out = capsys.readouterr()
    return int(caught.value.code or 0), out.out, out.err


def test_the_commands_of_a_set_up_work_in_the_order_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["sfd"])
    for name in ("north", "south", "east"):
        status, out, _ = typed(capsys, "institution", "keys", tmp_path / name)
        assert status == 0
        assert "keep it" in out
    publics = [tmp_path / name / "signing.pub" for name in ("north", "south", "east")]
    status, made, _ = typed(capsys, "institution", "roster", *publics, "--out", tmp_path / "roster.json")
    assert status == 0
    status, shown, _ = typed(capsys, "institution", "roster", "--show", tmp_path / "roster.json")
    assert (status, shown) == (0, made)
    status, _, err = typed(capsys, "institution", "roster", "--show", tmp_path / "gone.json")
    assert (status, err) == (1, f"sfd: {tmp_path / 'gone.json'} is missing or holds no roster\n")


def test_check_and_spent_say_what_they_find_and_end_accordingly(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["sfd"])
    status, out, _ = typed(capsys, "institution", "check", own, "--no-connect")
    assert status == 0
    assert out.count("ok ") == 8
    status, out, _ = typed(capsys, "institution", "spent", own)
    assert (status, "nothing was joined yet" in out) == (0, True)
    (own.parent / "signing.key").unlink()
    status, out, _ = typed(capsys, "institution", "check", own, "--no-connect", "--json")
    assert status == 1
    assert [finding["what"] for finding in json.loads(out) if not finding["holds"]] == [
        "signing key",
        "place on the roster",
    ]
    status, _, err = typed(capsys, "institution", "start", own)
    assert status == 1
    assert err.startswith("sfd: not started, signing key: identity.key: there is no file")
    assert err.count("\n") == 1


def test_closing_a_run_that_was_never_joined_is_an_error(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["sfd"])
    status, _, err = typed(capsys, "institution", "close", own, "ab" * 16)
    assert (status, err) == (1, f"sfd: run {'ab' * 16} was never joined here\n")


def test_the_help_names_the_commands() -> None:
    assert {group.typer_instance.info.name for group in app.registered_groups} >= {
        "institution",
        "coordinator",
    }
