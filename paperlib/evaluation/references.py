"""What a user would try first: filling in without learning, one image at a time, with no z."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from paperlib.core.corruption import composite
from paperlib.core.fill import pyramid_fill
from paperlib.evaluation.features import to_levels


def mean_fill(y: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Each channel's mean over the observed pixels of an image (H, W, C) in [-1, 1]."""
    return np.broadcast_to(y[~missing].mean(axis=0), y.shape)


def linear_interpolation(y: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Linear on the triangles between observed pixels (SciPy), the nearest one's value outside."""
    known, wanted = np.argwhere(~missing), np.argwhere(missing)
    inside = LinearNDInterpolator(known, y[~missing])(wanted)
    nearest = NearestNDInterpolator(known, y[~missing])(wanted)
    filled = y.copy()
    filled[missing] = np.where(np.isnan(inside), nearest, inside)
    return filled


def _opencv(y: np.ndarray, missing: np.ndarray, method: int) -> np.ndarray:
    """On 8 bits; looks at 3 pixels around a missing one."""
    levels = to_levels(torch.from_numpy(y)).numpy()
    filled = cv2.inpaint(levels, missing.astype(np.uint8), 3, method)
    return filled.reshape(y.shape) / 127.5 - 1  # of one band OpenCV drops the axis


REFERENCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mean": mean_fill,
    "linear": linear_interpolation,
    # the smoothest surface through the observed pixels: its bi-Laplacian is 0
    "biharmonic": partial(inpaint_biharmonic, channel_axis=-1),
    "telea": partial(_opencv, method=cv2.INPAINT_TELEA),  # fast marching (Telea 2004)
    # lines of equal grey continued as a fluid flows (Bertalmio et al. 2001)
    "navier_stokes": partial(_opencv, method=cv2.INPAINT_NS),
}
"""Name -> (y (H, W, C) in [-1, 1], missing (H, W) bool) -> complete image (H, W, C)."""
ROWS = (*REFERENCES, "start", "real")  # what G starts from, untrained; the originals themselves


def fill(name: str, y: Tensor, m: Tensor) -> Tensor:
    """Fill in observations y (B, C, H, W) in [-1, 1], 0 where missing, with masks m (B, 1, H, W), by
    one of ``REFERENCES`` or "start"; observed pixels of the result equal those of y to the bit."""
    if name == "start":
        generated = pyramid_fill(y, m)
    else:
        images = y.permute(0, 2, 3, 1).double().cpu().numpy()  # (B, H, W, C)
        missing = m[:, 0].cpu().numpy() == 0  # (B, H, W)
        filled = np.stack(list(map(REFERENCES[name], images, missing)))
        generated = torch.from_numpy(filled).permute(0, 3, 1, 2).to(y)
    return composite(generated.clamp(-1, 1), y, m)
