"""Certificates: a CA and a server certificate for trying out, and what is wrong with one that was given.

`make_trial_certificates` signs for localhost and 127.0.0.1 with a CA whose key is thrown away: enough to try
a deployment on one machine, and nothing more; a real one uses its own PKI.

Source: RFC 5280 (profile), RFC 6125 (names).
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from secure_fed_diffusion.errors import ConfigError, RunError
from secure_fed_diffusion.institution.keys import write_private

CA, SERVER, SERVER_KEY = "ca.crt", "server.crt", "server.key"
_KEY = "superlink.ca_certificate"


def make_trial_certificates(folder: Path, *, valid_for: timedelta = timedelta(days=30)) -> list[Path]:
    """Write a CA's certificate, and a server's certificate and key for this machine alone.

    Raises:
        RunError: one of the files is there already; nothing was written.
    """
    paths = [folder / name for name in (CA, SERVER, SERVER_KEY)]
    for path in paths:
        if path.exists():
            raise RunError(f"{path} exists: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = _name("secure_fed_diffusion: for trying out, NOT a real CA")
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), valid_for)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    server = (
        _builder(_name("localhost"), ca_name, server_key.public_key(), valid_for)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issuer, critical=False)
        .sign(ca_key, SHA256())
    )
    paths[0].write_bytes(ca.public_bytes(Encoding.PEM))
    paths[1].write_bytes(server.public_bytes(Encoding.PEM))
    write_private(paths[2], server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, valid_for: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    begin = min(now - timedelta(minutes=5), now + valid_for - timedelta(minutes=5))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(now + valid_for)
    )


def check_certificate(path: Path, *, now: datetime | None = None) -> datetime:
    """Return until when the CA's certificate at `path` is valid.

    Raises:
        ConfigError: it is missing, no certificate, or not valid now.
    """
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}: the coordinator hands it out", key=_KEY) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", key=_KEY) from None
    except ValueError:
        raise ConfigError(f"{path} holds no certificate in PEM form", key=_KEY) from None
    now = now or datetime.now(UTC)
    if now > found.not_valid_after_utc:
        raise ConfigError(
            f"{path} expired on {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: ask for a new one",
            key=_KEY,
        )
    if now < found.not_valid_before_utc:
        raise ConfigError(
            f"{path} is valid from {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only, this machine's "
            f"clock says {now:%Y-%m-%d %H:%M}",
            key=_KEY,
        )
    return found.not_valid_after_utc


def check_connection(address: str, ca_certificate: Path, *, timeout_seconds: float = 5.0) -> None:
    """Shake hands with whoever listens at `address`, and hang up: name, certificate and CA have to fit.

    Raises:
        ConfigError: with the reason: no such host, nobody listens, or another certificate.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = ssl.create_default_context(cafile=str(ca_certificate))
    try:
        with (
            socket.create_connection((host, int(port)), timeout=timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return
    except socket.gaierror:
        raise ConfigError(f"no host is called {host!r}", key="superlink.address") from None
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"{address} shows a certificate that {ca_certificate.name} does not vouch for: "
            f"{error.verify_message}",
            key="superlink.address",
        ) from None
    except ssl.SSLError:
        raise ConfigError(
            f"{address} does not speak TLS: is it the SuperLink's address?", key="superlink.address"
        ) from None
    except TimeoutError:
        raise ConfigError(
            f"{address} does not answer within {timeout_seconds:g} s", key="superlink.address"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"nobody listens at {address} ({(error.strerror or str(error)).lower()})", key="superlink.address"
        ) from None
