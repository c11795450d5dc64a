"""Scores of tasks: log-probabilities of choices, greedy answers, perplexity of texts."""
import collections
import math
import re
import string

import numpy as np
import torch
import torch.nn.functional as F

import generate
from data import IGNORE
from evaluation import tasks
from model import LOGITS, Cache

# what stands before a text that has a context, and before one that has none. In the training rows a text follows the end of another; lm-evaluation-harness
# puts what the tokenizer itself puts there: <s> for LLaMA, nothing for BLOOM, and <s> where there would be no token at all
BEGIN = {"training": lambda t: ([t.eos, *t.prompt], [t.eos, *t.prompt]), "harness": lambda t: (t.prompt, [t.eos if t.bos is None else t.bos])}
# log-probability of a choice, the choice, its log-probability after "Answer:" -> score
RULES = {"sum": lambda p, text, free: p, "char": lambda p, text, free: p / len(text.strip()), "byte": lambda p, text, free: p / len(text.strip().encode()),
         "answer": lambda p, text, free: p - free}
SHOWN = {"sum": "sum", "char": "per character", "byte": "per byte", "answer": 'after "Answer:"'}


def encode(tokenizer, begin, pairs):
    """(context, continuation) texts to tuples of ids. The whole is encoded, and cut where the context's own ids end; white space at the end of the
    context goes to the continuation, where the tokenizers put it. All as in lm-evaluation-harness: scores can be compared to the last item."""
    some, none = BEGIN[begin](tokenizer)
    moved = [(c.rstrip(), c[len(c.rstrip()):] + k) for c, k in pairs]
    texts = list({t: None for c, k in moved for t in (c, c + k)})
    ids = dict(zip(texts, tokenizer.encode_batch(texts)))
    return [((*some, *ids[c]) if c else tuple(none), tuple(ids[c + k][len(ids[c]):])) for c, k in moved]


def fit(pair, T, where):
    """(pair of ids, its context cut on the left to what a window of T tokens holds; whether it was cut)."""
    context, continuation = pair
    if not 0 < len(continuation) <= T:
        raise ValueError(f"{where}: what is scored has {len(continuation)} tokens of its own after the context; it must be 1 to {T}, the window. "
                         "Leave the item out, or for a longer window give --context")
    over = len(context) + len(continuation) - 1 - T         # the last token is predicted, not read
    return (context[max(0, over):], continuation), over > 0


def windows(ids, first, T):
    """A text's ids, after the one id `first`, as pairs of at most T tokens, each token scored once. The last one has as much context as fits:
    windows([1, 2, 3, 4, 5], 0, 3) -> [((0,), (1, 2, 3)), ((2, 3), (4, 5))]"""
    row = (first, *ids)
    ends = [(start, min(start + T, len(ids))) for start in range(0, len(ids), T)]
    return [(row[max(0, end - T):start + 1], row[start + 1:end + 1]) for start, end in ends]


