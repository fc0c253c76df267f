"""Flower's records as one vector and back, for both kinds of app.

A Message API app trains from one ArrayRecord and answers with one ArrayRecord and one MetricRecord; a legacy
app (`NumPyClient`) has the same under fixed names.  Both ends lay a model out in the order of its record.

Not protected against: arrays of integers come back as float64, as they do from Flower's own averaging.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from ..errors import DataError

LEGACY = "fitins.parameters"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Update:
    """What a client's app returned: the model, flat; its weight; the metrics that are asked for, in order."""

    values: Floats
    weight: int
    metrics: Floats


@dataclass(frozen=True, slots=True)
class Model:
    """The model that a round starts from: its record's name, its arrays' names and forms, its values."""

    record: str
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[np.generic], ...]
    values: Floats

    @classmethod
    def of(cls, content: RecordDict) -> Model:
        """Read it from what the server sends for training.

        Raises:
            DataError: not exactly one ArrayRecord of numbers.
        """
        record, arrays = _only_arrays(content)
        parts = _numbers(arrays)
        return cls(
            record,
            tuple(arrays),
            tuple(part.shape for part in parts),
            tuple(part.dtype for part in parts),
            _flat(parts),
        )

    def read(self, content: RecordDict, *, weight_key: str | None, metrics: Sequence[str]) -> Update:
        """Read what the app returned for this model; without a `weight_key` its weight is 1.

        A metric that is missing, or no finite number, is 0: whether it is there says something too.

        Raises:
            DataError: another form than the model's, a value that is not finite, no number as the weight,
                or a legacy app that says that it failed.
        """
        _, arrays = _only_arrays(content)
        parts = _numbers(arrays)
        if tuple(arrays) != self.names or tuple(part.shape for part in parts) != self.shapes:
            raise DataError("the app returned arrays of other names or shapes than it was given")
        values = _flat(parts)
        if not np.isfinite(values).all():
            raise DataError("the app returned values that are not finite")
        found: dict[str, object] = {}
        for record in content.metric_records.values():
            found |= dict(record)
        if self.record == LEGACY:
            status = content.config_records.get("fitres.status")
            if status is None or status.get("code") != 0:
                raise DataError("the app says that it failed")
            if weight_key is not None:
                found[weight_key] = found.get("num_examples")
            found |= {
                name: value
                for name, value in content.config_records.get("fitres.metrics", {}).items()
                if name in metrics
            }
        weight = 1.0 if weight_key is None else _number(found.get(weight_key))
        if not weight >= 0 or not weight.is_integer():
            raise DataError(f"expected a whole number as {weight_key}")
        read = np.array([_number(found.get(name)) for name in metrics], dtype=np.float64)
        return Update(values, int(weight), np.where(np.isfinite(read), read, 0.0))

    def reply(
        self, values: Floats, *, weight_key: str, total_weight: int, metrics: dict[str, float]
    ) -> RecordDict:
        """Return the content of a training reply that holds `values` as the model."""
        arrays, start = {}, 0
        for name, shape, dtype in zip(self.names, self.shapes, self.dtypes, strict=True):
            stop = start + int(np.prod(shape, dtype=np.int64))
            kind = dtype if dtype.kind == "f" else np.dtype(np.float64)
            arrays[name] = Array(np.asarray(values[start:stop].reshape(shape).astype(kind)))
            start = stop
        if self.record != LEGACY:
            numbers = MetricRecord({weight_key: total_weight, **metrics})
            return RecordDict({self.record: ArrayRecord(arrays), "metrics": numbers})
        return RecordDict(
            {
                "fitres.parameters": ArrayRecord(arrays),
                "fitres.num_examples": MetricRecord({"num_examples": total_weight}),
                "fitres.metrics": ConfigRecord(dict(metrics)),
                "fitres.status": ConfigRecord({"code": 0, "message": ""}),
            }
        )


def content_digest(content: RecordDict, *, message_type: str, group_id: str) -> bytes:
    """Return SHA-256 over all that a message asks a client to train from, 32 bytes.

    That is the function of the app, the group, the arrays and the message's configuration.  Every part is
    preceded by its length and every record by its kind and its count, so no two requests hash the same bytes.
    """
    hashed = sha256()
    for part in (message_type.encode(), group_id.encode(), *_parts(content)):
        hashed.update(struct.pack("<Q", len(part)))
        hashed.update(part)
    return hashed.digest()


def config_digest(run_config: Mapping[str, object]) -> bytes:
    """Return SHA-256 over a run's configuration, as Flower hands it to an app, 32 bytes."""
    hashed = sha256()
    for key, value in sorted(run_config.items()):
        for part in (key.encode(), type(value).__name__.encode(), repr(value).encode()):
            hashed.update(struct.pack("<Q", len(part)))
            hashed.update(part)
    return hashed.digest()


def _parts(content: RecordDict) -> Iterator[bytes]:
    for record in sorted(content.keys()):
        held = content[record]
        yield record.encode()
        yield type(held).__name__.encode()
        yield struct.pack("<Q", len(held))
        if isinstance(held, ArrayRecord):
            for name, array in held.items():  # in the record's own order: it is the vector's
                yield from (name.encode(), array.dtype.encode(), repr(tuple(array.shape)).encode())
                yield from (array.stype.encode(), array.data)
        else:
            for name in sorted(held.keys()):
                yield from (name.encode(), type(held[name]).__name__.encode(), repr(held[name]).encode())


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _only_arrays(content: RecordDict) -> tuple[str, ArrayRecord]:
    if len(content.array_records) != 1:
        raise DataError(f"expected exactly one ArrayRecord, got {len(content.array_records)}")
    return next(iter(content.array_records.items()))


def _numbers(arrays: ArrayRecord) -> list[npt.NDArray[np.generic]]:
    try:
        parts = [array.numpy() for array in arrays.values()]
    except (TypeError, ValueError, EOFError):
        raise DataError("expected arrays that numpy can read") from None
    if not parts or any(part.dtype.kind not in "fiu" for part in parts):
        raise DataError("expected at least one array, and real numbers in all of them")
    return parts


def _flat(parts: Sequence[npt.NDArray[np.generic]]) -> Floats:
    return np.concatenate([part.reshape(-1).astype(np.float64) for part in parts])
