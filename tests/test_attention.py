"""Attention and rotary positions against written-out formulas."""

import math

import pytest
import torch

from attention import CausalSelfAttention, apply_rotary_emb, precompute_rotary_emb
from helpers import tiny_config, tiny_model
from reference import attention, relative


def test_attention_is_the_written_out_softmax(tiny):
    """Outputs and gradients are those of softmax(q k^T / sqrt(hs)) v per head over earlier positions, projected."""
    layer = tiny_model(rope=tiny.rope).double().blocks[0].attn
    p = dict(layer.named_parameters())
    for width in (1, 13, tiny.block_size):
        x = torch.randn(3, width, 16, dtype=torch.float64, requires_grad=True)
        got, expected = layer(x), torch.stack([attention(row, p, tiny.n_head, tiny.rope) for row in x])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        weight, inputs = torch.randn_like(x), [x, *p.values()]
        gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (got, expected)]
        assert max(map(relative, *gradients)) < 1e-5


def test_attention_is_causal(tiny):
    """Output t depends on every input up to t and on no later one: replacing later inputs changes no bit."""
    layer = tiny_model(rope=tiny.rope).double().blocks[0].attn
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x).sum(-1)[0], x)[:, 0].abs().sum(-1)  # (T, T)
    assert torch.equal(jacobian != 0, torch.tril(torch.ones(9, 9, dtype=torch.bool)))
    other = torch.cat((x[:, :5], 1000 * torch.randn(1, 4, 16, dtype=torch.float64)), dim=1)
    assert torch.equal(layer(x)[:, :5], layer(other)[:, :5])


def test_unfit_sizes_are_refused():
    """A width that is no multiple of the heads, and an odd head size with RoPE, raise a ValueError."""
    for width, heads, rope, says in ((18, 4, False, "n_head"), (15, 3, True, "even")):
        with pytest.raises(ValueError, match=says):
            CausalSelfAttention(tiny_config(n_embd=width, n_head=heads, rope=rope))
    assert CausalSelfAttention(tiny_config(n_embd=15, n_head=3))(torch.ones(1, 2, 15)).shape == (1, 2, 15)


# ---------------------------------------------------------------- part (g): rotary positions


def test_rope_cache_holds_cos_then_sin():
    """The cache is (positions, dim/2, 2): cos and sin of t 10000^(-2(i-1)/dim), as exact as float32 allows.

    The handout's code comment says 1/10000^(-2(i-1)/dim), which would make angles grow; its equation (1) is right.
    """
    cache = precompute_rotary_emb(10, 3000)
    assert (cache.shape, cache.dtype) == ((3000, 5, 2), torch.float32)
    angle = [[t * 10000.0 ** (-2 * (i - 1) / 10) for i in range(1, 6)] for t in range(3000)]
    expected = torch.tensor([[[math.cos(a), math.sin(a)] for a in row] for row in angle])
    torch.testing.assert_close(cache, expected, rtol=0.0, atol=1e-7)


def test_rope_is_equation_1():
    """RoPE at position t multiplies by the block diagonal matrix of 2 x 2 rotations of handout equation (1)."""
    x = torch.randn(2, 3, 20, 8)
    got = apply_rotary_emb(x, precompute_rotary_emb(8, 20))
    for t in range(20):
        angles = [t * 10000.0 ** (-2 * (i - 1) / 8) for i in range(1, 5)]
        turns = [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles]
        matrix = torch.block_diag(*map(torch.tensor, turns))
        torch.testing.assert_close(got[:, :, t], x[:, :, t] @ matrix.T, rtol=1e-5, atol=1e-6)


def test_rope_depends_on_relative_positions():
    """Part (g) ii: <RoPE(z1, t1), RoPE(z2, t2)> = <RoPE(z1, t1 - t2), RoPE(z2, 0)>, which depends on t1 - t2."""
    cache = precompute_rotary_emb(8, 64)
    one, two = (apply_rotary_emb(torch.randn(8).expand(1, 1, 64, 8), cache)[0, 0].double() for _ in "12")  # (64, 8)
    products = one @ two.T  # (t1, t2)
    for t1, t2 in torch.tril_indices(64, 64).T.tolist():
        assert products[t1, t2].item() == pytest.approx(products[t1 - t2, 0].item(), abs=1e-4)
    assert products[:, 0].std() > 0.1


def test_rope_in_bfloat16():
    """The float32 result, rounded once; position 0 is not rotated."""
    x, cache = torch.randn(1, 2, 50, 16).bfloat16(), precompute_rotary_emb(16, 50)
    got = apply_rotary_emb(x, cache)
    assert torch.equal(got, apply_rotary_emb(x.float(), cache).bfloat16()) and torch.equal(got[:, :, 0], x[:, :, 0])


def test_attention_dropout_keeps_the_expectation():
    """The mean output with attention dropout is the output without it, within 5 standard errors."""
    layer = tiny_model(attn_pdrop=0.3).double().blocks[0].attn
    x = torch.randn(1, 8, 16, dtype=torch.float64)
    torch.manual_seed(0)
    runs = layer(x.expand(4000, 8, 16)).detach()
    wanted = attention(x[0], dict(layer.named_parameters()), 2, rope=False).detach()
    assert runs.std(0).min() > 1e-3
    assert ((runs.mean(0) - wanted).abs() / (runs.std(0) / math.sqrt(4000))).max() < 5
    torch.testing.assert_close(layer.eval()(x)[0], wanted, rtol=1e-6, atol=1e-8)
