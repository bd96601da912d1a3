"""How a transformer stores a matrix: [out, in] as torch's Linear does, or [in, out] as Conv1D does.

PEFT asks the module; a folder has only names and shapes. A matrix that is not square says it by the shapes of its
update, or by the length of its bias. A square one lies as the others of its name do (`h.0.attn.c_proj` as
`h.0.mlp.c_proj`); where there are none the configuration's `fan_in_fan_out` counts, which PEFT leaves as its last
adapted module has it, as long as nothing in the folder speaks against it.
"""

from collections.abc import Mapping

from xp.checkpoints.arrays import Leaf, Reader
from xp.checkpoints.peft_config import AdapterConfig
from xp.foreign.text import printable


def orientations(base: Reader, pairs: Mapping[str, tuple[Leaf, Leaf, Leaf]]) -> dict[str, bool]:
    """{weight: whether it lies [in, out]} for the matrices of the base that say it.

    Args:
        base: the weights.
        pairs: {weight: (its leaf, A, B)} of the adapter.
    """
    found: dict[str, bool] = {}
    for name, leaf in base.leaves.items():
        if len(leaf.shape) != 2 or leaf.shape[0] == leaf.shape[1]:
            continue
        bias = base.leaves.get(f"{name.removesuffix('weight')}bias") if name.endswith(".weight") else None
        if name in pairs:
            _, a, b = pairs[name]
            if len(a.shape) == len(b.shape) == 2:
                found[name] = (a.shape[1], b.shape[0]) == leaf.shape
        elif bias is not None and bias.shape in ((leaf.shape[0],), (leaf.shape[1],)):
            found[name] = bias.shape == (leaf.shape[1],)
    return found


def is_transposed(leaf: Leaf, a: Leaf, b: Leaf, config: AdapterConfig, known: Mapping[str, bool]) -> bool:
    """Whether the update of a matrix is to be transposed.

    Raises:
        RefusedError: a square matrix of which `fan_in_fan_out` and the rest of the folder say different things.
    """
    if leaf.name in known:
        return known[leaf.name]
    if leaf.shape[0] != leaf.shape[1]:
        return False  # its shapes do not fit, which the caller refuses
    alike = {turned for name, turned in known.items() if name.split(".")[-2:] == leaf.name.split(".")[-2:]}
    if len(alike) == 1:
        return alike.pop()
    said = config.flag("fan_in_fan_out")
    if set(known.values()) <= {said} or len(config.modules) == 1:
        return said
    raise config.refusal(
        "fan_in_fan_out",
        f"the model has matrices of both kinds, and it is unclear which kind {printable(leaf.name)} "
        f"{list(leaf.shape)} is. Merge this adapter with PEFT itself (merge_and_unload).",
    )
