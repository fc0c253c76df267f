"""Find every claim and every adversary: a file in its folder is enough.

A module of `threat_models/claims` exports `CLAIM`, or `CLAIMS` for close relatives; one of
`threat_models/adversaries` exports `ADVERSARY`.  What is found is checked: each id once and as its file's
name says (T1b in `t01b_...`), each claim's adversary known and its view one of that adversary's.

>>> number("T1b"), number("T12")
(1, 12)
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from secure_fed_diffusion.errors import ConfigError

from .adversary import Adversary
from .claim import Claim

CLAIMS = "threat_models.claims"
ADVERSARIES = "threat_models.adversaries"
_ID = re.compile(r"t(\d+)[a-z]?")
_MODULE = re.compile(r"t(\d+)[a-z]?_[a-z0-9_]+")


@cache
def adversaries(package: str = ADVERSARIES) -> Mapping[str, Adversary]:
    """Return every adversary by name, in the order of their files."""
    found = {}
    for name in _modules(package):
        adversary = importlib.import_module(f"{package}.{name}").ADVERSARY
        if adversary.name != name:
            raise ConfigError(f"expected the name {name!r}, got {adversary.name!r}", key=f"{package}.{name}")
        found[name] = adversary
    return MappingProxyType(found)


@cache
def claims(package: str = CLAIMS) -> Mapping[str, Claim[Any, Any]]:
    """Return every claim by id, in the order of the files."""
    found: dict[str, Claim[Any, Any]] = {}
    for name in _modules(package):
        for claim in claims_in(f"{package}.{name}"):
            if claim.id in found:
                raise ConfigError(f"{claim.id} is there twice", key=name)
            found[claim.id] = claim
    return MappingProxyType(found)


@cache
def claims_in(module: str) -> tuple[Claim[Any, Any], ...]:
    """Import one module and return its claims, checked against its name and their adversaries."""
    name = module.rpartition(".")[2]
    match = _MODULE.fullmatch(name)
    if match is None:
        raise ConfigError("expected a name such as t05_cohorts or t01b_convolutional", key=module)
    loaded = importlib.import_module(module)
    own = getattr(loaded, "CLAIMS", None) or (getattr(loaded, "CLAIM", None),)
    for claim in own:
        if not isinstance(claim, Claim):
            raise ConfigError("expected CLAIM, or a tuple CLAIMS", key=module)
        if number(claim.id) != int(match[1]):
            raise ConfigError(
                f"expected {claim.id} in a file t{number(claim.id):02d}..., got {name}", key=module
            )
        check(claim)
    return tuple(own)


def find(package: str, claim_id: str) -> Claim[Any, Any] | None:
    """Return one claim without importing the modules of others; upper or lower case are the same."""
    wanted = _ID.fullmatch(claim_id.casefold())
    for name in _modules(package) if wanted else ():
        match = _MODULE.fullmatch(name)
        if wanted and match and int(match[1]) == int(wanted[1]):
            for claim in claims_in(f"{package}.{name}"):
                if claim.id.casefold() == claim_id.casefold():
                    return claim
    return None


def check(claim: Claim[Any, Any]) -> None:
    """Refuse a claim whose adversary is unknown, or does not have its view."""
    known = adversaries()
    if claim.adversary not in known:
        raise ConfigError(f"expected one of {', '.join(known)}; got {claim.adversary!r}", key=claim.id)
    views = known[claim.adversary].views
    if claim.view not in views:
        names = ", ".join(view.__name__ for view in views)
        raise ConfigError(f"{claim.adversary} has {names}; not {claim.view.__name__}", key=claim.id)


def choose(package: str, ids: Sequence[str]) -> tuple[Claim[Any, Any], ...]:
    """Return the claims of these ids, each once.

    Raises:
        ConfigError: an id is unknown; it names the nearest right one.
    """
    chosen: dict[str, Claim[Any, Any]] = {}
    for claim_id in ids:
        claim = find(package, claim_id)
        if claim is None:
            known = list(claims(package))
            near = difflib.get_close_matches(claim_id.upper(), known, n=1, cutoff=0.0)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"no claim {claim_id!r}{hint} (all: {', '.join(known)})", key="--only")
        chosen[claim.id] = claim
    return tuple(chosen.values())


def number(claim_id: str) -> int:
    """Return the number of a claim, which its file begins with."""
    match = _ID.fullmatch(claim_id.casefold())
    if match is None or not claim_id.startswith("T"):
        raise ConfigError(f"expected an id such as T5 or T1b, got {claim_id!r}", key="id")
    return int(match[1])


def _modules(package: str) -> list[str]:
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))
