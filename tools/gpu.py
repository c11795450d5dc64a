"""Everything that needs a GPU: first whether it is right, then how fast. It has not been run on one yet.

    python tools/gpu.py                         # prints a Markdown table and writes it to runs/gpu.md
    python tools/gpu.py --only rates training decoding
    python tools/gpu.py --smoke                 # the same program on a CPU with tiny shapes: does it run?

Correctness: every fast form beside its equation, texts of recorded steps beside single ones (the tests that
need a GPU); the toy's losses on CPU and GPU; the same command twice, and killed and continued, to the bit.
Speed: training steps and decoding at the shapes of docs/speed.md, beside the chip's own rates of matrix
products and of copies. With two GPUs or more, the losses and tokens per second of 1 and 2 processes too.
It needs the requirements of the tests. A part that fails is a line of the table, and the rest goes on.
"""
import gc
import os
import statistics
import subprocess
import sys
import time
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
import torch

import checkpoint
import config
import parallel
import train
from fast import decode, forms
from generate import Draw, generate
from model import Transformer, count
from tools.bench_train import our_step

# config file, rows, settings
TRAINING = {
    "LLaMA 1.36B": ("configs/llama.py", 8, ["size=7b", "model.layers=24", "model.dim=2048", "model.heads=16",
                                            "model.mlp_dim=5632", "model.vocab=32000",
                                            "machine.recompute=false"]),
    "BLOOM 1b7": ("configs/bloom.py", 4, ["size=1b7", "machine.recompute=false"]),
    "LLaMA 7B": ("configs/llama.py", 2, ["size=7b", "model.vocab=32000", "machine.recompute=cheap"]),
}
HOW = {"eager": ["machine.compile=false"], "compiled": ["machine.compile=true"],
       "compiled, not deterministic": ["machine.compile=true", "machine.deterministic=false"]}
SMOKE = ["model.layers=2", "model.dim=64", "model.heads=4", "model.mlp_dim=128", "model.vocab=512",
         "model.context=64", "run.batch=2"]
BATCHES = (1, 8, 64)
TOY = ["run.tokens=163840", "machine.save_every=10", "run.eval_every=1000", "run.eval_rows=16",
       "machine.log_every=1", "machine.compile=false"]


def clock(device, work, times, warm=3):
    """Median seconds of `work()`, after `warm` of them that do not count."""
    def wait():
        if device == "cuda":
            torch.cuda.synchronize()
    for _ in range(warm):
        work()
    seconds = []
    for _ in range(times):
        wait()
        began = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


# ---- is it right ----

def losses(name):
    return [r["loss"] for r in checkpoint.read_log(f"runs/{name}/log.jsonl") if "loss" in r]


def train_toy(name, *settings, kill=False, processes=1):
    """Run train.py on the toy. With `kill`, -9 is sent after the first checkpoint, and the command is given
    again."""
    program = [sys.executable]
    if processes > 1:
        program += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*program, f"{ROOT}/train.py", f"{ROOT}/configs/bloom.py", *TOY, f"run.name={name}", *settings]
    if kill:
        p = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while p.poll() is None and not checkpoint.steps(f"runs/{name}"):
            time.sleep(0.01)
        p.kill()
        p.wait()
        if len(checkpoint.steps(f"runs/{name}")) > 1:
            raise ValueError("the run was over before it was killed: nothing was tested")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(command)}: {done.stdout[-800:]}{done.stderr[-800:]}")
    return losses(name)


def correctness(device):
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x",
                            "tests/test_attention.py", "tests/test_loss.py", "tests/test_decode.py"],
                           cwd=ROOT, capture_output=True, text=True)
    lines = tests.stdout.strip().split("\n")
    told = [line for line in lines if line.startswith(("FAILED", "E  "))]
    yield "fast forms beside the equations", "; ".join([*told[:5], lines[-1]])
    here, gpu = f"gpu-check-{os.getpid()}", f"machine.device={device}"
    cpu = train_toy(f"{here}-cpu", "machine.device=cpu", "machine.dtype=float32")
    first = train_toy(f"{here}-float32", gpu, "machine.dtype=float32")
    yield "toy, float32, CPU and GPU: largest difference of 40 losses", f"{far(cpu, first):.1e}"
    first = train_toy(f"{here}-a", gpu)
    yield "toy, float32 and bfloat16: largest difference", f"{far(cpu, first):.1e}"
    compiled = train_toy(f"{here}-compiled", gpu, "machine.compile=true")
    yield "toy, eager and compiled: largest difference", f"{far(first, compiled):.1e}"
    yield "the same command twice", same(first, train_toy(f"{here}-b", gpu))
    yield "killed by -9 and continued", same(first, train_toy(f"{here}-c", gpu, kill=True))
    if device == "cuda" and torch.cuda.device_count() > 1:
        two = train_toy(f"{here}-2", gpu, "machine.dtype=float32", processes=2)
        one = train_toy(f"{here}-1", gpu, "machine.dtype=float32")
        yield "1 and 2 processes, float32: largest difference", f"{far(one, two):.1e}"
        copies = train_toy(f"{here}-copies", gpu, "machine.dtype=float32", "machine.shard=1", processes=2)
        yield "the same with copies of the state", f"{far(one, copies):.1e}"


def far(a, b):
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def same(a, b):
    return "equal to the bit" if a == b else f"differ by {far(a, b):.1e} at most"


