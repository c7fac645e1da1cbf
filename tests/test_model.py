"""The GPT on packed streams against a naive padded one, and the layout of packed batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import tiny_config, tiny_model
from model import GPT, GPTConfig
from packing import Rows, pack, supervised_lengths, to_cells, to_stream
from reference import NaivePaddedGPT, contract_shapes

VARIANTS = pytest.mark.parametrize("rope", [False, True], ids=["vanilla", "rope"])


def padded_batch(rows: int = 21, width: int = 20, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal lengths: targets start somewhere, end somewhere, and are 0 elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 11, (rows, width), generator=generator)
    y = torch.randint(1, 11, (rows, width), generator=generator)
    end = torch.randint(2, width + 1, (rows, 1), generator=generator)
    start = (torch.rand(rows, 1, generator=generator) * end).long()
    place = torch.arange(width)
    return x.masked_fill(place >= end, 0), y.masked_fill((place < start) | (place >= end), 0)


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """|got - wanted| / |wanted|"""
    return ((got - wanted).norm() / wanted.norm()).item()


# ---------------------------------------------------------------- against the naive padded model


@VARIANTS
@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_loss_and_gradients_are_those_of_the_padded_model(rope, precision, tolerance):
    """Loss and the gradient of every parameter equal the naive padded model's, relative to their lengths.

    Queries, keys and values are compared as the one tensor that they are: a bias of the keys alone has no gradient.
    """
    model = tiny_model(rope=rope)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5 if p.ndim == 2 else 1.0)  # far from saturation, where bfloat16 would have to be exact
    reference = NaivePaddedGPT(model)
    x, y = padded_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        _, loss = model(x, y)
    loss.backward()
    wanted = reference.loss(x, y)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=tolerance)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert gradients.keys() == reference.p.keys()
    errors = {name: relative(grad, reference.p[name].grad) for name, grad in gradients.items()}
    assert max(errors.values()) < tolerance, errors


def test_logits_of_a_padded_batch(tiny):
    """With targets, logits are (B, T, V): the naive ones up to each row's last target, 0 behind it."""
    model = tiny_model(rope=tiny.rope)
    x, y = padded_batch()
    logits, _ = model(x, y)
    assert logits.shape == (21, 20, 11)
    wanted = NaivePaddedGPT(model).logits(x)
    for row, length in enumerate(supervised_lengths(y).tolist()):
        torch.testing.assert_close(logits[row, :length], wanted[row, :length], rtol=1e-4, atol=1e-5)
        assert (logits[row, length:] == 0).all()


def test_without_targets_every_logit_is_computed(tiny):
    """Without targets the loss is None and the logits of all positions, full block included, are the naive ones."""
    model = tiny_model(rope=tiny.rope)
    x = torch.randint(0, 11, (5, 24))
    logits, loss = model(x)
    assert loss is None
    torch.testing.assert_close(logits, NaivePaddedGPT(model).logits(x), rtol=1e-4, atol=1e-5)


def test_pad_targets_are_not_counted(tiny):
    """The loss is the mean over targets that are not 0; a row without any target changes nothing."""
    model = tiny_model(rope=tiny.rope)
    x, y = padded_batch(4)
    logits, loss = model(x, y)
    parts = torch.log_softmax(logits, -1).gather(2, y[:, :, None])[:, :, 0][y != 0]
    assert loss.item() == pytest.approx(-parts.mean().item(), rel=1e-5)
    more_x, more_y = torch.cat((x, x[:1])), torch.cat((y, torch.zeros_like(y[:1])))
    assert model(more_x, more_y)[1].item() == pytest.approx(loss.item(), rel=1e-6)


def test_dropout_is_used_in_training_alone(tiny):
    """Each of the three dropout rates makes training random by itself; evaluation is not."""
    x = torch.randint(1, 11, (2, 10))
    for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
        model = tiny_model(rope=tiny.rope, **{name: 0.5})
        assert not torch.equal(model(x)[0], model(x)[0]), name
        model.eval()
        torch.testing.assert_close(model(x)[0], NaivePaddedGPT(model).logits(x), rtol=1e-4, atol=1e-5)


def test_row_longer_than_the_block_is_refused(tiny):
    """A row of block_size + 1 tokens raises ValueError that names both numbers; block_size tokens pass."""
    model = GPT(tiny)
    assert model(torch.ones(1, 24, dtype=torch.long))[0].shape == (1, 24, 11)
    with pytest.raises(ValueError, match=r"25.*24"):
        model(torch.ones(1, 25, dtype=torch.long))


