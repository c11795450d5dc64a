"""From the logits of a model to text.

How one token is drawn, what a full cache forgets, how a batch of prompts is continued, which text may be
shown already. sample.py is the command; evaluations use continuations() too.

Letters: R rows, prompts times samples   T tokens   V vocabulary   S tokens a cache has room for
"""
import codecs
import time
import unicodedata
from dataclasses import dataclass

import torch

from model import Cache, alibi, rope

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


def candidates(logits, draw, seen=()):
    """(p, ids) of the tokens that may follow logits (V,). `seen` are the ids of the text so far."""
    if draw.penalty != 1 and len(seen):
        seen = torch.tensor(seen)
        score = logits[seen]
        logits = logits.clone()     # a negative score is multiplied, or the token would become likelier
        logits[seen] = torch.where(score > 0, score / draw.penalty, score * draw.penalty)
    if draw.temperature < 1e-6:     # float32 cannot divide by much less
        return torch.ones(1), logits.argmax().view(1)
    all_p = ((logits - logits.max()) / draw.temperature).softmax(-1)
    if draw.top_k is None and draw.top_p == 1 and draw.min_p == 0:
        return all_p, torch.arange(len(all_p))
    p, ids = all_p.topk(min(draw.top_k or FIRST, len(all_p)))       # the likeliest first
    if draw.top_k:
        p = p / p.sum()
    elif p.sum() < draw.top_p and p[-1] >= draw.min_p * p[0]:       # more than the FIRST may follow
        p, ids = all_p.sort(descending=True)
    keep = (p.cumsum(-1) - p < draw.top_p) & (p >= draw.min_p * p[0])       # the likeliest always
    p, ids = p[keep], ids[keep]
    return p / p.sum(), ids


def choose(logits, draw, generator, seen=()):
    """One id, drawn from candidates()."""
    p, ids = candidates(logits, draw, seen)
    reach = p.double().cumsum(-1)
    u = torch.rand(1, generator=generator, dtype=torch.float64) * reach[-1]
    return int(ids[torch.searchsorted(reach, u, right=True).clamp(max=len(ids) - 1)])


# ---- the cache ----

def new_cache(cfg, R, S, pad, like):
    """A Cache of the same device and dtype as the tensor `like`."""
    try:
        return Cache(cfg, R, S, pad, like.device, like.dtype)
    except RuntimeError as e:
        raise ValueError(f"there is no memory for the keys and values of {R} texts of {S:,} tokens; "
                         "use fewer tokens, a smaller window or batch") from e


def copy_rows(cache, index, S):
    """A cache with copies of the rows of `index` (R,), and room for S tokens."""
    n = cache.n
    pad = None if cache.pad is None else cache.pad[index]
    new = new_cache(cache.cfg, len(index), S, pad, cache.k)
    new.k[:, :, :, :n] = cache.k[:, index, :, :n]
    new.v[:, :, :, :n] = cache.v[:, index, :, :n]
    new.n = n
    return new


# A kept key k (R, heads, T, width) goes from its position `was` (R, T) to `now`.

def turn_on(k, was, now, cfg):
    """RoPE has turned a key by its position: turn it on by the difference."""
    return rope(k, now - was, cfg.theta)


