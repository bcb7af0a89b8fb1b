"""The baselines of Table 2, with Algorithm 1's networks and masks; and every method by its name.

Unpaired  supervised by complete images x' of others: D tells x' from x~
Paired    supervised by the complete image x of each y: squared error, and D beside it
MisGAN    unsupervised: learns a generator of complete images, then an imputer that D cannot
          tell from it (Li, Jiang and Marlin, ICLR 2019), the mask distribution known
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from paperlib.core.algorithm1 import Algorithm1, Batch, Losses
from paperlib.core.corruption import MaskLaw, composite, corrupt
from paperlib.core.losses import ADVERSARIAL, gradient_penalty, observation_error
from paperlib.core.models import DataGenerator, Discriminator, Generator


@dataclass
class SupervisedPass:
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

    learns_from: ClassVar[str] = "unpaired"  # batches (y, m, x')

    @staticmethod
    def judged_channels(config: Any) -> int:
        return config.bands

    def forward(  # type: ignore[override]  # a batch has x beside y and m
        self, y: Tensor, m: Tensor, x: Tensor, *, generator: torch.Generator
    ) -> SupervisedPass:
        z = torch.randn(len(y), self.config.nz, generator=generator, device=y.device)  # (B, nz)
        return SupervisedPass(y, m, x, composite(self.nets.G(y, m, z), y, m))

    def judged(self, p: SupervisedPass, name: str) -> Tensor:
        return getattr(p, name)  # a complete image

    def discriminator_loss(self, p: SupervisedPass) -> Losses:
        adv = ADVERSARIAL[self.config.adversarial]
        shown = torch.cat([self.judged(p, "x"), self.judged(p, "x_tilde").detach()])
        d_real, d_fake = self.nets.D(shown).chunk(2)  # (B,) each
        loss = adv.real(d_real) + adv.fake(d_fake)
        return loss, {"loss_d": loss, "d_real": d_real.mean(), "d_fake": d_fake.mean()}

    def generator_loss(self, p: SupervisedPass) -> Losses:
        adv = ADVERSARIAL[self.config.adversarial]
        loss = adv.generator(self.nets.D(self.judged(p, "x_tilde")))
        return loss, {"loss_g": loss}


class Paired(Unpaired):
    """Regression to the complete image, sharpened by a discriminator, as in pix2pix (Isola 2017).

    D ascends   adv(D(x, y)) + adv(D(x~, y))
    G descends  lambda_x ||x~ - x||^2 + adv(D(x~, y))

    The squared error is a mean over missing entries, the only ones that can be wrong.
    """

    learns_from: ClassVar[str] = "paired"  # batches (y, m, x)

    @staticmethod
    def judged_channels(config: Any) -> int:
        return 2 * config.bands

    def judged(self, p: SupervisedPass, name: str) -> Tensor:
        return torch.cat([getattr(p, name), p.y], dim=1)  # (B, 6, H, W): D knows what was observed

    def generator_loss(self, p: SupervisedPass) -> Losses:
        adversarial, _ = super().generator_loss(p)
        error_x = observation_error(p.x_tilde, p.x, 1 - p.m, self.config.norm)
        loss = adversarial + self.config.lambda_x * error_x
        return loss, {"loss_g": loss, "adversarial": adversarial, "error_x": error_x}


@dataclass
class MisGANNetworks:
    """The imputer G and its critic D, the data generator G_x and its critic D_x."""

    G: nn.Module
    D: nn.Module
    G_x: nn.Module
    D_x: nn.Module


@dataclass
class MisGANPass:
    """What MisGAN's critics compare."""

    y: Tensor  # (B, 3, H, W)  observations: real to D_x
    y_x: Tensor  # (B, 3, H, W)  generated images, masked afresh: fake to D_x
    x: Tensor  # (B, 3, H, W)  generated images: real to D
    x_tilde: Tensor  # (B, 3, H, W)  imputed observations: fake to D


