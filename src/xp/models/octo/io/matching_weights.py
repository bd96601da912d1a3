"""Compares weights with the network that should take them: strictly in loading, by name and shape in starting."""

from collections.abc import Mapping

from xp.errors import UserError
from xp.models.trainable import LoadReport
from xp.models.tree import HasShape as HasShape

_SHOWN = 8


def verify(expected: Mapping[str, HasShape], given: Mapping[str, HasShape], source: str) -> None:
    """Check that `given` has exactly the paths and shapes of `expected`.

    Raises:
        UserError: one error naming every kind of difference.
    """
    missing = [path for path in expected if path not in given]
    extra = [path for path in given if path not in expected]
    shapes = _shape_differences(expected, given)
    if not (missing or extra or shapes):
        return
    parts = [_some("missing", missing), _some("unknown", extra), _some("of another shape", shapes)]
    raise UserError(
        f"The weights in {source} are not those of the model that its config.json and example_batch.msgpack (cameras, "
        f"image sizes) describe: {'; '.join(part for part in parts if part)}. Give a folder whose files belong "
        "together."
    )


def match_weights(expected: Mapping[str, HasShape], given: Mapping[str, HasShape], source: str) -> LoadReport:
    """Which of `given` fits `expected` by path and shape, and what becomes of the rest.

    Raises:
        UserError: the transformer itself does not fit, so that nothing of worth would be taken over.
    """
    fits = {path for path, leaf in given.items() if path in expected and expected[path].shape == leaf.shape}
    trunk = [path for path in expected if "/BlockTransformer_0/" in path and path not in fits]
    if trunk:
        differences = _shape_differences({path: expected[path] for path in trunk}, given)
        raise UserError(
            f"The transformer in {source} has other sizes than this model: {_some('different', differences or trunk)}. "
            "Choose the model it was saved from (model=octo_tiny, octo_small or octo_base), or set model.embed_dim, "
            "model.layers, model.num_heads and model.mlp_dim to its sizes."
        )
    return LoadReport(
        source=source,
        loaded=tuple(path for path in expected if path in fits),
        initialised=tuple(path for path in expected if path not in fits),
        dropped=tuple(path for path in given if path not in fits),
    )


def _shape_differences(expected: Mapping[str, HasShape], given: Mapping[str, HasShape]) -> list[str]:
    return [
        f"{path} {tuple(given[path].shape)} instead of {tuple(leaf.shape)}"
        for path, leaf in expected.items()
        if path in given and tuple(given[path].shape) != tuple(leaf.shape)
    ]


def _some(what: str, paths: list[str]) -> str:
    if not paths:
        return ""
    rest = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{len(paths)} {what} ({', '.join(paths[:_SHOWN])}{rest})"
