"""Federated diffusion after Tun et al.: clients, skew, local epochs, participation, FedProx."""
