"""The paper, and nothing else: read ``corruption``, ``models``, ``losses``, then ``algorithm1``."""
