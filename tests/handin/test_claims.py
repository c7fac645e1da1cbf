"""What the written answers claim and a machine can check: part 1(b) of report/report.tex."""

import math
from pathlib import Path

import numpy as np
import pytest

D = 6
REPORT = Path(__file__).resolve().parents[2] / "report" / "report.tex"


def sinusoids(length: int, dim: int) -> np.ndarray:
    """The position embedding of part 1(b), (length, dim)."""
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, dim, 2) / dim)  # (length, dim/2)
    return np.stack((np.sin(angles), np.cos(angles)), axis=-1).reshape(length, dim)


def distances(length: int, dim: int) -> np.ndarray:
    """How far positions lie from position 0, (length, dim/2): of the first 1, 2, ... dim/2 pairs."""
    apart = sinusoids(length, dim) - sinusoids(1, dim)
    return np.sqrt(np.cumsum((apart**2).reshape(length, -1, 2).sum(-1), axis=1))


def test_no_two_positions_share_an_embedding():
    """1(b) ii: of all positions up to 100,000 no two agree, even in the first pair alone and in float32.

    710 is almost 113 * 2 pi: of all differences it brings the first pairs nearest, and 2 sin(rest/2) is left.
    """
    phi = sinusoids(60, D)
    for t, row in enumerate(phi):  # distances depend on differences alone
        apart = np.linalg.norm(phi[t:] - row, axis=1)
        assert np.abs(apart - distances(60 - t, D)[:, -1]).max() < 1e-12
    first = distances(100_001, 2)[1:, 0]
    assert first.argmin() + 1 == 710 and first.min() == pytest.approx(
        2 * math.sin((226 * math.pi - 710) / -2 % math.pi)
    )
    assert len(np.unique(sinusoids(100_001, 2).astype(np.float32), axis=0)) == 100_001
    whole, text = distances(100_001, 256)[1:, -1], REPORT.read_text(encoding="utf-8")
    for number in (f"within {first.min():.6f} of itself", f"{whole[709]:.1f} apart", f"closer than {whole.min():.2f}"):
        assert number in " ".join(text.split())
