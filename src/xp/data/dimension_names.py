"""Names for dimensions of actions and states that nobody named."""


def made_up_names(key: str, size: int) -> tuple[str, ...]:
    """`action_0`, `action_1`, ... for dimensions that nobody named."""
    short = key.rsplit(".", 1)[-1]
    return tuple(f"{short}_{i}" for i in range(size))
