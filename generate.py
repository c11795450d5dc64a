"""From the logits of a model to text.

How one token is drawn, what a full cache forgets, how a batch of prompts is continued, which text may be
shown already. sample.py is the command; evaluations use continuations() too.

Letters: R rows, prompts times samples   T tokens   V vocabulary   S tokens a cache has room for
"""
import codecs
import unicodedata
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from model import Cache, rope, rope_angles

SINKS = 4       # first tokens of a text, which are never forgotten
FIRST = 512     # likeliest tokens, looked at first: to sort 32,000 takes longer than a small model's step


# ---- one token ----

@dataclass
class Draw:
    """How the next token is drawn. Each filter works on what the one before it left."""
    temperature: float = 0.8    # 0: always the likeliest
    top_k: int | None = None    # among the k likeliest; None: all
    top_p: float = 1.0          # among the likeliest that make up p (nucleus sampling, Holtzman et al. 2019)
    min_p: float = 0.0          # among those at least this share as likely as the first (Nguyen et al. 2024)
    penalty: float = 1.0        # above 1, tokens of the text so far are less likely (Keskar et al. 2019)


def candidates(logits, draw, seen=None):
    """(p, ids), both (R, N), of the tokens that may follow logits (R, V): p is 0 for those left out. `seen`
    (R, V) is True for the tokens of the text so far."""
    if seen is not None:            # a negative score is multiplied, or the token would become likelier
        less = torch.where(logits > 0, logits / draw.penalty, logits * draw.penalty)
        logits = torch.where(seen, less, logits)
    if draw.temperature < 1e-6:     # float32 cannot divide by much less
        ids = logits.argmax(-1, keepdim=True)
        return torch.ones_like(ids, dtype=torch.float32), ids
    all_p = ((logits - logits.amax(-1, keepdim=True)) / draw.temperature).softmax(-1)
    if draw.top_k is None and draw.top_p == 1 and draw.min_p == 0:
        return all_p, torch.arange(all_p.shape[1], device=logits.device).expand_as(all_p)
    # to ask whether the FIRST are enough, the host would wait for a GPU: there all are sorted
    all_of_them = draw.top_k is None and logits.is_cuda
    V = all_p.shape[1]
    n = V if all_of_them else min(draw.top_k or FIRST, V)
    p, ids = all_p.topk(n) if n < V else all_p.sort(descending=True)        # the likeliest first
    if draw.top_k:
        p = p / p.sum(-1, keepdim=True)
    elif n < V:
        more = (p.sum(-1) < draw.top_p) & (p[:, -1] >= draw.min_p * p[:, 0])
        if more.any():                                          # more than the FIRST may follow in these rows
            every_p, every_id = all_p.sort(descending=True)
            room = (0, V - n)
            p = torch.where(more.unsqueeze(1), every_p, F.pad(p, room))
            ids = torch.where(more.unsqueeze(1), every_id, F.pad(ids, room))
    keep = (p.cumsum(-1) - p < draw.top_p) & (p >= draw.min_p * p[:, :1])   # the likeliest always
    return p * keep, ids


def choose(logits, draw, u, seen=None):
    """Ids (R,), drawn from candidates(); u (R,) are random numbers from 0 to 1, in float64."""
    p, ids = candidates(logits, draw, seen)
    reach = p.double().cumsum(-1)
    at = torch.searchsorted(reach, (u * reach[:, -1]).unsqueeze(1), right=True)
    return ids.gather(1, at.clamp(max=ids.shape[1] - 1)).squeeze(1)


# ---- the cache ----

def copy_rows(cache, index, S):
    """A cache with copies of the rows of `index` (R,), and room for S tokens."""
    n = cache.n
    pad = None if cache.pad is None else cache.pad[index]
    new = Cache(cache.cfg, len(index), S, pad, cache.k.device, cache.k.dtype)
    new.k[:, :, :, :n] = cache.k[:, index, :, :n]
    new.v[:, :, :, :n] = cache.v[:, index, :, :n]
    new.n = n
    return new


