"""Algorithm 1 of the paper, in its order; the lines are numbered as in the README.

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

The loop around a step (line 1: batches, averaging, log, checkpoints) is ``training.train``.
The paper writes z^ for our z_rec and z~ for our z_enc in Algorithm 1, and the reverse in its text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paperlib import acceleration, distributed
from paperlib.config import RunConfig
from paperlib.corruption import MaskLaw, composite, corrupt
from paperlib.data import Observations, law_of
from paperlib.losses import (
    ADVERSARIAL,
    Latent,
    kl_to_standard_normal,
    latent_error,
    observation_error,
)
from paperlib.models import Discriminator, Encoder, Generator

MASKS_SHOWN = {"observation": 0, "own_mask": 1, "both_masks": 2}
"""Channels that D sees beside an observation's own, by ``discriminator_sees``."""


@dataclass
class Networks:
    """G, D and E of a run."""

    G: Generator
    D: Discriminator
    E: Encoder


def build_generator(config: RunConfig, spectral: bool = True) -> Generator:
    """G for the configuration's size and corruption, randomly initialised."""
    c = config
    return Generator(
        c.size, c.g_channels, c.nz, c.patch, c.attention, c.z_injection, c.border,
        c.z_start, c.start_from_fill, c.fill_sweeps, c.bands, spectral,
    )  # fmt: skip


def build_networks(config: RunConfig) -> Networks:
    """G, D and E for the configuration's size, randomly initialised."""
    c = config
    return Networks(
        G=build_generator(c),
        D=Discriminator(c.size, c.d_channels, c.patch, c.attention, c.bands + MASKS_SHOWN[c.sees]),
        E=Encoder(c.size, c.e_channels, c.nz, c.patch, c.bands),
    )


@dataclass
class Pass:
    """Every quantity of lines 2 to 11; None where the variant does not need it."""

    y: Tensor  # (B, 3, H, W)  observations
    m: Tensor  # (B, 1, H, W)  their masks
    m_tilde: Tensor  # (B, 1, H, W)  fresh masks
    z: Tensor  # (B, nz)
    x_tilde: Tensor  # (B, 3, H, W)  reconstructions
    y_tilde: Tensor  # (B, 3, H, W)  reconstructions, masked afresh
    m_real: Tensor | None = None  # (B, 1, H, W)  masks independent of y, for the mask-aware D
    z_rec: Tensor | None = None  # (B, nz)
    z_enc: Latent | None = None
    x_hat: Tensor | None = None  # (B, 3, H, W)
    y_hat: Tensor | None = None  # (B, 3, H, W)


def forward(
    nets: Networks,
    y: Tensor,
    m: Tensor,
    p_m: MaskLaw,
    generator: torch.Generator,
    config: RunConfig,
) -> Pass:
    """Lines 3 to 11 for one batch.

    Args:
        nets: G, D, E.
        y: observations, (B, 3, H, W), in [-1, 1], 0 where missing (line 2).
        m: their masks, (B, 1, H, W), 1 = observed (line 5: stored, not recovered from y).
        p_m: the mask distribution.
        generator: source of all randomness, on the device of ``y``.
        config: the variant (``method``) and the switches.
    """
    batch, _, size, _ = y.shape

    # Line 3: fresh masks
    m_tilde = p_m.sample(batch, size, generator, m)  # (B, 1, H, W)
    # Line 4: latent codes
    z = distributed.randn(batch, config.nz, generator=generator, device=y.device)  # (B, nz)
    # Line 6: reconstruct; observed pixels pass unchanged (equation 4)
    x_tilde = composite(nets.G(y, m, z), y, m)
    # Line 7: mask the reconstruction afresh
    y_tilde = corrupt(x_tilde, m_tilde)
    result = Pass(y, m, m_tilde, z, x_tilde, y_tilde)
    if config.encodes_z:  # equation 6
        # Line 8: read z from what G generated, and from nothing that y could tell
        result.z_rec = nets.E(*_shown_to_encoder(result, config.z_rec_from))[0]
    if config.encodes_y:  # equation 7
        # Line 9: encode the observation
        result.z_enc = Latent(*nets.E(y, m))
        noise = distributed.randn(batch, config.nz, generator=generator, device=y.device)
        code = result.z_enc.sample(noise) if config.z_enc == "sampled" else result.z_enc.mean
        # Line 10: reconstruct again, from the reconstruction's own observation
        result.x_hat = composite(nets.G(y_tilde, m_tilde, code), y_tilde, m_tilde)
        # Line 11: measure with the original mask
        result.y_hat = corrupt(result.x_hat, m)
    if config.sees == "both_masks":  # not in the paper
        result.m_real = p_m.sample(batch, size, generator, m)
    return result


