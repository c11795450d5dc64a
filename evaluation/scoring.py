"""Scores of items (tasks.py): log-probabilities of choices, answers that a model writes, perplexity of texts.

    python evaluate.py runs/NAME --tasks who mine.jsonl
    score_items(model, tokenizer, tasks.load_items("who")[0])       # the same in a program of your own

The parts stand in the order of the work: texts to ids, ids to log-probabilities, then a judge_ function for
each kind of item. All is done as in lm-evaluation-harness; tools/harness.py compares the two item by item.

Letters: B rows   T tokens   V vocabulary
"""
import collections
import math
import re
import string
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

import generate
from data import IGNORE
from evaluation import tasks
from model import LOGITS, Cache

BEGIN = ("training", "harness")
# the scores as the output calls them
SHOWN = {"sum": "sum", "char": "per character", "byte": "per byte", "answer": 'after "Answer:"',
         "match": "match", "greedy": "greedy", "perplexity": "perplexity", "bits_per_byte": "bits per byte"}


def rule_scores(p, choice, after_answer):
    """{rule: score} of a choice from its log-probability `p`. LLaMA divides by the characters, or by
    P(choice | "Answer:"), whose logarithm is `after_answer` (section 3.1)."""
    text = choice.strip()
    return {"sum": p, "char": p / len(text), "byte": p / len(text.encode()), "answer": p - after_answer}


# ---- texts to ids ----

def ids_before(tokenizer, begin):
    """(ids before a context, ids before a continuation that has no context). A text in our training rows
    follows the end of another: tokenizer.begin has that. lm-evaluation-harness puts what the tokenizer
    itself puts there, <s> for LLaMA and nothing for BLOOM; and <s> where there would be no token at all."""
    first = [tokenizer.eos if tokenizer.bos is None else tokenizer.bos]
    if begin == "harness":
        return tokenizer.prompt, first
    return tokenizer.begin, tokenizer.begin or first


def encode(tokenizer, begin, pairs):
    """(context, continuation) texts to pairs of tuples of ids. The whole is encoded, and cut after as many
    ids as the context alone has. White space at the end of the context goes to the continuation, where the
    tokenizers put it."""
    some, none = ids_before(tokenizer, begin)
    moved = []
    for context, continuation in pairs:
        bare = context.rstrip()
        moved.append((bare, bare + context[len(bare):] + continuation))
    contexts, wholes = zip(*moved)
    texts = list(dict.fromkeys([*contexts, *wholes]))
    ids = dict(zip(texts, tokenizer.encode_batch(texts)))
    found = []
    for context, whole in moved:
        before = (*some, *ids[context]) if context else tuple(none)
        found.append((before, tuple(ids[whole][len(ids[context]):])))
    return found


def fit(pair, T, where):
    """(pair of ids, its context cut on the left to what a window of T tokens holds; whether it was cut)."""
    context, continuation = pair
    if not 0 < len(continuation) <= T:
        raise ValueError(f"{where}: what is scored has {len(continuation)} tokens of its own after the "
                         f"context; it must be 1 to {T}, the window. Leave the item out, or give --context")
    over = len(context) + len(continuation) - 1 - T         # the last token is predicted, not read
    return (context[max(0, over):], continuation), over > 0


def windows(ids, first, T):
    """A text's ids, after the one id `first`, as pairs of at most T tokens. Each token is scored once. The
    last pair has as much context as fits.

    windows([1, 2, 3, 4, 5], 0, 3) -> [((0,), (1, 2, 3)), ((2, 3), (4, 5))]
    """
    row, found = (first, *ids), []
    for start in range(0, len(ids), T):
        end = min(start + T, len(ids))
        found.append((row[max(0, end - T):start + 1], row[start + 1:end + 1]))
    return found


# ---- ids to log-probabilities ----

def target_scores(logits, targets):
    """(log-probability, whether it is the likeliest) of targets (B, T) by logits (B, T, V); 0 if IGNOREd."""
    logits = logits.float()
    p = -F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE, reduction="none")
    return p, logits.argmax(-1) == targets


