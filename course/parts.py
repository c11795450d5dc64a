"""Equations that the program leaves to libraries, written out. Assignments ask for them, and adapters.py
uses them.

They are short and slow. For the same the program has fused kernels, tiktoken, FSDP and its checkpoints.

Letters: n rows
"""
import collections
import json
import math
import re

import torch
from safetensors.torch import load, save

import parallel

# ---- byte-pair encoding ----

def train_bpe(count, merges, ties=min):
    """As tokenizer.merge_most_frequent(), `merges` of them, fast enough for megabytes. `count`: {piece as
    bytes: how often}. Of pairs that are equally frequent `ties` chooses, min or max, by their bytes."""
    words = [[bytes([b]) for b in piece] for piece in count]
    times = list(count.values())
    pairs, places = collections.Counter(), collections.defaultdict(set)
    for w, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pairs[pair] += times[w]
            places[pair].add(w)
    found = []
    while len(found) < merges and pairs:
        most = max(pairs.values())
        if most < 1:
            break
        best = ties(pair for pair, n in pairs.items() if n == most)
        found.append(best)
        for w in places.pop(best):
            word = words[w]
            for pair in zip(word, word[1:]):
                pairs[pair] -= times[w]
            words[w] = word = join(word, best)
            for pair in zip(word, word[1:]):
                pairs[pair] += times[w]
                places[pair].add(w)
        pairs = +pairs if len(found) % 100 == 0 else pairs
        pairs.pop(best, None)
    return found


def join(word, pair):
    """join([b"a", b"a", b"a"], (b"a", b"a")) -> [b"aa", b"a"]"""
    joined, i = [], 0
    while i < len(word):
        if tuple(word[i:i + 2]) == pair:
            joined.append(pair[0] + pair[1])
            i += 2
        else:
            joined.append(word[i])
            i += 1
    return joined


