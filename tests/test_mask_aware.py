"""``mask_aware``: both, whose D sees masks beside observations."""

from __future__ import annotations

import torch
from helpers import NZ, B, observations, tiny

from paperlib import seeds
from paperlib.beyond.mask_aware import MaskAware
from paperlib.core.algorithm1 import Algorithm1
from paperlib.core.corruption import mask_law


def method_and_pass(method: str, kind: type):
    """The method, and its pass of the same observations from the same random numbers."""
    config = tiny(method=method)
    torch.manual_seed(0)
    made = kind(config, kind.build_networks(config), mask_law(config.corruption))
    made.nets.G = lambda y, m, z: y + z.mean()
    made.nets.E = lambda y, m: (m.flatten(1)[:, :NZ], m.flatten(1)[:, :NZ])
    return made, made.forward(*observations(), generator=seeds.generator("step"))


def test_it_computes_what_both_computes_and_then_draws_another_mask():
    _, both = method_and_pass("both", Algorithm1)
    _, p = method_and_pass("mask_aware", MaskAware)
    assert all(torch.equal(value, getattr(p, name)) for name, value in vars(both).items())
    assert p.m_real.shape == (B, 1, 16, 16)
    assert not torch.equal(p.m_real, p.m) and not torch.equal(p.m_real, p.m_tilde)


def test_d_judges_an_observation_its_mask_and_the_mask_that_it_was_filled_in_from():
    method, p = method_and_pass("mask_aware", MaskAware)
    triples = {"y": (p.m, p.m_real), "y_tilde": (p.m_tilde, p.m), "y_hat": (p.m, p.m_tilde)}
    for name, masks in triples.items():
        shown = method.judged(p, name)
        assert torch.equal(shown, torch.cat([getattr(p, name), *masks], dim=1))
        assert method.nets.D(shown).shape == (B,)
