import contextlib
import math

import torch
import torch.nn.functional as F

import config
import model
import train
from course import parts


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-6):
    return math.isclose(float(a), float(b), rel_tol=tolerance, abs_tol=tolerance)


# ---- the loss ----

def test_loss_of_equal_logits():
    """If all V entries are as likely, each of n targets costs ln V: the loss is their sum, not their mean."""
    x, weight = torch.zeros(6, 4), draw(10, 4)
    assert close(model.cross_entropy(x, weight, torch.arange(6)), 6 * math.log(10))
    x = draw(6, 4, seed=1)
    p = (x @ weight.t()).softmax(-1)
    want = -sum(math.log(p[i, i]) for i in range(6))
    assert close(model.cross_entropy(x, weight, torch.arange(6)), want, 1e-5)


def test_loss_leaves_out_what_is_not_scored():
    """A target of -100 costs nothing and pulls at nothing; if none is scored, the loss is 0."""
    x, weight = draw(5, 4).requires_grad_(), draw(10, 4, seed=1)
    targets = torch.tensor([3, -100, 0, -100, 9])
    loss = model.cross_entropy(x, weight, targets)
    assert close(loss, model.cross_entropy(x[[0, 2, 4]], weight, targets[[0, 2, 4]]), 1e-5)
    loss.backward()
    assert not x.grad[[1, 3]].any() and x.grad[0].any()
    assert close(model.cross_entropy(x, weight, torch.full((5,), -100)), 0)


def test_loss_of_large_logits_is_finite():
    """exp(1000) is no number: take the largest logit away first. And bfloat16 is too coarse for the sum."""
    x, weight = torch.tensor([[1000.0], [-1000.0]]), torch.tensor([[1.0], [0.5]])
    loss = model.cross_entropy(x, weight, torch.tensor([1, 0]))
    assert close(loss, 1000, 1e-4)
    x, weight = draw(64, 8).bfloat16(), draw(50, 8, seed=1).bfloat16()
    targets = torch.arange(64) % 50
    want = F.cross_entropy(F.linear(x, weight).float(), targets, reduction="sum")
    got = model.cross_entropy(x, weight, targets)
    assert got.dtype == torch.float32 and close(got, want, 1e-4)


# ---- the schedule ----

OPTIM = config.Optim(lr=6e-4, min_lr=6e-5, warmup=1000)


def test_rate_rises_from_zero_to_its_peak():
    """The warmup is a straight line in the tokens: 0 at its beginning, half at half, the peak at its end."""
    assert close(train.lr_at(0, OPTIM, 9000), 0, 1e-12)
    assert close(train.lr_at(250, OPTIM, 9000), 1.5e-4, 1e-9)
    assert close(train.lr_at(999, OPTIM, 9000), 6e-4 * 0.999, 1e-9)
    assert close(train.lr_at(1000, OPTIM, 9000), 6e-4, 1e-9)
    assert close(train.lr_at(0, config.Optim(lr=1e-3, min_lr=0, warmup=0), 10), 1e-3, 1e-9)


def test_rate_falls_as_a_cosine():
    """Half a cosine from the end of the warmup to the end of the run: what is its rate in the middle?"""
    assert close(train.lr_at(5000, OPTIM, 9000), (6e-4 + 6e-5) / 2, 1e-9)
    assert close(train.lr_at(3000, OPTIM, 9000), 6e-5 + 2.7e-4 * (1 + math.cos(math.pi / 4)), 1e-9)
    o = config.Optim(lr=6e-4, min_lr=6e-5, warmup=1000, decay=5000)
    assert close(train.lr_at(3000, o, 9000), 3.3e-4, 1e-9), "optim.decay ends the cosine earlier"


def test_rate_at_the_end_and_after_it():
    """At the end, and for ever after it, the rate is the smallest one: a cosine would rise again."""
    for tokens in (9000, 12000, 17000, 100_000):
        assert close(train.lr_at(tokens, OPTIM, 9000), 6e-5, 1e-9)


# ---- the optimizer ----

def tiny():
    cfg = config.Model(layers=1, dim=8, heads=2, position="alibi", norm="layer", mlp="gelu", bias=True,
                       embed_norm=True, tied=True, eps=1e-5, init_std=0.1, vocab=11, mlp_dim=16)
    return model.Transformer(cfg)