def slide(cache, m):
    """Forget the middle of each text: its first SINKS and last `m` tokens stay.

    What stays gets the positions it would have if nothing had been between: keys that RoPE has turned by
    their position are turned on by the difference. Heads that look for nothing look at the first tokens;
    without them a model fails (Xiao et al. 2023). Padding goes first: if there is less of it than has to go,
    the first tokens come from behind it, else every column moves and the rest of the padding stays.
    """
    n = SINKS + m
    gone = cache.n - n
    device = cache.k.device
    pad = torch.zeros(1, 1, dtype=torch.long, device=device) if cache.pad is None else cache.pad.unsqueeze(1)
    # column i of what stays comes from column old[:, i]: one of the first tokens from behind the padding
    i = torch.arange(n, device=device)
    old = i + torch.where(i < SINKS, pad.clamp(max=gone), gone)         # (R, n)
    # positions: a text begins at 0, behind its padding
    left = (pad - gone).clamp(min=0)
    was, now = old - pad, i - left
    index = old[:, None, :, None]
    cfg = cache.cfg
    for keys, values in zip(cache.k, cache.v):      # of one layer: (R, heads, S, width)
        kept = keys.take_along_dim(index, 2)
        if cfg.position == "rope":
            kept = rope(kept, rope_angles(now - was, kept.shape[-1], cfg.theta, cfg.scaling))
        keys[:, :, :n] = kept
        values[:, :, :n] = values.take_along_dim(index, 2)
    cache.n, cache.pad = n, left.squeeze(1).expand(cache.k.shape[1])


