"""Prompt to text.

    python sample.py runs/bloom-toy --prompt "Once upon a time"
    echo "def main():" | python sample.py runs/bloom-toy --tokens 100 --temperature 0 --compile
    python sample.py runs/llama-toy --interactive           # you type, the model goes on, you type again
    python sample.py runs/bloom-toy --jsonl prompts.jsonl --out texts.jsonl --samples 4 --logprobs 5

Several prompts (--prompt A --prompt B, a file with one per line, JSON lines) make batches. Each is continued
as if it were alone, and its sample i is what --seed SEED+i gives. Text goes to standard output, all else to
standard error. A line {"prompt": "..."} of JSON keeps what it has and gets "samples": [{"text", "tokens",
"finish": end, stop or length, "logprobs"}]. The same command goes on where --out ends.
"""
import functools
import itertools
import json
import math
import os
import sys
import time
import types

import torch
import torch.nn as nn
import torch.nn.functional as F

import checkpoint
import config
import parallel
from generate import Draw, Past, continuations, generate, prompt_ids


def say(line):
    print(line, file=sys.stderr, flush=True)


# ---- the same products, faster ----

def linear(x, weight, bias=None):
    """F.linear: x (..., C) times weight (N, C) transposed, made for the few rows of one step on a CPU.

    To write a token is to read all weights from memory. F.linear reads with one core, at a fraction of the
    memory's speed. All cores read if the product is cut into pieces, or compiled from a multiply and a sum.
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
    """Let all products of `model` be made by linear(). Its modules keep their weights and get another class:
    so all blocks run the same code, and one compiled form serves them all."""
    for m in model.modules():
        if type(m) is nn.Linear:
            m.__class__ = FastLinear
    model.logits = functools.partial(linear, weight=model.head_weight())


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


def warm_up(model, tokenizer, prompts, settings, past=None):
    """Compile, by writing four tokens that are thrown away, so that it does not count as writing. The
    compiler must see which sizes change by the step. What is new later, as a batch of another size or a cache
    that has slid, compiles when it comes."""
    say("compiling ...")
    began = time.perf_counter()
    endless = types.SimpleNamespace(vocab=tokenizer.vocab, ends=())
    ids = [prompt_ids(tokenizer, p) for p in prompts]
    sizes = {key: settings[key] for key in ("tokens", "samples", "window")}
    drawn = generate(model, endless, ids, past=past, **sizes)
    for _ in itertools.islice(drawn, 4 * len(ids) * settings["samples"]):
        pass
    say(f"compiled in {time.perf_counter() - began:.1f} s")


def speed(began, texts):
    n, end = sum(text.n for text in texts), time.perf_counter()
    first = min((text.began for text in texts if text.began), default=end)
    rate = max(0, n - len(texts)) / max(1e-9, end - first)
    return (f"{n:,} tokens in {end - began:.2f} s: the first after {first - began:.2f} s, "
            f"then {rate:,.1f} per second")


# ---- prompts, a conversation, JSON lines ----

def described(tokenizer, text):
    """A generate.Text for JSON: what was written, why it ended, log-probabilities if they were asked for."""
    def shown(i):
        return tokenizer.bytes_of(i).decode("utf-8", "replace")
    found = {"text": text.text, "tokens": text.n, "finish": text.finish}
    if text.tokens:
        found["logprobs"] = []
    for i, p, likeliest in text.tokens:
        top = [[j, shown(j), q] for j, q in likeliest]
        found["logprobs"].append({"id": i, "text": shown(i), "logprob": p, "top": top})
    return found


def write_texts(model, tokenizer, prompts, settings):
    """Print prompts with their continuations; a single one as it comes."""
    began, texts, samples = time.perf_counter(), [], settings["samples"]
    single = len(prompts) * samples == 1
    before = prompts[0]
    for _, new in continuations(model, tokenizer, prompts, into=texts, **settings):
        if single:
            print(before + new, end="", flush=True)
            before = ""
    whole = [prompts[r // samples] + text.text for r, text in enumerate(texts)]
    print(before if single else "\n---\n".join(whole))
    for text in texts:
        for token in described(tokenizer, text).get("logprobs", ()):
            top = [f"   {s!r} {q:.4f}" for _, s, q in token["top"]]
            print(f"{token['logprob']:9.4f}  {token['text']!r:20}{''.join(top)}")
    say(speed(began, texts))


def converse(model, tokenizer, turn, settings):
    """Add what is typed to the text, and let the model go on, until Ctrl-D. Past remembers what was read."""
    say("What you type is added to the text, an empty line lets the model go on, Ctrl-C stops it; "
        "/new begins another text, Ctrl-D ends.")
    past, text = Past(), ""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line == "/new":
            text = ""
            continue
        more = turn.replace("{}", line) if line else ""
        try:
            for _, new in continuations(model, tokenizer, [text + more], past=past, **settings):
                more += new
                print(new, end="", flush=True)
        except ValueError as e:         # too long with this line: it is not added
            more = ""
            say(f"error: {e}; /new begins another text")
        except KeyboardInterrupt:       # half a step may be in the cache
            past = Past()
        text += more
        print(flush=True)


def read_prompts(path):
    """The objects of a file of JSON lines; empty lines are passed over."""
    found = []
    with open(sys.stdin.fileno() if path == "-" else path, "rb") as f:
        for n, line in enumerate(f, 1):
            with config.blame(f"{path}, line {n}"):
                if line.strip():
                    found.append(json.loads(line))
                    if not isinstance(found[-1]["prompt"], str) or "samples" in found[-1]:
                        raise ValueError('it needs a text "prompt" and no "samples", which is where texts go')
    return found


def count_done(out, todo, samples):
    """How many prompts of `todo` file `out` has: its whole lines. An unfinished line is cut off. The last
    whole line is compared with `todo`, so that a file of something else is left as it is."""
    with open(out, "rb+") as f:
        *lines, rest = f.read().split(b"\n")
        if lines or rest:
            with config.blame(f"{out} is not from these prompts and --samples {samples}; use another --out"):
                last = json.loads(lines[-1])
                if last["prompt"] != todo[len(lines) - 1]["prompt"] or len(last["samples"]) != samples:
                    raise ValueError(f"see line {len(lines)}")
        f.truncate(f.tell() - len(rest))
    say(f"{out} has {len(lines)} of {len(todo)} prompts")
    return len(lines)


def write_lines(model, tokenizer, todo, done, at_once, out, settings):
    """Continue the prompts of `todo` after the first `done`, `at_once` at a time; add them to file `out`."""
    began, every, samples = time.perf_counter(), [], settings["samples"]
    with open(out or sys.stdout.fileno(), "ab", closefd=bool(out)) as f:
        for first in range(done, len(todo), at_once):
            part, texts = todo[first:first + at_once], []
            try:
                for _ in continuations(model, tokenizer, [r["prompt"] for r in part], into=texts, **settings):
                    pass
                for i, record in enumerate(part):
                    own = texts[i * samples:(i + 1) * samples]
                    record["samples"] = [described(tokenizer, text) for text in own]
                    f.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            except ValueError as e:
                raise ValueError(f"prompts {first + 1} to {first + len(part)}: {e}") from e
            f.flush()
            every += texts
            say(f"{first + len(part):,} of {len(todo):,} prompts   {speed(began, every)}")
    if out:
        say(f"wrote {out}")


# ---- the command ----

def read_options():
    ap = config.Parser(__doc__)
    ap.add_argument("run", metavar="runs/NAME", help="a run of train.py, or what convert.py imported")
    way = ap.add_mutually_exclusive_group()
    way.add_argument("--prompt", action="append", help="text to continue, may be repeated (default: stdin)")
    way.add_argument("--file", help="file with one prompt per line")
    way.add_argument("--jsonl", metavar="FILE", help="JSON lines with a prompt each; - for stdin")
    way.add_argument("--interactive", action="store_true", help="add what you type to the text, line by line")
    ap.add_argument("--turn", default="{}", help=r"how a typed line, {}, is added, e.g. $'\nYou: {}\nModel:'")
    ap.add_argument("--out", metavar="FILE", help="where --jsonl goes; a file that is begun is continued")
    ap.add_argument("--stop", dest="stops", action="append", default=[], help="end before this text")
    number = config.number
    for name, kind, default, what in (
            ("batch", number(1, 1e6), 16, "rows at once with --jsonl"),
            ("tokens", number(1, 1e12), 200, "most tokens to draw"),
            ("temperature", number(0, 1e6, float), 0.8, "0 takes the likeliest token"),
            ("top-k", number(1, 1e12), None, "draw among the K likeliest tokens"),
            ("top-p", number(1e-9, 1, float), 0.95, "draw among the likeliest tokens that make up P"),
            ("min-p", number(0, 1, float), 0.0, "draw among those at least P times as likely as the first"),
            ("penalty", number(0.1, 10, float), 1.0, "above 1, tokens of the text so far are less likely"),
            ("samples", number(1, 1e6), 1, "texts for each prompt"),
            ("seed", number(0, 2 ** 53), 0, "sample i is drawn with seed + i"),
            ("logprobs", number(0, 1e6), None, "list log-probabilities, and so many likeliest tokens"),
            ("window", number(16, 1e12), None, "keep so many, the first 4 and the last, and go on for ever; "
             "else ALiBi keeps 4 times the trained length, RoPE stops there"),
            ("step", number(0, 1e12), None, "the checkpoint of this step, not the newest")):
        ap.add_argument(f"--{name}", type=kind, default=default, help=f"{what} (default: {default})")
    ap.add_argument("--device", choices=["cpu", "cuda", "mps"], help="default: cuda if there, else cpu")
    ap.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on cuda, or float32")
    ap.add_argument("--compile", action="store_true", help="compile for some 15 s, then write faster")
    args = ap.parse_args()
    if args.out and not args.jsonl:
        raise ValueError("--out belongs to --jsonl")
    if args.interactive and (args.samples > 1 or args.logprobs is not None):
        raise ValueError("--interactive writes one text without log-probabilities")
    if "{}" not in args.turn:
        raise ValueError("--turn must have {}, where the typed line goes")
    return args


def given_prompts(args):
    if args.file:
        with open(args.file, encoding="utf-8") as f:
            return f.read().removesuffix("\n").split("\n")
    if not args.prompt and sys.stdin.isatty():
        say("type the prompt; Ctrl-D on a new line ends it")
    return args.prompt or [sys.stdin.read().removesuffix("\n")]


def main():
    args = read_options()
    device = parallel.check_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = args.dtype or ("bfloat16" if device == "cuda" else "float32")
    settings = {key: vars(args)[key] for key in ("tokens", "stops", "samples", "logprobs", "seed", "window")}
    settings["draw"] = Draw(args.temperature, args.top_k, args.top_p, args.min_p, args.penalty)
    if args.interactive:
        prompts = [[0]]                 # to compile, any token will do
    elif args.jsonl:
        todo, done = read_prompts(args.jsonl), 0
        if args.out and os.path.exists(args.out):
            done = count_done(args.out, todo, args.samples)
        at_once = max(1, args.batch // args.samples)
        prompts = [record["prompt"] for record in todo[done:done + at_once]]
    else:
        prompts = given_prompts(args)
    folder = checkpoint.open_run(args.run)
    tokenizer = folder.tokenizer()
    model, _ = folder.load(device, getattr(torch, dtype), args.step, say)
    read_weights_fast(model)
    if args.compile and prompts and parallel.can_compile(device):
        compile_step(model)
        warm_up(model, tokenizer, prompts, settings, Past() if args.interactive else None)
    if args.interactive:
        converse(model, tokenizer, args.turn, settings)
    elif args.jsonl:
        write_lines(model, tokenizer, todo, done, at_once, args.out, settings)
    else:
        write_texts(model, tokenizer, prompts, settings)


if __name__ == "__main__":
    config.command(main)
