"""Diffusion models trained on data that may not leave its owner.

`secure_fed_diffusion.secagg` is the secure aggregation, with numpy and cryptography alone; the rest
needs the extra `train`.  The command line is `sfd`; README.md shows both.
"""

from secure_fed_diffusion._version import VERSION as __version__

__all__ = ["__version__"]
