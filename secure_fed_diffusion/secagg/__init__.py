"""Secure aggregation: a server learns the sum of its clients' vectors and nothing else.

Needs numpy and cryptography alone; knows no network, clock or file.  `simulate` runs a whole round
on one page; `Client` and `Server` are the two machines, bytes in and bytes out; `FixedPoint` turns
floats into the ring and back.  README.md beside this file has the wire format, what each party
learns, and what is NOT protected.

Source: Bonawitz et al., CCS 2017 (double masking); Bell et al., CCS 2020 (k-regular graph).

>>> import numpy as np
>>> params = SecAggParams(n_clients=3, threshold=2, dimension=2, modulus_bits=32)
>>> simulate(params, {i: np.array([i, 10], dtype=np.uint32) for i in range(3)}).total.tolist()
[3, 30]
"""

from .answers import Latch
from .client import Client
from .encoding import Encoded, FixedPoint
from .params import SecAggParams
from .phases import PHASES
from .policy import Policy
from .server import Server
from .session import Session
from .signing import Roster, SigningKey
from .simulate import SimulationResult, TranscriptEntry, simulate

__all__ = [
    "PHASES",
    "Client",
    "Encoded",
    "FixedPoint",
    "Latch",
    "Policy",
    "Roster",
    "SecAggParams",
    "Server",
    "Session",
    "SigningKey",
    "SimulationResult",
    "TranscriptEntry",
    "simulate",
]