# ---- how fast ----

def machine_rates(device):
    n = 8192 if device == "cuda" else 512
    a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16)
    x = torch.empty(2 ** 30 if device == "cuda" else 2 ** 24, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    products = 2 * n ** 3 / clock(device, lambda: torch.mm(a, b), 20)
    copies = 2 * len(x) / clock(device, lambda: y.copy_(x), 20)
    yield "bfloat16 matrix products", f"{products / 1e12:,.0f} TFLOP/s"
    yield "copies, read and written", f"{copies / 1e12:.2f} TB/s"


def training(device, smoke):
    for name, (path, rows, settings) in TRAINING.items():
        for how, chosen in HOW.items():
            more = [*chosen, *settings, *(SMOKE if smoke else [])]
            torch._dynamo.reset()           # or the next shape would be compiled for any number of rows
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
            try:
                found = train_rate(device, path, rows, more, times=3 if smoke else 10)
            except torch.OutOfMemoryError:
                found = "does not fit"
            except Exception as e:
                found = in_one_line(e)
            yield f"training, {name}, {rows} rows, {how}", found


def random_weights(model, device):
    """init() draws on one core of the CPU: minutes for seven billion."""
    model.to_empty(device=device)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.02)
    return model


def train_rate(device, path, rows, settings, times):
    cfg = train.load_config(f"{ROOT}/{path}", settings)
    model = random_weights(train.build(cfg, device, torch.bfloat16), device)
    step = our_step(model, cfg, train.precision(device, torch.bfloat16))
    T = cfg.model.context
    x, y = torch.randint(0, cfg.model.vocab, (2, rows, T), device=device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    speed = rows * T / clock(device, lambda: step(x, y), times)
    rate = speed * train.flops_per_token(cfg.model, count(model))
    found = f"{speed:,.0f} tokens/s, {rate / 1e12:.4g} TFLOP/s"
    if device == "cuda":
        peak = parallel.peak(device)
        found += f", MFU {rate / peak:.1%}" if peak else ""
        found += f", peak {torch.cuda.max_memory_allocated() / 2 ** 30:.1f} GiB"
    return found


def decoding(device, smoke):
    path, _, settings = TRAINING["LLaMA 1.36B"]
    shape = config.load(f"{ROOT}/{path}", settings + (SMOKE if smoke else [])).model
    with torch.device("meta"):
        model = Transformer(shape, **forms.of_writing(shape, device, torch.bfloat16)).to(torch.bfloat16)
    model = random_weights(model, device).eval()
    tokenizer = types.SimpleNamespace(vocab=shape.vocab, ends=set())
    for how, steps, tokens in (("single steps", decode.one_by_one, 48), ("recorded", decode.in_flights, 1024),
                               ("recorded, compiled", decode.in_flights, 1024)):
        if how.endswith("compiled"):
            decode.compile_step(model)
        for R in BATCHES:
            prompts, n = torch.randint(0, shape.vocab, (R, 16)).tolist(), 16 if smoke else tokens

            def write(prompts=prompts, steps=steps, n=n):
                for _ in generate(model, tokenizer, prompts, n, Draw(0.8, top_p=0.95), steps=steps):
                    pass
            yield (f"decoding, LLaMA 1.36B, {R} rows, {how}",
                   f"{R * n / clock(device, write, 1, warm=1):,.0f} tokens/s")


def processes(device, smoke):
    """Tokens per second of the toy's shape on 1 and 2 GPUs, by train.py."""
    if device == "cuda" and torch.cuda.device_count() > 1:
        for n in (1, 2):
            name = f"gpu-speed-{os.getpid()}-{n}"
            train_toy(name, "machine.device=cuda", processes=n)
            records = [r for r in checkpoint.read_log(f"runs/{name}/log.jsonl") if "loss" in r]
            speed = statistics.median(r["tokens_per_second"] for r in records)
            yield f"toy, {n} processes", f"{speed:,.0f} tokens/s"


PARTS = {"correctness": lambda device, smoke: correctness(device), "training": training, "decoding": decoding,
         "rates": lambda device, smoke: machine_rates(device), "processes": processes}


def in_one_line(e):
    return f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"


def to_the_end(part, device, smoke):
    """The results of a part; what goes wrong is one of them."""
    try:
        yield from PARTS[part](device, smoke)
    except Exception as e:
        yield part, in_one_line(e)


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
                    help=f"{', '.join(PARTS)} (default: all)")
    ap.add_argument("--smoke", action="store_true", help="on a CPU, tiny")
    args = ap.parse_args()
    device = parallel.check_device("cpu" if args.smoke else "cuda")
    where = torch.cuda.get_device_name() if device == "cuda" else "a CPU: these figures mean nothing"
    lines = [f"torch {torch.__version__}, {where}", "", "| what | result |", "|---|---|"]
    print("\n".join(lines), flush=True)
    os.makedirs("runs", exist_ok=True)
    for part in args.only:
        for what, result in to_the_end(part, device, args.smoke):
            lines.append(f"| {what} | {result} |")
            print(lines[-1], flush=True)
            with open("runs/gpu.md", "w", encoding="utf-8") as f:
                f.write("\n".join(lines) + "\n")
    print("wrote runs/gpu.md")


if __name__ == "__main__":
    config.command(main)
