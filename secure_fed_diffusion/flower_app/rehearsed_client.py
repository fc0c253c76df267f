"""A simulated node's party: an institution whose files lie in the run's folder, for the length of one frame.

Imported by the processes that play the nodes, so it draws in nothing of the server's.

Not protected against: see `simulation`.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import ImageSet, load
from secure_fed_diffusion.federation.folder import Folder
from secure_fed_diffusion.federation.heads import read_roster
from secure_fed_diffusion.federation.rehearsal import deal
from secure_fed_diffusion.federation.testimony import KEY
from secure_fed_diffusion.federation.workbench import DeviceName
from secure_fed_diffusion.institution.institution import Institution
from secure_fed_diffusion.institution.keys import read_signing_key

PARTITION = "partition-id"  # Flower's own key of a simulated node's configuration


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Opens the institution that a simulated node plays; travels to the processes that play them."""

    root: Path
    config_text: str
    device: DeviceName

    def __call__(self, context: Context) -> closing[Institution]:
        """Return the client of this node, to be closed after one frame."""
        client_id = int(context.node_config[PARTITION])
        folder = Folder(self.root)
        home = folder.client(client_id)
        return closing(
            Institution(
                home,
                client_id=client_id,
                key=read_signing_key(home / KEY),
                roster=read_roster(folder.roster),
                images=lambda: records_of(self.config_text, client_id),
                device=self.device,
                flat=True,
            )
        )


@lru_cache(maxsize=1)
def _dealt(config_text: str) -> tuple[ImageSet, ...]:
    settings = config.parse(config_text)
    dataset = load(settings.data)
    return tuple(dataset.train.subset(indices) for indices in deal(settings, dataset))


def records_of(config_text: str, client_id: int) -> ImageSet:
    """Return the part of the data set that a simulated client holds."""
    return _dealt(config_text)[client_id]
