"""What anybody may know of a data set without opening a file of it: its name, its classes, an image's shape.

A coordinator plans a run from these facts and never holds an image.  Not checked here: that a file has what
is said of it (`datasets` pins every array's content, and a test compares the two).

>>> facts("digits").image_shape, facts("pneumonia").class_names
((1, 8, 8), ('normal', 'pneumonia'))
"""

from __future__ import annotations

from dataclasses import dataclass

from secure_fed_diffusion.data.settings import DatasetName

NUMERALS = tuple(str(digit) for digit in range(10))
GARMENTS = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Public facts of a data set; `image_shape` is (channels, height, width)."""

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    @property
    def n_classes(self) -> int:
        """Number of classes, those without a record included."""
        return len(self.class_names)


_FACTS = {
    "digits": Facts(name="digits", class_names=NUMERALS, image_shape=(1, 8, 8)),
    "mnist": Facts(name="mnist", class_names=NUMERALS, image_shape=(1, 28, 28)),
    "fashion_mnist": Facts(name="fashion_mnist", class_names=GARMENTS, image_shape=(1, 28, 28)),
    "pneumonia": Facts(name="pneumonia", class_names=("normal", "pneumonia"), image_shape=(1, 28, 28)),
}


def facts(name: DatasetName) -> Facts:
    """Return the public facts of a data set that `DataSettings` can name."""
    return _FACTS[name]
