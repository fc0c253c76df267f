"""The coordinator's part where each client is a process of its own, with or without public data.

Refuses what needs notes that no frame carries: an auditor's canaries, and attacks on the released model,
which read the clients' records.

Not protected against: see `federation.server_part`.
"""

from __future__ import annotations

from pathlib import Path

from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation.assessment import Assessment, SamplesOnly
from secure_fed_diffusion.federation.prepare import plan_for
from secure_fed_diffusion.federation.server_part import ServerPart, prepare_server
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.federation.workbench import Workbench
from secure_fed_diffusion.institution.agreement import Agreement
from secure_fed_diffusion.secagg import Roster


def require_separable(settings: RunSettings) -> None:
    """Refuse settings that need one process to see all clients.

    Raises:
        ConfigError: names the key.
    """
    if settings.audit.canaries:
        raise ConfigError(
            "the auditor reads from the clients which canaries they drew, and no frame carries that; use the "
            "engine in_process",
            key="audit.canaries",
        )
    if settings.evaluation.attacks:
        raise ConfigError(
            "the attacks read the clients' records, which the coordinator does not have; use the engine "
            "in_process",
            key="evaluation.attacks",
        )


def prepare_separate(
    settings: RunSettings,
    directory: Path,
    *,
    config_text: str,
    resume: bool = False,
    roster: Roster | None = None,
    evaluate: bool = False,
    entropy: Entropy = system,
) -> ServerPart:
    """Prepare the coordinator's part; no file of data is opened unless `evaluate` says that it may be.

    Without a `roster` the clients are rehearsed on this machine, and their keys are made in the folder.

    Raises:
        ConfigError, PrivacyError: the settings cannot be honoured.
        RunError: the folder is taken, or does not belong to these settings.
    """
    require_separable(settings)
    if roster is not None and set(roster.publics) != set(range(settings.federation.clients)):
        raise ConfigError(
            f"expected the keys of clients 0..{settings.federation.clients - 1} "
            f"(federation.clients={settings.federation.clients}), the roster has {sorted(roster.publics)}",
            key="federation.clients",
        )
    known = facts(settings.data.name)
    bench = Workbench.make(settings, image_shape=known.image_shape, n_classes=known.n_classes)
    plan = plan_for(settings, known, bench.model)
    assessment = (
        Assessment(settings, load(settings.data), bench.model, bench.objective, bench.device)
        if evaluate
        else SamplesOnly(settings, known.n_classes, bench.model)
    )
    return prepare_server(
        settings,
        directory,
        plan=plan,
        bench=bench,
        assessment=assessment,
        dataset_name=known.name,
        class_names=known.class_names,
        config_text=config_text,
        resume=resume,
        separate=True,
        roster=roster,
        entropy=entropy,
    )


def propose(settings: RunSettings, roster: Roster, *, config_text: str) -> Agreement:
    """Return what a run of `settings` would propose to the clients on the roster; its run id is zero.

    Raises:
        ConfigError, PrivacyError: the settings cannot be honoured.
    """
    require_separable(settings)
    known = facts(settings.data.name)
    bench = Workbench.make(settings, image_shape=known.image_shape, n_classes=known.n_classes)
    return Agreement.of(
        plan_for(settings, known, bench.model),
        config_text=config_text,
        run_id="0" * 32,
        class_names=known.class_names,
        roster=roster,
    )
