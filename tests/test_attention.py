"""Attention, rotary positions and dropout against written-out formulas."""

import math
from dataclasses import replace

import pytest
import torch

from attention import CausalSelfAttention, Dropout, apply_rotary_emb, precompute_rotary_emb
from helpers import tiny_config
from model import Block
from packing import Rows
from reference import attention, rotate


def make_attention(config) -> CausalSelfAttention:
    """A layer in float64 with parameters that matter."""
    torch.manual_seed(1)
    layer = CausalSelfAttention(config).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.4)
    return layer


# ---------------------------------------------------------------- attention


def test_attention_is_the_written_out_softmax(tiny):
    """A (B, T, C) input gives softmax(q k^T / sqrt(hs)) v of each head over what stands before, projected."""
    layer = make_attention(tiny)
    x = torch.randn(3, 13, 16, dtype=torch.float64)
    p = dict(layer.named_parameters())
    expected = torch.stack([attention(row, p, tiny.n_head, tiny.rope) for row in x])
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


def test_packed_rows_do_not_see_each_other(tiny):
    """37 rows of unequal lengths in one stream give what each row gives on its own."""
    layer = make_attention(tiny)
    lengths = torch.randint(1, tiny.block_size + 1, (37,)).sort(descending=True).values
    x = torch.randn(int(lengths.sum()), 16, dtype=torch.float64)
    packed = layer(x, Rows.of(lengths)).split(lengths.tolist())
    for row, got in zip(x.split(lengths.tolist()), packed, strict=True):
        torch.testing.assert_close(got, layer(row[None])[0], rtol=1e-9, atol=1e-10)
    p = dict(layer.named_parameters())
    last = x.split(lengths.tolist())[-1]
    torch.testing.assert_close(packed[-1], attention(last, p, tiny.n_head, tiny.rope), rtol=1e-5, atol=1e-6)


def test_gradient_of_packed_rows(tiny):
    """The gradient through the packed layout is that of the naive formula, for input and parameters alike."""
    layer = make_attention(tiny)
    lengths = torch.tensor([11, 9, 9, 4, 1])
    x = torch.randn(int(lengths.sum()), 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    inputs = [x, *layer.parameters()]
    got = torch.autograd.grad((layer(x, Rows.of(lengths)) * weight).sum(), inputs)
    p = dict(layer.named_parameters())
    naive = torch.cat([attention(row, p, tiny.n_head, tiny.rope) for row in x.split(lengths.tolist())])
    for mine, wanted in zip(got, torch.autograd.grad((naive * weight).sum(), inputs), strict=True):
        assert (mine - wanted).norm() <= 1e-5 * wanted.norm()


def test_attention_is_causal(tiny):
    """Output t depends on every input up to t and on none behind: nothing but its past reaches a position."""
    layer = make_attention(tiny)
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x).sum(-1)[0], x)[:, 0].abs().sum(-1)  # (T, T)
    assert torch.equal(jacobian != 0, torch.tril(torch.ones(9, 9, dtype=torch.bool)))


def test_later_token_changes_no_earlier_output(tiny):
    """Replacing the token at position 5 leaves outputs 0 .. 4 as they were, bit for bit, and changes output 5."""
    layer = make_attention(tiny)
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    other = x.clone()
    other[:, 5] += 1.0
    before, after = layer(x), layer(other)
    assert torch.equal(before[:, :5], after[:, :5])
    assert ((before[:, 5:] - after[:, 5:]).abs().amax(-1) > 1e-6).all()


def test_unfit_sizes_are_refused():
    """A width that the heads cannot share, and an odd head size under RoPE, raise ValueError."""
    with pytest.raises(ValueError, match="n_head"):
        CausalSelfAttention(tiny_config(n_embd=18, n_head=4))
    with pytest.raises(ValueError, match="even"):
        CausalSelfAttention(tiny_config(n_embd=15, n_head=3, rope=True))


# ---------------------------------------------------------------- part 1(a): permuting the input


