"""One institution as the coordinator meets it: frames in, frames out, and its own rules in between.

`handle` answers three kinds of frame.  JOIN proposes an agreement: it is held to the pinned roster, the
policy, the form of the data and the budget, in that order, before anything of the run is begun; what is
refused is refused with an error that names the value, the bound and who set it.  FRAME carries one frame
of a run that was joined.  LEAVE ends it, and frees what it had reserved and not spent.

Formal guarantee: whatever frames come, the records are charged for every contribution that leaves, on disk
before it leaves, and all agreements together cost at most `[budget]`, against all their coordinators but
those of mode `central` together, with as many clients as any agreement is to withstand (`dp.spending`).

Not protected against: what `federation.client` and `dp.shared` say; a coordinator that never ends a run
keeps its reservation (`sfd institution close` ends it by hand).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import ConfigError, FrameError, PhaseError, PolicyError
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.client_part import build_client
from secure_fed_diffusion.federation.heads import HeadBook, Witness
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.federation.state import ClientFiles, forget
from secure_fed_diffusion.federation.workbench import count_parameters
from secure_fed_diffusion.institution import keys, policy, settings
from secure_fed_diffusion.institution.agreement import Agreement, plan_of, settings_of
from secure_fed_diffusion.institution.budget import SPENT, Budget
from secure_fed_diffusion.institution.messages import FRAME, JOIN, LEAVE, Acceptance, opened
from secure_fed_diffusion.institution.own_records import check_fit, read_records
from secure_fed_diffusion.institution.run_files import RunFiles
from secure_fed_diffusion.secagg import Roster, SigningKey


@dataclass(slots=True, kw_only=True)
class _JoinedRun:
    """A run that this process answers for now; it holds the locks of its files."""

    agreement: Agreement
    ledger: Ledger
    files: ClientFiles
    witness: Witness
    client: Client

    def close(self) -> None:
        self.files.close()
        self.ledger.close()


class Institution:
    """One client of any number of runs; its state is on disk, so each frame may meet a new process.

    `images` is called when a contribution is computed; `data` is the form that it is declared to have.
    Without `limits` any plan is accepted and without `budget` none is kept, and `flat` puts the one run into
    `home` itself: for rehearsals, where one owner plays every client.
    """

    def __init__(
        self,
        home: Path,
        *,
        client_id: int,
        key: SigningKey,
        roster: Roster,
        images: Callable[[], ImageSet],
        limits: settings.PolicySettings | None = None,
        budget: Budget | None = None,
        data: settings.DataFile | None = None,
        device: str = "auto",
        threads: int | None = None,
        flat: bool = False,
        entropy: Entropy = system,
        coins: Entropy = system,
    ) -> None:
        self._home, self._flat, self.client_id, self._key, self.roster = home, flat, client_id, key, roster
        self._images, self._limits, self._budget = images, limits, budget
        self._data, self._device, self._threads = data, device, threads
        self._entropy, self._coins = entropy, coins
        self._joined: _JoinedRun | None = None

    @classmethod
    def open(cls, path: Path | str) -> Institution:
        """Return the institution of an `institution.toml`; reads every file that it names.

        Raises:
            ConfigError, DataError: names the key and what is wrong.
        """
        chosen = settings.load(Path(path))
        key = keys.read_signing_key(Path(chosen.identity.key))
        roster = keys.read_pinned_roster(Path(chosen.identity.roster), chosen.identity.roster_root)
        client_id = keys.client_id_of(key, roster)
        records = read_records(Path(chosen.data.file))
        check_fit(records, image_shape=chosen.data.image_shape, n_classes=chosen.data.classes)
        home = Path(chosen.machine.state)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)  # what it spent is nobody else's to read
        return cls(
            home,
            client_id=client_id,
            key=key,
            roster=roster,
            images=lambda: records,
            limits=chosen.policy,
            data=chosen.data,
            budget=Budget(home / SPENT, chosen.budget, chosen.data.name),
            device=chosen.machine.device,
            threads=chosen.machine.threads,
        )

    def handle(self, frame: bytes) -> bytes:
        """Answer one frame of the coordinator.

        Raises:
            SecureAggregationError: malformed, out of order, or outside this institution's policy.
            BudgetExceededError: the budget does not cover it; nothing was charged and nothing left.
            LedgerError: a record on disk, or a peer's word, contradicts an earlier one.
            ConfigError, DataError, RunError: this institution's own files or machine cannot serve it.
        """
        kind, body = frame[:1], frame[1:]
        if kind == bytes([JOIN]):
            return self._join(Agreement.decode(body))
        if kind not in (bytes([FRAME]), bytes([LEAVE])):
            raise FrameError("a frame that neither joins a run, nor belongs to one, nor ends one")
        run_id, inner = opened(body)
        if kind == bytes([LEAVE]):
            return self.leave(run_id)
        return self._of(run_id).client.handle(inner)

    def examine(self, agreement: Agreement) -> tuple[RunSettings, Plan]:
        """Hold an agreement to everything but the budget, and change nothing.

        Raises:
            PolicyError: the roster, the policy, the declared form of the data, or the plan's own checks
                refuse it.  The records are not looked at: they were held to that form when they were read.
        """
        if agreement.roster_root != self.roster.root.hex():
            raise PolicyError(
                f"the coordinator proposes a roster with root {agreement.roster_root[:16]}…, pinned here is "
                f"{self.roster.root.hex()[:16]}…: somebody else than agreed would take part"
            )
        if self._limits is not None:  # before a plan is made: its rounds are listed, its cost is computed
            proposed = settings_of(agreement)
            policy.require(policy.before_planning(proposed, agreement, self.roster, self._limits, self._data))
        run_settings, plan = plan_of(agreement)
        if self._limits is not None:
            policy.require(policy.complaints(plan, self.roster, self._limits))
            _require_dimension(run_settings, plan)
        return run_settings, plan

    def price(self, plan: Plan, run_id: str) -> float | None:
        """Return ε of everything joined so far and this plan, or None without a budget; writes nothing."""
        return None if self._budget is None else self._budget.price(plan, self.client_id, run_id)

    def leave(self, run_id: str) -> bytes:
        """End a run: count it for what it spent; return the signed head of its ledger (empty: never joined).

        A frame of this run is refused from now on, until it is joined again.
        """
        files = self._files(run_id)
        self.close()  # whatever follows: nothing is answered from what is open now
        if files.agreement() is None or not files.ledger.exists():
            return b""
        with Ledger.open(files.ledger) as ledger:  # neither policy nor plan is asked again
            peers = HeadBook(run_id, self.roster, files.peers)
            head = Witness(self.client_id, run_id, self._key, ledger, peers).testify().encode()
            if self._budget is not None:
                self._budget.settle(ledger)
                forget(files.client)
        return head

    def close(self) -> None:
        """Let another process answer for this institution; a second call does nothing."""
        if self._joined is not None:
            self._joined.close()
            self._joined = None

    def _files(self, run_id: str) -> RunFiles:
        return RunFiles(self._home, run_id, self.client_id, flat=self._flat)

    def _join(self, agreement: Agreement) -> bytes:
        """Accept an agreement, or refuse it before anything of it is begun."""
        run_settings, plan = self.examine(agreement)
        files = self._files(agreement.run_id)
        if self._budget is not None and files.agreement() is None:
            self._budget.price(plan, self.client_id, agreement.run_id)
        files.begin(agreement, run_settings, self.roster, self._budget)
        if self._joined is None or self._joined.agreement != agreement:
            self.close()
            self._joined = self._open(files, agreement, run_settings, plan)
        if self._budget is not None:
            try:
                self._budget.reserve(plan, self.client_id, self._joined.ledger)
            except BaseException:
                self.close()  # what is not counted is not answered
                raise
        return Acceptance.sign(self._key, self.client_id, agreement).encode()

    def _of(self, run_id: str) -> _JoinedRun:
        """Return the run that a frame names, if it was joined and not left."""
        at_hand = self._joined is not None and self._joined.agreement.run_id == run_id
        if not at_hand and self._files(run_id).agreement() is None:
            raise PhaseError(f"client {self.client_id} never joined run {run_id[:8]}…")
        if self._budget is not None and not self._budget.is_open(run_id):
            raise PhaseError(f"client {self.client_id} has left run {run_id[:8]}…: it has to be joined again")
        return self._resume(run_id)

    def _resume(self, run_id: str) -> _JoinedRun:
        """Go on with a run that was joined in another process, under the agreement that stands on disk."""
        if self._joined is not None and self._joined.agreement.run_id == run_id:
            return self._joined
        self.close()
        files = self._files(run_id)
        agreement = files.agreement()
        if agreement is None:
            raise PhaseError(f"client {self.client_id} never joined run {run_id[:8]}…")
        self._joined = self._open(files, agreement, *self.examine(agreement))
        return self._joined

    def _open(
        self, files: RunFiles, agreement: Agreement, run_settings: RunSettings, plan: Plan
    ) -> _JoinedRun:
        if self._budget is not None and not files.has_ledger():
            self._budget.require_not_begun(agreement.run_id)
        ledger = files.open_ledger(plan, agreement.config_digest)
        try:
            client_files = ClientFiles(files.client)
        except BaseException:
            ledger.close()
            raise
        peers = HeadBook(agreement.run_id, self.roster, files.peers)
        witness = Witness(self.client_id, agreement.run_id, self._key, ledger, peers)
        try:
            client = build_client(
                run_id=agreement.run_id,
                settings=run_settings,
                plan=plan,
                client_id=self.client_id,
                images=self._images,
                purse=ledger,
                witness=witness,
                roster=self.roster,
                signer=self._key,
                entropy=self._entropy,
                coins=self._coins,
                device=self._device,
                threads=self._threads,
                files=client_files,
            )
        except BaseException:
            client_files.close()
            ledger.close()
            raise
        return _JoinedRun(
            agreement=agreement, ledger=ledger, files=client_files, witness=witness, client=client
        )


def _require_dimension(run_settings: RunSettings, plan: Plan) -> None:
    """Refuse a proposal whose settings build another model than it says, before anything is begun."""
    try:
        built = count_parameters(
            run_settings.model,
            image_shape=plan.image_shape,
            n_classes=plan.diffusion.class_rows(plan.n_classes),
            n_timesteps=plan.diffusion.timesteps,
        )
    except ConfigError as error:
        raise PolicyError(f"the coordinator's configuration is refused: {error}") from None
    if built != plan.dimension:
        raise PolicyError(
            f"the coordinator's configuration builds a model of {built:,} parameters, its agreement is about "
            f"{plan.dimension:,}"
        )