def test_decay_is_for_matrices():
    """Matrices and the embedding decay; biases and the weights of norms do not. No parameter is left out."""
    net = tiny()
    optimizer = train.adamw(net, OPTIM)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(net.parameters())) == sum(len(g["params"]) for g in optimizer.param_groups)
    for p in net.parameters():
        assert decay[id(p)] == (OPTIM.weight_decay if p.dim() > 1 else 0)


def test_optimizer_has_its_settings():
    """Rate, betas and eps are those of the settings, in every group; the decay is decoupled, as in AdamW."""
    o = config.Optim(lr=0.25, min_lr=0, warmup=1, beta1=0.8, beta2=0.9, eps=0.125, weight_decay=0.5)
    net = torch.nn.Linear(1, 1, bias=True)
    with torch.no_grad():
        net.weight.fill_(2)
        net.bias.fill_(2)
    optimizer = train.adamw(net, o)
    net(torch.ones(1, 1)).backward()
    optimizer.step()
    assert close(net.bias, 2 - 0.25 / 1.125, 1e-5)
    assert close(net.weight, 2 * (1 - 0.25 * 0.5) - 0.25 / 1.125, 1e-5)
    net(torch.full((1, 1), 3.0)).backward()         # the gradients are now 1 + 3 and 2
    optimizer.step()
    m, v = (0.2 * 0.8 * 1 + 0.2 * 2) / 0.36, (0.1 * 0.9 * 1 + 0.1 * 4) / 0.19
    assert close(net.bias, 2 - 0.25 / 1.125 - 0.25 * m / (math.sqrt(v) + 0.125), 1e-5)


def test_first_step_by_hand():
    """In step 1 both corrections cancel the betas: p moves by lr * g / (|g| + eps). Where does eps stand?"""
    p, m, v = torch.tensor([1.0, 1.0, 1.0]), torch.zeros(3), torch.zeros(3)
    grad = torch.tensor([2.0, -0.5, 0.0])
    parts.adamw_step(p, grad, m, v, 1, lr=0.1, beta1=0.9, beta2=0.95, eps=0.5, weight_decay=0.0)
    for got, want in zip(p, (1 - 0.1 * 2 / 2.5, 1 + 0.1 * 0.5 / 1.0, 1)):
        assert close(got, want, 1e-5)
    for got, want in zip((*m, *v), (0.2, -0.05, 0, 0.2, 0.0125, 0)):
        assert close(got, want, 1e-5), "m and v are kept without the correction"
    assert grad.tolist() == [2.0, -0.5, 0.0], "the gradient is not yours to change"


def test_steps_are_those_of_torch():
    """Five steps with changing gradients: the corrections depend on the number of the step."""
    p = draw(4, 3)
    mine, m, v = p.clone(), torch.zeros(4, 3), torch.zeros(4, 3)
    theirs = torch.nn.Parameter(p.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.05, betas=(0.9, 0.95), eps=1e-3, weight_decay=0.3)
    for step in range(1, 6):
        grad = draw(4, 3, seed=step) * step
        theirs.grad = grad.clone()
        optimizer.step()
        parts.adamw_step(mine, grad, m, v, step, lr=0.05, beta1=0.9, beta2=0.95, eps=1e-3, weight_decay=0.3)
        assert (mine - theirs).abs().max() < 1e-5


def test_decay_does_not_pass_the_moments():
    """With a gradient of 0 the moments stay 0, and p shrinks by lr * decay of itself: the W in AdamW."""
    p, m, v = torch.tensor([4.0]), torch.zeros(1), torch.zeros(1)
    for step in (1, 2):
        parts.adamw_step(p, torch.zeros(1), m, v, step, lr=0.5, beta1=0.9, beta2=0.95, eps=1e-8,
                         weight_decay=0.1)
    assert close(p, 4 * 0.95 ** 2, 1e-6) and not m.any() and not v.any()


# ---- gradients ----

def with_grads(*grads):
    parameters = [torch.nn.Parameter(torch.zeros(len(g))) for g in grads]
    for p, g in zip(parameters, grads):
        p.grad = torch.tensor(g)
    return parameters