# ---------------------------------------------------------------- the contract on parameters


def test_parameter_names_and_shapes(tiny):
    """The state dict has the contract's names and shapes: pos_emb in vanilla alone, rope_cache in rope alone."""
    state = GPT(tiny).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == contract_shapes(tiny)
    assert ("pos_emb" in state) != ("blocks.0.attn.rope_cache" in state)
    for i in range(tiny.n_layer):
        assert torch.equal(state[f"blocks.{i}.attn.mask"][0, 0], torch.ones(24, 24).tril())


def test_shapes_of_the_homework_model():
    """At the homework's size a vanilla file has 53 entries, masks of (1, 1, 128, 128), and 4 blocks of 256."""
    shapes = {name: tuple(v.shape) for name, v in GPT(GPTConfig(90, 128)).state_dict().items()}
    assert shapes == contract_shapes(GPTConfig(90, 128, n_layer=4, n_head=8, n_embd=256, rope=False))
    assert len(shapes) == 5 + 4 * 13
    assert shapes["blocks.3.attn.mask"] == (1, 1, 128, 128)
    assert shapes["blocks.0.attn.qkv.weight"] == (768, 256)


@VARIANTS
def test_initial_parameters(rope):
    """Matrices and embeddings are N(0, 0.02), biases and positions 0, LayerNorms the identity."""
    torch.manual_seed(0)
    for name, p in GPT(GPTConfig(300, 128, n_layer=2, rope=rope)).named_parameters():
        if "ln" in name and name.endswith("weight"):
            assert (p == 1).all(), name
        elif p.ndim == 2:
            assert p.std().item() == pytest.approx(0.02, rel=0.02), name
            assert abs(p.mean().item()) < 5 * 0.02 / p.numel() ** 0.5, name
        else:
            assert (p == 0).all(), name


