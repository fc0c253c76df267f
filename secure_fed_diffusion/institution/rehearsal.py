"""A whole consortium on one machine, to try a deployment out: one folder an institution, one for the server.

Each folder is what that institution would have on its own machine: its own part of the data set, its own
keys, the roster, the CA's certificate and its `institution.toml`.  The coordinator's folder has the
certificates, the nodes' public keys, the roster and the configuration, and no record of anybody.

Not protected against: everything here is on one machine, under one account; it shows how it is done.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.data.partition import partition
from secure_fed_diffusion.federation.folder import require_free
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.institution import certificates, keys
from secure_fed_diffusion.institution.own_records import write_records

_TOML = """\
[data]
name = "{name}"
file = "records.npz"
classes = {classes}
image_shape = {shape}

[identity]
key = "signing.key"
roster = "roster.json"
roster_root = "{root}"

[superlink]
address = "{address}"
ca_certificate = "ca.crt"
node_key = "node.key"

[policy]
colluders = {colluders}
min_cohort = {cohort}
min_survivors = {survivors}

[budget]
epsilon = {epsilon}
delta = {delta}
unit = "{unit}"
relation = "{relation}"

[machine]
device = "auto"
state = "state"
"""


def rehearse(settings: RunSettings, folder: Path, *, address: str) -> list[Path]:
    """Write the folders; return the institutions' `institution.toml`, client 0 first.

    Raises:
        WrongFolderError: the folder is not empty.
    """
    require_free(folder, "choose another one")
    dataset = load(settings.data)
    federation = settings.federation
    parts = partition(
        dataset.train.labels,
        federation.clients,
        scheme=settings.data.partition,
        beta=settings.data.beta,
        classes_per_client=settings.data.classes_per_client,
        seed=settings.data.seed,
    )
    coordinator = folder / "coordinator"
    certificates.make_trial_certificates(coordinator)
    homes = [folder / f"institution-{client_id}" for client_id in range(federation.clients)]
    for home, indices in zip(homes, parts, strict=True):
        keys.make_keys(home)
        write_records(home / "records.npz", dataset.train.subset(indices))
        shutil.copy(coordinator / certificates.CA, home)
        shutil.copy(home / keys.NODE_PUBLIC, coordinator / f"{home.name}.{keys.NODE_PUBLIC}")
    roster = keys.make_roster([home / keys.SIGNING_PUBLIC for home in homes], coordinator / "roster.json")
    by_client = settings.privacy.mode == "client"
    for home in homes:
        shutil.copy(coordinator / "roster.json", home)
        text = _TOML.format(
            name=f"{dataset.name}, part of {home.name}",
            classes=dataset.n_classes,
            shape=list(dataset.image_shape),
            root=roster.root.hex(),
            address=address,
            colluders=federation.colluders,
            cohort=max(2, federation.clients_per_round),
            survivors=max(2, federation.min_survivors),
            epsilon=settings.privacy.epsilon,
            delta=settings.privacy.delta,
            unit="client" if by_client else "example",
            relation="zero_out" if by_client else "add_remove",
        )
        (home / "institution.toml").write_text(text, encoding="utf-8")
    public = replace(settings, evaluation=replace(settings.evaluation, attacks=False))
    (coordinator / "config.toml").write_text(config.dump(public), encoding="utf-8")
    return [home / "institution.toml" for home in homes]
