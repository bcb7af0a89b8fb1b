"""Seeds for independent streams of random numbers, each a pure function of its labels."""

from __future__ import annotations

import hashlib

import torch


def fold(*labels: int | str) -> int:
    """A 63-bit seed from labels, e.g. ``fold(config.seed, "step", 17)``."""
    digest = hashlib.sha256("/".join(map(str, labels)).encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*labels: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch.Generator on ``device`` seeded by ``fold(*labels)``."""
    return torch.Generator(device).manual_seed(fold(*labels))
