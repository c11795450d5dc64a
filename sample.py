"""Prompt to text.

    python sample.py runs/bloom-toy --prompt "Once upon a time"
    echo "def main():" | python sample.py runs/bloom-toy --tokens 100 --temperature 0 --compile
    python sample.py runs/llama-toy --interactive                  # what you type is added to the text, and the model goes on
    python sample.py runs/bloom-toy --jsonl prompts.jsonl --out texts.jsonl --samples 4 --logprobs 5

Several prompts (--prompt A --prompt B, a file with one per line, JSON lines) make batches; each is continued as if it were alone, and sample i of a
prompt is what --seed SEED+i gives. Text goes to standard output, tokens per second to standard error. generate.py does the work.

JSON lines: {"prompt": "...", whatever else} in; the same and "samples": [{"text", "tokens", "finish": end, stop or length, "logprobs"}] out. The same
command goes on where --out ends.
"""
import argparse
import contextlib
import functools
import json
import math
import os
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

import checkpoint
import config
import parallel
from generate import Draw, Past, continuations, most
from model import Cache


def load(run, device="cpu", step=None, dtype=torch.float32):
    """(model, tokenizer) of a run folder."""
    folder = checkpoint.open_run(run)
    tokenizer = folder.tokenizer()
    model, _ = folder.load(device, dtype, step, say=lambda line: print(line, file=sys.stderr))
    return model, tokenizer


def linear(x, weight, bias=None):
    """x (..., C) times weight (N, C) transposed. When texts are written token by token x is a few rows, and the work is to read the weights from memory.
    On a CPU the libraries let one core do it, at a fraction of the memory's speed: as a batch of pieces, or compiled from a multiply and a sum, all do."""
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


def read_weights_fast(model):
    """Let all cores read the weights when a CPU writes token by token: see linear()."""
    for m in model.modules():
        if isinstance(m, nn.Linear):
            m.forward = functools.partial(linear, weight=m.weight, bias=m.bias)
    model.logits = functools.partial(linear, weight=model.head_weight())


def compile(model):
    """Compile the step of one token, by which a text is written; a prompt is read as before. The blocks are alike: one is compiled for all."""
    torch._dynamo.config.recompile_limit = 64           # batches of other sizes, with and without padding, are programs of their own

    def stepwise(run):
        fast = torch.compile(run)
        return lambda x, *rest: (fast if x.shape[1] == 1 and not x.storage_offset() else run)(x, *rest)     # the end of a prompt is no step
    for part in model.blocks:
        part.forward = stepwise(part.forward)
    model.logits = stepwise(model.logits)


def described(tokenizer, text):
    """A generate.Text as JSON: what was written, why it ended, and each token's log-probability if it was asked for."""
    def shown(i):
        return tokenizer.bytes_of(i).decode("utf-8", "replace")
    found = {"text": text.text, "tokens": text.n, "finish": text.finish}
    if text.tokens:
        found["logprobs"] = [{"id": i, "text": shown(i), "logprob": p, "top": [[j, shown(j), q] for j, q in top]} for i, p, top in text.tokens]
    return found


def speed(began, texts):
    n, end = sum(t.n for t in texts), time.perf_counter()
    first = min((t.began for t in texts if t.began), default=end)
    return f"{n:,} tokens in {end - began:.2f} s: the first after {first - began:.2f} s, then {max(0, n - len(texts)) / max(1e-9, end - first):,.1f} per second"