def _shown_to_encoder(p: Pass, z_rec_from: str) -> tuple[Tensor, Tensor]:
    """What E reads z from, and its mask. The paper gives three versions; see the README."""
    shown = {
        "generated": (p.x_tilde, p.m_tilde * (1 - p.m)),  # Algorithm 1: y~ * (1 - m)
        "y_tilde": (p.x_tilde, p.m_tilde),  # section 2.3's words: E(y~)
        "x_tilde": (p.x_tilde, torch.ones_like(p.m)),  # section 2.3's words: "x~ or y~"
        "eq6": (p.x_tilde, 1 - p.m_tilde),  # equation 6: F(x~, complement of m~)
    }
    image, mask = shown[z_rec_from]
    return corrupt(image, mask), mask


def shown_to_discriminator(image: Tensor, mask: Tensor, filled: Tensor | None, sees: str) -> Tensor:
    """What D judges: the paper's observation, or (not in the paper) masks beside it.

    With both masks D compares the triples (y~, m~, m) and (y, m_y, m'), with m' ~ p_M independent
    of y. Where it cannot tell them apart, x~ is independent of the mask m of the observation that
    it came from; then x~ given y is the posterior (notebook 08 has the proof).

    Args:
        image: an observation, real or of a reconstruction, (B, C, H, W).
        mask: its own mask, (B, 1, H, W).
        filled: the mask of the observation that the reconstruction came from; for a real
            observation, an independent one, (B, 1, H, W).
        sees: "observation", "own_mask" or "both_masks".

    Returns:
        (B, C + 0, 1 or 2, H, W).
    """
    return torch.cat([image, mask, filled][: 1 + MASKS_SHOWN[sees]], dim=1)


