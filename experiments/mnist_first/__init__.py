"""The first honest privacy-utility picture: MNIST, ten clients, five modes, one budget."""
