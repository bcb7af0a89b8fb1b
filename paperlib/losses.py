"""The terms of the objective (paper, equations 5 to 8 and section 3.3), and of the baselines'.

Scores ``d`` are D's outputs, (B,), before any sigmoid. Every term is a scalar mean, in nats for
minimax, dimensionless otherwise. "Ascending" an objective is written as descending its negative.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from paperlib import distributed


class Adversarial(Protocol):
    """The three sides of an adversarial game, each a loss to DESCEND."""

    def real(self, d: Tensor) -> Tensor: ...
    def fake(self, d: Tensor) -> Tensor: ...
    def generator(self, d: Tensor) -> Tensor: ...


class Hinge:
    """D: max(0, 1 - D(y)) + max(0, 1 + D(y~));  G: -D(y~). The paper's choice (section 3.3)."""

    def real(self, d: Tensor) -> Tensor:
        return F.relu(1 - d).mean()

    def fake(self, d: Tensor) -> Tensor:
        return F.relu(1 + d).mean()

    def generator(self, d: Tensor) -> Tensor:
        return -d.mean()


class Minimax:
    """D: -log s(D(y)) - log(1 - s(D(y~)));  G: -log s(D(y~)), non-saturating; s the sigmoid."""

    def real(self, d: Tensor) -> Tensor:
        return F.softplus(-d).mean()

    def fake(self, d: Tensor) -> Tensor:
        return F.softplus(d).mean()

    def generator(self, d: Tensor) -> Tensor:
        return F.softplus(-d).mean()


class LeastSquares:
    """D: (D(y) - 1)^2 + D(y~)^2;  G: (D(y~) - 1)^2 (Mao et al. 2017)."""

    def real(self, d: Tensor) -> Tensor:
        return (d - 1).square().mean()

    def fake(self, d: Tensor) -> Tensor:
        return d.square().mean()

    def generator(self, d: Tensor) -> Tensor:
        return (d - 1).square().mean()


class Wasserstein:
    """Critic: D(fake) - D(real), beside ``gradient_penalty``;  G: -D(fake) (Arjovsky et al. 2017).

    MisGAN's game; not one of Algorithm 1's, whose D is held by spectral normalisation.
    """

    def real(self, d: Tensor) -> Tensor:
        return -d.mean()

    def fake(self, d: Tensor) -> Tensor:
        return d.mean()

    def generator(self, d: Tensor) -> Tensor:
        return -d.mean()


def gradient_penalty(
    critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator
) -> Tensor:
    """E (|grad D(u)| - 1)^2 at points u between real and fake images (Gulrajani et al. 2017).

    Args:
        critic: scores (B,) from images.
        real, fake: images, (B, C, H, W).
        generator: chooses each point, uniformly on the line between the two.

    Returns:
        a scalar, to be weighed by lambda_gp; differentiable in the critic's parameters.
    """
    t = distributed.rand(len(real), 1, 1, 1, generator=generator, device=real.device)
    u = torch.lerp(real, fake, t).detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the fused attentions have no second derivative
        (slope,) = torch.autograd.grad(critic(u).sum(), u, create_graph=True)  # (B, C, H, W)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


ADVERSARIAL: dict[str, Adversarial] = {
    "hinge": Hinge(),
    "minimax": Minimax(),
    "least_squares": LeastSquares(),
}


def observation_error(y_hat: Tensor, y: Tensor, m: Tensor, norm: str = "l2") -> Tensor:
    """||y^ - y||^2 of equation 7 as a MEAN over the observed entries (so lambda_y is per entry).

    Args:
        y_hat: re-measured reconstruction, (B, C, H, W).
        y: observation, (B, C, H, W).
        m: mask of both, (B, 1, H, W), 1 = observed.
        norm: "l2" (the paper's) or "l1".
    """
    error = y_hat - y  # 0 where nothing is observed
    error = error.square() if norm == "l2" else error.abs()
    observed = distributed.mean(m.sum()) * y.shape[1]
    return error.sum() / observed


def latent_error(z_rec: Tensor, z: Tensor, norm: str = "l2") -> Tensor:
    """||z^ - z||^2 of equation 6 as a MEAN over the entries of z: 1 where E knows nothing."""
    error = z_rec - z  # (B, nz)
    return error.square().mean() if norm == "l2" else error.abs().mean()


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, a mean over the entries of z.

    Not in the paper, whose weight for it is 0.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


class Latent(NamedTuple):
    """What E says of z: mean and log-variance, (B, nz) each."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """z_enc ~ E(y), reparameterised: mean + standard deviation * noise, (B, nz)."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise
