"""How much memory or disk a file or folder from outside may cost, by its own size."""


def allowance(size: int) -> int:
    """Bytes that the decoded content of a file or folder of `size` bytes may take: 64 MB + 256 times its size.

    Tables of recorded robots take 2 to 20 times their files, weights 1.0 to 1.3; only content that is one value
    repeated takes more, and of that 64 MB are free.
    """
    return 64_000_000 + 256 * size
