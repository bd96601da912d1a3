"""Numbers as people read them: three significant digits, an interval in brackets, durations, plain lists of names."""

from collections.abc import Sequence


def number(value: float | None) -> str:
    """Three significant digits without exponents where they can be avoided; a dash for nothing."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        mantissa, exponent = f"{size:.2e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        digits = 2 if size == 0 else max(0, 2 - _exponent(size))
        text = f"{size:,.{digits}f}"
    return f"−{text}" if value < 0 else text


def interval(low: float | None, high: float | None) -> str:
    """`[low, high]`, or `no interval` where there is none (one episode)."""
    return "no interval" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def duration(seconds: float | None) -> str:
    """`48 s`, `3 min 05 s`, `2 h 10 min`; a dash for nothing."""
    if seconds is None:
        return "–"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def percent(share: float) -> str:
    """`84%`."""
    return f"{100 * share:.0f}%"


def enumeration(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _exponent(size: float) -> int:
    """Decimal exponent after rounding to three digits: 0.09996 rounds to 0.1."""
    return int(f"{size:.2e}".split("e")[1])
