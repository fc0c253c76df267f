"""A client's part of a run: its own records, key and ledger; nothing of the server's.

`build_client` makes the client that answers frames.  Torch, the model and the records are touched by the
first contribution only, so a process that answers one other step starts in a fraction of the time.

Not protected against: see `federation.client`.
"""

from __future__ import annotations

from collections.abc import Callable

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.heads import Witness
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.ports import Purse
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.federation.state import ClientFiles
from secure_fed_diffusion.federation.workbench import DeferredContributor, DeviceName
from secure_fed_diffusion.secagg import Roster, SigningKey


def build_client(
    *,
    run_id: str,
    settings: RunSettings,
    plan: Plan,
    client_id: int,
    images: Callable[[], ImageSet],
    purse: Purse,
    witness: Witness,
    roster: Roster,
    signer: SigningKey,
    files: ClientFiles | None = None,
    device: DeviceName | None = None,
    threads: int | None = None,
    entropy: Entropy = system,
    coins: Entropy = system,
) -> Client:
    """Return the client; with `files` it goes on where they say it stood, and keeps them.

    `images` is called by the first contribution; `device` and `threads` are this machine's own choice, by
    default the settings'.

    Raises:
        RunError: `files` hold the state of another run, plan or client.
    """
    contributor = DeferredContributor(
        client_id, plan, settings, images, device=device, threads=threads, entropy=entropy, coins=coins
    )
    parts = {"witness": witness, "roster": roster, "signer": signer, "entropy": entropy}
    if files is None:
        return Client(run_id, contributor, purse, **parts)
    return Client.taken_up(files, run_id, contributor, purse, **parts)
