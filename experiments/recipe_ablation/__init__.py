"""What each part of the recipe is worth on MNIST, one change at a time."""
