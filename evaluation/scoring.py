"""Scores of items (tasks.py): log-probabilities of choices, and answers that a model writes.

    score_items(model, tokenizer, tasks.load_items("who")[0])       # what evaluate.py calls

Texts become ids, ids get log-probabilities, and these decide what an item gets. All is done as in
lm-evaluation-harness; tools/harness.py compares the two item by item.

Letters: B rows   T tokens   V vocabulary
"""
import collections
import itertools
import math
import re
import string
import sys

import numpy as np
import torch
import torch.nn.functional as F

import generate
from data import IGNORE
from evaluation.tasks import OWN, as_list, kind_of
from fast import decode
from model import LOGITS, Cache

# ---- texts to ids ----

def encode(tokenizer, pairs):
    """(context, continuation) texts to pairs of tuples of ids. The whole is encoded, and cut after as many
    ids as the context alone has. White space at the end of the context goes to the continuation, where the
    tokenizers put it."""
    contexts = tokenizer.encode_batch([context.rstrip() for context, _ in pairs])
    wholes = tokenizer.encode_batch([context + continuation for context, continuation in pairs])
    found = []
    for ids, whole in zip(contexts, wholes):
        context = generate.prompt_ids(tokenizer, [*tokenizer.begin, *ids])      # one id at least
        found.append((tuple(context), tuple(whole[len(ids):])))
    return found


def pairs_of(item, tokenizer, rule):
    """The pairs of ids that are scored for an item."""
    choices, contexts = item.get("choices") or [item["target"]], as_list(item["context"])
    texts = list(zip(contexts if len(contexts) > 1 else contexts * len(choices), choices))
    if rule == "answer":
        texts += [("Answer:", choice) for choice in choices]
    return encode(tokenizer, texts)


def fit(pair, T, item):
    """The pair with its context cut on the left to what a window of T tokens holds."""
    context, continuation = pair
    n, where = len(continuation), item.get("where", "an item")
    if not 0 < n <= T:
        raise ValueError(f"{where}: {n} tokens are scored, not 1 to {T}, the window")
    over = len(context) + n - 1 - T         # the last token is predicted, not read
    return context[max(0, over):], continuation


# ---- ids to log-probabilities ----

