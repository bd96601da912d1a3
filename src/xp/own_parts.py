# pyright: strict
"""The parts that xp itself brings to each entry-point group, and the packages that their results depend on.

The same table of parts stands in `[project.entry-points]` of pyproject.toml, for whoever reads metadata; a test
compares them.

Code also runs from a snapshot, a checkout or a PYTHONPATH whose metadata are missing or older than it is. So xp's own
parts are found here, and metadata are asked for those of other packages alone (`xp.plugins`).
"""

from collections.abc import Mapping

_METHODS = (
    "average",
    "manual",
    "linear",
    "inverse_loss",
    "greedy",
    "gradient_descent",
    "adaptive_gradient_descent",
    "task_arithmetic",
    "ties",
    "dare",
    "dare_ties",
    "breadcrumbs",
    "breadcrumbs_ties",
    "della",
    "sce",
    "model_stock",
    "interpolate",
    "slerp",
    "nuslerp",
    "karcher",
    "ema",
    "swa",
)

OWN_PARTS: Mapping[str, Mapping[str, str]] = {
    "xp.executors": {
        "local": "hydra_plugins.xp_local_launcher.executor:LocalExecutor",
        "slurm": "hydra_plugins.xp_slurm_launcher.executor:SlurmExecutor",
        "ssh": "hydra_plugins.xp_ssh_launcher.executor:SshExecutor",
    },
    "xp.suites": {
        "arm": "xp.envs.arm.suite:ArmSuite",
        "gymnasium": "xp.envs.gym_suite.suite:GymnasiumSuite",
        "libero": "xp.envs.libero.suite:LiberoSuite",
        "pusht": "xp.envs.pusht.suite:PushtSuite",
        "quadruped": "xp.envs.quadruped.suite:QuadrupedSuite",
    },
    "xp.datasets": {
        "lerobot": "xp.data.lerobot.format:FORMAT",
        "libero": "xp.data.libero.format:FORMAT",
        "rlds": "xp.data.rlds.format:FORMAT",
        "vintix": "xp.data.vintix.format:FORMAT",
    },
    "xp.families": {
        "lerobot": "xp.models.lerobot.family:FAMILY",
        "octo": "xp.models.octo.family:FAMILY",
        "openvla": "xp.models.openvla.family:FAMILY",
        "pi0": "xp.models.pi0.family:FAMILY",
        "pi0_torch": "xp.models.pi0_torch.family:FAMILY",
        "vintix": "xp.models.vintix.family:FAMILY",
    },
    "xp.merge_methods": {name: f"xp.merging.methods:{name.upper()}" for name in _METHODS},
}
"""{entry-point group: {name: MODULE:ATTRIBUTE}}."""

DECIDING_PACKAGES = (
    "hydra-core", "omegaconf", "numpy", "scipy", "torch", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint",
    "lerobot", "transformers", "tokenizers", "lightning", "mujoco", "pyarrow", "av", "safetensors", "h5py",
)  # fmt: skip
"""Distributions whose versions decide the results of these parts: `xp --version` shows them and a run records them."""
