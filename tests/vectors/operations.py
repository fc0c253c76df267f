"""What each operation of the vector files means, in terms of this package: JSON in, JSON out.

Bytes are hexadecimal, client ids and sizes are numbers, field elements and ring values are decimal
strings.  `perform` gives the output, or the name of the error that was raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from secure_fed_diffusion import entropy
from secure_fed_diffusion.errors import SecureFedDiffusionError
from secure_fed_diffusion.secagg import choice, codec, encoding, keys, masks, seal, shamir, signing, tag
from secure_fed_diffusion.secagg.graph import Graph
from secure_fed_diffusion.secagg.phases import Kind
from secure_fed_diffusion.secagg.session import NO_COMMITMENT

from . import message_operations
from .forms import OUT, Json, decimal, drawn_from, hexed, ints, named, ring, session_of, unhexed


def _slot(i: Json) -> Json:
    slot = session_of(i["session"]).slot(
        i["number"],
        model_digest=OUT(i["model_digest"]),
        participants=i["participants"],
        commitment=OUT(i["commitment"]) if i["commitment"] else NO_COMMITMENT,
    )
    return {"id": slot.id.hex(), "participants": list(slot.participants)}


def _graph(i: Json) -> Json:
    graph = Graph(seed=OUT(i["seed"]), cohort=tuple(i["cohort"]), n_neighbours=i["n_neighbours"])
    return {str(v): list(graph.neighbours(v)) for v in i["cohort"]}


def _pair_mask_key(i: Json) -> Json:
    key = keys.pair_mask_key(
        keys.PrivateKey(OUT(i["own_secret"])),
        OUT(i["peer_public"]),
        slot_id=OUT(i["slot_id"]),
        own_id=i["own_id"],
        peer_id=i["peer_id"],
    )
    return {"stream": key.stream.hex(), "tag": key.tag.hex()}


def _self_mask_key(i: Json) -> Json:
    key = keys.self_mask_key(OUT(i["seed"]), slot_id=OUT(i["slot_id"]), client_id=i["client_id"])
    return {"stream": key.stream.hex(), "tag": key.tag.hex()}


def _seal_keys(i: Json) -> Json:
    to_peer, from_peer = keys.seal_keys(
        keys.PrivateKey(OUT(i["own_secret"])),
        OUT(i["peer_public"]),
        session_id=OUT(i["session_id"]),
        own_id=i["own_id"],
        peer_id=i["peer_id"],
    )
    return {"to_peer": to_peer.hex(), "from_peer": from_peer.hex()}


def _split(i: Json) -> Json:
    shares = shamir.split(
        int(i["secret"]), i["holders"], threshold=i["threshold"], entropy=drawn_from(i["randomness"])
    )
    return named({holder: str(share) for holder, share in shares.items()})


def _combine(i: Json) -> str:
    return str(
        shamir.combine({v: int(share) for v, share in ints(i["shares"]).items()}, threshold=i["threshold"])
    )


def _context(i: Json) -> Json:
    return {"session_id": OUT(i["session_id"]), "sender": i["sender"], "receiver": i["receiver"]}


def _seal(i: Json) -> str:
    pairs = tuple(seal.SharePair(int(a), int(b)) for a, b in i["pairs"])
    entrusted = seal.Entrusted(pairs, OUT(i["contribution"]))
    return seal.seal(OUT(i["key"]), entrusted, **_context(i)).hex()


def _unseal(i: Json) -> Json:
    opened = seal.unseal(OUT(i["key"]), OUT(i["sealed"]), n_rounds=i["n_rounds"], **_context(i))
    return {
        "pairs": [[str(share) for share in pair] for pair in opened.pairs],
        "contribution": opened.contribution.hex(),
    }


def _pack_frame(i: Json) -> str:
    return codec.pack(
        Kind[i["kind"]],
        session_id=OUT(i["session_id"]),
        client_id=i["client_id"],
        payload=OUT(i["payload"]),
        signature=OUT(i["signature"]),
    ).hex()


def _unpack_frame(i: Json) -> str:
    return codec.unpack(
        OUT(i["frame"]), Kind[i["kind"]], session_id=OUT(i["session_id"]), client_id=i["client_id"]
    ).hex()


def _signed_bytes(i: Json) -> str:
    return codec.signed_bytes(
        Kind[i["kind"]],
        session_id=OUT(i["session_id"]),
        client_id=i["client_id"],
        payload=OUT(i["payload"]),
    ).hex()


def _table(i: Json) -> Json:
    reader = codec.Reader(OUT(i["payload"]))
    rows = reader.table(width=i["width"])
    reader.finish()
    return hexed(rows)


def _fixed_point(i: Json) -> encoding.FixedPoint:
    return encoding.FixedPoint(**i["grid"])


def _encode(i: Json) -> Json:
    values = np.array([float.fromhex(value) for value in i["values"]])
    encoded = _fixed_point(i).encode(values, weight=i["weight"], entropy=drawn_from(i["coins"]))
    return {"vector": decimal(encoded.vector), "n_clipped": encoded.n_clipped}


def _decode(i: Json) -> list[str]:
    grid = _fixed_point(i)
    total = ring(i["total"], grid.modulus_bits)
    return [value.hex() for value in grid.decode(total, total_weight=i["total_weight"]).tolist()]


def _mask(i: Json) -> list[str]:
    vector = ring(i["vector"], i["modulus_bits"])
    masks.apply(vector, plus=[OUT(key) for key in i["plus"]], minus=[OUT(key) for key in i["minus"]])
    encoding.reduce_in_place(vector, i["modulus_bits"])
    return decimal(vector)


def _tag_key(i: Json) -> tag.TagKey:
    contributions = unhexed(i["contributions"])
    return tag.GroupKey.combine(contributions, session_id=OUT(i["session_id"])).of_round(OUT(i["slot_id"]))


def _centred(values: list[str]) -> np.ndarray:
    return np.array([int(value) for value in values], dtype=np.int64)


def _leads_to(i: Json) -> bool:
    return choice.leads_to(
        OUT(i["root"]), OUT(i["leaf"]), index=i["index"], n_leaves=i["n_leaves"], path=OUT(i["path"])
    )


def _verify(i: Json) -> bool:
    roster = signing.Roster(unhexed(i["roster"]))
    return roster.verify(i["client_id"], OUT(i["message"]), OUT(i["signature"]))


OPERATIONS: dict[str, Callable[[Json], Any]] = {
    "entropy.keystream": lambda i: entropy.Keystream(OUT(i["key"])).read(i["n_bytes"]).hex(),
    "keys.public": lambda i: keys.PrivateKey(OUT(i["secret"])).public.hex(),
    "keys.exchange": lambda i: keys.PrivateKey(OUT(i["secret"])).exchange(OUT(i["peer_public"])).hex(),
    "keys.derive": lambda i: keys.derive(
        OUT(i["secret"]),
        label=OUT(i["label"]),
        session_id=OUT(i["session_id"]),
        context=OUT(i["context"]),
        n_bytes=i["n_bytes"],
    ).hex(),
    "keys.pair_mask_key": _pair_mask_key,
    "keys.self_mask_key": _self_mask_key,
    "keys.seal_keys": _seal_keys,
    "keys.commit_seed": lambda i: keys.commit_seed(
        OUT(i["seed"]), session_id=OUT(i["session_id"]), client_id=i["client_id"], number=i["number"]
    ).hex(),
    "signing.public": lambda i: signing.SigningKey(OUT(i["secret"])).public.hex(),
    "signing.sign": lambda i: signing.SigningKey(OUT(i["secret"])).sign(OUT(i["message"])).hex(),
    "signing.verify": _verify,
    "signing.roster_root": lambda i: signing.Roster(unhexed(i["publics"])).root.hex(),
    "shamir.split": _split,
    "shamir.combine": _combine,
    "shamir.lagrange": lambda i: [str(weight) for weight in shamir.lagrange(i["holders"])],
    "seal.seal": _seal,
    "seal.unseal": _unseal,
    "codec.pack": _pack_frame,
    "codec.unpack": _unpack_frame,
    "codec.signed_bytes": _signed_bytes,
    "codec.table": _table,
    **message_operations.OPERATIONS,
    "encoding.pack": lambda i: encoding.pack(ring(i["vector"], i["modulus_bits"]), i["modulus_bits"]).hex(),
    "encoding.unpack": lambda i: decimal(
        encoding.unpack(memoryview(OUT(i["packed"])), i["dimension"], i["modulus_bits"])
    ),
    "encoding.centred": lambda i: decimal(
        encoding.centred(ring(i["vector"], i["modulus_bits"]), i["modulus_bits"])
    ),
    "fixed_point.encode": _encode,
    "fixed_point.decode": _decode,
    "masks.apply": _mask,
    "session.id": lambda i: session_of(i).id.hex(),
    "session.slot": _slot,
    "graph.neighbours": _graph,
    "choice.leaf": lambda i: choice.leaf(i["client_id"], OUT(i["advert"])).hex(),
    "choice.root": lambda i: choice.MerkleTree([OUT(leaf) for leaf in i["leaves"]]).root.hex(),
    "choice.path": lambda i: choice.MerkleTree([OUT(leaf) for leaf in i["leaves"]]).path(i["index"]).hex(),
    "choice.leads_to": _leads_to,
    "choice.draw": lambda i: list(
        choice.draw(i["candidates"], i["n_neighbours"], drawn_from(i["randomness"]))
    ),
    "tag.group_key": lambda i: tag.GroupKey.combine(
        unhexed(i["contributions"]), session_id=OUT(i["session_id"])
    ).secret.hex(),
    "tag.tag": lambda i: str(_tag_key(i).tag(i["client_id"], _centred(i["values"]))),
    "tag.accepts": lambda i: _tag_key(i).accepts(_centred(i["total"]), i["survivors"], int(i["tag"])),
}


def perform(operation: str, inputs: Json) -> tuple[Any, str | None]:
    """Return the output and None, or None and the name of the error class."""
    try:
        return OPERATIONS[operation](inputs), None
    except SecureFedDiffusionError as error:
        return None, type(error).__name__
