"""pi0 and pi0.5 of Physical Intelligence, as openpi keeps them: network, inputs, folders, in JAX.

pi0: Black et al. 2024, "pi0: A Vision-Language-Action Flow Model for General Robot Control", arXiv 2410.24164. pi0.5:
Physical Intelligence 2025, arXiv 2504.16054. Names of weights and every rule of computation are those of openpi
(github.com/Physical-Intelligence/openpi), so that its checkpoints go in and out unchanged.
"""
