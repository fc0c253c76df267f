"""MNIST on two cores within forty minutes: what a masked, federated run gives at ε = 10 and 1."""
