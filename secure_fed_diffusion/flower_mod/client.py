"""The client's side: a mod that lets a training result leave its node only under masks.

The app trains as it always did; the mod takes its reply, encodes the change of the model, the number of
examples and the metrics that were asked for, and answers with a masked frame alone.  What else the reply held
stays at the node.

Guarantees: no training reply leaves this node unmasked, whatever the server asks; the server's terms are
checked against this client's own policy and names before a key exists; the masks hang on all that the
message holds for the app and on the run's configuration, so a model or a learning rate shown to one client
only yields nothing.  The frame that opens a round is opened, and the round's masks are off the disk, before
the app trains: it trains once a round at most.  Whatever goes wrong after that is answered with one constant
text.  Nothing secret is in `context.state`.

Not protected against: that a training failed, which is one bit a round, and how long it took; what the app
does beside its reply (its files, its log) and what else it trains by, `context.state` for one; the kinds of
message named in `allow_in_clear`; an app that is not the one that this node's owner read (README.md, "Who
ships the app").

Source: secagg/README.md; flwr 1.41, `flwr.clientapp.typing.Mod`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path

from flwr.app import Context, Error, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable, Mod

from ..entropy import Entropy, system
from ..errors import ConfigError, PolicyError, SecureFedDiffusionError
from ..secagg import Policy
from ..secagg.policy import SAFE_POLICY
from .identity import Identity
from .institution import Institution, Settings
from .proposal import WEIGHTINGS

PRECONDITION_FAILED = 6  # flwr.common.constant.ErrorCode.MOD_FAILED_PRECONDITION
WEIGHT_KEY = "num-examples"
ACTIVE_POLICY = Policy(profiles=("active",))
UNANSWERABLE = "the request cannot be answered"
log = logging.getLogger("flwr")


def secure_aggregation_mod(
    *,
    policy: Policy | None = None,
    identity: Callable[[Context], Identity] | None = None,
    weight_key: str = WEIGHT_KEY,
    metrics: Collection[str] = (),
    weighting: str = "examples",
    state_dir: str | Path | None = None,
    allow_in_clear: Collection[str] = (),
    entropy: Entropy = system,
) -> Mod:
    """Return the mod; it must stand first in a ClientApp's list, outside all that changes the result.

    `policy` is this client's own and never travels; without one it is the safe one, and with an `identity`
    the safe one that accepts the profile `active` only.  That profile needs the `identity`.
    `weight_key` is the one number that may weigh this client's result, `metrics` those that a proposal may
    ask for; one that asks for others is refused before a key exists.  `weighting="equal"` refuses proposals
    that weigh by examples.  `state_dir` holds the state between messages (default: `secure_aggregation` in
    Flower's home).  `allow_in_clear` names kinds of message, "evaluate" for one, that the app may answer
    unprotected: the server then sees those replies with their number of examples.

    Raises:
        ConfigError: one text where several names are expected; no such weighting.
    """
    for key, names in (("allow_in_clear", allow_in_clear), ("metrics", metrics)):
        if isinstance(names, str):
            raise ConfigError(f"expected several names, as in ({names!r},)", key=key)
    if weighting not in WEIGHTINGS:
        raise ConfigError(f"expected one of {WEIGHTINGS}, got {weighting!r}", key="weighting")
    settings = Settings(
        policy=policy or (SAFE_POLICY if identity is None else ACTIVE_POLICY),
        identity=identity,
        weight_key=weight_key,
        metrics=frozenset(metrics),
        weighting=weighting,
        state_dir=None if state_dir is None else Path(state_dir),
        entropy=entropy,
    )

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        kind = message.metadata.message_type.partition(".")[0]
        if kind != MessageType.TRAIN and kind in allow_in_clear:
            return call_next(message, context)
        try:
            if kind != MessageType.TRAIN:
                raise PolicyError(f"this client answers no {kind} messages in clear")
            return Message(Institution(message, context, settings).answer(call_next), reply_to=message)
        except SecureFedDiffusionError as error:
            log.error("secure aggregation: %s", error)
            said = f"{type(error).__name__}: {error}"
        except Exception:
            log.exception("secure aggregation: a request failed")
            said = UNANSWERABLE
        return Message(Error(PRECONDITION_FAILED, said), reply_to=message)

    return mod
