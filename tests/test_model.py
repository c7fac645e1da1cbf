"""The GPT of the homework against its formulas written out, and its parameters."""

import math

import pytest
import torch
from torch import Tensor

from helpers import tiny_config, tiny_model
from model import GPT, GPTConfig
from reference import attention, contract_shapes, mean_loss, relative


def layer_norm(x: Tensor, norm: torch.nn.Module) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-5), scaled and shifted."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * norm.weight + norm.bias


def test_block_is_its_formula(tiny):
    """x + attention(LayerNorm(x)), then x + W2 gelu(W1 LayerNorm(x)), gelu(z) = z Phi(z), all written out."""
    block = tiny_model(rope=tiny.rope).double().blocks[1]
    x = torch.randn(3, 13, 16, dtype=torch.float64)
    p = dict(block.attn.named_parameters())
    wanted = x + torch.stack([attention(row, p, tiny.n_head, tiny.rope) for row in layer_norm(x, block.ln1)])
    hidden = layer_norm(wanted, block.ln2) @ block.mlp[0].weight.T + block.mlp[0].bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    wanted = wanted + hidden @ block.mlp[2].weight.T + block.mlp[2].bias
    torch.testing.assert_close(block(x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 20, 24])
def test_model_is_a_stack_of_blocks(tiny, width):
    """Embeddings (vanilla: plus those of positions) go through the blocks, a LayerNorm and the head."""
    model = tiny_model(rope=tiny.rope).double()
    idx = torch.randint(0, 11, (5, width))
    x = model.tok_emb.weight[idx]
    if not tiny.rope:
        x = x + model.pos_emb[0, :width]
    for block in model.blocks:
        x = block(x)
    logits, loss = model(idx)
    assert (logits.shape, loss) == ((5, width, 11), None)
    torch.testing.assert_close(logits, layer_norm(x, model.ln_f) @ model.head.weight.T, rtol=1e-9, atol=1e-10)


def test_loss_is_the_mean_over_targets(tiny):
    """Loss and gradients are those of -log softmax over the targets that are not 0; rows may have none."""
    model = tiny_model(rope=tiny.rope).double()
    x, y = torch.randint(0, 11, (2, 21, 20))
    for targets in (y, torch.cat((y[:-4], 0 * y[-4:]))):
        logits, loss = model(x, targets)
        torch.testing.assert_close(logits, model(x)[0])
        wanted, inputs = mean_loss(model(x)[0], targets), list(model.parameters())
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
        gradients = [torch.autograd.grad(value, inputs) for value in (loss, wanted)]
        assert max(map(relative, *gradients)) < 1e-5  # the loss is computed in float32
    assert model(x, 0 * y)[1].isnan()


def test_dropout_is_used_in_training_only(tiny):
    """Each of the three dropouts alone makes training random; evaluation is not."""
    x = torch.randint(1, 11, (2, 10))
    for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
        model = tiny_model(rope=tiny.rope, **{name: 0.5})
        assert not torch.equal(model(x)[0], model(x)[0]), name
        without = tiny_model(rope=tiny.rope)
        torch.testing.assert_close(model.eval()(x)[0], without(x)[0], rtol=1e-4, atol=1e-5)


def test_row_longer_than_the_block_is_refused(tiny):
    """A row of block_size + 1 tokens raises a ValueError that names both numbers; block_size tokens fit."""
    model = GPT(tiny)
    assert model(torch.ones(1, 24, dtype=torch.long))[0].size(1) == model.get_block_size() == model.block_size == 24
    with pytest.raises(ValueError, match=r"25.*24"):
        model(torch.ones(1, 25, dtype=torch.long))


@pytest.mark.parametrize("rope", [False, True], ids=["vanilla", "rope"])
def test_initial_parameters(rope):
    """Matrices and embeddings are N(0, 0.02); biases and positions are 0; LayerNorms are the identity."""
    torch.manual_seed(0)
    for name, p in GPT(GPTConfig(300, 128, n_layer=2, rope=rope)).named_parameters():
        if "ln" in name and name.endswith("weight"):
            assert (p == 1).all(), name
        elif p.ndim == 2:
            assert p.std().item() == pytest.approx(0.02, rel=0.02), name
            assert abs(p.mean().item()) < 5 * 0.02 / p.numel() ** 0.5, name
        else:
            assert (p == 0).all(), name


def test_config_is_changeable_and_the_model_keeps_its_own():
    """The course's run.py sets `rope` after construction; changes after a model was made do not affect it."""
    config = tiny_config()
    config.rope = True
    model = GPT(config)
    config.rope, config.n_layer, config.n_head, config.block_size, config.embd_pdrop = False, 7, 1, 99, 0.5
    assert (model.rope, model.block_size, model.config) == (True, 24, tiny_config(rope=True))
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == contract_shapes(model.config)
    assert not GPT(config).rope and len(GPT(config).blocks) == 7
