"""One client's training step: per-example gradients, the integer grid, Opacus' optimiser, local epochs."""
