"""Octo (Octo Model Team, "Octo: An Open-Source Generalist Robot Policy", 2024) in Flax, on the current JAX.

Parameter names, folder layout and arithmetic are those of the released octo-small and octo-base, so their checkpoints
load by name and what is saved here opens there.
"""