def write_anew(k, was, now, cfg):
    """ALiBi has put slope * position into the last coordinates of a key: write them anew."""
    k = k[..., :cfg.dim // cfg.heads]
    return alibi(k, k, k, now)[1]


MOVE = {"rope": turn_on, "alibi": write_anew, "none": lambda k, *_: k}


def slide(cache, m):
    """Forget the middle of each text: its first SINKS and last `m` tokens stay. Returns how many are gone.

    What stays gets the positions it would have if nothing had been between. Heads that look for nothing look
    at the first tokens; without them a model fails (Xiao et al. 2023). Padding goes first.
    """
    n = SINKS + m
    gone = cache.n - n
    device = cache.k.device
    pad = torch.zeros(cache.k.shape[1], dtype=torch.long, device=device) if cache.pad is None else cache.pad
    # which columns stay: (R, n)
    first = pad.clamp(max=gone).unsqueeze(1) + torch.arange(SINKS, device=device)
    last = torch.arange(cache.n - m, cache.n, device=device).expand(len(pad), m)
    columns = torch.cat((first, last), 1)
    # their positions before and after: a text begins at 0, behind its padding
    was = columns - pad.unsqueeze(1)
    pad = (pad - gone).clamp(min=0)
    now = torch.arange(n, device=device) - pad.unsqueeze(1)
    index = columns[:, None, :, None]
    for keys, values in zip(cache.k, cache.v):      # of one layer: (R, heads, S, width)
        keys[:, :, :n] = MOVE[cache.cfg.position](keys.take_along_dim(index, 2), was, now, cache.cfg)
        values[:, :, :n] = values.take_along_dim(index, 2)
    cache.n = n
    cache.pad = pad if pad.any() else None
    return gone


class Past:
    """A cache and what it has read: the `ids` of the first row, of which `gone` after SINKS are forgotten."""
    def __init__(self, cache=None):
        self.cache, self.ids, self.gone = cache, [], 0

    def rewind(self, ids):
        """Keep what `ids` begins with too; returns how many. The last id must be read for its logits."""
        same = 0
        while same < min(len(self.ids), len(ids) - 1) and self.ids[same] == ids[same]:
            same += 1
        if self.gone and same < SINKS + self.gone:      # the texts part in what is forgotten
            same = self.gone = 0
        self.cache.n = same - self.gone
        self.ids = list(ids[:same])
        return same

    def read_ids(self, model, ids):
        """Read ids (R, T); returns the logits (R, V) after the last. A full cache forgets its older half."""
        cache = self.cache
        S, T = cache.k.shape[3], ids.shape[1]
        at_once = T if cache.n + T <= S else max(1, S // 4)
        for part in ids.split(at_once, 1):
            if cache.n + part.shape[1] > S:
                self.gone += slide(cache, S // 2)
            logits = model(part, cache=cache, last=True)[:, -1]
            self.ids += part[0].tolist()
        return logits.float().cpu()


def cache_limit(cfg, longest, tokens, window=None):
    """The most tokens to keep, if `tokens` can be written after a prompt of `longest`. ALiBi does well at 4
    times the trained length (docs/decisions.md); other models have not learned such distances."""
    n = cfg.context
    if cfg.position == "alibi":
        return window or 4 * n
    if window is None and longest + tokens > n:
        fewer = f"--tokens {n - longest}, or " if longest < n else ""
        raise ValueError(f"a prompt of {longest} tokens and {tokens} new ones are more than the {n} this "
                         f"model was trained on; use {fewer}--window {n}, which forgets what is further back")
    if window and window > n:
        raise ValueError(f"--window {window}: use at most the {n} tokens this model was trained on")
    return window or n


# ---- a batch ----

@torch.inference_mode()
def generate(model, tokenizer, prompts, tokens, draw=Draw(), samples=1, seed=0, window=None, past=None):
    """Yield (row, id, logits (V,)) for each token drawn after `prompts`, lists of ids.

    row = prompt * samples + sample. A row ends at an id that ends a text, which is not yielded, or when the
    caller answers with send(True). Shorter prompts are padded on the left, and each row has its own random
    generator, so a row gets the same text alone and in a batch. There are two exceptions: all rows slide when
    the longest is full, and bfloat16 products of other sizes round differently. `past` has room for one row.
    """
    weight, longest = model.embed.weight, max(map(len, prompts))
    limit = cache_limit(model.cfg, longest, tokens, window)
    pad = torch.tensor([longest - len(p) for p in prompts], device=weight.device)
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=weight.device)
    S = limit if past else min(limit, longest + tokens)
    past = past or Past()
    if not past.cache:
        past.cache = new_cache(model.cfg, len(prompts), S, pad if pad.any() else None, weight)
    logits = past.read_ids(model, ids[:, past.rewind(prompts[0]):])
    if samples > 1:                                     # a prompt is read once for all its samples
        each = torch.arange(len(prompts)).repeat_interleave(samples)
        logits = logits[each]
        past = Past(copy_rows(past.cache, each.to(weight.device), S))
    rows = range(len(prompts) * samples)
    generators = [torch.Generator().manual_seed(seed + r % samples) for r in rows]
    seen = [list(prompts[r // samples]) for r in rows]
    going = set(rows)
    for n in range(tokens):
        drawn = [0] * len(rows)
        for r in sorted(going):
            row = logits[r, :tokenizer.vocab]           # the embedding may have more rows: they mean nothing
            drawn[r] = choose(row, draw, generators[r], seen[r])
            seen[r].append(drawn[r])
            if drawn[r] in tokenizer.ends or (yield r, drawn[r], row):
                going.discard(r)
        if not going or n + 1 == tokens:
            return
        logits = past.read_ids(model, torch.tensor(drawn, device=weight.device).unsqueeze(1))


# ---- text ----

def settled(text):
    """How many characters of `text` cannot change by what follows. settled("ab cd") -> 4

    An accent may still come to the last one. Letters that run from right to left change their shape with
    their neighbours, so such a word is shown whole.
    """
    n = len(text)
    if not n or text[-1].isspace():
        return n
    n -= 1
    while n and unicodedata.category(text[n])[0] == "M":    # an accent belongs to the letter before it
        n -= 1
    if unicodedata.bidirectional(text[n]) in ("R", "AL"):
        while n and not text[n - 1].isspace():
            n -= 1
    return n


class Text:
    """Bytes of tokens to text that may be shown: whole characters, and nothing that may begin one of `stops`.

    `n`: number of tokens   `began`: time.perf_counter() at the first   `finish`: end, stop or length
    `tokens`: (id, log-probability, [(id, log-probability) of the likeliest]) of each, if asked for
    """
    def __init__(self, stops=()):
        self.stops = [s for s in stops if s]
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text, self.shown, self.stopped = "", 0, False
        self.tokens, self.n, self.began, self.finish = [], 0, None, None

    def add(self, piece, final=False):
        """Add bytes, the last ones if `final`; returns what can be shown now."""
        self.text += self.decoder.decode(piece, final)
        places = [self.text.find(s, self.shown) for s in self.stops]
        end = min((at for at in places if at >= 0), default=-1)
        if end >= 0:
            self.text, self.stopped = self.text[:end], True
        elif final:
            end = len(self.text)
        else:
            end = self.shown + settled(self.text[self.shown:len(self.text) - self.stop_begun()])
        new = self.text[self.shown:end]
        self.shown = end
        return new

    def stop_begun(self):
        """How many characters at the end of the text begin a stop string."""
        for n in range(max(map(len, self.stops), default=0), 0, -1):
            if self.text.endswith(tuple(s[:n] for s in self.stops)):
                return n
        return 0


def prompt_ids(tokenizer, prompt):
    """The ids of a string, or a list as it is. An empty text is the token that begins texts, or ends them."""
    ids = [*tokenizer.begin, *tokenizer.encode(prompt)] if isinstance(prompt, str) else list(prompt)
    ids = ids or [i for i in (tokenizer.bos, tokenizer.eos) if i is not None][:1]
    if not ids:
        raise ValueError("this tokenizer has no token that begins a text; give a prompt that is not empty")
    return ids


def continuations(model, tokenizer, prompts, tokens, stops=(), samples=1, logprobs=None, into=None,
                  **settings):
    """Yield (row, new text) as it becomes certain; the pieces of a row, joined, are its continuation.

    `prompts`: strings or lists of ids   `stops`: a text ends before these, one list for all or one per prompt
    `logprobs`: list log-probabilities, and so many likeliest tokens   `into`: a list that gets the Text of
    each row   `settings`: of generate()
    """
    if not stops or isinstance(stops[0], str):
        stops = [stops] * len(prompts)
    ids = [prompt_ids(tokenizer, p) for p in prompts]
    texts = [Text(stops[r // samples]) for r in range(len(prompts) * samples)]
    if into is not None:
        into += texts
    drawn = generate(model, tokenizer, ids, tokens, samples=samples, **settings)
    stopped = None
    while True:
        try:
            r, i, logits = drawn.send(stopped)
        except StopIteration:
            break
        text, piece = texts[r], tokenizer.bytes_of(i)
        if logprobs is not None:
            p = logits.log_softmax(-1)
            best = p.topk(min(logprobs, len(p)))
            text.tokens.append((i, float(p[i]), list(zip(best.indices.tolist(), best.values.tolist()))))
        if tokenizer.space and not text.n and prompts[r // samples] == "":
            piece = piece.removeprefix(b" ")            # SentencePiece puts a space before a text
        text.n += 1
        text.began = text.began or time.perf_counter()
        if new := text.add(piece):
            yield r, new
        stopped = text.stopped
    for r, text in enumerate(texts):
        text.finish = "length" if text.n == tokens else "end"
        if text.stopped:
            text.finish = "stop"
        elif new := text.add(b"", final=True):
            yield r, new
