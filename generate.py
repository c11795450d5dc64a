"""From the logits of a model to text: how a token is drawn, how a batch of prompts is continued from a cache, which text may be shown already.

sample.py is the command, evaluate.py uses it too. Read it from candidates() to continuations().

Letters: R rows, prompts times samples   T tokens   V vocabulary   S tokens the cache holds
"""
import codecs
import dataclasses
import time
import unicodedata

import torch

from model import Cache, alibi, rope

SINKS = 4               # first tokens of a text that are never forgotten

FIRST = 512             # likeliest tokens that are looked at first: to sort a whole vocabulary takes longer than a small model's step


@dataclasses.dataclass
class Draw:
    """How the next token is drawn. Each is a filter on what the one before it left; the likeliest token always stays."""
    temperature: float = 0.8        # 0: always the likeliest
    top_k: int | None = None        # among the k likeliest; None: all
    top_p: float = 1.0              # among the likeliest that make up p (nucleus sampling, Holtzman et al. 2019)
    min_p: float = 0.0              # among those at least this share as likely as the likeliest (Nguyen et al. 2024)
    penalty: float = 1.0            # scores of tokens that were there are divided by it (Keskar et al. 2019); negative ones multiplied, as transformers does


def candidates(logits, draw, seen=()):
    """(p, ids) of the tokens that may follow logits (V,), likeliest first unless all may. `seen`: ids of the text so far, for the penalty."""
    if draw.penalty != 1 and len(seen):
        seen, logits = torch.tensor(seen), logits.clone()
        logits[seen] = torch.where(logits[seen] > 0, logits[seen] / draw.penalty, logits[seen] * draw.penalty)
    if draw.temperature < 1e-6:         # 0, or what float32 cannot divide by
        return torch.ones(1), logits.argmax().view(1)
    p, ids = ((logits - logits.max()) / draw.temperature).softmax(-1), torch.arange(len(logits))
    if draw.top_k is None and draw.top_p == 1 and draw.min_p == 0:
        return p, ids
    all_p, n = p, min(draw.top_k or len(p), len(p))
    p, ids = all_p.topk(min(n, FIRST) if draw.top_k is None else n)
    if draw.top_k is None and p.sum() < draw.top_p and p[-1] >= draw.min_p * p[0]:
        p, ids = all_p.sort(descending=True)
    if draw.top_k:
        p = p / p.sum()
    keep = (p.cumsum(-1) - p < draw.top_p) & (p >= draw.min_p * p[0])       # the first always: nothing is before it, and it is as likely as itself
    p, ids = p[keep], ids[keep]
    return p / p.sum(), ids


def choose(logits, draw, generator, seen=()):
    """One id, drawn from candidates()."""
    p, ids = candidates(logits, draw, seen)
    reach = p.double().cumsum(-1)
    u = torch.rand(1, generator=generator, dtype=torch.float64) * reach[-1]
    return int(ids[torch.searchsorted(reach, u, right=True).clamp(max=len(ids) - 1)])


def copy_rows(cache, index, S):
    """A cache with copies of the rows of `index` (B,), and room for S tokens."""
    pad, n = None if cache.pad is None else cache.pad[index], cache.n
    new = Cache(cache.cfg, len(index), S, pad, cache.k.device, cache.k.dtype)
    new.k[:, :, :, :n], new.v[:, :, :, :n], new.n = cache.k[:, index, :, :n], cache.v[:, index, :, :n], n
    return new


def slide(cache, m):
    """Forget all but the first SINKS tokens of a text and its last `m`, and move these up to them, as if nothing had been between (Xiao
    et al. 2023: without the first tokens, on which heads rest that look for nothing, a model fails). Memory stays bounded; returns how
    many tokens are gone. A row that is shorter than that loses padding instead."""
    cfg = cache.cfg
    B, d = cache.k.shape[1], cache.n - SINKS - m
    pad = torch.zeros(B, dtype=torch.long, device=cache.k.device) if cache.pad is None else cache.pad
    index = torch.arange(SINKS + m, device=pad.device).repeat(B, 1)
    index = torch.where(index < SINKS, index + pad.clamp(max=d).unsqueeze(1), index + d)                # (B, SINKS + m)
    was, pad = index - pad.unsqueeze(1), (pad - d).clamp(min=0)
    now, D = torch.arange(SINKS + m, device=pad.device) - pad.unsqueeze(1), cfg.dim // cfg.heads
    for layer in range(len(cache.k)):
        k, v = (x[layer].transpose(1, 2)[torch.arange(B, device=pad.device).unsqueeze(1), index].transpose(1, 2) for x in (cache.k, cache.v))
        # keys that hold their position as coordinates are given new ones, keys that are turned are turned on by the difference
        if cfg.position == "rope":
            k = rope(k, now - was, cfg.theta)
        if cfg.position == "alibi":
            _, k, v = alibi(k[..., :D], k[..., :D], v[..., :D], now)
        cache.k[layer, :, :, :SINKS + m], cache.v[layer, :, :, :SINKS + m] = k, v
    cache.n, cache.pad = SINKS + m, pad if pad.any() else None
    return d


