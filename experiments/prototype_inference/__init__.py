"""Prototype inference after federated averaging (Qiao et al., arXiv 2303.12296), through the secure sum."""
