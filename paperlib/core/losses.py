"""The terms of the objective (paper, equations 5 to 8 and section 3.3), and of the baselines'.

Scores ``d`` are D's outputs, (B,), before any sigmoid. Every term is a scalar mean, in nats for
minimax, dimensionless otherwise. "Ascending" an objective is written as descending its negative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class Adversarial(NamedTuple):
    """adv: what D descends for real and for fake scores, and what G descends for fake ones."""

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


ADVERSARIAL = {
    # The paper's choice (section 3.3)
    "hinge": Adversarial(
        real=lambda d: F.relu(1 - d).mean(),
        fake=lambda d: F.relu(1 + d).mean(),
        generator=lambda d: -d.mean(),
    ),
    # -log s(D(y)) - log(1 - s(D(y~))) for D, -log s(D(y~)) for G: non-saturating; s the sigmoid
    "minimax": Adversarial(
        real=lambda d: F.softplus(-d).mean(),
        fake=lambda d: F.softplus(d).mean(),
        generator=lambda d: F.softplus(-d).mean(),
    ),
    # Mao et al. 2017
    "least_squares": Adversarial(
        real=lambda d: (d - 1).square().mean(),
        fake=lambda d: d.square().mean(),
        generator=lambda d: (d - 1).square().mean(),
    ),
}


def gradient_penalty(
    critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator
) -> Tensor:
    """E (|grad D(u)| - 1)^2 at points u between real and fake images (Gulrajani et al. 2017).

    The critic gives scores (B,) of images (B, C, H, W); ``generator`` chooses each point, uniformly
    on the line between the two. The scalar is differentiable in the critic's parameters.
    """
    t = torch.rand(len(real), 1, 1, 1, generator=generator, device=real.device)
    u = torch.lerp(real, fake, t).detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the fused attentions have no second derivative
        (slope,) = torch.autograd.grad(critic(u).sum(), u, create_graph=True)  # (B, C, H, W)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def observation_error(y_hat: Tensor, y: Tensor, m: Tensor, norm: str = "l2") -> Tensor:
    """||y^ - y||^2 of equation 7 as a MEAN over the observed entries (so lambda_y is per entry).

    The measured reconstruction y_hat and y are (B, C, H, W), the mask m of both (B, 1, H, W), 1 =
    observed; ``norm`` is "l2" (the paper's) or "l1".
    """
    error = y_hat - y  # 0 where nothing is observed
    error = error.square() if norm == "l2" else error.abs()
    return error.sum() / (m.sum() * y.shape[1])


def latent_error(z_rec: Tensor, z: Tensor, norm: str = "l2") -> Tensor:
    """||z^ - z||^2 of equation 6 as a MEAN over the entries of z: 1 where E knows nothing."""
    error = z_rec - z  # (B, nz)
    return error.square().mean() if norm == "l2" else error.abs().mean()


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, a mean over the entries of z.

    Not in the paper, whose weight for it is 0.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