def read(model, ids, targets, cache=None):
    """(B, T) log-probability of each target after ids (B, T), 0 where IGNOREd; (B, T) whether it is the likeliest. Few columns at a time: logits are large."""
    width = max(1, LOGITS // (len(ids) * model.cfg.vocab))
    if width < ids.shape[1] and cache is None:
        cache = Cache(model.cfg, *ids.shape, device=ids.device, dtype=model.embed.weight.dtype)
    parts = []
    for x, y in zip(ids.split(width, 1), targets.split(width, 1)):
        logits = model(x, cache=cache).float()                                                          # (B, width, V)
        parts.append((-F.cross_entropy(logits.transpose(1, 2), y, ignore_index=IGNORE, reduction="none"), logits.argmax(-1) == y))
    return [torch.cat(part, 1) for part in zip(*parts)]


@torch.inference_mode()
def score(model, pairs, batch=16, tick=lambda n: None):
    """[(log-probability of the continuation, whether greedy decoding would write it)] of pairs (context, continuation) of ids.

    A context is read once for all its continuations: `batch` contexts of similar length, padded on the left, fill a cache; the continuations then
    start from copies of its rows, padded on the right, where nothing looks. Equal pairs are scored once, so equal choices tie in every batch."""
    device, dtype, follow = next(model.parameters()).device, model.embed.weight.dtype, collections.defaultdict(list)
    for context, continuation in dict.fromkeys(pairs):
        follow[context].append(continuation)
    order, result = sorted(follow, key=lambda c: (-len(c), c)), {}            # the longest first: what does not fit in memory fails at once
    for contexts in (order[i:i + batch] for i in range(0, len(order), batch)):
        n = len(contexts[0])
        pad = torch.tensor([n - len(c) for c in contexts], device=device)
        cache = Cache(model.cfg, len(contexts), n, pad if pad.any() else None, device, dtype)
        logits = model(torch.tensor([(0,) * (n - len(c)) + c for c in contexts], device=device), cache=cache, last=True)[:, 0].float()      # (contexts, V)
        rows = sorted(((b, k) for b, c in enumerate(contexts) for k in follow[c]), key=lambda row: -len(row[1]))
        for part in (rows[i:i + batch] for i in range(0, len(rows), batch)):
            b, T = torch.tensor([b for b, _ in part], device=device), len(part[0][1])
            y = torch.tensor([k + (IGNORE,) * (T - len(k)) for _, k in part], device=device)                # (B, T)
            p, likeliest = -F.cross_entropy(logits[b], y[:, 0], reduction="none").unsqueeze(1), (logits[b].argmax(-1) == y[:, 0]).unsqueeze(1)
            if T > 1:
                p, likeliest = (torch.cat(both, 1) for both in zip((p, likeliest), read(model, y[:, :-1].clamp(min=0), y[:, 1:], generate.copy_rows(cache, b, n + T - 1))))
            for (b, k), total, all_likeliest in zip(part, p.double().sum(1).tolist(), (likeliest | (y == IGNORE)).all(1).tolist()):
                result[contexts[b], k] = total, all_likeliest
        tick(sum(len(follow[c]) for c in contexts))
    return [result[pair] for pair in pairs]


def write(model, tokenizer, begin, items, T, tokens, batch=16, tick=lambda n: None):
    """([greedy continuation of each item's context, up to one of its stops], how many contexts were cut): at most `tokens` tokens, half a window at most."""
    texts, tokens = [None] * len(items), min(tokens, T // 2)
    ids = [context for context, _ in encode(tokenizer, begin, [(i["context"].rstrip(), "") for i in items])]
    order = sorted(range(len(items)), key=lambda i: -len(ids[i]))
    for part in (order[i:i + batch] for i in range(0, len(order), batch)):
        drawn = [generate.Text(items[i].get("stop", ["\n"])) for i in part]
        words = generate.generate(model, tokenizer, [list(ids[i][tokens - T:]) for i in part], tokens, generate.Draw(temperature=0))
        stopped = None
        while True:
            try:
                b, word, _ = words.send(stopped)
            except StopIteration:
                break
            drawn[b].add(tokenizer.bytes_of(word))
            stopped = drawn[b].stopped
        for i, text in zip(part, drawn):
            if not text.stopped:
                text.add(b"", final=True)
            texts[i] = text.text.strip()
        tick(len(part))
    return texts, sum(len(i) > T - tokens for i in ids)


def normal(text, number=False):
    """An answer as it is compared: lower case, without articles, punctuation and extra spaces (LLaMA, section 3.2); or its last number.
    normal("The  Louvre.") -> "louvre";   normal("so she has 1,200 eggs", number=True) -> "1200" """
    if number:
        found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
        return found[-1].replace(",", "") if found else ""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def mean(values):
    """(mean, standard error of it)"""
    m, n = sum(values) / len(values), len(values)
    return m, math.sqrt(sum((v - m) ** 2 for v in values) / (n - 1) / n) if n > 1 else math.nan


def judge(model, tokenizer, items, form, begin, T, batch, tick):
    """score_items() without the languages."""
    n = len(items)
    if len(kinds := {tasks.kind_of(i) for i in items}) > 1:
        raise ValueError(f"a task has items of one kind; this has {' and '.join(sorted(kinds))}")
    kind, = kinds
    if kind == "answer":
        texts, cut = write(model, tokenizer, begin, items, T, form.tokens, batch, tick)
        golds = [[i["answer"]] if isinstance(i["answer"], str) else i["answer"] for i in items]
        right = [normal(t, i.get("number")) in {normal(g, i.get("number")) for g in gold} for t, i, gold in zip(texts, items, golds)]
        return {"items": n, "cut": cut, "rule": "match", "match": mean(right), "each": [{"text": t, "right": {"match": r}} for t, r in zip(texts, right)]}
    if kind == "text":
        some, none = BEGIN[begin](tokenizer)
        # the harness scores the <s> that LLaMA's tokenizer puts before a text as well
        ids = [(tokenizer.prompt if begin == "harness" else []) + i for i in tokenizer.encode_batch([i["text"] for i in items])]
        pairs = [windows(i, none[-1], T) for i in ids]
        p = iter(score(model, [pair for part in pairs for pair in part], batch, tick))
        sums = [sum(next(p)[0] for _ in part) for part in pairs]
        size, tokens = sum(len(i["text"].encode()) for i in items), sum(map(len, ids))
        return {"items": n, "cut": 0, "rule": "bits_per_byte", "bits_per_byte": -sum(sums) / math.log(2) / size, "perplexity": math.exp(-sum(sums) / tokens),
                "each": [{"scores": s} for s in sums]}
    choices = [i["choices"] if kind == "choices" else [i["target"]] for i in items]
    asked = [list(zip([i["context"]] * len(c) if isinstance(i["context"], str) else i["context"], c)) for i, c in zip(items, choices)]
    rules = [r for r in RULES if r != "answer" or r == form.rule]
    if "answer" in rules:
        asked = [a + [("Answer:", c) for _, c in a] for a in asked]
    pairs, cut, at = [], 0, iter(encode(tokenizer, begin, [pair for a in asked for pair in a]))
    for i, a in zip(items, asked):
        fitted = [fit(next(at), T, i.get("where", "an item")) for _ in a]
        pairs, cut = pairs + [pair for pair, _ in fitted], cut + any(was for _, was in fitted)
    p, each = iter(score(model, pairs, batch, tick)), []
    for i, c, a in zip(items, choices, asked):
        got = [next(p) for _ in a]
        free = [s for s, _ in got[len(c):]] or [0.0] * len(c)
        chosen = {r: int(np.argmax([RULES[r](s, text, f) for (s, _), text, f in zip(got, c, free)])) for r in rules}
        each.append({"scores": [s for s, _ in got], "greedy": [g for _, g in got[:len(c)]], "chosen": chosen, "right": {r: chosen[r] == i.get("label") for r in rules}})
    if kind == "target":
        return {"items": n, "cut": cut, "rule": "greedy", "greedy": mean([e["greedy"][0] for e in each]), "perplexity": math.exp(-mean([e["scores"][0] for e in each])[0]),
                "each": [{"scores": e["scores"][0], "right": {"greedy": e["greedy"][0]}} for e in each]}
    return {"items": n, "cut": cut, "rule": form.rule, "chance": mean([1 / len(c) for c in choices])[0], **{r: mean([e["right"][r] for e in each]) for r in rules}, "each": each}


def score_items(model, tokenizer, items, form=tasks.OWN, begin="training", T=None, batch=16, tick=lambda n: None):
    """Scores of items (tasks.py) of one kind: {"items", "cut", "rule", for each rule "sum" ... or "match" or "greedy": (accuracy, standard error), or "perplexity"
    ...; "languages": {name: (accuracy under the rule that decides, standard error)}; "each": what each item got}."""
    result, langs = judge(model, tokenizer, items, form, begin, T or model.cfg.context, batch, tick), collections.defaultdict(list)
    for item, e in zip(items, result["each"]):
        if "lang" in item and "right" in e:
            langs[item["lang"]].append(e["right"][result["rule"]])
    return {**result, "languages": {lang: mean(right) for lang, right in sorted(langs.items())}}


