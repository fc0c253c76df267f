"""Who a client is under the profile `active`: its number, its signing key, its own copy of the roster.

They come from the node's own configuration, never from the server:

    --node-config 'secagg-id=3 secagg-key="/etc/clinic/3.key" secagg-roster="/etc/clinic/roster.json"'

The key file holds 64 hex digits (the 32 bytes of an Ed25519 secret); the roster is JSON, client number to the
hex digits of its public key.  The mod itself reads `secagg-profile="active"`: it then refuses every other
profile, whatever the app's own code passes to it.

Not protected against: whoever reads the key file is this client.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context

from ..errors import ConfigError
from ..secagg import Roster, SigningKey

PROFILES = ("semi_honest", "active")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A client's number, key and pinned roster.

    Raises:
        ConfigError: the roster has another key for this number, or none.
    """

    client_id: int
    signer: SigningKey
    roster: Roster

    def __post_init__(self) -> None:
        if self.roster.publics.get(self.client_id) != self.signer.public:
            raise ConfigError(f"the roster has another key for client {self.client_id}", key="signer")


def identity_from_node_config(context: Context) -> Identity:
    """Read the identity that the node's configuration names.

    Raises:
        ConfigError: a key is missing, or a file of the wrong form.
    """
    try:
        client_id = int(context.node_config["secagg-id"])
        secret = Path(str(context.node_config["secagg-key"])).read_text(encoding="ascii")
        rows = json.loads(Path(str(context.node_config["secagg-roster"])).read_text(encoding="ascii"))
        publics = {int(number): bytes.fromhex(public) for number, public in rows.items()}
        signer = SigningKey(bytes.fromhex(secret.strip()))
    except KeyError as missing:
        raise ConfigError("missing in the node's configuration", key=str(missing.args[0])) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", key="secagg-key, secagg-roster") from None
    except (AttributeError, TypeError, ValueError):
        raise ConfigError(
            "not an id, a key or a roster", key="secagg-id, secagg-key, secagg-roster"
        ) from None
    return Identity(client_id=client_id, signer=signer, roster=Roster(publics))


def profile_from_node_config(context: Context) -> str | None:
    """Return the one profile that the node's owner accepts, or None where the configuration names none.

    Raises:
        ConfigError: no such profile.
    """
    profile = context.node_config.get("secagg-profile")
    if profile not in (None, *PROFILES):
        raise ConfigError(f"expected one of {PROFILES}", key="secagg-profile")
    return None if profile is None else str(profile)