def test_weight_decay_is_on_matrix_products_alone(tiny):
    """Decayed: the weights of qkv, proj, both MLP layers and the head. Not: biases, LayerNorms, embeddings.

    The course's trainer decays ln1, ln2 and ln_f too, since its name test never matches them.
    """
    model = GPT(tiny)
    name_of = {id(p): name for name, p in model.named_parameters()}
    decayed, free = model.parameter_groups(0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    expected = {"head.weight"}
    for i in range(tiny.n_layer):
        expected |= {f"blocks.{i}.{part}.weight" for part in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")}
    assert {name_of[id(p)] for p in decayed["params"]} == expected
    everything = [name_of[id(p)] for group in (decayed, free) for p in group["params"]]
    assert sorted(everything) == sorted(name_of.values())


def test_decay_all_is_what_the_courses_trainer_does(tiny):
    """It exempts the parameters whose name holds "bias" or "LayerNorm.weight", and nothing has the latter name."""
    model = GPT(tiny)
    name_of = {id(p): name for name, p in model.named_parameters()}
    decayed, free = model.parameter_groups(0.1, decay_all=True)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    exempt = {name for name in name_of.values() if "bias" in name or "LayerNorm.weight" in name}
    assert {name_of[id(p)] for p in free["params"]} == exempt
    assert {name_of[id(p)] for p in decayed["params"]} == set(name_of.values()) - exempt
    assert {"blocks.0.ln1.weight", "ln_f.weight", "tok_emb.weight"} <= set(name_of.values()) - exempt


def test_config_cannot_be_changed():
    """A model's config is frozen: nothing changes it behind the caller's back."""
    config = tiny_config()
    with pytest.raises(AttributeError):
        config.n_layer = 7


# ---------------------------------------------------------------- packing

LENGTHS = st.lists(st.integers(1, 19), min_size=1, max_size=45)


@settings(deadline=None, max_examples=100)
@given(LENGTHS, st.integers(0, 3), st.sampled_from([1, 2, 7, 64]), st.integers(1, 20))
def test_packing_and_back(lengths, slack, multiple, rows_per_group):
    """Packed tokens are the real tokens of the rows, longest first; positions, rows and cells say where they stood."""
    width = max(lengths) + slack
    idx = torch.arange(1, len(lengths) * width + 1).view(len(lengths), width)
    targets = idx + 1000
    tokens, packed_targets, rows, order = pack(idx, torch.tensor(lengths), targets, multiple)
    filler = len(tokens) - sum(lengths)
    assert len(tokens) % multiple == 0 and 0 <= filler < multiple
    assert (tokens == 0).sum() == filler
    assert torch.equal(packed_targets, torch.where(tokens == 0, 0, tokens + 1000))
    fillers = [min(width, filler - start) for start in range(0, filler, width)]
    real = lengths + fillers
    assert sorted(order.tolist()) == list(range(len(real)))
    start = 0
    for packed_row, original in enumerate(order.tolist()):
        piece = slice(start, start + real[original])
        if original < len(lengths):
            assert torch.equal(tokens[piece], idx[original, : real[original]])
        assert rows.position[piece].tolist() == list(range(real[original]))
        assert (rows.row[piece] == packed_row).all()
        start = piece.stop
        assert rows.last[packed_row] == start - 1
    assert start == len(tokens)
    # any grouping lays the stream out in cells and back
    for layout in (rows, Rows.of(torch.tensor(real)[order], rows_per_group=rows_per_group)):
        stream = torch.randn(len(tokens), 3)
        cells = to_cells(stream, layout)
        assert torch.equal(to_stream(cells, layout), stream)
        assert cells.abs().sum() == pytest.approx(stream.abs().sum().item(), rel=1e-4)
        assert len(cells) == sum(g.size * g.width for g in layout.groups)
        assert sum(g.size for g in layout.groups) == len(real)
        for g in layout.groups:  # row by row: the row's positions first, then zeros
            block = cells[g.start : g.stop].view(g.size, g.width, 3)
            for i in range(g.size):
                own = stream[layout.row == g.first + i]
                assert torch.equal(block[i, : len(own)], own)
                assert (block[i, len(own) :] == 0).all()


@settings(deadline=None, max_examples=30)
@given(LENGTHS, st.data())
def test_packing_with_a_past(lengths, data):
    """With a cache, positions count on from what each row has seen."""
    lengths = sorted(lengths, reverse=True)
    past = data.draw(st.lists(st.integers(0, 50), min_size=len(lengths), max_size=len(lengths)))
    rows = Rows.of(torch.tensor(lengths), torch.tensor(past))
    expected = [p + i for p, n in zip(past, lengths, strict=True) for i in range(n)]
    assert rows.position.tolist() == expected


def test_gradients_of_the_layout():
    """to_cells and to_stream are linear maps whose gradients are their transposes (numerical check)."""
    rows = Rows.of(torch.tensor([9, 5, 5, 2]), rows_per_group=2)
    stream = torch.randn(21, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: to_cells(s, rows), (stream,))
    cells = torch.randn(rows.cells, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: to_stream(c, rows), (cells,))


@settings(deadline=None, max_examples=50)
@given(st.data(), st.sampled_from([1, 7, 64]))
def test_shapes_in_one_group_depend_on_the_stream_alone(data, multiple):
    """one_group: batches of B rows of width T and equally long streams have the same shapes, as CUDA graphs need."""
    b, width = 5, 19
    layouts = {}
    for _ in range(4):
        lengths = data.draw(st.lists(st.integers(1, width), min_size=b, max_size=b))
        idx = torch.ones(b, width, dtype=torch.long)
        tokens, _, rows, _ = pack(idx, torch.tensor(lengths), None, multiple, one_group=True)
        assert tokens.sum() == sum(lengths)
        shapes = [t.shape for t in rows.tensors], rows.groups
        assert layouts.setdefault(len(tokens), shapes) == shapes
        assert rows.groups[0].width == width and len(rows.groups) == 1


@pytest.mark.parametrize("one_group", [False, True])
@pytest.mark.parametrize("multiple", [7, 20, 64])
def test_filling_up_changes_neither_loss_nor_gradients(tiny, multiple, one_group):
    """A stream filled up to a multiple has the loss and the gradients of the bare one, in either layout."""
    x, y = padded_batch(9)
    results = []
    for fill, one in ((1, False), (multiple, one_group)):
        model = tiny_model(rope=tiny.rope)
        tokens, targets, rows, _ = pack(x, supervised_lengths(y), y, fill, one)
        _, loss = model(tokens, targets, rows)
        loss.backward()
        results.append((len(tokens), loss, [p.grad for p in model.parameters()]))
    (bare, loss, gradients), (filled, filled_loss, filled_gradients) = results
    assert filled > bare
    assert filled_loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert max(map(relative, filled_gradients, gradients)) < 1e-5


def test_supervised_lengths():
    """A row matters up to its last target that is not 0; at least one position stays."""
    y = torch.tensor([[0, 0, 3, 0, 0], [1, 0, 0, 0, 2], [0, 0, 0, 0, 0], [4, 0, 0, 0, 0]])
    assert supervised_lengths(y).tolist() == [3, 5, 1, 1]
