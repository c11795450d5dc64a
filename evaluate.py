"""How good is a model? Its loss on the whole validation split, by source and language, and tasks in zero or a few shots (tasks.py says what is asked).

    python evaluate.py runs/bloom-toy                                       # loss, and the laptop benchmark
    python evaluate.py runs/bloom-toy --tasks who mine.jsonl xcopa.it=xcopa.val.it.jsonl --shots 4
    python evaluate.py runs/llama-7b --tasks boolq=dev.jsonl mmlu=data/test --begin harness --device cuda --dtype bfloat16
    python evaluate.py runs/bloom-toy --tasks loss --context 512            # beyond the rows it was trained on: ALiBi's promise

A choice is scored by the sum of its tokens' log-probabilities; per character; per byte; or less that of the choice after "Answer:" alone. Each task has
one that decides (marked *), all are shown. Where a task has several prompts, each is run, and the spread shown (BLOOM, section 4.1).
Writes runs/NAME/evaluations/loss.json, TASK.json or TASK.K-shot.json, with every item. Read it from encode() to task().

Letters: B rows   T tokens   V vocabulary
"""
import argparse
import collections
import datetime
import json
import math
import os
import re
import statistics
import string
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import config
import data
import generate
import sample
import tasks
import tokenizer as tokenizers
from model import IGNORE, LOGITS, Cache

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
                p, likeliest = (torch.cat(both, 1) for both in zip((p, likeliest), read(model, y[:, :-1].clamp(min=0), y[:, 1:], cache.rows(b, n + T - 1))))
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
    """task() without the languages."""
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


def task(model, tokenizer, items, form=tasks.OWN, begin="training", T=None, batch=16, tick=lambda n: None):
    """Scores of items (tasks.py) of one kind: {"items", "cut", "rule", for each rule "sum" ... or "match" or "greedy": (accuracy, standard error), or "perplexity"
    ...; "languages": {name: (accuracy under the rule that decides, standard error)}; "each": what each item got}."""
    result, langs = judge(model, tokenizer, items, form, begin, T or model.cfg.context, batch, tick), collections.defaultdict(list)
    for item, e in zip(items, result["each"]):
        if "lang" in item and "right" in e:
            langs[item["lang"]].append(e["right"][result["rule"]])
    return {**result, "languages": {lang: mean(right) for lang, right in sorted(langs.items())}}


@torch.inference_mode()
def losses(model, folder, T=None, batch=16, tick=lambda n: None):
    """Over the whole validation split of `folder` (data/NAME), in windows of T tokens as train.py cuts them: {"all", "sources": {name: ...}, "languages": {name: ...}},
    each {"loss" nats per token, "perplexity", "bits_per_byte", "tokens", "bytes"}. A token's loss goes to the language of the document it stands in."""
    T, device, manifest = T or model.cfg.context, next(model.parameters()).device, data.read_manifest(folder)
    found = {part: collections.defaultdict(lambda: np.zeros(3)) for part in ("all", "sources", "languages")}         # nats, tokens, bytes
    for name, s in manifest["sources"].items():
        path, nats = f"{folder}/tokens/{name}/val", []
        split = data.Split(f"{path}.bin", manifest["dtype"], s["val"]["tokens"], T)
        for first in range(0, split.windows, batch):
            x, y = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*(split.window(w) for w in range(first, min(first + batch, split.windows)))))
            p, _ = read(model, x, y)
            nats.append(-p.double()[y != IGNORE].cpu().numpy())
            tick(len(x))
        if not nats:
            continue
        nats, starts, places = np.concatenate(nats), np.fromfile(f"{path}.idx", "<i8"), np.fromfile(f"{path}.doc", "<i8").reshape(-1, 2)
        documents = np.searchsorted(starts, np.arange(1, len(nats) + 1), "right") - 1             # token 0 of the file is predicted by nothing
        sums, tokens = np.bincount(documents, nats, len(starts)), np.bincount(documents, minlength=len(starts))
        for d, (part, byte) in enumerate(places.tolist()):
            with open(f"{folder}/corpus/{name}/{part:05}.jsonl", "rb") as f:
                f.seek(byte)
                document = json.loads(f.readline())
            for kind, key in ("all", "all"), ("sources", name), ("languages", document.get("lang") or "unknown"):
                found[kind][key] += sums[d], tokens[d], len(document["text"].encode())
    if not found["all"]:
        raise ValueError(f"{folder} has an empty validation split; add text and prepare it again")
    result = {kind: {key: {"loss": n / t, "perplexity": math.exp(n / t), "bits_per_byte": n / math.log(2) / b, "tokens": int(t), "bytes": int(b)}
                     for key, (n, t, b) in sorted(values.items(), key=lambda v: -v[1][1]) if t} for kind, values in found.items()}
    return {**result, "all": result["all"]["all"]}