def test_block_without_mask_and_positions_commutes_with_permutations():
    """Part 1(a): with nothing hidden and no positions, shuffled inputs give the outputs shuffled alike."""
    torch.manual_seed(3)
    block = Block(tiny_config()).double()
    block.attn.mask.fill_(1)
    x = torch.randn(2, 10, 16, dtype=torch.float64)
    order = torch.randperm(10)
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order], rtol=1e-9, atol=1e-10)
    p = dict(block.attn.named_parameters())
    everything_seen = torch.stack([attention(row, p, 2, rope=False, causal=False) for row in x])
    torch.testing.assert_close(block.attn(x), everything_seen, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("order_matters", ["mask", "rope"])
def test_mask_or_positions_break_the_symmetry(order_matters):
    """With the causal mask, or with rotary positions, the order of the input matters."""
    torch.manual_seed(3)
    layer = make_attention(tiny_config(rope=order_matters == "rope"))
    if order_matters == "rope":
        layer.mask.fill_(1)
    x = torch.randn(1, 10, 16, dtype=torch.float64)
    order = torch.arange(9, -1, -1)
    assert (layer(x[:, order]) - layer(x)[:, order]).abs().max() > 1e-2


# ---------------------------------------------------------------- part (g): rotary positions


def test_rope_cache_holds_cos_then_sin():
    """The cache is (positions, dim/2, 2): cos and sin of t 10000^(-2(i-1)/dim), exact to float32's last digits."""
    cache = precompute_rotary_emb(10, 3000)
    assert cache.shape == (3000, 5, 2)
    assert cache.dtype == torch.float32
    for t in (0, 1, 2, 77, 2999):
        for i in range(1, 6):
            angle = t * 10000.0 ** (-2 * (i - 1) / 10)
            assert cache[t, i - 1].tolist() == pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-7)


def test_rope_frequencies_fall():
    """theta_1 = 1, and each theta_i is below the one before, the last 10000^(-(dim-2)/dim).

    The handout's code comment says 1/10000^(-2(i-1)/dim), with which they would grow; its equation (1) is right.
    """
    cos, sin = precompute_rotary_emb(32, 2)[1].double().unbind(-1)
    theta = torch.atan2(sin, cos)
    assert theta[0].item() == pytest.approx(1.0, abs=1e-6)
    assert (theta.diff() < 0).all()
    assert theta[-1].item() == pytest.approx(10000 ** (-30 / 32), rel=1e-4)


def test_rope_is_equation_1():
    """RoPE at position t is the block diagonal matrix of 2 x 2 rotations of handout equation (1)."""
    x = torch.randn(2, 3, 20, 8)
    got = apply_rotary_emb(x, precompute_rotary_emb(8, 20))
    for t in range(20):
        matrix = torch.zeros(8, 8, dtype=torch.float64)
        for i in range(1, 5):
            a = t * 10000.0 ** (-2 * (i - 1) / 8)
            block = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
            matrix[2 * i - 2 : 2 * i, 2 * i - 2 : 2 * i] = block
        torch.testing.assert_close(got[:, :, t].double(), x[:, :, t].double() @ matrix.T, rtol=1e-5, atol=1e-6)


def test_rope_is_complex_multiplication():
    """RoPE at position t multiplies x1 + i x2 of every pair by e^(i t theta), handout equation (2)."""
    x = torch.randn(2, 4, 31, 6)
    got = apply_rotary_emb(x, precompute_rotary_emb(6, 31))
    expected = torch.stack([torch.stack([rotate(head) for head in row]) for row in x])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_rope_depends_on_relative_positions():
    """<RoPE(z1, t1), RoPE(z2, t2)> = <RoPE(z1, t1 - t2), RoPE(z2, 0)>, part (g) ii, and it does depend on t1 - t2."""
    cache = precompute_rotary_emb(8, 64)
    z1, z2 = torch.randn(8), torch.randn(8)
    one, two = (apply_rotary_emb(z.expand(1, 1, 64, 8), cache)[0, 0].double() for z in (z1, z2))  # (64, 8)
    products = one @ two.T  # (t1, t2)
    for t1 in range(64):
        for t2 in range(t1 + 1):
            assert products[t1, t2].item() == pytest.approx(products[t1 - t2, 0].item(), abs=1e-4)
    assert products[:, 0].std() > 0.1


def test_rope_keeps_lengths_and_position_zero():
    """A rotation keeps the length of every vector, and position 0 is not turned."""
    x = torch.randn(1, 2, 50, 16)
    got = apply_rotary_emb(x, precompute_rotary_emb(16, 50))
    torch.testing.assert_close(got.norm(dim=-1), x.norm(dim=-1), rtol=1e-5, atol=1e-6)
    assert torch.equal(got[:, :, 0], x[:, :, 0])


