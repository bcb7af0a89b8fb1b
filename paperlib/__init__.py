"""Unsupervised Adversarial Image Inpainting (Pajot, de Bezenac, Gallinari): the paper's method.

Read ``core.corruption``, ``core.models``, ``core.losses`` and ``core.algorithm1``, in this order; then
``training.loop``. What the paper does not have is in ``beyond``.
"""