class Past:
    """What a conversation has in its cache of one row: `ids` in order, of which `gone` behind the first SINKS are forgotten."""
    def __init__(self, cache):
        self.cache, self.ids, self.gone = cache, [], 0

    def rewind(self, ids):
        """Go back to where the text `ids` parts from the one in the cache; returns how many of its ids need not be read again."""
        same = next((i for i, (a, b) in enumerate(zip(self.ids, ids[:-1])) if a != b), min(len(self.ids), len(ids) - 1))
        if self.gone and same < SINKS + self.gone:
            same = self.gone = 0
        self.cache.n, self.ids = same - self.gone, self.ids[:same]
        return same


def read(model, ids, cache, past=None):
    """Read ids (R, T) behind what `cache` has; returns the logits (R, V) of the last ones. A full cache slides on: it forgets the older half of its tokens."""
    S, T = cache.k.shape[3], ids.shape[1]
    for part in ids.split(T if cache.n + T <= S else max(1, S // 4), 1):
        if cache.n + part.shape[1] > S:
            gone = slide(cache, S // 2)
            if past:
                past.gone += gone
        logits = model(part, cache=cache, last=True)[:, -1]
        if past:
            past.ids += part[0].tolist()
    return logits.float().cpu()


def most(cfg, window=None):
    """The most tokens that are kept in a cache. RoPE models have not learned what is further away than the rows they were trained on; ALiBi's do well
    at several times that (docs/decisions.md)."""
    if cfg.position != "alibi" and (window or 0) > cfg.context:
        raise ValueError(f"--window {window}: with position={cfg.position} it is at most the {cfg.context} tokens this model was trained on")
    return window or cfg.context * (4 if cfg.position == "alibi" else 1)


def room(cfg, longest, tokens, window=None):
    """Tokens a cache needs for a prompt of `longest` and `tokens` new ones. Without a window a RoPE model stops at what it was trained on."""
    if cfg.position != "alibi" and window is None and longest + tokens > cfg.context:
        left = cfg.context - longest
        raise ValueError(f"a prompt of {longest} tokens and {tokens} new ones are more than the {cfg.context} this model was trained on, which position={cfg.position} does not go beyond; "
                         + (f"use --tokens {left} or less" if left > 0 else "shorten the prompt") + f", or --window {cfg.context} to let it forget what is further back")
    return min(longest + tokens, most(cfg, window))


@torch.inference_mode()
def generate(model, tokenizer, prompts, tokens, draw=Draw(), samples=1, seed=0, window=None, past=None):
    """Yield (row, id, logits (V,)) as ids are drawn for `prompts`, a list of lists of ids, row = prompt * samples + sample. After an id that ends a text, or
    if the caller sends True, a row gets no more. Reading and writing are one path: the prompt is read in a few large steps, then tokens one by one.

    Shorter prompts are padded on the left; every row has a generator of its own, so it gets the same text alone or in a batch, as long as nothing is
    forgotten: a batch slides when its longest row is full. In bfloat16 products of other sizes round otherwise, and texts may part."""
    device, cfg, longest = next(model.parameters()).device, model.cfg, max(map(len, prompts))
    S, pad = room(cfg, longest, tokens, window), torch.tensor([longest - len(p) for p in prompts], device=device)
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    if past:
        ids, cache = ids[:, past.rewind(prompts[0]):], past.cache
    else:
        cache = Cache(cfg, len(prompts), S, pad if pad.any() else None, device, model.embed.weight.dtype)
    logits = read(model, ids, cache, past)
    if samples > 1:                         # a prompt is read once for all its samples
        each = torch.arange(len(prompts)).repeat_interleave(samples)
        logits, cache = logits[each], copy_rows(cache, each.to(device), cache.k.shape[3])
    rows = range(len(prompts) * samples)
    generators, seen = [torch.Generator().manual_seed(seed + r % samples) for r in rows], [list(prompts[r // samples]) for r in rows]
    going = set(rows)
    for n in range(tokens):
        drawn = [0] * len(rows)
        for r in sorted(going):
            row = logits[r, :tokenizer.vocab]                           # rows of padding are never drawn
            drawn[r] = choose(row, draw, generators[r], seen[r] if draw.penalty != 1 else ())
            seen[r].append(drawn[r])
            if drawn[r] in tokenizer.ends or (yield r, drawn[r], row):
                going.discard(r)
        if not going or n + 1 == tokens:
            return
        logits = read(model, torch.tensor(drawn, device=device).unsqueeze(1), cache, past)


def settled(text):
    """How many characters of `text` what follows cannot change: not the last one, an accent may come to it; nor the last word of a script that is written
    from the right, whose letters take their shape from their neighbours. settled("ab cd") -> 4"""
    def joined(a, b):               # b is part of the sign that a begins: an accent, an emoji of several, a flag of two letters
        return unicodedata.category(b)[0] == "M" or "\u200d" in (a, b) or "\U0001f3fb" <= b <= "\U0001f3ff" or "\U0001f1e6" <= min(a, b) <= max(a, b) <= "\U0001f1ff"
    n = len(text)
    if n and not text[-1].isspace():
        n -= 1
        while n and joined(text[n - 1], text[n]):
            n -= 1
        if unicodedata.bidirectional(text[n]) in ("R", "AL"):
            while n and not text[n - 1].isspace():
                n -= 1
    return n


class Text:
    """Bytes of tokens to text that may be shown: whole characters with their accents, words of right-to-left scripts whole, and nothing that could be the
    beginning of a stop string. `tokens`: (id, log-probability, [(id, log-probability) of alternatives]) if asked for;
    `n`: how many tokens; `began`: when the first was there, by time.perf_counter(); `finish`: why it ended."""
    def __init__(self, stops=()):
        self.stops, self.decoder = [s for s in stops if s], codecs.getincrementaldecoder("utf-8")("replace")
        self.text, self.shown, self.stopped = "", 0, False
        self.tokens, self.n, self.began, self.finish = [], 0, None, None

    def add(self, piece, final=False):
        """The text that can be shown now."""
        self.text += self.decoder.decode(piece, final)
        found = [at for s in self.stops if (at := self.text.find(s, max(0, self.shown - len(s)))) >= 0]
        end = len(self.text)
        if found:
            end, self.stopped = min(found), True
            self.text = self.text[:end]
        elif not final:
            end -= max((n for s in self.stops for n in range(1, len(s)) if self.text.endswith(s[:n])), default=0)
            end = max(self.shown, self.shown + settled(self.text[self.shown:end]))
        new, self.shown = self.text[self.shown:end], max(end, self.shown)
        return new


def continuations(model, tokenizer, prompts, tokens, stops=(), samples=1, logprobs=None, into=None, **settings):
    """Yield (row, new text) for a list of strings, as it becomes certain; joined they are each row's continuation. `into`: a list that gets the rows' Texts;
    `logprobs`: how many alternatives each token's log-probability is listed with, None for no list."""
    # where a tokenizer puts nothing before a text, an empty one is a beginning all the same
    ids = [[*tokenizer.begin, *tokenizer.encode(p)] or [i for i in (tokenizer.bos, tokenizer.eos) if i is not None][:1] for p in prompts]
    if not all(ids):
        raise ValueError("this tokenizer has no token that begins a text; give a prompt that is not empty")
    texts = [Text(stops) for _ in range(len(prompts) * samples)]
    if into is not None:
        into += texts
    words, stopped = generate(model, tokenizer, ids, tokens, samples=samples, **settings), None
    while True:
        try:
            r, i, logits = words.send(stopped)
        except StopIteration:
            break
        text, piece = texts[r], tokenizer.bytes_of(i)
        if logprobs is not None:
            p = logits.log_softmax(-1)
            best = p.topk(min(logprobs, len(p)))
            text.tokens.append((i, float(p[i]), list(zip(best.indices.tolist(), best.values.tolist()))))
        if tokenizer.space and not prompts[r // samples] and not text.n and piece.startswith(b" "):
            piece = piece[1:]                   # the space that SentencePiece puts before a text
        text.n, text.began = text.n + 1, text.began or time.perf_counter()
        if new := text.add(piece):
            yield r, new
        stopped = text.stopped
    for r, text in enumerate(texts):
        text.finish = "stop" if text.stopped else "end" if text.n < tokens else "length"
        if not text.stopped and (new := text.add(b"", final=True)):
            yield r, new
