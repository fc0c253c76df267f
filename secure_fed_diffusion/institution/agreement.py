"""What a coordinator proposes to the institutions: one run, complete, in one frame.

It holds the whole configuration, the noise multiplier that was calibrated (exactly: an institution
never calibrates, it checks the cost of what is proposed), the public form of the data, the roster's root
and the plan's digest.  `plan_of` makes the same plan at every end from this alone; it opens no file, whatever
paths the configuration names.

Not protected against: an agreement is a proposal; `policy` and the budget decide.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

from secure_fed_diffusion import config
from secure_fed_diffusion.errors import ConfigError, FrameError, PolicyError, PrivacyError
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.planning import make_plan
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.secagg import Roster

LABEL_AGREEMENT = b"secure_fed_diffusion agreement v1"
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One proposed run; `noise_multiplier` is that of the training release in the guard view, 0 in `none`."""

    run_id: str  # 32 hexadecimal digits
    config_text: str  # TOML, every default filled in
    noise_multiplier: float
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    dimension: int  # of the model
    roster_root: str  # 64 hexadecimal digits
    plan_digest: str  # 64 hexadecimal digits

    @classmethod
    def of(
        cls, plan: Plan, *, config_text: str, run_id: str, class_names: tuple[str, ...], roster: Roster
    ) -> Agreement:
        """Return the agreement about `plan`."""
        return cls(
            run_id=run_id,
            config_text=config_text,
            noise_multiplier=plan.noise_multiplier,
            image_shape=plan.image_shape,
            class_names=tuple(class_names),
            dimension=plan.dimension,
            roster_root=roster.root.hex(),
            plan_digest=plan.digest,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all of it: what an institution signs when it joins, and may pin in its policy."""
        return sha256(LABEL_AGREEMENT + self.encode()).hexdigest()

    @property
    def config_digest(self) -> str:
        """SHA-256 of the configuration, as it stands in a ledger's terms."""
        return sha256(self.config_text.encode()).hexdigest()

    def encode(self) -> bytes:
        """Return its one form as bytes: JSON with sorted keys, floats to the last bit."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def decode(cls, data: bytes) -> Agreement:
        """Read what `encode` wrote, and nothing else.

        Raises:
            FrameError: names what is wrong with it.
        """
        try:
            values: dict[str, Any] = json.loads(data)
            if set(values) != {item.name for item in fields(cls)}:
                raise FrameError("an agreement with other fields than this version's")
            lists = {name: tuple(values[name]) for name in ("image_shape", "class_names")}
            agreement = cls(**{**values, **lists})
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise FrameError("no agreement: not in its form") from None
        agreement._require_form()
        if agreement.encode() != data:
            raise FrameError("an agreement that is not in its one form")
        return agreement

    def _require_form(self) -> None:
        digits = {"run_id": 32, "roster_root": 64, "plan_digest": 64}
        for name, length in digits.items():
            value = getattr(self, name)
            if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{length}}}", value):
                raise FrameError(f"an agreement whose {name} is not {length} hexadecimal digits")
        if not isinstance(self.config_text, str) or not 0 <= _n_bytes(self.config_text) <= MAX_CONFIG_BYTES:
            raise FrameError(f"an agreement whose config_text is no text of at most {MAX_CONFIG_BYTES} bytes")
        if type(self.noise_multiplier) is not float or not 0.0 <= self.noise_multiplier < float("inf"):
            raise FrameError("an agreement whose noise_multiplier is no number >= 0")
        whole = (*self.image_shape, self.dimension)
        if len(self.image_shape) != 3 or any(type(size) is not int or size < 1 for size in whole):
            raise FrameError("an agreement whose image_shape or dimension is no whole number >= 1")
        if not self.class_names or any(
            not isinstance(name, str) or _n_bytes(name) < 0 for name in self.class_names
        ):
            raise FrameError("an agreement without class names")


def _n_bytes(text: str) -> int:
    """Return the length in UTF-8, or -1 where a lone surrogate has none: it could be kept nowhere."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1


def settings_of(agreement: Agreement) -> RunSettings:
    """Return the settings of an agreement; cheap, whatever they ask for.

    Raises:
        PolicyError: the configuration cannot be honoured.
    """
    try:
        return config.parse(agreement.config_text)
    except (ConfigError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"the coordinator's configuration is refused: {error}") from None
    except (RecursionError, ValueError, TypeError, OverflowError):
        raise PolicyError("the coordinator's configuration is refused: it cannot be read as TOML") from None


@lru_cache(maxsize=8)  # it runs the accountant, and each frame that meets a new client asks for it
def plan_of(agreement: Agreement) -> tuple[RunSettings, Plan]:
    """Return the settings and the plan that both ends make of an agreement.

    Guarantees: the plan is the one whose digest the agreement states, and its cost was computed here.

    Raises:
        PolicyError: the configuration cannot be honoured, overspends its own budget, or gives another plan.
    """
    settings = settings_of(agreement)
    fixed = agreement.noise_multiplier if settings.privacy.mode != "none" else None
    try:
        plan = make_plan(
            seed=settings.run.seed,
            federation=settings.federation,
            secure_sum=settings.secagg,
            privacy=replace(settings.privacy, noise_multiplier=fixed),
            modes=settings.modes,
            warmup=settings.warmup,
            diffusion=settings.diffusion,
            model=settings.model,
            image_shape=agreement.image_shape,
            n_classes=len(agreement.class_names),
            dimension=agreement.dimension,
            public_records=settings.federation.declared_records,
            canaries=settings.audit.canaries,
        )
    except (ConfigError, PrivacyError) as error:
        raise PolicyError(f"the coordinator's configuration is refused: {error}") from None
    if plan.digest != agreement.plan_digest:
        raise PolicyError(
            f"the coordinator announces a plan {agreement.plan_digest[:16]}…, its configuration gives "
            f"{plan.digest[:16]}… here: another configuration, or another version of this package"
        )
    return settings, plan