def row_scores(model, ids, targets, cache=None, at_once=LOGITS):
    """target_scores() after ids (B, T) behind `cache`, a few columns at a time: at most `at_once` logits."""
    width = max(1, at_once // (len(ids) * model.cfg.vocab))
    if width < ids.shape[1] and cache is None:
        cache = Cache(model.cfg, *ids.shape, device=ids.device, dtype=model.embed.weight.dtype)
    p, likeliest = [], []
    for x, y in zip(ids.split(width, 1), targets.split(width, 1)):
        here = target_scores(model(x, cache=cache), y)
        p.append(here[0])
        likeliest.append(here[1])
    return torch.cat(p, 1), torch.cat(likeliest, 1)


def read_contexts(model, contexts):
    """(cache, logits (B, 1, V) after each) of contexts of ids, the longest first, padded on the left."""
    device, n = next(model.parameters()).device, len(contexts[0])
    pad = torch.tensor([n - len(c) for c in contexts], device=device)
    ids = torch.tensor([(0,) * (n - len(c)) + c for c in contexts], device=device)
    cache = Cache(model.cfg, len(contexts), n, pad if pad.any() else None, device, model.embed.weight.dtype)
    return cache, model(ids, cache=cache, last=True)


def read_continuations(model, cache, logits, rows, at_once):
    """[(log-probability, whether greedy decoding would write it)] of `rows`, a list of (number of the
    context, continuation), the longest first. They start from copies of the cache, and are padded on the
    right, where nothing looks."""
    T = len(rows[0][1])
    b = torch.tensor([context for context, _ in rows], device=logits.device)
    y = torch.tensor([k + (IGNORE,) * (T - len(k)) for _, k in rows], device=logits.device)     # (B, T)
    p, likeliest = target_scores(logits[b], y[:, :1])
    if T > 1:
        behind = generate.copy_rows(cache, b, cache.n + T - 1)
        rest = row_scores(model, y[:, :-1].clamp(min=0), y[:, 1:], behind, at_once)
        p, likeliest = torch.cat((p, rest[0]), 1), torch.cat((likeliest, rest[1]), 1)
    greedy = (likeliest | (y == IGNORE)).all(1)
    return list(zip(p.cpu().double().sum(1).tolist(), greedy.tolist()))


@torch.inference_mode()
def score(model, pairs, batch=16, tick=lambda n: None, at_once=LOGITS):
    """[(log-probability of the continuation, whether greedy decoding would write it)] of pairs (context,
    continuation) of ids.

    A context is read once for all its continuations, `batch` contexts of similar length at a time. Equal
    pairs are scored once, so equal choices tie in every batch.
    """
    follow = collections.defaultdict(list)
    for context, continuation in dict.fromkeys(pairs):
        follow[context].append(continuation)
    order = sorted(follow, key=lambda c: (-len(c), c))      # longest first: too little memory shows at once
    result = {}
    for first in range(0, len(order), batch):
        contexts = order[first:first + batch]
        cache, logits = read_contexts(model, contexts)
        rows = []
        for b, context in enumerate(contexts):
            rows += [(b, k) for k in follow[context]]
        rows.sort(key=lambda row: -len(row[1]))
        for at in range(0, len(rows), batch):
            part = rows[at:at + batch]
            for (b, k), found in zip(part, read_continuations(model, cache, logits, part, at_once)):
                result[contexts[b], k] = found
        tick(len(rows))
    return [result[pair] for pair in pairs]


# ---- what the items of each kind get ----

class Way(NamedTuple):
    """How the items of a task are read: by which model, in windows of T tokens, `batch` rows at once."""
    model: torch.nn.Module
    tokenizer: object
    begin: str              # one of BEGIN
    T: int
    batch: int
    tick: object            # called with the number of rows that are done


class Request(NamedTuple):
    item: int               # number of the item that asks
    context: str
    continuation: str


def mean(values):
    """(mean, standard error of it)"""
    m, n = sum(values) / len(values), len(values)
    if n == 1:
        return m, math.nan
    return m, math.sqrt(sum((v - m) ** 2 for v in values) / (n - 1) / n)


def score_requests(way, items, requests):
    """([[(log-probability, greedy)] of each item's requests, in order], how many items had a context cut)."""
    pairs, cut = [], set()
    texts = [(r.context, r.continuation) for r in requests]
    for request, pair in zip(requests, encode(way.tokenizer, way.begin, texts)):
        pair, was_cut = fit(pair, way.T, items[request.item].get("where", "an item"))
        pairs.append(pair)
        if was_cut:
            cut.add(request.item)
    found = [[] for _ in items]
    for request, result in zip(requests, score(way.model, pairs, way.batch, way.tick)):
        found[request.item].append(result)
    return found, len(cut)


def judge_choices(way, items, form):
    """Under each rule the choice with the highest score is chosen; "answer" only where it decides."""
    asked, after_answer = [], []
    for n, item in enumerate(items):
        contexts = tasks.as_list(item["context"])
        if len(contexts) == 1:
            contexts = contexts * len(item["choices"])
        asked += [Request(n, context, choice) for context, choice in zip(contexts, item["choices"])]
        after_answer += [Request(n, "Answer:", choice) for choice in item["choices"]]
    found, cut = score_requests(way, items, asked)
    rules, alone = ["sum", "char", "byte"], [[] for _ in items]
    if form.rule == "answer":
        rules.append("answer")
        alone, _ = score_requests(way, items, after_answer)
    each = []
    for item, own, free in zip(items, found, alone):
        scores, less = [p for p, _ in own], [p for p, _ in free]
        ways = zip(scores, item["choices"], less or [0.0] * len(scores))
        by_rule = [rule_scores(p, choice, q) for p, choice, q in ways]
        chosen = {rule: int(np.argmax([s[rule] for s in by_rule])) for rule in rules}
        each.append({"scores": scores + less, "greedy": [greedy for _, greedy in own], "chosen": chosen,
                     "right": {rule: chosen[rule] == item["label"] for rule in rules}})
    return {"cut": cut, "rule": form.rule, "chance": mean([1 / len(i["choices"]) for i in items])[0],
            **{rule: mean([e["right"][rule] for e in each]) for rule in rules}, "each": each}


def judge_targets(way, items, form):
    """The probability of the target, and whether greedy decoding writes it."""
    requests = [Request(n, item["context"], item["target"]) for n, item in enumerate(items)]
    found, cut = score_requests(way, items, requests)
    each = [{"scores": p, "right": {"greedy": greedy}} for (p, greedy), in found]
    return {"cut": cut, "rule": "greedy", "greedy": mean([e["right"]["greedy"] for e in each]),
            "perplexity": math.exp(-mean([e["scores"] for e in each])[0]), "each": each}


def judge_texts(way, items, form):
    """The probability of whole texts, in windows."""
    _, first = ids_before(way.tokenizer, way.begin)
    # lm-evaluation-harness scores the <s> that LLaMA's tokenizer puts before a text as well
    also = way.tokenizer.prompt if way.begin == "harness" else []
    numbers, pairs, tokens = [], [], 0
    for n, ids in enumerate(way.tokenizer.encode_batch([item["text"] for item in items])):
        parts = windows([*also, *ids], first[-1], way.T)
        pairs += parts
        numbers += [n] * len(parts)
        tokens += len(also) + len(ids)
    sums = [0.0] * len(items)
    for n, (p, _) in zip(numbers, score(way.model, pairs, way.batch, way.tick)):
        sums[n] += p
    size = sum(len(item["text"].encode()) for item in items)
    return {"cut": 0, "rule": "bits_per_byte", "bits_per_byte": -sum(sums) / math.log(2) / size,
            "perplexity": math.exp(-sum(sums) / tokens), "each": [{"scores": s} for s in sums]}


def judge_answers(way, items, form):
    """The answer that the model writes is one of the right ones."""
    texts, cut = written_answers(way, items, form.tokens)
    each = []
    for text, item in zip(texts, items):
        number = item.get("number", False)
        golds = {normal(gold, number) for gold in tasks.as_list(item["answer"])}
        each.append({"text": text, "right": {"match": normal(text, number) in golds}})
    return {"cut": cut, "rule": "match", "match": mean([e["right"]["match"] for e in each]), "each": each}


def written_answers(way, items, tokens):
    """([what greedy decoding writes after each context, up to one of the item's stops], how many contexts
    were cut). It writes at most `tokens` tokens, and at most half a window."""
    tokens = min(tokens, way.T // 2)
    contexts = [(item["context"].rstrip(), "") for item in items]
    ids = [list(context) for context, _ in encode(way.tokenizer, way.begin, contexts)]
    order = sorted(range(len(items)), key=lambda n: -len(ids[n]))
    stops = [tasks.as_list(item.get("stop", "\n")) for item in items]
    written = [None] * len(items)
    for first in range(0, len(order), way.batch):
        part, texts = order[first:first + way.batch], []
        prompts = [ids[n][tokens - way.T:] for n in part]
        for _ in generate.continuations(way.model, way.tokenizer, prompts, tokens, [stops[n] for n in part],
                                        into=texts, draw=generate.Draw(temperature=0)):
            pass
        for n, text in zip(part, texts):
            written[n] = text.text.strip()
        way.tick(len(part))
    return written, sum(len(i) > way.T - tokens for i in ids)


def normal(text, number=False):
    """An answer as it is compared: in lower case, without articles, punctuation and extra spaces (LLaMA,
    section 3.2); or its last `number`.

    normal("The  Louvre.") -> "louvre"   normal("so she has 1,200 eggs", number=True) -> "1200"
    """
    if number:
        found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
        return found[-1].replace(",", "") if found else ""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


JUDGES = {"choices": judge_choices, "answer": judge_answers, "target": judge_targets, "text": judge_texts}


def score_items(model, tokenizer, items, form=tasks.OWN, begin="training", T=None, batch=16,
                tick=lambda n: None):
    """What items of one kind get: {"items", "cut", "rule"; for each rule (accuracy, standard error), or a
    perplexity; "languages": {name: (accuracy under the rule that decides, standard error)}; "each": what
    each item got}."""
    kinds = sorted({tasks.kind_of(item) for item in items})
    if len(kinds) > 1:
        raise ValueError(f"a task has items of one kind; this has {' and '.join(kinds)}")
    way = Way(model, tokenizer, begin, T or model.cfg.context, batch, tick)
    result = JUDGES[kinds[0]](way, items, form)
    languages = collections.defaultdict(list)
    for item, got in zip(items, result["each"]):
        if "lang" in item and "right" in got:
            languages[item["lang"]].append(got["right"][result["rule"]])
    by_language = {lang: mean(right) for lang, right in sorted(languages.items())}
    return {"items": len(items), **result, "languages": by_language}
