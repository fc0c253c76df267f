"""What an engineer wants to know before the node is started: is everything here, and what would be refused?

Every check runs, so that all faults are seen at once; nothing is started and nothing is written.

Not protected against: a coordinator that proposes something else later; it is checked again then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from secure_fed_diffusion.dp.shared import verify_shared
from secure_fed_diffusion.errors import ConfigError, RunError, SecureFedDiffusionError
from secure_fed_diffusion.institution import certificates, keys
from secure_fed_diffusion.institution.agreement import Agreement
from secure_fed_diffusion.institution.budget import SPENT, Budget, charges_beside, require_counted
from secure_fed_diffusion.institution.institution import Institution
from secure_fed_diffusion.institution.own_records import check_fit, read_records
from secure_fed_diffusion.institution.settings import InstitutionSettings, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was looked at, whether it holds, and what was found."""

    what: str
    holds: bool
    found: str


def check(path: Path, *, proposal: Path | None = None, connect: bool = True) -> list[Finding]:
    """Return what was found; `proposal` is a coordinator's agreement, `connect` tries the address.

    Raises:
        ConfigError: `institution.toml` itself cannot be read.
    """
    settings = load(path)
    checks: list[tuple[str, Callable[[], str]]] = [
        ("signing key", lambda: _signing_key(settings)),
        ("roster", lambda: _roster(settings)),
        ("place on the roster", lambda: _place(settings)),
        ("records", lambda: _records(settings)),
        ("budget so far", lambda: _budget(settings)),
        ("node key", lambda: keys.check_node_key(Path(settings.superlink.node_key)).split()[0]),
        ("CA certificate", lambda: _certificate(settings)),
    ]
    if connect:
        checks.append(("SuperLink", lambda: _connection(settings)))
    checks.append(("Flower", _flower))
    if proposal is not None:
        checks.append(("proposal", lambda: _proposal(path, proposal)))
    return [_run(what, ask) for what, ask in checks]


def _run(what: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, holds=True, found=ask())
    except SecureFedDiffusionError as error:
        return Finding(what=what, holds=False, found=str(error))


def _signing_key(settings: InstitutionSettings) -> str:
    return f"public key {keys.read_signing_key(Path(settings.identity.key)).public.hex()}"


def _roster(settings: InstitutionSettings) -> str:
    roster = keys.read_pinned_roster(Path(settings.identity.roster), settings.identity.roster_root)
    return f"{len(roster)} institutions, root {roster.root.hex()}"


def _place(settings: InstitutionSettings) -> str:
    key = keys.read_signing_key(Path(settings.identity.key))
    roster = keys.read_pinned_roster(Path(settings.identity.roster), settings.identity.roster_root)
    return f"client {keys.client_id_of(key, roster)}"


def _records(settings: InstitutionSettings) -> str:
    records = read_records(Path(settings.data.file))
    check_fit(records, image_shape=settings.data.image_shape, n_classes=settings.data.classes)
    return f"{len(records)} images of (c, h, w) = {tuple(records.images.shape[1:])}"


def _budget(settings: InstitutionSettings) -> str:
    found = spent(settings)
    Budget(Path(settings.machine.state) / SPENT, settings.budget, settings.data.name).require_own_terms()
    return found


def spent(settings: InstitutionSettings) -> str:
    """Return one line on what this institution's records have cost so far, recomputed from its own ledger.

    Raises:
        LedgerError: a line of it was altered, or it counts less than the runs' own ledgers show.
    """
    budget, path = settings.budget, Path(settings.machine.state) / SPENT
    promised = (
        f"of {budget.epsilon:g} ({budget.accountant.upper()}) at δ = {budget.delta:g}, unit: {budget.unit}, "
        f"relation: {budget.relation}"
    )
    shown = charges_beside(path)
    try:
        report = verify_shared(path)
    except RunError:
        require_counted(shown, lambda _: None)
        return f"ε = 0 {promised}: nothing was joined yet"
    require_counted(shown, report.holdings.get)
    n_open = sum(not holding.settled for holding in report.holdings.values())
    return (
        f"ε = {report.epsilon:.4f} {promised}, against {report.adversary}, over {len(report.holdings)} runs "
        f"({n_open} of them not ended: counted in full); head {report.head}"
    )


def _certificate(settings: InstitutionSettings) -> str:
    until = certificates.check_certificate(Path(settings.superlink.ca_certificate))
    return f"valid until {until:%Y-%m-%d}"


def _connection(settings: InstitutionSettings) -> str:
    link = settings.superlink
    certificates.check_connection(link.address, Path(link.ca_certificate))
    return f"{link.address} answers, with a certificate of this CA"


def _flower() -> str:
    if find_spec("flwr") is None:
        raise ConfigError("is missing: pip install 'secure-fed-diffusion[train,flower]'", key="flwr")
    return "installed"


def _proposal(path: Path, proposal: Path) -> str:
    try:
        agreement = Agreement.decode(proposal.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"there is no file {proposal}", key="--proposal") from None
    institution = Institution.open(path)
    _, plan = institution.examine(agreement)
    reached = institution.price(plan, agreement.run_id)
    repeats = ", ".join(f"{plan.reserved(name)} of {name}" for name in plan.releases)
    return (
        f"would be joined: mode {plan.mode}, {len(plan.rounds)} rounds, repeats paid for in advance: "
        f"{repeats or 'none'}; plan {plan.digest}; afterwards "
        f"ε = {reached:.4f} of this institution's budget are taken or reserved"
    )