def encode_piece(piece, ranks):
    """The ids of a piece of text, in bytes. `ranks`: {entry as bytes: its id}, single bytes and what was
    joined; a smaller id was joined earlier.

    Of all neighbours that together are an entry, the ones with the smallest id are joined first, the left
    one of equals; then begin again. So a piece is cut as it was when the merges were learned.
    """
    parts = [piece[i:i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        joined = [ranks.get(a + b, math.inf) for a, b in zip(parts, parts[1:])]
        best = min(joined)
        if best == math.inf:
            break
        i = joined.index(best)
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return [ranks[part] for part in parts]


def split_specials(text, specials):
    """The text in parts: each special token that stands in it is a part of its own, and no part is empty. Of
    two that begin at the same place the longer one counts.
    split_specials("a<s>b", ["<s>"]) -> ["a", "<s>", "b"]"""
    if not specials:
        return [text] if text else []
    longest_first = sorted(specials, key=len, reverse=True)
    pattern = "|".join(re.escape(special) for special in longest_first)
    return [part for part in re.split(f"({pattern})", text) if part]


# ---- a step of training ----

@torch.no_grad()
def adamw_step(p, grad, m, v, step, lr, beta1, beta2, eps, weight_decay):
    """One step of AdamW (Loshchilov and Hutter 2019), number `step` from 1: changes the tensors p, m and v in
    place. The decay does not go through the moments; eps is added to the root."""
    p.mul_(1 - lr * weight_decay)
    m.mul_(beta1).add_(grad, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    mean, square = m / (1 - beta1 ** step), v / (1 - beta2 ** step)
    p.sub_(lr * mean / (square.sqrt() + eps))


@torch.no_grad()
def clip_gradients(parameters, most):
    """The norm of all gradients together, as one vector; if it is above `most`, all are made smaller in place
    by the same factor, to that norm. Parameters without a gradient do not count."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(float(g.float().square().sum()) for g in grads))
    if norm > most:
        for g in grads:
            g.mul_(most / norm)
    return norm


# ---- save and resume ----

def save_state(out, model, optimizer, step):
    """Write all that a run needs to go on after `step` to `out`, a path or a file: weights, the optimizer's
    state of each parameter, its settings. The tensors are in the form of safetensors, the rest is JSON in its
    metadata: nothing is pickled."""
    state = optimizer.state_dict()
    tensors = {f"model {name}": p.detach().clone() for name, p in model.state_dict().items()}
    numbers = {}
    for i, values in state["state"].items():
        for key, value in values.items():
            if torch.is_tensor(value):
                tensors[f"optimizer {i} {key}"] = value.clone()
            else:
                numbers[f"{i} {key}"] = value
    facts = {"step": step, "numbers": numbers, "groups": state["param_groups"]}
    data = save(tensors, {"facts": json.dumps(facts)})
    if hasattr(out, "write"):
        out.write(data)
    else:
        with open(out, "wb") as f:
            f.write(data)


def load_state(source, model, optimizer):
    """Put back what save_state() wrote; returns the step. Training goes on as if it had not stopped."""
    if hasattr(source, "read"):
        data = source.read()
    else:
        with open(source, "rb") as f:
            data = f.read()
    size = int.from_bytes(data[:8], "little")           # of the header, which load() hides
    facts = json.loads(json.loads(data[8:8 + size])["__metadata__"]["facts"])
    weights, state = {}, collections.defaultdict(dict)
    for name, tensor in load(data).items():
        kind, _, rest = name.partition(" ")
        if kind == "model":
            weights[rest] = tensor
        else:
            i, key = rest.split(" ")
            state[int(i)][key] = tensor
    for name, value in facts["numbers"].items():
        i, key = name.split(" ")
        state[int(i)][key] = value
    for new, old in zip(facts["groups"], optimizer.param_groups):
        for key, value in new.items():
            if isinstance(old.get(key), tuple):         # JSON has lists only
                new[key] = tuple(value)
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": dict(state), "param_groups": facts["groups"]})
    return facts["step"]


# ---- several processes ----
# The collectives are arguments. Tests hand in those of torch.distributed.

def rows_of(n, rank, world):
    """(first, end) of the rows that process `rank` of `world` keeps of a matrix of n rows, as torch.chunk
    cuts it: all have the same number, but the last ones may have fewer, or none."""
    each = math.ceil(n / world)
    return min(n, rank * each), min(n, (rank + 1) * each)


def sum_of_gradients(model, x, y, valid, all_reduce):
    """The mean loss of the batch of all processes. Each parameter's gradient becomes that of this mean.

    model(x, y) is the summed loss of this process's rows; `valid` is the number of targets that are scored
    on all processes together. all_reduce(tensor) replaces a tensor by its sum over the processes.
    """
    loss = model(x, y) / valid
    loss.backward()
    for p in model.parameters():
        if p.grad is None:              # a process without a target takes part all the same
            p.grad = torch.zeros_like(p)
        all_reduce(p.grad)
    loss = loss.detach()
    all_reduce(loss)
    return loss


def reduce_scatter(grad, all_reduce):
    """The rows_of() this process of the sum of all processes' `grad` (n, ...)."""
    whole = grad.clone()
    all_reduce(whole)
    first, end = rows_of(len(grad), *parallel.place())
    return whole[first:end]


def norm_of_rows(rows, all_reduce):
    """The norm of all gradients, of which this process keeps `rows`, a list of tensors."""
    squares = torch.zeros((), dtype=torch.float64)
    for part in rows:
        squares += part.double().square().sum()
    all_reduce(squares)
    return float(squares.sqrt())


def gather(rows, n, all_gather):
    """The whole matrix of n rows, of which each process keeps its rows_of(). all_gather(parts, mine) fills
    the list `parts`, a tensor for each process, with the tensors `mine` of all; all have one shape."""
    _, world = parallel.place()
    most = math.ceil(n / world)
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[:len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    all_gather(parts, padded)
    return torch.cat(parts)[:n]


# ---- evaluation ----

def bits_per_byte(nats, text):
    """The loss that can be compared between tokenizers: `nats`, summed over all tokens of `text`, in bits per
    byte of its UTF-8."""
    return nats / math.log(2) / len(text.encode())
