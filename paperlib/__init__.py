"""Unsupervised Adversarial Image Inpainting (Pajot, de Bezenac, Gallinari): the paper's method.

Read ``algorithm1`` first; ``corruption``, ``models`` and ``losses`` are what it calls.
"""