def test_norm_is_that_of_all_gradients():
    """The norm is that of one long vector: (3, 0) and (0, 4) have 5. All shrink by the same factor."""
    parameters = with_grads([3.0, 0.0], [0.0, 4.0])
    unused = torch.nn.Parameter(torch.zeros(2))
    assert close(parts.clip_gradients([*parameters, unused], 1.0), 5.0)
    for p, want in zip(parameters, ((0.6, 0), (0, 0.8))):
        assert all(close(a, b, 1e-4) for a, b in zip(p.grad, want))
    assert unused.grad is None


def test_small_gradients_stay():
    """A norm below the limit changes nothing: to clip is not to normalise. The norm is told all the same."""
    parameters = with_grads([0.3, 0.0], [0.0, 0.4])
    assert close(parts.clip_gradients(parameters, 1.0), 0.5)
    assert torch.equal(parameters[0].grad, torch.tensor([0.3, 0.0]))
    parameters = with_grads([0.0], [0.0])
    assert close(parts.clip_gradients(parameters, 1.0), 0) and bool(parameters[0].grad.isfinite().all())


class Bigram(torch.nn.Module):
    """The next token from this one alone; what counts is that it gives the summed loss."""
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(draw(7, 7))
        self.calls = []

    def forward(self, ids, targets):
        self.calls.append(ids.shape[0])
        return F.cross_entropy(self.table[ids].flatten(0, 1), targets.flatten(), reduction="sum")


def batch(lengths):
    """Rows of 6 tokens, of whose targets the first `lengths` are scored."""
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 7, (len(lengths), 7), generator=g)
    y = ids[:, 1:].clone()
    for row, n in zip(y, lengths):
        row[n:] = -100
    return ids[:, :-1], y, sum(lengths)


def grads_of(lengths, micro, precision=contextlib.nullcontext):
    net = Bigram()
    x, y, valid = batch(lengths)
    loss = train.gradients(net, x, y, valid, micro, precision)
    return float(loss), net.table.grad, net.calls


def test_cutting_the_batch_changes_nothing():
    """4 rows at once, 2 and 2, 3 and 1, or one by one: the loss and the gradient are those of the mean."""
    x, y, valid = batch([6, 6, 6, 6])
    net = Bigram()
    want = net(x, y) / valid
    want.backward()
    for micro, calls in ((4, [4]), (2, [2, 2]), (3, [3, 1]), (1, [1] * 4)):
        loss, grad, seen = grads_of([6, 6, 6, 6], micro)
        assert close(loss, want, 1e-5) and seen == calls
        assert (grad - net.table.grad).abs().max() < 1e-6


def test_rows_of_unequal_length_weigh_by_their_targets():
    """Each target weighs the same, not each row or part: a mean of means is another number."""
    lengths = [6, 1, 2, 5]
    x, y, valid = batch(lengths)
    net = Bigram()
    want = net(x, y) / valid
    want.backward()
    for micro in (4, 2, 1):
        loss, grad, _ = grads_of(lengths, micro)
        assert close(loss, want, 1e-5) and (grad - net.table.grad).abs().max() < 1e-6
    net = Bigram()
    part = train.gradients(net, x[:2], y[:2], valid, 1, contextlib.nullcontext)
    rest = train.gradients(net, x[2:], y[2:], valid, 1, contextlib.nullcontext)
    assert close(part + rest, want, 1e-5), "two processes: valid counts the targets of both"


def test_products_are_made_in_the_precision_that_is_asked_for():
    """Each forward pass is inside precision(), a new context every time; the backward pass is outside."""
    inside, entered = [False], []

    @contextlib.contextmanager
    def precision():
        inside[0] = True
        entered.append(True)
        yield
        inside[0] = False

    class Watched(Bigram):
        def forward(self, ids, targets):
            assert inside[0], "outside of precision()"
            loss = super().forward(ids, targets)
            loss.register_hook(lambda grad: entered.append("inside") if inside[0] else None)
            return loss
    net = Watched()
    x, y, valid = batch([6, 6, 6])
    train.gradients(net, x, y, valid, 1, precision)
    assert entered == [True] * 3