def progress(what, total):
    """A function to call with how many are done; every ten seconds it says so, with the time left."""
    began, last, done = time.time(), time.time(), 0

    def tick(n):
        nonlocal last, done
        done += n
        if time.time() - last > 10:
            last = time.time()
            print(f"{what}: {done:,} of {total:,}   {datetime.timedelta(seconds=round((last - began) / done * max(0, total - done)))} left", file=sys.stderr, flush=True)
    return tick


def show_losses(result):
    print(f"{'validation':22} {'loss':>8} {'perplexity':>11} {'bits per byte':>14} {'tokens':>11} {'bytes':>12}")
    for kind, rows in (("", {"all": result["all"]}), ("source ", result["sources"]), ("", result["languages"])):
        for name, r in rows.items():
            print(f"{kind + name:22} {r['loss']:8.4f} {r['perplexity']:11.2f} {r['bits_per_byte']:14.3f} {r['tokens']:11,} {r['bytes']:12,}")


def show_task(name, results):
    """One line a prompt, then the spread over prompts, then accuracy by language under the rule that decides."""
    for r in results:
        label = f", prompt {r['prompt'] + 1}" * (len(results) > 1)
        cells = [f"{SHOWN.get(k, k)}{'*' * (k == r['rule'])} " + (f"{v[0]:.3f} ± {v[1]:.3f}" if isinstance(v, tuple) else f"{v:.3f}")
                 for k, v in r.items() if k in (*RULES, "match", "greedy", "perplexity", "bits_per_byte")]
        print(f"{name + label:18} {r['items']:6,} items   " + (f"chance {r['chance']:.3f}   " if "chance" in r else "")
              + "   ".join(cells) + f"   {r['cut']:,} contexts cut" * (r["cut"] > 0) + f"   {r['malformed']:,} malformed items left out" * (r["malformed"] > 0))
    if len(results) > 1:
        v = sorted(r[r["rule"]][0] for r in results)
        print(f"{'':18} over {len(v)} prompts: median {statistics.median(v):.3f}, lowest {v[0]:.3f}, highest {v[-1]:.3f}")
    if len(results[0].get("languages", ())) > 1:
        print(f"{'':18} " + "   ".join(f"{lang} {m:.2f}" for lang, (m, _) in results[0]["languages"].items()))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("run", metavar="runs/NAME", help="a run of train.py, or what convert.py imported")
    ap.add_argument("--tasks", nargs="+", metavar="TASK",
                    help=f"loss, {', '.join(tasks.BENCHMARK)}, FILE.jsonl, FORMAT=PATH or FORMAT.LANG=PATH with {', '.join(tasks.FORMATS)} (default: the named ones, and the loss where the data is known)")
    ap.add_argument("--shots", type=int, help="solved examples before each item (default: 0; MMLU 5)")
    ap.add_argument("--shots-file", help="take the first ones of this file; without it other items of the task, drawn by the seed")
    ap.add_argument("--seed", type=int, default=0, help="of the examples")
    ap.add_argument("--prompt", type=int, help="only this prompt of the task, counted from 1 (default: each)")
    ap.add_argument("--begin", choices=BEGIN, help="what stands before a text: the end of another, as in the training rows, or what lm-evaluation-harness puts there (default: harness for an imported model, else training)")
    ap.add_argument("--skip-bad", action="store_true", help="leave malformed items out, and count them")
    ap.add_argument("--data", metavar="NAME", help="data/NAME for the loss (default: what the run was trained on)")
    ap.add_argument("--context", type=int, metavar="T", help="tokens in the window (default: the model's)")
    ap.add_argument("--batch", type=int, default=16, help="rows at once; changes the memory, not the result")
    ap.add_argument("--step", type=int, help="use the checkpoint of this step (default: the newest)")
    ap.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda if there, else cpu")
    ap.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of weights and products (default: float32)")
    args = ap.parse_args()
    run = args.run.rstrip("/")
    facts = config.read_run(run)
    name = args.data or facts.get("data", {}).get("name")
    args.tasks = args.tasks or ["loss"] * bool(name) + list(tasks.BENCHMARK)
    args.begin = args.begin or ("harness" if "imported" in facts else "training")
    for key, least in ("batch", 1), ("context", 2), ("prompt", 1), ("shots", 0):
        if (value := getattr(args, key)) is not None and value < least:
            raise ValueError(f"--{key} {value}: it is at least {least}")
    if args.device == "cuda" and not torch.cuda.is_available() or args.device == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {args.device}: this machine has none; use --device cpu")
    # every task is read before the first is scored: a wrong name or line stops at once
    read_tasks = {}
    for spec in (s for s in dict.fromkeys(args.tasks) if s != "loss"):
        form = tasks.FORMATS.get(spec.partition("=")[0].partition(".")[0]) if "=" in spec else None
        prompts = range(len(form.prompts) if form else 1)
        if args.prompt and args.prompt > len(prompts):
            raise ValueError(f"--prompt {args.prompt}: {spec} has {len(prompts)}")
        read_tasks[spec] = {k: tasks.items(spec, k, args.shots, args.shots_file, args.seed, args.skip_bad) for k in prompts if args.prompt in (None, k + 1)}
    model, tokenizer = sample.load(run, args.device, args.step, getattr(torch, args.dtype))
    T, out = args.context or model.cfg.context, f"{run}/evaluations"
    os.makedirs(out, exist_ok=True)
    settings = {"run": run, "step": args.step or max(int(s) for s in os.listdir(f"{run}/checkpoints") if os.path.exists(f"{run}/checkpoints/{s}/done")), "context": T,
                "dtype": args.dtype, "torch": torch.__version__}
    if "loss" in args.tasks:
        if not name:
            raise ValueError(f"{run} does not say which data it was trained on; give --data NAME, or --tasks without loss")
        manifest = data.read_manifest(f"data/{name}")
        if manifest["tokenizer"]["fingerprint"] != tokenizers.fingerprint(tokenizer):
            raise ValueError(f"data/{name} was made with another tokenizer than that of {run}: its tokens mean something else; prepare it with --tokenizer {run}/tokenizer")
        total = sum(math.ceil(max(0, s["val"]["tokens"] - 1) / T) for s in manifest["sources"].values())
        result = losses(model, f"data/{name}", T, args.batch, progress("validation loss, rows", total))
        show_losses(result)
        config.write_json(f"{out}/loss.json", {**settings, "data": name, **result})
        print(f"wrote {out}/loss.json")
    for spec, by_prompt in read_tasks.items():
        left, _, name = spec.partition("=") if "=" in spec else ("", "", spec)
        name, results = left + "-" * bool(left) + os.path.splitext(os.path.basename(name.rstrip("/")))[0], []
        for k, (items, malformed, form) in by_prompt.items():
            if not items:
                raise ValueError(f"{spec} has no items" + (f": {malformed} were malformed" if malformed else ""))
            total = sum(len(i.get("choices", [0])) for i in items)
            results.append({"prompt": k, "malformed": malformed, **task(model, tokenizer, items, form, args.begin, T, args.batch, progress(f"{spec}, continuations", total))})
        show_task(name, results)
        shots = form.shots if args.shots is None else args.shots
        path = f"{out}/{name}{f'.{shots}-shot' if shots else ''}.json"
        config.write_json(path, {**settings, "task": spec, "begin": args.begin, "shots": shots, "shots_file": args.shots_file, "seed": args.seed, "prompts": results})
        print(f"{'':18} wrote {path}")


if __name__ == "__main__":
    config.command(main)
