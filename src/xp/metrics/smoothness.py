# pyright: strict
"""How smooth a movement is by itself: jerk, and the spectral arc length of its speed.

Smoothness is no virtue of its own: standing still is smoothest. Read these beside the tracking error and beside the
demonstration's own values.
"""

import numpy as np
from jaxtyping import Float

from xp.array_types import Floats

AMPLITUDE = 0.05
"""Below this share of the largest amplitude a spectrum counts as noise."""
MOST_HZ = 10.0
PADDING = 4
"""The transform is at least 2^4 times as long as the movement, for a fine grid of frequencies."""


def mean_jerk(x: Float[Floats, "frames action"], scale: Float[Floats, " action"], fps: float) -> float:
    """Mean |third difference| of x [F, A] in units of `scale` [A] per second cubed; NaN with fewer than four frames."""
    third = np.diff(np.asarray(x, dtype=np.float64) / scale, n=3, axis=0)
    return float(np.mean(np.abs(third)) * fps**3) if len(third) else float("nan")


def speed(x: Float[Floats, "frames action"], scale: Float[Floats, " action"], fps: float) -> Float[Floats, " frames-1"]:
    """Euclidean length of the velocity of x [F, A] in units of `scale` [A] per second [F-1]."""
    return np.linalg.norm(np.diff(np.asarray(x, dtype=np.float64) / scale, axis=0), axis=1) * fps


def spectral_arc_length(profile: Float[Floats, " frames"], fps: float) -> float:
    """SPARC of a speed profile [F]: 0 or less, nearer to 0 is smoother, independent of amplitude and duration.

    Minus the arc length of the amplitude spectrum, scaled to 1 at zero frequency, over the band from 0 to the last
    frequency (at most 10 Hz, and the Nyquist frequency) whose amplitude is 0.05 or more, that band scaled to length 1:
    Balasubramanian, Melendez-Calderon, Roby-Brami and Burdet, "On the analysis of movement smoothness", Journal of
    NeuroEngineering and Rehabilitation 12:112 (2015), eq. 10 and 11. NaN where nothing moves.
    """
    profile = np.asarray(profile, dtype=np.float64)
    if len(profile) < 2 or not profile.any():
        return float("nan")
    length = 2 ** (int(np.ceil(np.log2(len(profile)))) + PADDING)
    amplitude = np.abs(np.fft.rfft(profile, length))
    frequency = np.fft.rfftfreq(length, 1 / fps)
    amplitude = amplitude / amplitude.max()
    in_band = frequency <= MOST_HZ
    frequency, amplitude = frequency[in_band], amplitude[in_band]
    last = int(np.flatnonzero(amplitude >= AMPLITUDE)[-1])
    frequency, amplitude = frequency[: last + 1], amplitude[: last + 1]
    if last == 0:
        return 0.0
    steps = np.diff(frequency) / (frequency[-1] - frequency[0])
    return -float(np.sum(np.sqrt(steps**2 + np.diff(amplitude) ** 2)))