def row_scores(model, ids, targets, cache=None, at_once=LOGITS):
    """(log-probability, whether it is the likeliest) of targets (B, T) after ids (B, T) behind `cache`; 0 if
    IGNOREd. A few columns are read at a time: at most `at_once` logits."""
    cache = cache or Cache(model.cfg, *ids.shape, device=ids.device, dtype=model.embed.weight.dtype)
    width = max(1, at_once // (len(ids) * model.cfg.vocab))
    p, likeliest = [], []
    for x, y in zip(ids.split(width, 1), targets.split(width, 1)):
        logits = model(x, cache=cache).float()                          # (B, width, V)
        p.append(-F.cross_entropy(logits.transpose(1, 2), y, ignore_index=IGNORE, reduction="none"))
        likeliest.append(logits.argmax(-1) == y)
    return torch.cat(p, 1), torch.cat(likeliest, 1)


def read_contexts(model, contexts):
    """The cache after all but the last id of each of `contexts`, padded on the left."""
    weight, n = model.embed.weight, max(map(len, contexts))
    pad = torch.tensor([n - len(c) for c in contexts], device=weight.device)
    cache = Cache(model.cfg, len(contexts), n - 1, pad if pad.any() else None, weight.device, weight.dtype)
    if n > 1:
        ids = torch.tensor([(0,) * (n - len(c)) + c[:-1] for c in contexts], device=weight.device)
        model(ids, cache=cache, last=True)
    return cache


def read_continuations(model, cache, rows):
    """score() of `rows`, a list of (row of the cache, pair). They start from copies of the cache, and are
    padded on the right, where nothing looks."""
    numbers, pairs = zip(*rows)
    device, T = cache.k.device, max(len(k) for _, k in pairs)
    b = torch.tensor(numbers, device=device)
    last = torch.tensor([context[-1:] for context, _ in pairs], device=device)                  # (B, 1)
    y = torch.tensor([k + (IGNORE,) * (T - len(k)) for _, k in pairs], device=device)           # (B, T)
    x = torch.cat((last, y[:, :-1].clamp(min=0)), 1)
    p, likeliest = row_scores(model, x, y, generate.copy_rows(cache, b, cache.n + T))
    p, greedy = p.cpu().double().sum(1), (likeliest | (y == IGNORE)).all(1)
    return dict(zip(pairs, zip(p.tolist(), greedy.tolist())))


@torch.inference_mode()
def score(model, pairs, batch=16, tick=lambda n: None):
    """{pair: (log-probability of the continuation, whether greedy decoding would write it)} of `pairs`,
    (context, continuation) of ids.

    A context is read once for all its continuations, `batch` contexts of similar length at a time. Equal
    pairs are scored once, so equal choices tie in every batch.
    """
    follow = collections.defaultdict(list)
    for pair in dict.fromkeys(pairs):
        follow[pair[0]].append(pair)
    order = sorted(follow, key=len, reverse=True)       # longest first: too little memory shows at once
    found = {}
    for first in range(0, len(order), batch):
        contexts, rows = order[first:first + batch], []
        cache = read_contexts(model, contexts)
        for b, context in enumerate(contexts):
            rows += [(b, pair) for pair in follow[context]]
        for at in range(0, len(rows), batch):
            found |= read_continuations(model, cache, rows[at:at + batch])
        tick(len(rows))
    return found


def write_answers(model, tokenizer, prompts, stops, tokens, batch=16, tick=lambda n: None):
    """What greedy decoding writes after each of `prompts`, ids, up to one of its `stops`."""
    written, draw = [], generate.Draw(temperature=0)
    steps = decode.choose_steps(model.embed.weight.device.type)
    for at in range(0, len(prompts), batch):
        part, ends, texts = prompts[at:at + batch], stops[at:at + batch], []
        for _ in generate.continuations(model, tokenizer, part, tokens, ends, into=texts, draw=draw,
                                        steps=steps):
            pass
        written += [text.text.strip() for text in texts]
        tick(len(part))
    return written


# ---- what an item gets ----

def mean(values):
    """(mean, standard error of it)"""
    m, n = sum(values) / len(values), len(values)
    if n == 1:
        return m, math.nan
    return m, math.sqrt(sum((v - m) ** 2 for v in values) / (n - 1) / n)


def rule_scores(choices, p):
    """{rule: the score of each choice} from their log-probabilities `p`, behind which may stand those after
    "Answer:". LLaMA divides by the characters, or by P(choice | "Answer:") (section 3.1)."""
    n = len(choices)
    own = np.array(p[:n])
    found = {"sum": own, "char": own / [len(choice.strip()) for choice in choices]}
    if len(p) > n:
        found["answer"] = own - p[n:]
    return found


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


def judge(item, found):
    """What an item gets for `found`: the answer that was written, or the score() of its pairs. Under each
    rule the choice with the highest score is chosen."""
    if kind_of(item) == "answer":
        number = item.get("number", False)
        golds = {normal(gold, number) for gold in as_list(item["answer"])}
        return {"text": found, "right": {"match": normal(found, number) in golds}}
    scores = [p for p, _ in found]
    if kind_of(item) == "target":
        return {"scores": scores[0], "right": {"greedy": found[0][1]}}
    best = {rule: int(np.argmax(each)) for rule, each in rule_scores(item["choices"], scores).items()}
    return {"scores": scores, "right": {rule: choice == item["label"] for rule, choice in best.items()}}


def fitting(items, tokenizer, rule, T, skip_bad):
    """(items, their pairs, their pairs as a window of T tokens holds them). An item whose choices no window
    holds stops the evaluation; with `skip_bad` it is named and left out."""
    kept, whole, read = [], [], []
    for item in items:
        pairs = pairs_of(item, tokenizer, rule)
        try:
            fits = [fit(pair, T, item) for pair in pairs]
        except ValueError as e:
            if not skip_bad:
                raise ValueError(f"{e}; give --context, or --skip-bad, which leaves such items out") from e
            print(f"left out: {e}", file=sys.stderr)
        else:
            kept.append(item)
            whole.append(pairs)
            read.append(fits)
    if not kept:
        raise ValueError(f"no item fits into a window of {T} tokens; give --context")
    return kept, whole, read


def score_items(model, tokenizer, items, form=OWN, T=None, batch=16, tick=lambda n: None, skip_bad=False):
    """{"items", "left_out": items too long for the window, "cut": contexts that were cut, "rule": the score
    that decides; for each score (accuracy, standard error); "each": what each item got; "languages": {name:
    (accuracy, standard error)}}"""
    given = len(items)
    T, kind = T or model.cfg.context, kind_of(items[0])
    rule = {"answer": "match", "target": "greedy"}.get(kind, form.rule)
    if kind == "answer":
        tokens = min(form.tokens, T // 2)
        contexts = tokenizer.encode_batch([item["context"].rstrip() for item in items])
        whole = [[*tokenizer.begin, *context] for context in contexts]
        read = [prompt[tokens - T:] for prompt in whole]
        stops = [as_list(item.get("stop", "\n")) for item in items]
        found = write_answers(model, tokenizer, read, stops, tokens, batch, tick)
    else:
        items, whole, read = fitting(items, tokenizer, rule, T, skip_bad)
        scores = score(model, itertools.chain(*read), batch, tick)
        found = [[scores[pair] for pair in pairs] for pairs in read]
    each = [judge(item, f) for item, f in zip(items, found)]
    cut = sum(a != b for a, b in zip(whole, read))
    result = {"items": len(items), "left_out": given - len(items), "cut": cut, "rule": rule}
    if kind == "choices":
        result["chance"], _ = mean([1 / len(item["choices"]) for item in items])
    for name in each[0]["right"]:
        result[name] = mean([got["right"][name] for got in each])
    if kind == "target":
        result["perplexity"] = math.exp(-mean([got["scores"] for got in each])[0])
    languages = collections.defaultdict(list)
    for item, got in zip(items, each):
        if item.get("lang"):
            languages[item["lang"]].append(got["right"][rule])
    by_language = {lang: mean(right) for lang, right in sorted(languages.items())}
    return {**result, "each": each, "languages": by_language}