def test_rope_of_a_short_input():
    """An input shorter than the cache is turned by the cache's first rows."""
    cache = precompute_rotary_emb(8, 40)
    x = torch.randn(2, 2, 40, 8)
    assert torch.allclose(apply_rotary_emb(x[:, :, :7], cache), apply_rotary_emb(x, cache)[:, :, :7], atol=1e-6)


def test_rope_keeps_the_dtype():
    """bfloat16 in, bfloat16 out, computed in float32: the result is the float32 one rounded once."""
    cache = precompute_rotary_emb(8, 40)
    x = torch.randn(1, 1, 40, 8).bfloat16()
    got = apply_rotary_emb(x, cache)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, apply_rotary_emb(x.float(), cache).bfloat16())


def test_odd_dim_is_refused():
    """Pairs of features need an even dim."""
    with pytest.raises(ValueError, match="even"):
        precompute_rotary_emb(7, 10)


def test_rope_cache_is_built_for_a_head():
    """The cache turns vectors of one head.

    A known bug of public solutions built it for n_embd; the first pairs of it fit the head's size without an
    error, with frequencies that hardly differ, and the model trained and scored badly.
    """
    layer = CausalSelfAttention(tiny_config(rope=True, n_embd=32, n_head=4))
    assert layer.rope_cache.shape == (24, 4, 2)
    assert torch.equal(layer.rope_cache, precompute_rotary_emb(8, 24))
    assert not torch.allclose(layer.rope_cache, precompute_rotary_emb(32, 24)[:, :4])


# ---------------------------------------------------------------- dropout


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("size", [1_000_000, 999_997])
def test_dropout_share_and_mean(p, size):
    """A share p is 0 and the rest is scaled so that the mean stays: both within 5 standard deviations.

    So it is in each quarter of the stream of random bits, of which one draw serves four elements.
    """
    torch.manual_seed(0)
    y = Dropout(p)(torch.ones(size))
    for part in (y, y[0::4], y[1::4], y[2::4], y[3::4]):
        n = len(part)
        assert (part == 0).float().mean().item() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n))
        assert part.double().mean().item() == pytest.approx(1.0, abs=5 * math.sqrt(p / (1 - p) / n))
    assert y[y != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)


def test_dropout_of_neighbours_is_independent():
    """Elements that share one 64-bit draw are dropped independently: correlations within 5 standard deviations."""
    torch.manual_seed(0)
    dropped = (Dropout(0.3)(torch.ones(250_000, 4)) == 0).double()
    correlation = torch.corrcoef(dropped.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(250_000)


def test_dropout_gradient_has_the_same_mask():
    """The gradient passes exactly where the value did, with the same scale."""
    torch.manual_seed(0)
    x = torch.ones(1000, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert 300 < (x.grad == 0).sum() < 500


def test_dropout_is_off_in_evaluation():
    """In evaluation, and with p = 0, dropout returns its input; in training two calls differ."""
    layer, x = Dropout(0.5), torch.randn(1000)
    assert not torch.equal(layer(x), layer(x))
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_dropout_repeats_with_the_seed():
    """The same seed drops the same elements."""
    torch.manual_seed(5)
    first = Dropout(0.5)(torch.ones(1001))
    torch.manual_seed(5)
    assert torch.equal(first, Dropout(0.5)(torch.ones(1001)))


def test_attention_dropout_keeps_the_expectation():
    """The mean of many runs with attention dropout is the output without it, within 5 standard errors."""
    config = tiny_config(attn_pdrop=0.3, n_layer=1)
    layer = make_attention(config)
    x = torch.randn(1, 8, 16, dtype=torch.float64).expand(4000, 8, 16)
    torch.manual_seed(0)
    runs = layer(x).detach()
    wanted = layer.eval()(x[:1]).detach()[0]
    error = (runs.mean(0) - wanted).abs() / (runs.std(0) / math.sqrt(4000) + 1e-12)
    assert runs.std(0).min() > 1e-3
    assert error.max() < 5
    without = CausalSelfAttention(replace(config, attn_pdrop=0.0)).double()
    without.load_state_dict(layer.state_dict())
    torch.testing.assert_close(without(x[:1])[0], wanted, rtol=1e-9, atol=1e-10)
