"""MNIST by ten clients with masked noise shares on one GPU, and one private round of two larger networks."""