def discriminator_loss(
    D: nn.Module, p: Pass, config: RunConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Line 12, negated: what D descends. G receives no gradient."""
    adv = ADVERSARIAL[config.adversarial]
    real = shown_to_discriminator(p.y, p.m, p.m_real, config.sees)
    fakes = [shown_to_discriminator(p.y_tilde.detach(), p.m_tilde, p.m, config.sees)]
    if config.d_sees_y_hat and p.y_hat is not None:  # equation 7, figure 3
        fakes.append(shown_to_discriminator(p.y_hat.detach(), p.m, p.m_tilde, config.sees))
    d_real, *d_fakes = D(torch.cat([real, *fakes])).chunk(1 + len(fakes))  # (B,) each
    loss = adv.real(d_real) + sum(adv.fake(d) for d in d_fakes) / len(d_fakes)
    return loss, {"loss_d": loss, "d_real": d_real.mean(), "d_fake": d_fakes[0].mean()}


def generator_loss(D: nn.Module, p: Pass, config: RunConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Lines 13 to 15: what G and E descend. D's parameters receive no gradient."""
    adv = ADVERSARIAL[config.adversarial]
    judged = [shown_to_discriminator(p.y_tilde, p.m_tilde, p.m, config.sees)]
    if p.y_hat is not None:  # x^ came from y~, so from what m~ showed
        judged.append(shown_to_discriminator(p.y_hat, p.m, p.m_tilde, config.sees))
    d_tilde, *d_hat = D(torch.cat(judged)).chunk(len(judged))  # (B,) each
    # Line 13
    terms = {"adv_y_tilde": adv.generator(d_tilde)}
    loss = terms["adv_y_tilde"]
    if p.y_hat is not None:
        # Line 14; in Algorithm 1 lambda_y weighs the error alone, in equation 8 all of L_y
        terms["adv_y_hat"] = adv.generator(d_hat[0])
        terms["error_y"] = observation_error(p.y_hat, p.y, p.m, config.norm)
        terms["kl"] = kl_to_standard_normal(*p.z_enc)
        weight = config.lambda_y if config.lambda_y_weighs == "all" else 1.0
        loss = loss + config.lambda_y * terms["error_y"] + weight * terms["adv_y_hat"]
        if config.lambda_kl:
            loss = loss + config.lambda_kl * terms["kl"]
    if p.z_rec is not None:
        # Line 15
        terms["error_z"] = latent_error(p.z_rec, p.z, config.norm)
        loss = loss + config.lambda_z * terms["error_z"]
    return loss, {"loss_g": loss} | terms


class Algorithm1:
    """The networks, their optimisers, and one iteration of the loop (lines 2 to 15)."""

    data_set = Observations  # no complete image is ever seen

    def __init__(self, config: RunConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.batches_per_step = config.accumulate
        self.p_m = law_of(config)
        self.nets = self.build_networks(config)
        self.acceleration = acceleration.choose(config, device)
        for net in vars(self.nets).values():
            self.acceleration.prepare(net)
        adam = self.acceleration.adam
        betas = (config.beta1, config.beta2)  # Adam(0, 0.99), section 3.3
        g_and_e = [*self.nets.G.parameters()]
        if config.encodes_z or config.encodes_y:  # base has no use for E
            g_and_e += self.nets.E.parameters()
        self.optimizer_d = adam(self.nets.D.parameters(), config.lr_d, betas)
        self.optimizer_g = adam(g_and_e, config.lr_g, betas)

    # What the supervised variants of Table 2 (``baselines``) put in the place of lines 3 to 15

    build_networks = staticmethod(build_networks)

    def forward(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Pass:
        return forward(self.nets, *batch, self.p_m, generator, self.config)

    def discriminator_loss(self, p: Pass) -> tuple[Tensor, dict[str, Tensor]]:
        return discriminator_loss(self.nets.D, p, self.config)

    def generator_loss(self, p: Pass) -> tuple[Tensor, dict[str, Tensor]]:
        return generator_loss(self.nets.D, p, self.config)

    def step(
        self, batches: Iterator[tuple[Tensor, ...]], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """One update of D, then one of G and E, over ``accumulate`` different batches (y, m).

        The same y~ serves both updates, detached for D's. With one batch D has already moved when
        G's gradient is taken, as the algorithm orders; with several, G's gradient on a batch is
        taken as soon as D's is, so that one generator graph is held in memory, not four.

        Returns:
            the log's quantities, scalars on the device (reading them is left to the caller).
        """
        nets, config = self.nets, self.config
        self.optimizer_d.zero_grad(set_to_none=True)
        self.optimizer_g.zero_grad(set_to_none=True)
        for i in range(config.accumulate):
            # Line 2: sample observations
            batch = next(batches)  # (y, m)
            with parametrize.cached():  # one power iteration of G's spectral norm for both uses
                p = self.forward(batch, generator)  # lines 3 to 11

            # Line 12: update D
            loss_d, log_d = self.discriminator_loss(p)
            (loss_d / config.accumulate).backward()
            if i == config.accumulate - 1:
                self.optimizer_d.step()

            # Lines 13 to 15: update G and E
            nets.D.requires_grad_(False)
            loss_g, log_g = self.generator_loss(p)
            (loss_g / config.accumulate).backward()
            nets.D.requires_grad_(True)
        self.optimizer_g.step()
        return {key: value.detach() for key, value in (log_d | log_g).items()}
