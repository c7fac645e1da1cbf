"""Attention, rotary positions and dropout against written-out formulas."""

import math

import pytest
import torch

from attention import CausalSelfAttention, apply_rotary_emb, precompute_rotary_emb
from engine.machine import QuickDropout, quicken
from helpers import tiny_config, tiny_model
from reference import attention, relative, rotate


def make_attention(config) -> CausalSelfAttention:
    """A layer in float64 with parameters that matter."""
    torch.manual_seed(1)
    layer = CausalSelfAttention(config).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.4)
    return layer


def test_attention_is_the_written_out_softmax(tiny):
    """(B, T, C) becomes softmax(q k^T / sqrt(hs)) v of each head over what stands before, projected; gradients too."""
    layer = make_attention(tiny)
    p = dict(layer.named_parameters())
    for width in (1, 13, tiny.block_size):
        x = torch.randn(3, width, 16, dtype=torch.float64, requires_grad=True)
        got, expected = layer(x), torch.stack([attention(row, p, tiny.n_head, tiny.rope) for row in x])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        weight, inputs = torch.randn_like(x), [x, *p.values()]
        gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (got, expected)]
        assert max(map(relative, *gradients)) < 1e-5


def test_attention_is_causal(tiny):
    """Output t depends on every input up to t and on none behind, and replacing those leaves it equal to the bit."""
    layer = make_attention(tiny)
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x).sum(-1)[0], x)[:, 0].abs().sum(-1)  # (T, T)
    assert torch.equal(jacobian != 0, torch.tril(torch.ones(9, 9, dtype=torch.bool)))
    other = torch.cat((x[:, :5], 1000 * torch.randn(1, 4, 16, dtype=torch.float64)), dim=1)
    assert torch.equal(layer(x)[:, :5], layer(other)[:, :5])


def test_unfit_sizes_are_refused():
    """A width that the heads cannot share, and an odd head size under RoPE, raise ValueError."""
    for width, heads, says in ((18, 4, "n_head"), (15, 3, "even")):
        with pytest.raises(ValueError, match=says):
            CausalSelfAttention(tiny_config(n_embd=width, n_head=heads, rope=True))


@pytest.mark.parametrize("causal, rope", [(False, False), (True, False), (False, True)])
def test_order_matters_through_mask_or_positions(causal, rope):
    """Part 1(a): with nothing hidden and no positions, shuffled inputs give the outputs shuffled alike; else not."""
    block = tiny_model(rope=rope).double().blocks[0]
    if not causal:
        block.attn.mask.fill_(1)
    x, order, p = torch.randn(2, 10, 16, dtype=torch.float64), torch.randperm(10), dict(block.attn.named_parameters())
    wanted = torch.stack([attention(row, p, 2, rope, causal) for row in x])
    torch.testing.assert_close(block.attn(x), wanted, rtol=1e-5, atol=1e-6)
    moved = (block(x[:, order]) - block(x)[:, order]).abs().max()
    assert moved > 1e-2 if causal or rope else moved < 1e-9


# ---------------------------------------------------------------- part (g): rotary positions


def test_rope_cache_holds_cos_then_sin():
    """The cache is (positions, dim/2, 2): cos and sin of t 10000^(-2(i-1)/dim), exact to float32's last digits.

    The handout's code comment says 1/10000^(-2(i-1)/dim), with which angles would grow; its equation (1) is right.
    """
    cache = precompute_rotary_emb(10, 3000)
    assert (cache.shape, cache.dtype) == ((3000, 5, 2), torch.float32)
    angle = [[t * 10000.0 ** (-2 * (i - 1) / 10) for i in range(1, 6)] for t in range(3000)]
    expected = torch.tensor([[[math.cos(a), math.sin(a)] for a in row] for row in angle])
    torch.testing.assert_close(cache, expected, rtol=0.0, atol=1e-7)


def test_rope_is_equation_1():
    """RoPE at position t is the block diagonal matrix of 2 x 2 rotations of handout equation (1)."""
    x = torch.randn(2, 3, 20, 8)
    got = apply_rotary_emb(x, precompute_rotary_emb(8, 20))
    for t in range(20):
        angles = [t * 10000.0 ** (-2 * (i - 1) / 8) for i in range(1, 5)]
        turns = [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles]
        matrix = torch.block_diag(*map(torch.tensor, turns))
        torch.testing.assert_close(got[:, :, t], x[:, :, t] @ matrix.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 7, 31])
def test_rope_is_complex_multiplication(width):
    """RoPE at t multiplies x1 + i x2 of every pair by e^(i t theta), equation (2); a cache may be longer than x."""
    x = torch.randn(2, 4, width, 6)
    expected = torch.stack([torch.stack([rotate(head) for head in row]) for row in x])
    torch.testing.assert_close(apply_rotary_emb(x, precompute_rotary_emb(6, 31)), expected, rtol=1e-5, atol=1e-6)


