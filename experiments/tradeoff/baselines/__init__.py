"""What a user would pick instead of federated diffusion: simpler methods at the same ε, δ, unit and relation.

All three trust one server with all images (view: the released model), as mode `central` does.
"""
