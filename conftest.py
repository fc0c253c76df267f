"""What cannot be imported where the extra `flower` is not installed (the environment of CI)."""

from importlib.util import find_spec

collect_ignore_glob = (
    []
    if find_spec("flwr")
    else [
        "secure_fed_diffusion/engines/flower.py",
        "secure_fed_diffusion/flower_app/*",
        "secure_fed_diffusion/flower_mod/*",
        "tests/flower_app/memory_grid.py",
        "tests/flower_app/played.py",
        "tests/flower_mod/federation.py",
        "threat_models/peers/_flwr.py",
        "threat_models/staging/flower_round.py",
    ]
)