def test_rope_depends_on_relative_positions():
    """<RoPE(z1, t1), RoPE(z2, t2)> = <RoPE(z1, t1 - t2), RoPE(z2, 0)>, part (g) ii, and it does depend on t1 - t2."""
    cache = precompute_rotary_emb(8, 64)
    one, two = (apply_rotary_emb(torch.randn(8).expand(1, 1, 64, 8), cache)[0, 0].double() for _ in "12")  # (64, 8)
    products = one @ two.T  # (t1, t2)
    for t1, t2 in torch.tril_indices(64, 64).T.tolist():
        assert products[t1, t2].item() == pytest.approx(products[t1 - t2, 0].item(), abs=1e-4)
    assert products[:, 0].std() > 0.1


def test_rope_is_a_rotation():
    """Every vector keeps its length, position 0 is not turned, and bfloat16 is the float32 result rounded once."""
    x, cache = torch.randn(1, 2, 50, 16).bfloat16(), precompute_rotary_emb(16, 50)
    got = apply_rotary_emb(x.float(), cache)
    torch.testing.assert_close(got.norm(dim=-1), x.float().norm(dim=-1), rtol=1e-5, atol=1e-6)
    assert torch.equal(got[:, :, 0], x[:, :, 0].float())
    assert torch.equal(apply_rotary_emb(x, cache), got.bfloat16())


def test_rope_cache_is_built_for_a_head():
    """The cache turns vectors of one head.

    Bug of public solutions: built for n_embd, its first pairs fit a head without an error, and the model scored badly.
    """
    layer = CausalSelfAttention(tiny_config(rope=True, n_embd=32, n_head=4))
    assert layer.rope_cache.shape == (24, 4, 2)
    assert torch.equal(layer.rope_cache, precompute_rotary_emb(8, 24))
    assert not torch.allclose(layer.rope_cache, precompute_rotary_emb(32, 24)[:, :4])


# ---------------------------------------------------------------- dropout


@pytest.mark.parametrize("size", [1_000_000, 999_997])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_quick_dropout_is_dropout(p, size):
    """Within 5 standard deviations: a share p is 0, the mean stays, in each part and across the four of one draw."""
    torch.manual_seed(0)
    y = QuickDropout(p)(torch.ones(size))
    for part in (y, y[0::4], y[1::4], y[2::4], y[3::4]):
        n = len(part)
        assert (part == 0).float().mean().item() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n))
        assert part.double().mean().item() == pytest.approx(1.0, abs=5 * math.sqrt(p / (1 - p) / n))
    assert y[y != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)
    correlation = torch.corrcoef((y[: size // 4 * 4].view(-1, 4) == 0).double().T) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(size // 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_quick_dropout_gradient_has_the_same_mask(dtype):
    """The gradient passes exactly where the value did, with the same scale; the same seed drops the same elements."""
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        x = torch.ones(7, 143, dtype=dtype, requires_grad=True)
        y = QuickDropout(0.4)(x.T)  # not contiguous
        y.sum().backward()
        assert torch.equal(x.grad.T, y.detach())
        assert 300 < (x.grad == 0).sum() < 500
        results.append(x.grad.tolist())
    assert results[0] == results[1] != results[2]


def test_quick_dropout_at_its_ends():
    """In evaluation, and with p = 0, the input comes back.

    Bug: p = 0.99999, which --dropout allows, was rounded to 1, and the scale divided by zero.
    """
    x = torch.randn(10_000)
    assert QuickDropout(0.5).eval()(x) is x
    assert torch.equal(QuickDropout(0.0)(x), x)
    assert QuickDropout(0.99999)(x).isfinite().all()


def test_quicken_swaps_every_dropout():
    """All of a model's dropouts become quick ones of the same rate; its parameters, names and evaluation stay."""
    model, x = tiny_model(embd_pdrop=0.1, resid_pdrop=0.2, attn_pdrop=0.3).eval(), torch.arange(10)[None]
    rates = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    names, wanted = list(model.state_dict()), model(x)[0]
    quicken(model)
    assert [m.p for m in model.modules() if isinstance(m, QuickDropout)] == rates == [0.1, *2 * [0.3, 0.2, 0.2]]
    assert list(model.state_dict()) == names
    assert torch.equal(model(x)[0], wanted)
    assert not torch.equal(model.train()(x)[0], wanted)


def test_attention_dropout_keeps_the_expectation():
    """The mean of many runs with attention dropout is the output without it, within 5 standard errors."""
    layer, x = make_attention(tiny_config(attn_pdrop=0.3)), torch.randn(1, 8, 16, dtype=torch.float64)
    torch.manual_seed(0)
    runs = layer(x.expand(4000, 8, 16)).detach()
    wanted = attention(x[0], dict(layer.named_parameters()), 2, rope=False).detach()
    assert runs.std(0).min() > 1e-3
    assert ((runs.mean(0) - wanted).abs() / (runs.std(0) / math.sqrt(4000))).max() < 5
    torch.testing.assert_close(layer.eval()(x)[0], wanted, rtol=1e-6, atol=1e-8)
