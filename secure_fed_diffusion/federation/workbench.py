"""What a party computes with: the model, the objective and the device, made from settings and public facts.

`Workbench` holds them; `DeferredContributor` makes one, and reads the client's records, only when a
contribution is asked for.  So a client whose process answers one step of the secure sum imports no torch.

Not protected against: a machine whose kernels change between `require_exact_micro_batches` and the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.diffusion.settings import ModelSettings
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.release import Release
from secure_fed_diffusion.federation.settings import AveragingSettings, RunSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from secure_fed_diffusion.audit.canaries import Planted
    from secure_fed_diffusion.diffusion.objective import Objective
    from secure_fed_diffusion.federation.contribution import Contributor

DeviceName = Literal["auto", "cpu", "cuda"]


def choose_device(name: str) -> torch.device:
    """Return the device to compute on.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("asked for cuda, but torch finds no GPU here; use cpu or auto", key="run.device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """A model with the initial weights (a scratch one: whoever computes overwrites them), and the rest."""

    model: nn.Module
    objective: Objective
    device: torch.device
    patch: int

    @classmethod
    def make(
        cls,
        settings: RunSettings,
        *,
        image_shape: tuple[int, int, int],
        n_classes: int,
        device: DeviceName | None = None,
        threads: int | None = None,
    ) -> Workbench:
        """Build it; `device` and `threads` are this machine's own choice, by default the settings'.

        Raises:
            ConfigError: the device is not there, or the images do not fit the network.
        """
        import torch

        from secure_fed_diffusion.diffusion.objective import Objective
        from secure_fed_diffusion.diffusion.unet import build_unet

        chosen = settings.run.threads if threads is None else threads
        if chosen:
            torch.set_num_threads(chosen)
        place = choose_device(device or settings.run.device)
        model = build_unet(
            settings.model,
            image_shape=image_shape,
            n_classes=settings.diffusion.class_rows(n_classes),
            n_timesteps=settings.diffusion.timesteps,
            seed=settings.run.seed,
        ).to(place)
        return cls(
            model=model,
            objective=Objective(settings.diffusion, place, n_classes=n_classes),
            device=place,
            patch=settings.model.patch,
        )

    @property
    def dimension(self) -> int:
        """Trainable parameters of the model."""
        from secure_fed_diffusion.training.vectors import dimension

        return dimension(self.model)

    def require_exact_micro_batches(self, plan: Plan) -> None:
        """Refuse a micro-batch at which, on this machine, one record could move more than its own vector.

        Raises:
            ConfigError: names the mode's key.
        """
        from secure_fed_diffusion.diffusion.patches import model_shape
        from secure_fed_diffusion.training.micro_batch import resolve

        if isinstance(plan.recipe, AveragingSettings):
            return
        shape = model_shape(plan.image_shape, plan.patch)
        try:
            resolve(
                plan.recipe.micro_batch,
                self.model,
                self.objective,
                image_shape=shape,
                n_classes=plan.n_classes,
            )
        except ConfigError as error:
            raise ConfigError(error.reason, key=f"modes.{plan.mode}.micro_batch") from None

    def contributor(
        self,
        plan: Plan,
        client_id: int,
        images: ImageSet,
        *,
        entropy: Entropy = system,
        coins: Entropy = system,
        planted: Planted | None = None,
    ) -> Contributor:
        """Return what computes one client's contributions from its `images`."""
        from secure_fed_diffusion.federation.contribution import Contributor
        from secure_fed_diffusion.training.local import ClientData

        return Contributor(
            client_id=client_id,
            plan=plan,
            images=images,
            data=ClientData(images, patch=self.patch, device=self.device),
            model=self.model,
            objective=self.objective,
            entropy=entropy,
            coins=coins,
            planted=planted,
        )


@lru_cache(maxsize=8)
def count_parameters(
    model: ModelSettings, *, image_shape: tuple[int, int, int], n_classes: int, n_timesteps: int
) -> int:
    """Return how many trainable parameters these settings give; no memory is taken for any of them.

    Raises:
        ConfigError: the images do not fit the network.
    """
    import torch

    from secure_fed_diffusion.diffusion.unet import build_unet
    from secure_fed_diffusion.training.vectors import dimension

    with torch.device("meta"):
        unet = build_unet(model, image_shape=image_shape, n_classes=n_classes, n_timesteps=n_timesteps)
    return dimension(unet)


_benches: dict[tuple[object, ...], Workbench] = {}  # the last one that was made and checked here


class DeferredContributor:
    """Stands for a `Contributor` that is made, with all that it needs, when it is first asked.

    All of one process that work under one plan share one scratch model, as in a run in one process.
    """

    def __init__(
        self,
        client_id: int,
        plan: Plan,
        settings: RunSettings,
        images: Callable[[], ImageSet],
        *,
        device: DeviceName | None = None,
        threads: int | None = None,
        entropy: Entropy = system,
        coins: Entropy = system,
    ) -> None:
        self.client_id, self.plan = client_id, plan
        self._settings, self._images = settings, images
        self._machine = (device, threads)
        self._entropy, self._coins = entropy, coins
        self._made: Contributor | None = None

    def prepare(self) -> None:
        """Make it now; a second call does nothing.

        Raises:
            ConfigError: the settings build another model than the plan is about, or this machine cannot keep
                the plan's sensitivity.
        """
        self._ready()

    def vector(
        self, release: Release, weights: npt.NDArray[np.float32], *, number: int, attempt: int
    ) -> npt.NDArray[np.uint64]:
        """Return this client's contribution; see `Contributor.vector`, and `prepare`."""
        return self._ready().vector(release, weights, number=number, attempt=attempt)

    def _ready(self) -> Contributor:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> Contributor:
        key = (self.plan.digest, self._settings, *self._machine)
        if key not in _benches:
            bench = self._bench()
            _benches.clear()
            _benches[key] = bench
        return _benches[key].contributor(
            self.plan, self.client_id, self._images(), entropy=self._entropy, coins=self._coins
        )

    def _bench(self) -> Workbench:
        device, threads = self._machine
        bench = Workbench.make(
            self._settings,
            image_shape=self.plan.image_shape,
            n_classes=self.plan.n_classes,
            device=device,
            threads=threads,
        )
        if bench.dimension != self.plan.dimension:
            raise ConfigError(
                f"these settings build a model of {bench.dimension} parameters, the plan is about "
                f"{self.plan.dimension}",
                key="model",
            )
        bench.require_exact_micro_batches(self.plan)
        return bench
