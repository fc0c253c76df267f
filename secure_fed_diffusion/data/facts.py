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
X_RAYS = ("normal", "pneumonia")
THINGS = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
BLOOD_CELLS = (
    "basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte", "neutrophil",
    "platelet",
)  # fmt: skip
SKIN_LESIONS = (
    "actinic keratosis or intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesion",
    "dermatofibroma", "melanoma", "melanocytic nevus", "vascular lesion",
)  # fmt: skip
TISSUES = (
    "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
    "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
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
    known.name: known
    for known in (
        Facts(name="digits", class_names=NUMERALS, image_shape=(1, 8, 8)),
        Facts(name="mnist", class_names=NUMERALS, image_shape=(1, 28, 28)),
        Facts(name="fashion_mnist", class_names=GARMENTS, image_shape=(1, 28, 28)),
        Facts(name="pneumonia", class_names=X_RAYS, image_shape=(1, 28, 28)),
        Facts(name="cifar10", class_names=THINGS, image_shape=(3, 32, 32)),
        Facts(name="svhn", class_names=NUMERALS, image_shape=(3, 32, 32)),
        Facts(name="pneumoniamnist", class_names=X_RAYS, image_shape=(1, 28, 28)),
        Facts(name="pneumoniamnist_64", class_names=X_RAYS, image_shape=(1, 64, 64)),
        Facts(name="bloodmnist", class_names=BLOOD_CELLS, image_shape=(3, 28, 28)),
        Facts(name="bloodmnist_64", class_names=BLOOD_CELLS, image_shape=(3, 64, 64)),
        Facts(name="dermamnist", class_names=SKIN_LESIONS, image_shape=(3, 28, 28)),
        Facts(name="dermamnist_64", class_names=SKIN_LESIONS, image_shape=(3, 64, 64)),
        Facts(name="pathmnist", class_names=TISSUES, image_shape=(3, 28, 28)),
        Facts(name="pathmnist_64", class_names=TISSUES, image_shape=(3, 64, 64)),
    )
}


def facts(name: DatasetName) -> Facts:
    """Return the public facts of a data set that `DataSettings` can name."""
    return _FACTS[name]
