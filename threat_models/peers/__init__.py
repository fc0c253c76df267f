"""Other libraries under the attacks that ours is under: on this machine, against what they ship.

A peer's stage runs the library's own functions and gives the attack the same kind of view that ours gives.
Where the library is not installed it raises `NotInstalledError`, and the table keeps what was measured
before, with its version.
"""