def interactive(model, tokenizer, turn, settings):
    """Add what is typed to the text, let the model go on, again and again. What both have written stays in the cache: only what is new is read."""
    weight, text = model.embed.weight, ""
    past = Past(Cache(model.cfg, 1, most(model.cfg, settings["window"]), device=weight.device, dtype=weight.dtype))
    print("What you type is added to the text, an empty line lets the model go on, Ctrl-C stops it; /new begins another text, Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line == "/new":
            text = ""
            continue
        before, text = text, text + (turn.replace("{}", line) if line else "")
        try:
            for _, new in continuations(model, tokenizer, [text], past=past, **settings):
                text += new
                print(new, end="", flush=True)
        except ValueError as e:         # too long with this line: it is not added
            text = before
            print(f"error: {e}; /new begins another text", file=sys.stderr)
        except KeyboardInterrupt:       # enough of this one
            past.cache.n, past.ids, past.gone = 0, [], 0
        print(flush=True)


def records(path):
    """The prompts of a file of JSON lines: objects with a "prompt"; whatever else they have is kept. Empty lines are passed over."""
    found = []
    with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as f:
        for n, line in enumerate(f, 1):
            try:
                if not line.removeprefix(b"\xef\xbb\xbf").strip():
                    continue
                record = json.loads(line.decode("utf-8-sig"))
                if not isinstance(record, dict) or not isinstance(record.get("prompt"), str) or "samples" in record:
                    raise ValueError('it must be an object with a text "prompt", and without "samples", which is where the texts go')
                json.dumps(record, ensure_ascii=False).encode()         # half a surrogate pair cannot be written
            except (ValueError, RecursionError) as e:
                raise ValueError(f"{path}, line {n}: {e}") from e
            found.append(record)
    return found


def begun(out, todo, samples):
    """How many prompts of `todo` are done in the file `out`; cuts off what an interruption left of the next one. Any other file is left as it is."""
    with open(out, "rb+") as f:
        made = f.read().splitlines(keepends=True)
        rest = made.pop() if made and not made[-1].endswith(b"\n") else b""
        for n, line in enumerate([*made, rest] if rest else made):
            try:
                begin = json.dumps(todo[n], ensure_ascii=False)[:-1].encode() if n < len(todo) else b"\0"
                whole = line is rest or len(json.loads(line)["samples"]) == samples
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole or not line.startswith(begin[:len(line)]):
                raise ValueError(f"{out}, line {n + 1} is not from these prompts and --samples {samples}; choose another --out")
        f.truncate(sum(map(len, made)))
    return len(made)


def lines(model, tokenizer, path, out, batch, settings):
    """Continue the prompts of a file of JSON lines, `batch` rows at a time, in their order. What `out` has already is not done again."""
    todo, made, began, every = records(path), 0, time.perf_counter(), []
    if out and os.path.exists(out):
        if not os.path.isfile(out) or path != "-" and os.path.samefile(path, out):
            raise ValueError(f"--out {out} must be a file of its own")
        made = begun(out, todo, settings["samples"])
        print(f"{out} has {made} of {len(todo)} prompts", file=sys.stderr)
    samples = settings["samples"]
    step = max(1, batch // samples)
    with open(out, "ab") if out else contextlib.nullcontext(sys.stdout.buffer) as f:
        for first in range(made, len(todo), step):
            part, texts = todo[first:first + step], []
            try:
                for _ in continuations(model, tokenizer, [r["prompt"] for r in part], into=texts, **settings):
                    pass
            except ValueError as e:
                raise ValueError(f"{path}, prompts {first + 1} to {first + len(part)}: {e}") from e
            for i, record in enumerate(part):
                record["samples"] = [described(tokenizer, t) for t in texts[i * samples:(i + 1) * samples]]
                f.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            f.flush()
            every += texts
            print(f"{first + len(part):,} of {len(todo):,} prompts   {speed(began, every)}", file=sys.stderr)
    if out:
        print(f"wrote {out}", file=sys.stderr)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("run", metavar="runs/NAME", help="a run of train.py, or what convert.py imported")
    ap.add_argument("--prompt", action="append", help="text to continue; may be repeated. Without it, --file and --jsonl: standard input")
    ap.add_argument("--file", help="file with one prompt per line")
    ap.add_argument("--jsonl", metavar="FILE", help="file of JSON lines with a prompt each; - for standard input")
    ap.add_argument("--out", metavar="FILE", help="where --jsonl goes (default: standard output); begun before, it is continued, with the settings of now")
    ap.add_argument("--batch", type=int, default=16, help="rows at once with --jsonl (default: 16)")
    ap.add_argument("--interactive", action="store_true", help="add what you type to the text, line by line")
    ap.add_argument("--turn", default="{}", help=r"how a typed line, {}, is added, e.g. $'\nYou: {}\nModel:' (default: {})")
    ap.add_argument("--tokens", type=int, default=200, help="most tokens to draw (default: 200)")
    ap.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    ap.add_argument("--top-k", type=int, help="draw among the K likeliest tokens (default: all)")
    ap.add_argument("--top-p", type=float, default=0.95, help="draw among the likeliest tokens that make up P (default: 0.95)")
    ap.add_argument("--min-p", type=float, default=0.0, help="draw among tokens at least P times as likely as the likeliest (default: 0)")
    ap.add_argument("--penalty", type=float, default=1.0, help="repetition penalty: above 1, tokens that were there are less likely (default: 1)")
    ap.add_argument("--samples", type=int, default=1, help="texts for each prompt (default: 1)")
    ap.add_argument("--stop", action="append", default=[], help="end before this text; may be repeated")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--logprobs", type=int, metavar="K", help="list each token's log-probability, and those of the K likeliest")
    ap.add_argument("--window", type=int, help="keep the first 4 and the last tokens, at most this many, 16 or more: a text goes on for ever in bounded memory "
                                               "(default: ALiBi 4 times the trained length; RoPE stops there)")
    ap.add_argument("--step", type=int, help="use the checkpoint of this step (default: the newest)")
    ap.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda if there, else cpu")
    ap.add_argument("--dtype", choices=["float32", "bfloat16"], help="of weights and cache (default: bfloat16 on cuda, else float32)")
    ap.add_argument("--compile", action="store_true", help="compile the step of one token: some 15 s first, then faster")
    args = ap.parse_args()
    for key, least, largest in ("tokens", 1, 1e12), ("top_k", 1, 1e12), ("top_p", 1e-9, 1), ("min_p", 0, 1), ("temperature", 0, 1e6), ("penalty", 0.1, 10), ("samples", 1, 1e6), \
            ("batch", 1, 1e6), ("logprobs", 0, 1e6), ("window", 16, 1e12), ("seed", 0, 2 ** 62):
        if (value := getattr(args, key)) is not None and not least <= value <= largest:
            raise ValueError(f"--{key.replace('_', '-')} {value}: it must be from {least} to {largest:g}")
    ways = [bool(args.prompt or args.file), bool(args.jsonl), args.interactive]
    if sum(ways) > 1 or args.out and not args.jsonl:
        raise ValueError("one of --prompt and --file, --jsonl, or --interactive; and --out belongs to --jsonl")
    if args.interactive and (args.samples > 1 or args.logprobs is not None) or "{}" not in args.turn:
        raise ValueError("--interactive writes one text without log-probabilities, and --turn must have {}, where the typed line goes")
    if args.device == "cuda" and not torch.cuda.is_available() or args.device == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {args.device}: this machine has none; use --device cpu")
    prompts = list(args.prompt or [])
    if args.file:
        with open(args.file, encoding="utf-8") as f:
            prompts += f.read().removesuffix("\n").split("\n")
    elif not any(ways):
        prompts = [sys.stdin.read().removesuffix("\n")]
    model, tokenizer = load(args.run, args.device, args.step, getattr(torch, args.dtype or ("bfloat16" if args.device == "cuda" else "float32")))
    read_weights_fast(model)
    if args.compile and parallel.can_compile(args.device):
        compile(model)
    settings = {"tokens": args.tokens, "stops": args.stop, "samples": args.samples, "logprobs": args.logprobs, "seed": args.seed, "window": args.window,
                "draw": Draw(args.temperature, args.top_k, args.top_p, args.min_p, args.penalty)}
    if args.interactive:
        return interactive(model, tokenizer, args.turn, settings)
    if args.jsonl:
        return lines(model, tokenizer, args.jsonl, args.out, args.batch, settings)
    began, texts, shown = time.perf_counter(), [], False
    for _, new in continuations(model, tokenizer, prompts, into=texts, **settings):
        if len(prompts) * args.samples == 1:                # it is shown as it comes
            print((prompts[0] if not shown else "") + new, end="", flush=True)
            shown = True
    if len(texts) == 1:
        print("" if shown else prompts[0])
    else:
        print("\n---\n".join(prompts[r // args.samples] + t.text for r, t in enumerate(texts)))
    for t in texts if args.logprobs is not None else ():
        print("\n".join(f"{x['logprob']:9.4f}  {x['text']!r:20}" + "".join(f"   {s!r} {q:.4f}" for _, s, q in x["top"]) for x in described(tokenizer, t)["logprobs"]))
    print(speed(began, texts), file=sys.stderr)


if __name__ == "__main__":
    config.command(main)
