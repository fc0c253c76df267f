"""What Flower loads: the ServerApp and the ClientApp of a run, and the same run on Flower's simulation.

Flower and Ray report their use to their makers unless told otherwise; whoever loads this package has told
them, before either is imported.
"""

import os

for _variable, _value in (
    ("FLWR_TELEMETRY_ENABLED", "0"),
    ("FLWR_DISABLE_UPDATE_CHECK", "1"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
):
    os.environ.setdefault(_variable, _value)
