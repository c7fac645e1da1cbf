"""What the written answers claim and a machine can check: parts 1(a) and 1(b) of report/report.tex."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

T, D = 9, 6
REPORT = Path(__file__).resolve().parents[2] / "report" / "report.tex"


def sinusoids(length: int, dim: int) -> np.ndarray:
    """The position embedding of part 1(b), (length, dim)."""
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, dim, 2) / dim)  # (length, dim/2)
    return np.stack((np.sin(angles), np.cos(angles)), axis=-1).reshape(length, dim)


def distances(length: int, dim: int) -> np.ndarray:
    """How far positions lie from position 0, (length, dim/2): of the first 1, 2, ... dim/2 pairs."""
    apart = sinusoids(length, dim) - sinusoids(1, dim)
    return np.sqrt(np.cumsum((apart**2).reshape(length, -1, 2).sum(-1), axis=1))


def layers(x: torch.Tensor, weights: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
    """Part 1's attention and feed-forward layer, (T, d) -> (T, d); weights (5, d, d), biases (2, 1, d)."""
    q, k, v = (x @ w for w in weights[:3])
    h = torch.softmax(q @ k.T / math.sqrt(x.size(1)), dim=1) @ v
    return torch.relu(h @ weights[3] + biases[0]) @ weights[4] + biases[1]


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_inputs_give_shuffled_outputs(seed):
    """1(a) i: Z(PX) = P Z(X), and the identity of softmax that it rests on. 1(b) i: not so with positions added."""
    torch.manual_seed(seed)
    x, a, weights, biases = (torch.randn(s, dtype=torch.float64) for s in ((T, D), (T, T), (5, D, D), (2, 1, D)))
    p = torch.eye(T, dtype=torch.float64)[torch.randperm(T)]
    torch.testing.assert_close(torch.softmax(p @ a @ p.T, 1), p @ torch.softmax(a, 1) @ p.T, rtol=0, atol=1e-14)
    torch.testing.assert_close(layers(p @ x, weights, biases), p @ layers(x, weights, biases), rtol=0, atol=1e-12)
    phi = torch.from_numpy(sinusoids(T, D))
    difference = layers(p @ x + phi, weights, biases) - p @ layers(x + phi, weights, biases)
    assert difference.abs().max() > 1e-2


def test_the_embedding_is_the_handouts():
    """Phi(t, 2i) = sin(t / 10000^(2i/d)), Phi(t, 2i+1) = cos of it; a shift by k turns every pair by one angle."""
    phi = sinusoids(50, D)
    assert phi[7, 2:4] == pytest.approx((math.sin(7 / 10000 ** (2 / D)), math.cos(7 / 10000 ** (2 / D))), abs=1e-12)
    for k in (1, 7):
        for i in range(D // 2):
            c, s = (f(k / 10000 ** (2 * i / D)) for f in (math.cos, math.sin))
            turned = phi[:-k, 2 * i : 2 * i + 2] @ np.array([[c, s], [-s, c]]).T
            assert np.abs(phi[k:, 2 * i : 2 * i + 2] - turned).max() < 1e-12


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
    for number in (f"within {first.min():.6f} of itself", f"{whole[709]:.1f} apart", f"closer than {whole.min():.1f}"):
        assert number in " ".join(text.split())