def read(model, cache, ids):
    """Read ids (R, T); returns the logits (R, V) after the last. A full cache keeps its first SINKS tokens
    and its newer half. What does not fit at once is read in quarters, so there is always room for the next
    part."""
    S, T = cache.k.shape[3], ids.shape[1]
    for part in ids.split(T if cache.n + T <= S else S // 4, 1):
        if cache.n + part.shape[1] > S:
            slide(cache, S // 2)
        logits = model(part, cache=cache, last=True)[:, -1]
    return logits.float()


def cache_limit(cfg, wanted, window=None):
    """The most tokens to keep of a text of `wanted`. ALiBi does well at 4 times the trained length
    (docs/decisions.md); other models have not learned such distances."""
    n = cfg.context
    if cfg.position == "alibi":
        return window or 4 * n
    if (window or wanted) > n:
        raise ValueError(f"{window or wanted} tokens, the prompt's too, are more than the {n} this model was "
                         f"trained on; use fewer, or --window {n}, which forgets what is further back")
    return window or n


# ---- a batch ----

def uniform(generators, n):
    """(R, n) random numbers from 0 to 1, each row from its own generator."""
    return torch.stack([torch.rand(n, generator=g, dtype=torch.float64) for g in generators])


def one_by_one(model, cache, logits, tokens, vocab, draw, generators, seen):
    """Yield (ids, logits (R, vocab) that they were drawn from) for each of `tokens` steps."""
    for n in range(tokens):
        own = logits[:, :vocab].cpu()       # the embedding may have more rows: they mean nothing
        ids = choose(own, draw, uniform(generators, 1)[:, 0], seen)
        yield ids.tolist(), own
        if n + 1 < tokens:
            if seen is not None:
                seen.scatter_(1, ids.unsqueeze(1), True)
            logits = read(model, cache, ids.unsqueeze(1).to(logits.device))


@torch.inference_mode()
def generate(model, tokenizer, prompts, tokens, draw=Draw(), samples=1, seed=0, window=None, ended=(),
             steps=one_by_one):
    """Yield (row, id, logits (V,)) for each token drawn after `prompts`, lists of ids.

    row = prompt * samples + sample. A row ends at an id that ends a text, which is not yielded, or when the
    caller adds it to the set `ended`. Shorter prompts are padded on the left, and each row has a random
    generator of its own, so it gets the same text alone and in a batch. There are two exceptions: all rows
    slide when the longest is full, and bfloat16 products of other sizes round differently. `steps` is
    one_by_one(), or a faster form of it that may leave out the logits.
    """
    weight, longest = model.embed.weight, max(map(len, prompts))
    S = min(cache_limit(model.cfg, longest + tokens, window), longest + tokens)
    pad = torch.tensor([longest - len(p) for p in prompts], device=weight.device)
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=weight.device)
    try:
        cache = Cache(model.cfg, len(prompts), S, pad if pad.any() else None, weight.device, weight.dtype)
    except RuntimeError as e:           # the allocator's
        raise ValueError(f"there is no memory for {len(prompts)} texts of {S:,} tokens; use fewer") from e
    logits = read(model, cache, ids)
    if samples > 1:                                     # a prompt is read once for all its samples
        each = torch.arange(len(prompts), device=weight.device).repeat_interleave(samples)
        cache, logits = copy_rows(cache, each, S), logits[each]
    rows = [p for p in prompts for _ in range(samples)]
    seen = None
    if draw.penalty != 1:
        seen = torch.zeros(len(rows), tokenizer.vocab, dtype=torch.bool)
        for row, p in zip(seen, rows):
            row[list(p)] = True
    generators = [torch.Generator().manual_seed(seed + r % samples) for r in range(len(rows))]
    going = set(range(len(rows)))
    for ids, logits in steps(model, cache, logits, tokens, tokenizer.vocab, draw, generators, seen):
        for r in sorted(going):
            if ids[r] in tokenizer.ends:
                going.discard(r)
            else:
                yield r, ids[r], logits[r] if logits is not None else None
        going.difference_update(ended)
        if not going:
            return


# ---- text ----

class Text:
    """What a row has written: `text`, whole characters up to the first of `stops`.

    `n`: its tokens   `finish`: end, stop or length   `logprobs`: a token_record() of each, if asked for
    """
    def __init__(self, stops=()):
        self.stops = [s for s in stops if s]
        self.held = max([1, *(len(s) - 1 for s in self.stops)])
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text, self.shown, self.n, self.finish, self.logprobs = "", 0, 0, None, []

    def add(self, piece, final=False):
        """Add bytes, the last ones if `final`. Returns what can be shown now. The last characters wait: they
        may begin a stop string, or an accent may come to them."""
        self.text += self.decoder.decode(piece, final)
        end = len(self.text)
        stops = [at for s in self.stops if (at := self.text.find(s, self.shown)) >= 0]
        if stops:
            end = min(stops)
            self.text, self.finish = self.text[:end], "stop"
        elif not final:
            end = max(self.shown, end - self.held)
            while end > self.shown and unicodedata.category(self.text[end])[0] == "M":     # an accent
                end -= 1
        new = self.text[self.shown:end]
        self.shown = end
        return new

    def record(self):
        """The text for JSON."""
        more = {"logprobs": self.logprobs} if self.logprobs else {}
        return {"text": self.text, "tokens": self.n, "finish": self.finish, **more}


def prompt_ids(tokenizer, prompt):
    """The ids of a string, or a list as it is. An empty text is the token that begins texts, or ends them."""
    ids = [*tokenizer.begin, *tokenizer.encode(prompt)] if isinstance(prompt, str) else list(prompt)
    ids = ids or [i for i in (tokenizer.bos, tokenizer.eos) if i is not None][:1]
    if not ids:
        raise ValueError("this tokenizer has no token that begins a text; give a prompt")
    return ids


def token_record(tokenizer, i, logits, k):
    """Token i for JSON: its log-probability, and the k likeliest in its place."""
    p = logits.log_softmax(-1)
    likeliest = p.topk(min(k, len(p))).indices.tolist()
    own, *top = [[j, tokenizer.bytes_of(j).decode("utf-8", "replace"), float(p[j])] for j in [i, *likeliest]]
    return {"id": i, "text": own[1], "logprob": own[2], "top": top}


def continuations(model, tokenizer, prompts, tokens, stops=(), samples=1, logprobs=None, into=None,
                  **settings):
    """Yield (row, new text) as it becomes certain; the pieces of a row, joined, are its continuation.

    `prompts`: strings or lists of ids   `stops`: a text ends before these, one list for all or one per prompt
    `logprobs`: keep log-probabilities, and so many likeliest tokens   `into`: a list that gets the Text of
    each row   `settings`: of generate()
    """
    if not stops or isinstance(stops[0], str):
        stops = [stops] * len(prompts)
    ids = [prompt_ids(tokenizer, p) for p in prompts]
    texts = [Text(stops[r // samples]) for r in range(len(prompts) * samples)]
    if into is not None:
        into += texts
    ended = set()
    for r, i, logits in generate(model, tokenizer, ids, tokens, samples=samples, ended=ended, **settings):
        text, piece = texts[r], tokenizer.bytes_of(i)
        if tokenizer.space and not text.n and prompts[r // samples] == "":
            piece = piece.removeprefix(b" ")            # SentencePiece puts a space before a text
        if logprobs is not None:
            text.logprobs.append(token_record(tokenizer, i, logits, logprobs))
        text.n += 1
        if new := text.add(piece):
            yield r, new
        if text.finish:
            ended.add(r)
    for r, text in enumerate(texts):
        if not text.finish:
            text.finish = "length" if text.n == tokens else "end"
            if new := text.add(b"", final=True):
                yield r, new
