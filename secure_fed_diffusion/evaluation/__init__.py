"""What a model bought: FID, prototype accuracy, and the accuracy of a classifier trained on samples.

Everything here reads public and test images and synthetic samples, never a private record, so no
figure of this package needs a charge.
"""
