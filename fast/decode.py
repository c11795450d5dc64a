"""Faster forms of what writes one token after another. generate.py works without this file, and slower.

A step reads every weight to write one token per row, so what counts is the memory's speed and nothing else.
On a CPU, products of few rows are cut so that all cores read. On a GPU most of the time goes into telling it
what to do: a step is recorded once, as a CUDA graph, and then played again.

Letters: R rows   V vocabulary   S columns of the cache
"""
import functools
import math
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

from generate import choose, one_by_one, slide, uniform

FLIGHT = 8              # steps that a GPU is told to do before anybody looks at the first of them


# ---- a CPU: products of few rows ----

def linear(x, weight, bias=None):
    """F.linear: x (..., C) times weight (N, C) transposed, made for the few rows of one step on a CPU.

    F.linear reads the weights with one core, at a fraction of the memory's speed. All cores read if the
    product is cut into pieces, or compiled from a multiply and a sum.
    """
    rows = x.numel() // x.shape[-1]
    if x.device.type == "cpu" and rows <= 8 and weight.dtype == torch.float32:
        pieces = weight.view(math.gcd(len(weight), 16), -1, weight.shape[1])
        y = torch.bmm(pieces, x.reshape(rows, -1).t().expand(len(pieces), -1, -1)).view(-1, rows).t()
    elif x.device.type == "cpu" and rows == 1 and torch.compiler.is_compiling():
        y = (weight.float() * x.reshape(-1).float()).sum(-1).type_as(weight)
    else:
        return F.linear(x, weight, bias)
    y = y.reshape(*x.shape[:-1], len(weight))
    return y if bias is None else y + bias


class FastLinear(nn.Linear):
    def forward(self, x):
        return linear(x, self.weight, self.bias)


def read_weights_fast(model):
    """Let linear() make all products. Modules keep their weights and get another class, so all blocks run the
    same code, and one compiled form serves them all."""
    for m in model.modules():
        if type(m) is nn.Linear:
            m.__class__ = FastLinear
    model.logits = functools.partial(linear, weight=model.head_weight())


# ---- a compiled step ----

def stepwise(forward):
    """`forward`, compiled for one token per row. A prompt is not: its end is a view."""
    fast = torch.compile(forward)

    def step(x, *rest):
        one = x.shape[1] == 1 and not x.storage_offset()
        return fast(x, *rest) if one else forward(x, *rest)
    return step


def compile_step(model):
    """Compile what writes one token, when it is first used. The blocks are alike: one is compiled for all."""
    torch._dynamo.config.recompile_limit = 64       # another number of rows, or padding, is another program
    for part in model.blocks:
        part.forward = stepwise(part.forward)
    model.logits = stepwise(model.logits)


# ---- a GPU: the step as a graph ----

class Step:
    """One step on tensors that stay where they are: draw, note the ids, read them, get new logits.

    A graph repeats the same kernels on the same memory, so no Python number may change in it. `at` is the
    column of the cache that is written next and `nth` the step of the flight, both on the device; attention
    looks at all S columns, with a mask that follows from `at`.
    """
    def __init__(self, model, cache, logits, vocab, draw, generators, seen):
        R, device = len(logits), logits.device
        self.model, self.cache, self.draw, self.generators = model, cache, draw, generators
        self.logits, self.vocab = logits.clone(), vocab
        self.seen = None if seen is None else seen.to(device)
        self.n, self.S = cache.n, cache.k.shape[3]          # tokens in the cache, and room
        self.pad = torch.zeros(R, dtype=torch.long, device=device) if cache.pad is None else cache.pad.clone()
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.nth = torch.zeros(1, dtype=torch.long, device=device)
        self.u = torch.zeros(R, FLIGHT, dtype=torch.float64, device=device)
        self.ids = torch.zeros(R, FLIGHT, dtype=torch.long, device=device)
        at, S = self.at, self.S                 # a lambda that held self would keep the cache alive
        cache.pad, cache.columns = self.pad, lambda T: (at, S)
        for tensor in (cache.k, cache.v):       # what is masked is multiplied by 0: it must not be NaN
            tensor[:, :, :, self.n:] = 0
        if self.n == S:                         # recording a step writes into the next column
            self.make_room()
        self.run = self.record() if logits.is_cuda else self.compute

    def compute(self):
        u = self.u.index_select(1, self.nth)[:, 0]
        ids = choose(self.logits[:, :self.vocab], self.draw, u, self.seen).unsqueeze(1)
        self.ids.index_copy_(1, self.nth, ids)
        if self.seen is not None:
            self.seen.scatter_(1, ids, True)
        self.logits.copy_(self.model(ids, cache=self.cache)[:, -1])
        self.nth.add_(1)
        self.at.add_(1)

    def record(self):
        """The graph's replay(). Kernels choose their workspaces in three steps before; what these change is
        put back."""
        logits, seen = self.logits.clone(), None if self.seen is None else self.seen.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.begin()
                self.compute()
        main = torch.cuda.current_stream()
        main.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        run = self.compute
        self.begin()
        try:
            with torch.cuda.graph(graph):
                self.compute()
            run = graph.replay
        except RuntimeError as e:
            torch.cuda.set_stream(main)
            print(f"a step cannot be recorded here, going on without: {e.__context__ or e}", file=sys.stderr)
        self.logits.copy_(logits)
        if seen is not None:
            self.seen.copy_(seen)
        return run

    def begin(self):
        """Put the counters where the host has them."""
        self.nth.zero_()
        self.at.fill_(self.n)

    def fly(self, steps):
        """Start at most FLIGHT `steps`; returns their ids (R, steps) on their way to the host, and a function
        that waits for them."""
        u = uniform(self.generators, FLIGHT)
        self.u.copy_(u.pin_memory() if self.u.is_cuda else u, non_blocking=True)
        self.begin()
        for _ in range(steps):
            if self.n == self.S:
                self.make_room()
            self.run()
            self.n += 1
        if self.ids.is_cuda:
            ids = torch.empty(self.ids.shape, dtype=torch.long, pin_memory=True)
            ids.copy_(self.ids, non_blocking=True)
            there = torch.cuda.Event()
            there.record()
            return ids[:, :steps], there.synchronize
        return self.ids[:, :steps].clone(), lambda: None

    def make_room(self):
        """Forget the middle of each text. The cache gets a new `pad`; the graph knows the old tensor."""
        self.cache.n = self.n
        slide(self.cache, self.S // 2)
        self.pad.copy_(self.cache.pad)
        self.cache.pad, self.n = self.pad, self.cache.n
        self.at.fill_(self.n)


def in_flights(model, cache, logits, tokens, *more):
    """As generate.one_by_one(), without logits: a GPU is a flight ahead of what is yielded."""
    step = Step(model, cache, logits, *more)
    flight = step.fly(min(FLIGHT, tokens))
    for first in range(FLIGHT, tokens, FLIGHT):
        following = step.fly(min(FLIGHT, tokens - first))
        yield from landed(*flight)
        flight = following
    yield from landed(*flight)


def landed(ids, wait):
    wait()
    for row in ids.t().tolist():
        yield row, None


def choose_steps(device, logprobs=None):
    """The form of generate.one_by_one() for `device`: the host needs logits for log-probabilities."""
    return in_flights if device == "cuda" and logprobs is None else one_by_one