class MisGAN:
    """MisGAN with the mask distribution known: no mask generator and no critic of masks.

    L_x = E D_x(y) - E D_x(F(G_x(z'), m~))           D_x ascends L_x - lambda_gp * penalty
    L_i = E D(G_x(z')) - E D(x~)                     D   ascends L_i - lambda_gp * penalty
    G_x descends L_x + beta L_i,  G descends L_i     after critic_steps such steps

    tau is 0 on the scale [-1, 1], the 0.5 of [0, 1] in the public code. In that code beta has no
    effect (its L_i for G_x leaves out D(G_x(z')), all of L_i that depends on G_x); here it has, as
    the paper of MisGAN says. G_x by itself is AmbientGAN.

    Args: as of ``Algorithm1``; of the configuration also critic_steps, lambda_gp, beta, nz_x, lr_x.
    """

    learns_from: ClassVar[str] = "observations"
    differentiated_twice: ClassVar[tuple[str, ...]] = ("D", "D_x")  # by the gradient penalty

    def __init__(
        self,
        config: Any,
        nets: MisGANNetworks,
        p_m: MaskLaw,
        adam: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    ) -> None:
        self.config, self.nets, self.p_m = config, nets, p_m
        self.batches_per_step = config.critic_steps
        rates = {"G": config.lr_g, "D": config.lr_d, "G_x": config.lr_x, "D_x": config.lr_x}
        betas = (config.beta1, config.beta2)
        self.optimizers = {
            f"optimizer_{name.lower()}": adam(getattr(nets, name).parameters(), lr=lr, betas=betas)
            for name, lr in rates.items()
        }

    @staticmethod
    def build_networks(config: Any) -> MisGANNetworks:
        """The four networks; a gradient penalty holds the critics, no spectral norm."""
        G, D = Generator(config), Discriminator(config, spectral=False)
        return MisGANNetworks(G, D, DataGenerator(config), Discriminator(config, spectral=False))

    def forward(self, y: Tensor, m: Tensor, *, generator: torch.Generator) -> MisGANPass:
        """Generate, mask afresh, and impute."""
        c = self.config
        about: Any = {"generator": generator, "device": y.device}
        code = torch.randn(len(y), c.nz_x, **about)  # (B, nz_x)
        m_tilde = self.p_m.sample(len(y), y.shape[-1], generator, m)  # (B, 1, H, W)
        z = torch.randn(len(y), c.nz, **about)  # (B, nz)
        x = self.nets.G_x(code)
        x_tilde = composite(self.nets.G(y, m, z), y, m)
        return MisGANPass(y, corrupt(x, m_tilde), x, x_tilde)

    def critic_loss(
        self, critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a critic descends, and its mean scores of real and fake. No generator learns."""
        real, fake = real.detach(), fake.detach()
        d_real, d_fake = critic(torch.cat([real, fake])).chunk(2)  # (B,) each
        penalty = gradient_penalty(critic, real, fake, generator)
        loss = -d_real.mean() + d_fake.mean() + self.config.lambda_gp * penalty
        return loss, d_real.mean(), d_fake.mean()

    def generator_losses(self, p: MisGANPass) -> tuple[Tensor, Tensor]:
        """What G and what G_x descend; each learns from its own loss alone."""
        nets = self.nets
        loss_g = -nets.D(p.x_tilde).mean()
        loss_g_x = -nets.D_x(p.y_x).mean() + self.config.beta * nets.D(p.x).mean()
        return loss_g, loss_g_x

    def step(self, batches: Sequence[Batch], generator: torch.Generator) -> dict[str, Tensor]:
        """An update of both critics for every batch, then one of G and of G_x; as Algorithm1's."""
        nets, log = self.nets, {}
        for y, m in batches:
            with torch.no_grad():
                p = self.forward(y, m, generator=generator)
            log["loss_d_x"], _, _ = self.critic_loss(nets.D_x, p.y, p.y_x, generator)
            judged = self.critic_loss(nets.D, p.x, p.x_tilde, generator)
            log["loss_d"], log["d_real"], log["d_fake"] = judged
            self._descend(optimizer_d_x=log["loss_d_x"], optimizer_d=log["loss_d"])
        for critic in (nets.D, nets.D_x):
            critic.requires_grad_(False)
        p = self.forward(y, m, generator=generator)
        log["loss_g"], log["loss_g_x"] = self.generator_losses(p)
        self._descend(optimizer_g=log["loss_g"], optimizer_g_x=log["loss_g_x"])
        for critic in (nets.D, nets.D_x):
            critic.requires_grad_(True)
        return {key: value.detach() for key, value in log.items()}

    def _descend(self, **losses: Tensor) -> None:
        for name, loss in losses.items():
            self.optimizers[name].zero_grad(set_to_none=True)
            loss.backward()
        for name in losses:
            self.optimizers[name].step()


METHODS: dict[str, type[Any]] = {
    "base": Algorithm1,
    "encoding_z": Algorithm1,
    "encoding_y": Algorithm1,
    "both": Algorithm1,
    "unpaired": Unpaired,
    "paired": Paired,
    "misgan": MisGAN,
}
"""Every method by name; a method of your own is one more line, e.g. METHODS["smooth"] = Smooth."""

BASELINES = ("unpaired", "paired", "misgan")

GENERATORS = {"generator": ("G", Generator), "data_generator": ("G_x", DataGenerator)}
"""What is averaged, kept and evaluated: file name -> (network, its class)."""
