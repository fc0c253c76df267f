"""The operations on messages: a payload to its fields, and the fields to the payload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from secure_fed_diffusion.secagg import codec
from secure_fed_diffusion.secagg import messages as m

from .forms import OUT, Json, decimal, hexed, params_of, ring, unhexed


def _message(decode: Callable[[bytes, Json], Any], fields: Callable[[Any], Json]) -> Callable[[Json], Json]:
    return lambda i: fields(decode(OUT(i["payload"]), i))


def _survivors(i: Json) -> Json:
    members = m.Survivors.decode(OUT(i["payload"]), i["n_clients"])
    return {"present": [int(here) for here in members.present], "digest": members.digest().hex()}


def _commitment(i: Json) -> Json:
    commitment = m.Commitment.decode(OUT(i["payload"]), i["n_clients"])
    present = [int(here) for here in commitment.members.present]
    return {"root": commitment.root.hex(), "path": commitment.path.hex(), "present": present}


def _advert_fields(advert: m.Advert) -> Json:
    return {"cipher_key": advert.cipher_key.hex(), "mask_keys": [key.hex() for key in advert.mask_keys]}


def _advert_list_fields(listed: m.AdvertList) -> Json:
    adverts = {str(v): _advert_fields(advert) for v, advert in listed.adverts.items()}
    return {"adverts": adverts, "proofs": hexed(listed.proofs)}


def _unmask_fields(shares: m.UnmaskShares) -> Json:
    kinds = {"self_mask": shares.self_mask, "mask_key": shares.mask_key}
    return {kind: {str(v): str(share) for v, share in held.items()} for kind, held in kinds.items()}


OPERATIONS: dict[str, Callable[[Json], Any]] = {
    "messages.advert": _message(lambda p, i: m.Advert.decode(p, n_rounds=i["n_rounds"]), _advert_fields),
    "messages.advert_list": _message(
        lambda p, i: m.AdvertList.decode(p, params_of(i["params"])), _advert_list_fields
    ),
    "messages.commitment": _commitment,
    "messages.choice": _message(
        lambda p, i: m.Choice.decode(p), lambda c: {"neighbours": list(c.neighbours)}
    ),
    "messages.shares": _message(
        lambda p, i: m.Shares.decode(p, params_of(i["params"])),
        lambda s: {"commitments": [c.hex() for c in s.commitments], "sealed": hexed(s.sealed)},
    ),
    "messages.share_delivery": _message(
        lambda p, i: m.ShareDelivery.decode(p, params_of(i["params"])),
        lambda s: {"sealed": hexed(s.sealed), "masks_only": list(s.masks_only)},
    ),
    "messages.masked_input": _message(
        lambda p, i: m.MaskedInput.decode(memoryview(p), params_of(i["params"])),
        lambda s: {"vector": decimal(s.vector), "tag": str(s.tag)},
    ),
    "messages.survivors": _survivors,
    "messages.consistency_list": _message(
        lambda p, i: m.ConsistencyList.decode(p), lambda s: {"signatures": hexed(s.signatures)}
    ),
    "messages.unmask_shares": _message(lambda p, i: m.UnmaskShares.decode(p), _unmask_fields),
}


def encoded(operation: str, fields: Json, inputs: Json) -> str | None:
    """Encode the fields of a message that an operation decoded; None where there is no such thing."""
    params = params_of(inputs["params"]) if "params" in inputs else None
    which = operation.removeprefix("messages.")
    if which == "advert":
        return _advert(fields).encode().hex()
    if which == "commitment":
        members = m.Members(present=np.array(fields["present"], dtype=bool))
        root, path = OUT(fields["root"]), OUT(fields["path"])
        return m.Commitment(root=root, path=path, members=members).encode().hex()
    if which == "choice":
        return m.Choice(neighbours=tuple(fields["neighbours"])).encode().hex()
    if which == "survivors":
        return m.Members(present=np.array(fields["present"], dtype=bool)).encode().hex()
    if which == "consistency_list":
        return m.ConsistencyList(signatures=unhexed(fields["signatures"])).encode().hex()
    if which == "unmask_shares":
        tables = {k: {int(v): int(s) for v, s in rows.items()} for k, rows in fields.items()}
        return m.UnmaskShares(**tables).encode().hex()
    if which == "table":
        return codec.write_table(unhexed(fields), width=inputs["width"]).hex()
    if params is None:
        return None
    if which == "advert_list":
        adverts = {int(v): _advert(advert) for v, advert in fields["adverts"].items()}
        return m.AdvertList(adverts=adverts, proofs=unhexed(fields["proofs"])).encode(params).hex()
    if which == "shares":
        commitments = tuple(OUT(c) for c in fields["commitments"])
        return m.Shares(commitments=commitments, sealed=unhexed(fields["sealed"])).encode(params).hex()
    if which == "share_delivery":
        sealed = unhexed(fields["sealed"])
        return m.ShareDelivery(sealed=sealed, masks_only=fields["masks_only"]).encode(params).hex()
    if which == "masked_input":
        vector = ring(fields["vector"], params.modulus_bits)
        return bytes(m.MaskedInput(vector=vector, tag=int(fields["tag"])).encode(params)).hex()
    return None


def _advert(fields: Json) -> m.Advert:
    return m.Advert(
        cipher_key=OUT(fields["cipher_key"]), mask_keys=tuple(OUT(key) for key in fields["mask_keys"])
    )
