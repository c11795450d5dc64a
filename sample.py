"""Prompt to text.

    python sample.py runs/bloom-toy --prompt "Once upon a time"
    echo "def main():" | python sample.py runs/bloom-toy --tokens 100 --temperature 0 --compile
    python sample.py runs/llama-toy --interactive           # you type, the model goes on, you type again
    python sample.py runs/bloom-toy --jsonl prompts.jsonl --out texts.jsonl --samples 4 --logprobs 5

Several prompts (--prompt A --prompt B, JSON lines) make batches. Each is continued as if it were alone, and
its sample i is what --seed SEED+i gives. A line {"prompt": "..."} of JSON keeps what it has and gets
"settings" and "samples": [{"text", "tokens", "finish": end, stop or length, "logprobs"}]. The same command
goes on where --out ends. With --special a prompt may have special tokens: a chat goes on with
--interactive --special --turn $'<|user|>\\n{}</s>\\n<|assistant|>\\n'
"""
import functools
import itertools
import json
import os
import sys
import time

import config


def say(line):
    print(line, file=sys.stderr, flush=True)


# ---- prompts, a conversation, JSON lines: go_on(prompts) is continuations() with the settings ----

def with_special(go_on, tokenizer):
    """go_on() for prompts whose special tokens become their ids; one that begins a text is not put twice."""
    def ids_of(prompt):
        ids, begin = tokenizer.encode(prompt, special=True), list(tokenizer.begin)
        if ids[:1] == begin[-1:]:
            begin = begin[:-1]
        return begin + ids

    def go_on_with(prompts, **more):
        return go_on([prompt and ids_of(prompt) for prompt in prompts], **more)
    return go_on_with


def warm_up(go_on, prompts, samples):
    """Compile, by a few tokens that are thrown away. What is new later, as a batch of another size or a cache
    that has slid, compiles when it comes."""
    say("compiling ...")
    began = time.perf_counter()
    for _ in itertools.islice(go_on(prompts), 4 * len(prompts) * samples):
        pass
    say(f"compiled in {time.perf_counter() - began:.1f} s")


def speed(began, texts):
    n, seconds = sum(text.n for text in texts), time.perf_counter() - began
    return f"{n:,} tokens in {seconds:.2f} s, {n / seconds:,.1f} per second"


