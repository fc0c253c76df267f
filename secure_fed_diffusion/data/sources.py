"""Who publishes each data set, in which files, under which licence, with which checksum.

The MD5s are the publishers' own, or those that torchvision checks for them (MNIST, Fashion-MNIST, CIFAR-10,
SVHN); MedMNIST's are of its release 3.0.2.  Nobody published a stronger digest.  An MD5 finds a damaged or
mistaken file; against a forger it rests on second preimages alone, so prefer `https` and a copy you trust.
MNIST and Fashion-MNIST are pinned by SHA-256 of their content as well (`datasets`).

Licences are the publishers' words; whether one permits your use is yours to judge.

>>> [file.filename for file in SOURCES["cifar10"].files], SOURCES["cifar10"].image_counts
(['cifar-10-python.tar.gz'], (45000, 5000, 10000))
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from secure_fed_diffusion.data.settings import DatasetName

Layout = Literal["installed", "idx", "cifar", "svhn", "medmnist"]
"""`installed`: travels with scikit-learn; `idx`: four IDX files, or one .npz as Keras has it."""

_MNIST_ADDRESSES = ("http://yann.lecun.com/exdb/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")
_FASHION_ADDRESSES = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_SVHN_ADDRESSES = ("http://ufldl.stanford.edu/housenumbers/",)
_MEDMNIST_ADDRESSES = ("https://zenodo.org/records/10519652/files/",)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One published file; `megabytes` is its size as far as known, `md5` None where it was not published."""

    filename: str
    md5: str | None
    megabytes: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set as published.  `folders` are looked in, below the data folder, the first one is fetched to.

    `image_counts` are those of the private, public and test split; `addresses` are tried in turn, and
    empty where there is none to fetch from.
    """

    name: DatasetName
    layout: Layout
    licence: str
    image_counts: tuple[int, int, int]
    files: tuple[SourceFile, ...] = ()
    folders: tuple[str, ...] = ("",)
    addresses: tuple[str, ...] = ()

    @property
    def megabytes(self) -> float | None:
        """Size of all files, None where one is not known."""
        sizes = [file.megabytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def find(self, directory: Path, file: SourceFile) -> Path | None:
        """Return where `file` lies below `directory`; an IDX file may be unpacked."""
        names = [file.filename]
        if self.layout == "idx":
            names.append(file.filename.removesuffix(".gz"))
        for folder in self.folders:
            for name in names:
                if (directory / folder / name).is_file():
                    return directory / folder / name
        return None

    def home(self, directory: Path) -> Path:
        """Return the folder to which the files are fetched."""
        return directory / self.folders[0]


def _idx(md5s: tuple[str, str, str, str], megabytes: tuple[float, ...]) -> tuple[SourceFile, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(
        SourceFile(filename=f"{name}-ubyte.gz", md5=md5, megabytes=size)
        for name, md5, size in zip(names, md5s, megabytes, strict=True)
    )


def _medmnist(
    name: DatasetName,
    md5: str,
    image_counts: tuple[int, int, int],
    *,
    megabytes: float | None = None,
    licence: str = "CC BY 4.0",
) -> Source:
    return Source(
        name=name,
        layout="medmnist",
        licence=licence,
        image_counts=image_counts,
        files=(SourceFile(filename=f"{name}.npz", md5=md5, megabytes=megabytes),),
        addresses=_MEDMNIST_ADDRESSES,
    )


_PNEUMONIA, _BLOOD, _DERMA, _PATH = (
    (4_708, 524, 624),
    (11_959, 1_712, 3_421),
    (7_007, 1_003, 2_005),
    (89_996, 10_004, 7_180),
)
_NON_COMMERCIAL = "CC BY-NC 4.0"

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="digits",
            layout="installed",
            licence="CC BY 4.0 (UCI); travels with scikit-learn",
            image_counts=(1_200, 300, 297),
        ),
        Source(
            name="mnist",
            layout="idx",
            licence="CC BY-SA 3.0",
            image_counts=(55_000, 5_000, 10_000),
            files=_idx(
                (
                    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                    "d53e105ee54ea40749a09fcbcd1e9432",
                    "9fb629c4189551a2d022fa330f9573f3",
                    "ec29112dd5afa0611ce80d1b7f02629c",
                ),
                (9.9, 0.03, 1.6, 0.005),
            ),
            folders=("mnist", "MNIST/raw"),
            addresses=_MNIST_ADDRESSES,
        ),
        Source(
            name="fashion_mnist",
            layout="idx",
            licence="MIT",
            image_counts=(55_000, 5_000, 10_000),
            files=_idx(
                (
                    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                    "25c81989df183df01b3e8a0aad5dffbe",
                    "bef4ecab320f06d8554ea6380940ec79",
                    "bb300cfdad3c16e7a12a480ee83cd310",
                ),
                (26.4, 0.03, 4.4, 0.005),
            ),
            folders=("fashion_mnist", "FashionMNIST/raw"),
            addresses=_FASHION_ADDRESSES,
        ),
        Source(
            name="pneumonia",
            layout="medmnist",
            licence="CC BY 4.0",
            image_counts=(3_882, 524, 624),
            files=(SourceFile(filename="pneumonia_subset.npz", md5=None, megabytes=None),),
        ),
        Source(
            name="cifar10",
            layout="cifar",
            licence="none stated; cite Krizhevsky 2009",
            image_counts=(45_000, 5_000, 10_000),
            files=(
                SourceFile(
                    filename="cifar-10-python.tar.gz",
                    md5="c58f30108f718f92721af3b95e74349a",
                    megabytes=170.5,
                ),
            ),
            addresses=("https://www.cs.toronto.edu/~kriz/",),
        ),
        Source(
            name="svhn",
            layout="svhn",
            licence="non-commercial use only",
            image_counts=(68_257, 5_000, 26_032),
            files=(
                SourceFile(
                    filename="train_32x32.mat", md5="e26dedcc434d2e4c54c9b2d4a06d8373", megabytes=182.0
                ),
                SourceFile(filename="test_32x32.mat", md5="eb5a983be6a315427106f1b164d9cef3", megabytes=64.3),
            ),
            addresses=_SVHN_ADDRESSES,
        ),
        _medmnist("pneumoniamnist", "28209eda62fecd6e6a2d98b1501bb15f", _PNEUMONIA, megabytes=4.2),
        _medmnist("pneumoniamnist_64", "8f4eceb4ccffa70c672198ea285246c6", _PNEUMONIA, megabytes=20.6),
        _medmnist("bloodmnist", "7053d0359d879ad8a5505303e11de1dc", _BLOOD, megabytes=35.5),
        _medmnist("bloodmnist_64", "2b94928a2ae4916078ca51e05b6b800b", _BLOOD),
        _medmnist(
            "dermamnist", "0744692d530f8e62ec473284d019b0c7", _DERMA, megabytes=19.7, licence=_NON_COMMERCIAL
        ),
        _medmnist("dermamnist_64", "b70a2f5635c6199aeaa28c31d7202e1f", _DERMA, licence=_NON_COMMERCIAL),
        _medmnist("pathmnist", "a8b06965200029087d5bd730944a56c1", _PATH, megabytes=205.6),
        _medmnist("pathmnist_64", "55aa9c1e0525abe5a6b9d8343a507616", _PATH),
    )
}
