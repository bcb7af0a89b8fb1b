"""Algorithm 1 of the paper, top to bottom, in its order; the lines are numbered as in the paper.

     1  while (G, D, E) not converged do
     2      Sample {y_i} from data distribution p_Y
     3      Sample {m~_i} from p_M
     4      Sample {z_i} from p_Z
     5      Compute m_i = T(y_i)
     6      x~ <- G(y, z) * (1 - m) + y
     7      y~ <- F(x~, m~)
     8      z_rec <- E(y~ * (1 - m))
     9      z_enc <- E(y)
    10      x^ <- G(y~, z_enc) * (1 - m~) + y~
    11      y^ <- F(x^, m)
    12      Update D by ascending     adv(D(y)) + adv(D(y~))
    13      Update G, E by descending adv(D(y~))
    14        and                     lambda_y ||y^ - y||^2 + adv(D(y^))
    15        and                     lambda_z ||z_rec - z||^2
    16  end while

The loop around a step (line 1: batches, averaging, log, checkpoints) is ``training.loop``.
The paper writes z^ for our z_rec and z~ for our z_enc in Algorithm 1, and the reverse in its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paperlib.core.corruption import MaskLaw, composite, corrupt
from paperlib.core.fill import pyramid_fill
from paperlib.core.losses import (
    ADVERSARIAL,
    kl_to_standard_normal,
    latent_error,
    observation_error,
)
from paperlib.core.models import Discriminator, Encoder, Generator

Batch = tuple[Tensor, ...]
Losses = tuple[Tensor, dict[str, Tensor]]
"""A loss to descend, and the scalars that the log shows of it."""


@dataclass
class Networks:
    """G, D and E of a run."""

    G: nn.Module
    D: nn.Module
    E: nn.Module


@dataclass
class Pass:
    """Every quantity of lines 2 to 11; None where the variant does not need it."""

    y: Tensor  # (B, 3, H, W)  observations
    m: Tensor  # (B, 1, H, W)  their masks
    m_tilde: Tensor  # (B, 1, H, W)  fresh masks
    z: Tensor  # (B, nz)
    x_tilde: Tensor  # (B, 3, H, W)  reconstructions
    y_tilde: Tensor  # (B, 3, H, W)  reconstructions, masked afresh
    z_rec: Tensor | None = None  # (B, nz)
    mean: Tensor | None = None  # (B, nz)  of z_enc
    log_variance: Tensor | None = None  # (B, nz)
    x_hat: Tensor | None = None  # (B, 3, H, W)
    y_hat: Tensor | None = None  # (B, 3, H, W)


class Algorithm1:
    """The networks, their optimisers, and one iteration of the loop (lines 2 to 15).

    Args:
        config: the variant (``method``: base, encoding_z, encoding_y or both) and the switches:
            adversarial, lambda_y, lambda_z, lambda_y_weighs, lambda_kl, norm, z_rec_from, z_enc,
            d_sees_y_hat, discriminator_input, nz, accumulate, lr_g, lr_d, beta1, beta2.
        nets: where they are to be trained, e.g. from ``build_networks``.
        p_m: the mask distribution.
        adam: makes the optimisers.
    """

    learns_from: ClassVar[str] = "observations"  # no complete image is ever seen
    differentiated_twice: ClassVar[tuple[str, ...]] = ()  # networks that torch.compile cannot take

    def __init__(
        self,
        config: Any,
        nets: Any,
        p_m: MaskLaw,
        adam: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    ) -> None:
        self.config, self.nets, self.p_m = config, nets, p_m
        self.batches_per_step = config.accumulate
        betas = (config.beta1, config.beta2)  # Adam(0, 0.99), section 3.3
        trained: Iterable[nn.Parameter] = nets.G.parameters()
        if self.encodes_z or self.encodes_y:  # base has no use for E
            trained = [*trained, *nets.E.parameters()]
        self.optimizers = {
            "optimizer_d": adam(nets.D.parameters(), lr=config.lr_d, betas=betas),
            "optimizer_g": adam(trained, lr=config.lr_g, betas=betas),
        }

    @classmethod
    def build_networks(cls, config: Any) -> Any:
        """G, D and E for the configuration's size, randomly initialised."""
        D_sees = cls.judged_channels(config)
        return Networks(Generator(config), Discriminator(config, D_sees), Encoder(config))

    @staticmethod
    def judged_channels(config: Any) -> int:
        """How many channels ``judged`` shows to D."""
        return 2 * config.bands + 1 if config.discriminator_input == "fill" else config.bands

    @property
    def encodes_z(self) -> bool:
        """Whether the loss has the term of equation 6."""
        return self.config.method in ("encoding_z", "both")

    @property
    def encodes_y(self) -> bool:
        """Whether the loss has the terms of equation 7."""
        return self.config.method in ("encoding_y", "both")

    def step(self, batches: Sequence[Batch], generator: torch.Generator) -> dict[str, Tensor]:
        """One update of D, then one of G and E, over ``accumulate`` different batches (line 2).

        The same y~ serves both updates, detached for D's. With one batch D has already moved when
        G's gradient is taken, as the algorithm orders; with several, G's gradient on a batch is
        taken as soon as D's is, so that one generator graph is held in memory, not four.

        Args:
            batches: observations y (B, 3, H, W) in [-1, 1], 0 where missing, and their masks m
                (B, 1, H, W), 1 = observed, for each batch.
            generator: source of all randomness, on the device of the batches.

        Returns the log's quantities, scalars on the device (reading them is left to the caller).
        """
        D, count = self.nets.D, len(batches)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches, 1):
            with parametrize.cached():  # one power iteration of G's spectral norm for both uses
                p = self.forward(*batch, generator=generator)  # lines 3 to 11

            # Line 12: update D
            loss_d, log_d = self.discriminator_loss(p)
            (loss_d / count).backward()
            if number == count:
                self.optimizers["optimizer_d"].step()

            # Lines 13 to 15: update G and E
            D.requires_grad_(False)
            loss_g, log_g = self.generator_loss(p)
            (loss_g / count).backward()
            D.requires_grad_(True)
        self.optimizers["optimizer_g"].step()
        return {key: value.detach() for key, value in (log_d | log_g).items()}

    def forward(self, y: Tensor, m: Tensor, *, generator: torch.Generator) -> Any:
        """Lines 3 to 11 for one batch; the stored m is line 5's T(y)."""
        c, nets, (batch, _, size, _) = self.config, self.nets, y.shape
        # Line 3: fresh masks
        m_tilde = self.p_m.sample(batch, size, generator, m)  # (B, 1, H, W)
        # Line 4: latent codes
        z = torch.randn(batch, c.nz, generator=generator, device=y.device)  # (B, nz)
        # Line 6: reconstruct; observed pixels pass unchanged (equation 4)
        x_tilde = composite(nets.G(y, m, z), y, m)
        # Line 7: mask the reconstruction afresh
        y_tilde = corrupt(x_tilde, m_tilde)
        p = Pass(y, m, m_tilde, z, x_tilde, y_tilde)
        if self.encodes_z:  # equation 6
            # Line 8: read z from what G generated, and from nothing that y could tell
            p.z_rec, _ = nets.E(*shown_to_encoder(p, c.z_rec_from))
        if self.encodes_y:  # equation 7
            # Line 9: encode the observation; the two heads of section 2.4, reparameterised
            p.mean, p.log_variance = nets.E(y, m)
            noise = torch.randn(batch, c.nz, generator=generator, device=y.device)
            sampled = p.mean + torch.exp(0.5 * p.log_variance) * noise
            z_enc = sampled if c.z_enc == "sampled" else p.mean  # (B, nz)
            # Line 10: reconstruct again, from the reconstruction's own observation
            p.x_hat = composite(nets.G(y_tilde, m_tilde, z_enc), y_tilde, m_tilde)
            # Line 11: measure with the original mask
            p.y_hat = corrupt(p.x_hat, m)
        return p

    def judged(self, p: Any, name: str) -> Tensor:
        """What D is shown of "y", "y_tilde" or "y_hat": the observation alone, as in the paper.

        With ``discriminator_input: fill`` also what the observation alone determines, its mask T(y)
        and its smooth fill: still a D(y), whose first layers need not find them.
        """
        y = getattr(p, name)
        if self.config.discriminator_input == "observation":
            return y
        m = p.m_tilde if name == "y_tilde" else p.m
        return torch.cat([y, m, pyramid_fill(y, m)], dim=1)  # (B, 2 C + 1, H, W)

    def discriminator_loss(self, p: Any) -> Losses:
        """Line 12, negated: what D descends. G receives no gradient."""
        c, adv = self.config, ADVERSARIAL[self.config.adversarial]
        fakes = ["y_tilde"]
        if c.d_sees_y_hat and p.y_hat is not None:  # equation 7, figure 3
            fakes.append("y_hat")
        shown = [self.judged(p, name).detach() for name in ["y", *fakes]]
        d_real, *d_fakes = self.nets.D(torch.cat(shown)).chunk(len(shown))  # (B,) each
        loss = adv.real(d_real) + sum(adv.fake(d) for d in d_fakes) / len(d_fakes)
        return loss, {"loss_d": loss, "d_real": d_real.mean(), "d_fake": d_fakes[0].mean()}

    def generator_loss(self, p: Any) -> Losses:
        """Lines 13 to 15: what G and E descend. D's parameters receive no gradient."""
        c, adv = self.config, ADVERSARIAL[self.config.adversarial]
        names = ["y_tilde"] if p.y_hat is None else ["y_tilde", "y_hat"]
        shown = [self.judged(p, name) for name in names]
        d_tilde, *d_hat = self.nets.D(torch.cat(shown)).chunk(len(shown))  # (B,) each
        # Line 13
        terms = {"adv_y_tilde": adv.generator(d_tilde)}
        loss = terms["adv_y_tilde"]
        if p.y_hat is not None:
            # Line 14; in Algorithm 1 lambda_y weighs the error alone, in equation 8 all of L_y
            terms["adv_y_hat"] = adv.generator(d_hat[0])
            terms["error_y"] = observation_error(p.y_hat, p.y, p.m, c.norm)
            terms["kl"] = kl_to_standard_normal(p.mean, p.log_variance)
            weight = c.lambda_y if c.lambda_y_weighs == "all" else 1.0
            loss = loss + c.lambda_y * terms["error_y"] + weight * terms["adv_y_hat"]
            if c.lambda_kl:  # not in the paper
                loss = loss + c.lambda_kl * terms["kl"]
        if p.z_rec is not None:
            # Line 15
            terms["error_z"] = latent_error(p.z_rec, p.z, c.norm)
            loss = loss + c.lambda_z * terms["error_z"]
        return loss, {"loss_g": loss} | terms


def shown_to_encoder(p: Pass, z_rec_from: str) -> tuple[Tensor, Tensor]:
    """What E reads z from, and its mask. The paper gives three versions: docs/ambiguities.md."""
    mask = {
        "generated": p.m_tilde * (1 - p.m),  # Algorithm 1: y~ * (1 - m)
        "y_tilde": p.m_tilde,  # section 2.3's words: E(y~)
        "x_tilde": torch.ones_like(p.m),  # section 2.3's words: "x~ or y~"
        "eq6": 1 - p.m_tilde,  # equation 6: F(x~, complement of m~)
    }[z_rec_from]
    return corrupt(p.x_tilde, mask), mask