def write_texts(go_on, prompts, samples):
    """Print prompts with their continuations; a single one as it comes."""
    began, texts = time.perf_counter(), []
    single = len(prompts) * samples == 1
    if single:
        print(prompts[0], end="", flush=True)
    for _, new in go_on(prompts, into=texts):
        if single:
            print(new, end="", flush=True)
    whole = [prompts[r // samples] + text.text for r, text in enumerate(texts)]
    print("" if single else "\n---\n".join(whole))
    say(speed(began, texts))


def converse(go_on, turn):
    """Add what is typed to the text, and let the model go on, until Ctrl-D."""
    say("What you type is added to the text; Ctrl-C stops the model, /new begins another text, Ctrl-D ends.")
    text = ""
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
            for _, new in go_on([text + more]):
                more += new
                print(new, end="", flush=True)
        except ValueError as e:         # too long with this line: it is not added
            more = ""
            say(f"error: {e}; /new begins another text")
        except KeyboardInterrupt:
            pass
        text += more
        print(flush=True)


def read_prompts(path):
    """The objects of a file of JSON lines; empty lines are passed over."""
    found = []
    with open(0 if path == "-" else path, "rb") as f:
        for n, line in enumerate(f, 1):
            with config.blame(f"{path}, line {n}"):
                if line.strip():
                    found.append(json.loads(line))
                    found[-1]["prompt"].encode()        # it must be text
    return found


def count_done(out, todo, settings):
    """How many prompts of `todo` file `out` has: its whole lines. An unfinished line is cut off. A file of
    something else or of other settings, as its last line shows, is left as it is."""
    other = f"{out} is not from these prompts and settings; use another --out"
    with open(out, "rb+") as f, config.blame(other):
        *lines, rest = f.read().split(b"\n")
        if lines or rest:
            last = json.loads(lines[-1])
            if last["prompt"] != todo[len(lines) - 1]["prompt"]:
                raise ValueError(f"see line {len(lines)}")
            for key, old, new in config.differences(last.get("settings", settings), settings):
                raise ValueError(f"it was begun with {key}={old}, now it is {new}")
        f.truncate(f.tell() - len(rest))
    say(f"{out} has {len(lines)} of {len(todo)} prompts")
    return len(lines)


def write_lines(go_on, todo, settings, at_once, out):
    """Continue the prompts of the records `todo`, `at_once` at a time; add them to file `out`."""
    began, written, samples = time.perf_counter(), [], settings["samples"]
    with open(out or 1, "a", encoding="utf-8", closefd=bool(out)) as f:
        for first in range(0, len(todo), at_once):
            part, texts = todo[first:first + at_once], []
            for _ in go_on([record["prompt"] for record in part], into=texts):
                pass
            for i, record in enumerate(part):
                record["settings"] = settings
                record["samples"] = [text.record() for text in texts[i * samples:(i + 1) * samples]]
                print(json.dumps(record, ensure_ascii=False), file=f)
            f.flush()
            written += texts
            say(f"{first + len(part):,} of {len(todo):,} prompts   {speed(began, written)}")


# ---- the command ----

def read_options():
    ap = config.Parser(__doc__)
    ap.add_argument("run", metavar="runs/NAME", help="a run of train.py, or what convert.py imported")
    way = ap.add_mutually_exclusive_group()
    way.add_argument("--prompt", action="append", help="text to continue; may be repeated (default: stdin)")
    way.add_argument("--jsonl", metavar="FILE", help="JSON lines with a prompt each; - for stdin")
    way.add_argument("--interactive", action="store_true", help="add what you type to the text, line by line")
    ap.add_argument("--turn", default="{}", help=r"how a typed line, {}, is added, e.g. $'\nYou: {}\nModel:'")
    ap.add_argument("--special", action="store_true", help="</s> in a prompt is the token, not text")
    ap.add_argument("--out", metavar="FILE", help="where --jsonl goes; a file that is begun is continued")
    ap.add_argument("--stop", dest="stops", action="append", default=[], help="end before this text")
    number = config.number
    for name, kind, default, what in (
            ("batch", number(1, 1e6), 16, "rows at once with --jsonl"),
            ("tokens", number(1, 1e12), 200, "most tokens to draw"),
            ("temperature", number(0, 1e6, float), 0.8, "0 takes the likeliest token"),
            ("top-k", number(1, 1e12), None, "draw among the K likeliest"),
            ("top-p", number(1e-9, 1, float), 0.95, "draw among the likeliest that make up P"),
            ("min-p", number(0, 1, float), 0.0, "draw among those at least P times as likely as the first"),
            ("penalty", number(0.1, 10, float), 1.0, "above 1, tokens of the text so far are less likely"),
            ("samples", number(1, 1e6), 1, "texts for each prompt"),
            ("seed", number(0, 2 ** 53), 0, "sample i is drawn with seed + i"),
            ("logprobs", number(0, 1e6), None, "log-probabilities for --jsonl, and of so many likeliest"),
            ("window", number(16, 1e6), None, "keep so many tokens, the first 4 and the last, and go on"),
            ("step", number(0, 1e12), None, "of the checkpoint; None: the newest")):
        ap.add_argument(f"--{name}", type=kind, default=default, help=f"{what} (default: {default})")
    ap.add_argument("--device", choices=["cpu", "cuda", "mps"], help="default: cuda if there, else cpu")
    ap.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on cuda, or float32")
    ap.add_argument("--compile", action="store_true", help="compile for some 15 s, then write faster")
    args = ap.parse_args()
    if not args.jsonl and (args.out or args.logprobs is not None):
        raise ValueError("--out and --logprobs belong to --jsonl")
    if args.interactive and args.samples > 1:
        raise ValueError("--interactive writes one text: --samples must be 1")
    if "{}" not in args.turn:
        raise ValueError("--turn must have {}, where the typed line goes")
    return args


def main():
    args = read_options()
    import torch  # here, because PyTorch takes seconds: --help and a wrong option need not wait for it

    import checkpoint
    import parallel
    from fast import decode, forms
    from generate import Draw, continuations
    parallel.one_process("sample.py")
    device = parallel.check_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = args.dtype or ("bfloat16" if device == "cuda" else "float32")
    at_once = max(1, args.batch // args.samples)
    if args.jsonl:
        todo = read_prompts(args.jsonl)
    elif args.interactive:
        prompts = ["a"]                 # to compile, any will do
    else:
        if not args.prompt and sys.stdin.isatty():
            say("type the prompt; Ctrl-D on a new line ends it")
        prompts = args.prompt or [sys.stdin.read().removesuffix("\n")]
    folder = checkpoint.open_run(args.run)
    model, state = folder.load(device, getattr(torch, dtype), args.step, say)
    decode.read_weights_fast(model)
    settings = {key: vars(args)[key] for key in ("tokens", "stops", "samples", "logprobs", "seed", "window")}
    draw = Draw(args.temperature, args.top_k, args.top_p, args.min_p, args.penalty)
    tokenizer = folder.tokenizer()
    go_on = functools.partial(continuations, model, tokenizer, draw=draw,
                              steps=decode.choose_steps(device, args.logprobs), **settings)
    if args.special:
        go_on = with_special(go_on, tokenizer)
    if args.jsonl:
        settings |= {"run": os.path.basename(folder.path), "step": state["step"], "dtype": dtype}
        settings |= vars(draw) | {"special": args.special}
        if args.out and os.path.exists(args.out):
            todo = todo[count_done(args.out, todo, settings):]
        prompts = [record["prompt"] for record in todo[:at_once]]
    if args.compile and prompts and forms.can_compile(device):
        decode.compile_step(model)
        warm_up(go_on, prompts, args.samples)
    if args.interactive:
        converse(go_on, args.turn)
    elif args.jsonl:
        write_lines(go_on, todo, settings, at_once, args.out)
    else:
        write_texts(go_on, prompts, args.samples)


if __name__ == "__main__":
    config.command(main)
