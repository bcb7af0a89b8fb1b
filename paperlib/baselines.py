"""The baselines of Table 2, with Algorithm 1's networks, masks, loop and evaluation.

    Unpaired  supervised by complete images x' of others: D tells x' from x~
    Paired    supervised by the complete image x of each y: squared error, and D beside it
    MisGAN    unsupervised: learns a generator of complete images, then an imputer that D cannot
              tell from it (Li, Jiang and Marlin, ICLR 2019), the mask distribution known

Each is what it computes in a step; the loop around a step (``training.train``) exists once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from paperlib import acceleration, distributed
from paperlib.algorithm1 import (
    MASKS_SHOWN,
    Algorithm1,
    Networks,
    build_generator,
    build_networks,
    shown_to_discriminator,
)
from paperlib.config import RunConfig
from paperlib.corruption import composite, corrupt
from paperlib.data import (
    Batches,
    Observations,
    PairedCompleteImages,
    UnpairedCompleteImages,
    law_of,
)
from paperlib.losses import ADVERSARIAL, Wasserstein, gradient_penalty, observation_error
from paperlib.models import DataGenerator, Discriminator, Generator


@dataclass
class Supervised:
    """What a step of Unpaired or Paired computes."""

    y: Tensor  # (B, 3, H, W)  observations
    m: Tensor  # (B, 1, H, W)  their masks
    x: Tensor  # (B, 3, H, W)  complete images: of others (Unpaired), of the same ones (Paired)
    x_tilde: Tensor  # (B, 3, H, W)  reconstructions


class Unpaired(Algorithm1):
    """D compares complete images with reconstructions, where Algorithm 1 compares observations.

    D ascends   adv(D(x')) + adv(D(x~))         x~ = G(y, z) * (1 - m) + y
    G descends  adv(D(x~))
    """

    data_set: ClassVar[type[Batches]] = UnpairedCompleteImages

    def forward(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Supervised:
        y, m, x = batch
        z = distributed.randn(
            len(y), self.config.nz, generator=generator, device=y.device
        )  # (B, nz)
        return Supervised(y, m, x, composite(self.nets.G(y, m, z), y, m))

    def judged(self, image: Tensor, p: Supervised) -> Tensor:
        """What D is shown of an image, (B, C, H, W)."""
        return image

    def discriminator_loss(self, p: Supervised) -> tuple[Tensor, dict[str, Tensor]]:
        adv = ADVERSARIAL[self.config.adversarial]
        real, fake = self.judged(p.x, p), self.judged(p.x_tilde.detach(), p)
        d_real, d_fake = self.nets.D(torch.cat([real, fake])).chunk(2)  # (B,) each
        loss = adv.real(d_real) + adv.fake(d_fake)
        return loss, {"loss_d": loss, "d_real": d_real.mean(), "d_fake": d_fake.mean()}

    def generator_loss(self, p: Supervised) -> tuple[Tensor, dict[str, Tensor]]:
        adv = ADVERSARIAL[self.config.adversarial]
        loss = adv.generator(self.nets.D(self.judged(p.x_tilde, p)))
        return loss, {"loss_g": loss}


class Paired(Unpaired):
    """Regression to the complete image, sharpened by a discriminator, as in pix2pix (Isola 2017).

    D ascends   adv(D(x, y)) + adv(D(x~, y))
    G descends  lambda_x ||x~ - x||^2 + adv(D(x~, y))

    The squared error is a mean over missing entries, the only ones that can be wrong.
    """

    data_set: ClassVar[type[Batches]] = PairedCompleteImages

    @staticmethod
    def build_networks(config: RunConfig) -> Networks:
        c = config
        D = Discriminator(c.size, c.d_channels, c.patch, c.attention, c_in=2 * c.bands)
        return replace(build_networks(c), D=D)

    def judged(self, image: Tensor, p: Supervised) -> Tensor:
        return torch.cat([image, p.y], dim=1)  # (B, 6, H, W): D, too, knows what was observed

    def generator_loss(self, p: Supervised) -> tuple[Tensor, dict[str, Tensor]]:
        adversarial, _ = super().generator_loss(p)
        error_x = observation_error(p.x_tilde, p.x, 1 - p.m, self.config.norm)
        loss = adversarial + self.config.lambda_x * error_x
        return loss, {"loss_g": loss, "adversarial": adversarial, "error_x": error_x}


@dataclass
class MisGANNetworks:
    """The imputer G and its critic D, the data generator G_x and its critic D_x."""

    G: Generator
    D: Discriminator
    G_x: DataGenerator
    D_x: Discriminator


def build_data_generator(config: RunConfig, spectral: bool = True) -> DataGenerator:
    """G_x for the configuration's size and corruption, randomly initialised."""
    c = config
    return DataGenerator(
        c.size, c.g_channels, c.nz_x, c.patch, c.attention, c.border, c.bands, spectral
    )


@dataclass
class Game:
    """What MisGAN's critics compare."""

    y: Tensor  # (B, 3, H, W)  observations: real to D_x
    m: Tensor  # (B, 1, H, W)  their masks
    m_tilde: Tensor  # (B, 1, H, W)  fresh masks
    y_x: Tensor  # (B, 3, H, W)  generated images, masked afresh: fake to D_x
    x: Tensor  # (B, 3, H, W)  generated images: real to D
    x_tilde: Tensor  # (B, 3, H, W)  imputed observations: fake to D

    def shown_to_d_x(self, sees: str) -> tuple[Tensor, Tensor]:
        """Observations, real and of generated images; with their masks, if D sees any."""
        own = "observation" if sees == "observation" else "own_mask"
        return (
            shown_to_discriminator(self.y, self.m, None, own),
            shown_to_discriminator(self.y_x, self.m_tilde, None, own),
        )

    def shown_to_d(self, sees: str) -> tuple[Tensor, Tensor]:
        """Complete images, generated and imputed; with both_masks the mask that G filled in from,
        for a generated image an independent one. A complete image has no mask of its own."""
        filled = "own_mask" if sees == "both_masks" else "observation"
        return (
            shown_to_discriminator(self.x, self.m_tilde, None, filled),
            shown_to_discriminator(self.x_tilde, self.m, None, filled),
        )


class MisGAN:
    """MisGAN with the mask distribution known: no mask generator and no critic of masks.

    L_x = E D_x(y) - E D_x(F(G_x(z'), m~))           D_x ascends L_x - lambda_gp * penalty
    L_i = E D(G_x(z')) - E D(x~)                     D   ascends L_i - lambda_gp * penalty
    G_x descends L_x + beta L_i,  G descends L_i     after critic_steps such steps

    tau is 0 on the scale [-1, 1], the 0.5 of [0, 1] in the public code. In that code beta has no
    effect (its L_i for G_x leaves out D(G_x(z')), all of L_i that depends on G_x); here it has, as
    the paper of MisGAN says. G_x by itself is AmbientGAN.
    """

    data_set: ClassVar[type[Batches]] = Observations
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    optimizer_g_x: torch.optim.Optimizer
    optimizer_d_x: torch.optim.Optimizer

    def __init__(self, config: RunConfig, device: torch.device | str = "cpu") -> None:
        c = self.config = config
        self.batches_per_step = c.critic_steps
        self.p_m = law_of(c)
        # no spectral normalisation in the critics: the gradient penalty holds them
        critic = partial(Discriminator, c.size, c.d_channels, c.patch, c.attention, spectral=False)
        d_x_sees = c.bands + min(MASKS_SHOWN[c.sees], 1)
        d_sees = c.bands + (c.sees == "both_masks")
        self.nets = MisGANNetworks(
            G=build_generator(c),
            D=critic(c_in=d_sees),
            G_x=build_data_generator(c),
            D_x=critic(c_in=d_x_sees),
        )
        self.acceleration = acceleration.choose(c, device)
        for name, net in vars(self.nets).items():
            # the gradient penalty differentiates the critics twice
            self.acceleration.prepare(net, compilable=name in ("G", "G_x"))
        rates = {"G": c.lr_g, "D": c.lr_d, "G_x": c.lr_x, "D_x": c.lr_x}
        for name, rate in rates.items():
            parameters = getattr(self.nets, name).parameters()
            adam = self.acceleration.adam(parameters, rate, (c.beta1, c.beta2))
            setattr(self, f"optimizer_{name.lower()}", adam)

    def forward(self, y: Tensor, m: Tensor, generator: torch.Generator) -> Game:
        """Generate, mask afresh, and impute."""
        c, device = self.config, y.device
        code = distributed.randn(len(y), c.nz_x, generator=generator, device=device)  # (B, nz_x)
        m_tilde = self.p_m.sample(len(y), c.size, generator, m)  # (B, 1, H, W)
        z = distributed.randn(len(y), c.nz, generator=generator, device=device)  # (B, nz)
        x = self.nets.G_x(code)
        x_tilde = composite(self.nets.G(y, m, z), y, m)
        return Game(y, m, m_tilde, corrupt(x, m_tilde), x, x_tilde)

    def critic_loss(
        self, critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a critic descends, and its mean scores of real and fake. No generator learns."""
        adv, real, fake = Wasserstein(), real.detach(), fake.detach()
        d_real, d_fake = critic(torch.cat([real, fake])).chunk(2)  # (B,) each
        penalty = gradient_penalty(critic, real, fake, generator)
        loss = adv.real(d_real) + adv.fake(d_fake) + self.config.lambda_gp * penalty
        return loss, d_real.mean(), d_fake.mean()

    def generator_losses(self, p: Game) -> tuple[Tensor, Tensor]:
        """What G and what G_x descend; each learns from its own loss alone."""
        adv = Wasserstein()
        _, y_x = p.shown_to_d_x(self.config.sees)
        x, x_tilde = p.shown_to_d(self.config.sees)
        loss_g = adv.generator(self.nets.D(x_tilde))
        loss_g_x = adv.generator(self.nets.D_x(y_x)) + self.config.beta * self.nets.D(x).mean()
        return loss_g, loss_g_x

    def step(
        self, batches: Iterator[tuple[Tensor, ...]], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """``critic_steps`` updates of both critics, then one of G and of G_x."""
        nets = self.nets
        for _ in range(self.config.critic_steps):
            y, m = next(batches)
            with torch.no_grad():
                p = self.forward(y, m, generator)
            sees = self.config.sees
            loss_d_x, _, _ = self.critic_loss(nets.D_x, *p.shown_to_d_x(sees), generator)
            loss_d, d_real, d_fake = self.critic_loss(nets.D, *p.shown_to_d(sees), generator)
            for optimizer, loss in ((self.optimizer_d_x, loss_d_x), (self.optimizer_d, loss_d)):
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

        critics = (nets.D, nets.D_x)
        for critic in critics:
            critic.requires_grad_(False)
        loss_g, loss_g_x = self.generator_losses(self.forward(y, m, generator))
        for optimizer, loss in ((self.optimizer_g, loss_g), (self.optimizer_g_x, loss_g_x)):
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        self.optimizer_g.step()
        self.optimizer_g_x.step()
        for critic in critics:
            critic.requires_grad_(True)
        log = {"loss_d": loss_d, "loss_g": loss_g, "loss_d_x": loss_d_x, "loss_g_x": loss_g_x}
        return {k: v.detach() for k, v in (log | {"d_real": d_real, "d_fake": d_fake}).items()}
