"""Training steps a second: this program, transformers and a reference, interleaved on one machine.

    pip install -r requirements-test.txt
    python tools/bench_train.py                                     # three shapes, all ways: it takes long
    python tools/bench_train.py --shapes small --ways llama llama-compiled transformers-llama
    python tools/bench_train.py --shapes 6x256x8x256x16x4096 6x512x8x256x16x4096 --ways llama
    python tools/bench_train.py --reference nanogpt/model.py        # its GPT, with GPTConfig, beside ours
    python tools/bench_train.py --grow                              # against width, depth, context, ...

Each way has a process of its own, so it has its own compiled code and its own peak of memory; the ways that
end in -processes have two, of one thread each: a copy of the state in each, or shards of one. Only one way
works at a time, in turns; the medians of the turns are compared. A step is forward, backward, clipping and
fused AdamW on the same random ids. "of products" is the share of the machine's rate of float32 matrix
products, measured in the same turns. "planned" is how fast planning/cost.py says it is, from that rate and
from that of copies in memory, and by how much a step took longer.
"""
import argparse
import importlib.util
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
import torch

import config
import parallel
import train
from planning import cost

# L layers, C width, H heads, T tokens in a row, B rows, V vocabulary
SHAPES = {"toy": (4, 128, 4, 256, 16, 4096), "small": (6, 256, 8, 256, 16, 4096),
          "long": (4, 256, 8, 1024, 2, 32_000)}
HOW = ["", "-bf16", "-compiled", "-compiled-bf16"]
WAYS = [who + how for who in ("llama", "bloom", "transformers-llama", "transformers-bloom") for how in HOW]
WAYS += ["llama-processes", "llama-shards-processes", "bloom-processes", "bloom-shards-processes"]
# one size after the other, around the first shape
GROW = ["4x256x8x512x4x4096", "4x128x4x512x4x4096", "4x512x16x512x4x4096", "2x256x8x512x4x4096",
        "8x256x8x512x4x4096", "4x256x8x1024x2x4096", "4x256x8x2048x1x4096", "4x256x8x4096x1x4096",
        "4x256x8x8192x1x4096", "4x256x8x512x1x4096", "4x256x8x512x16x4096", "4x256x8x512x4x1024",
        "4x256x8x512x4x32000"]
REFERENCE = ["reference" + how for how in HOW]
STEPS = 5


def sizes(shape):
    """(L, C, H, T, B, V) of a name or of numbers: sizes("6x512x8x256x16x4096")[1] -> 512"""
    if shape in SHAPES:
        return SHAPES[shape]
    with config.blame(f"shape {shape}: it is {', '.join(SHAPES)} or LxCxHxTxBxV"):
        layers, dim, heads, T, B, V = map(int, shape.split("x"))
        return layers, dim, heads, T, B, V


# ---- one way, in a process of its own ----

def our_step(model, cfg, precision):
    """A function that makes one step of train.py on all rows at once."""
    optimizer = train.adamw(model, cfg.optim)

    def step(x, y):
        train.gradients(model, x, y, x.numel(), len(x), precision)
        parallel.clip(model, cfg.optim.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


def config_of(way, shape):
    kind, *how = way.split("-")
    layers, dim, heads, T, B, V = sizes(shape)
    return train.load_config(f"{ROOT}/configs/{kind}.py", [
        f"model.layers={layers}", f"model.dim={dim}", f"model.heads={heads}", f"model.context={T}",
        f"model.vocab={V}", f"run.batch={B}", f"machine.micro={B}", f"machine.compile={'compiled' in how}",
        f"machine.shard={2 if 'shards' in how else 'none'}"])


def ours(way, shape):
    """A function that makes one step, and FLOPs per token."""
    cfg = config_of(way, shape)
    dtype = torch.bfloat16 if "bf16" in way else None
    parallel.start("cpu", cfg.machine.timeout)
    parameters = train.count(train.Transformer(cfg.model))
    model = train.init(train.build(cfg, "cpu", dtype).to_empty(device="cpu"), 0, parallel.local_rows)
    step = our_step(model, cfg, train.precision("cpu", dtype))
    return step, train.flops_per_token(cfg.model, parameters)


def plain_step(model, loss_of, how):
    """A step of somebody else's model: autocast, gradient clipping, fused AdamW."""
    if "compiled" in how:
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(x, y):
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in how):
            loss = loss_of(model, x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


def transformers_step(way, shape):
    import transformers
    _, kind, *how = way.split("-")
    layers, dim, heads, T, _, V = sizes(shape)
    if kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=V, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=256 * -(-(8 * dim // 3) // 256), max_position_embeddings=T, use_cache=False))
    else:
        model = transformers.BloomForCausalLM(transformers.BloomConfig(
            vocab_size=V, hidden_size=dim, n_layer=layers, n_head=heads, use_cache=False))

    def loss_of(model, x, y):
        return torch.nn.functional.cross_entropy(model(x).logits.flatten(0, 1).float(), y.flatten())
    return plain_step(model, loss_of, how)


def reference_step(way, shape, path):
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    layers, dim, heads, T, _, V = sizes(shape)
    model = module.GPT(module.GPTConfig(block_size=T, vocab_size=V, n_layer=layers, n_head=heads, n_embd=dim,
                                        dropout=0.0, bias=False))
    return plain_step(model, lambda model, x, y: model(x, y)[1], way.split("-")[1:])


def products():
    """A "step" of one matrix product, 2 * 2048^3 FLOPs."""
    a, b = torch.randn(2, 2048, 2048)
    return lambda x, y: torch.mm(a, b)


def copies():
    """A "step" that reads and writes 2^28 bytes each."""
    a, b = torch.ones(2, 2 ** 26)
    return lambda x, y: b.copy_(a)


def work(way, shape, reference):
    """Obey the standard input: every line asks for STEPS steps, and gets their seconds."""
    answers, sys.stdout = sys.stdout, sys.stderr            # some models print
    T, B, V = sizes(shape)[3:]
    x, y = torch.randint(0, V, (2, B, T), generator=torch.Generator().manual_seed(0))
    if way == "products":
        step, flops = products(), 2 * 2048 ** 3
    elif way == "copies":
        step, flops = copies(), 2 * 2 ** 28                 # bytes, here
    elif way.startswith("transformers"):
        step, flops = transformers_step(way, shape), None
    elif way.startswith("reference"):
        step, flops = reference_step(way, shape, reference), None
    else:
        step, flops = ours(way, shape)
    rank, world = parallel.place()
    x, y = x[rank::world], y[rank::world]
    for _ in range(3):
        step(x, y)
    print(json.dumps({"flops": flops}), file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(STEPS):
            step(x, y)
        seconds = (time.perf_counter() - began) / STEPS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
        print(json.dumps({"seconds": seconds, "peak": peak}), file=answers, flush=True)


# ---- all of them ----

class Way:
    """The processes of one way, and what they have answered."""
    def __init__(self, way, shape, reference):
        command = [sys.executable, __file__, "--shapes", shape, "--reference", reference or "", "--work", way]
        world = 2 if "processes" in way else 1
        more = {}
        if world > 1:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
            more = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                    "OMP_NUM_THREADS": "1"}
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             env=os.environ | more | ({"RANK": str(rank)} if more else {}))
            for rank in range(world)]
        with config.blame(f"{way} failed, see above"):
            self.amount = self.answer()["flops"]            # it comes when the way is warm
        self.turns = []

    def answer(self):
        return json.loads(self.processes[0].stdout.readline())

    def turn(self):
        for p in self.processes:
            print("go", file=p.stdin, flush=True)
        self.turns.append(self.answer())

    def end(self):
        for p in self.processes:
            p.stdin.close()
        for p in self.processes:
            p.wait()

    def seconds(self):
        return statistics.median(turn["seconds"] for turn in self.turns)

    def peak(self):
        return self.turns[-1]["peak"]


def measure(shape, ways, args):
    """{way: Way}, with the machine's rates as "products" and "copies"."""
    layers, dim, heads, T, B, V = sizes(shape)
    print(f"{shape}: {layers} layers, width {dim}, {heads} heads, {B} rows of {T} tokens, vocabulary {V:,}; "
          f"{torch.get_num_threads()} threads, median of {args.rounds} turns of {STEPS} steps", flush=True)
    found = {way: Way(way, shape, args.reference) for way in ["products", "copies", *ways]}
    for _ in range(args.rounds):
        for way in found.values():
            way.turn()
    for way in found.values():
        way.end()
    return found


def compare(shape, ways, args):
    T, B = sizes(shape)[3:5]
    found = measure(shape, ways, args)
    rates = cost.Rates(*(found[name].amount / found[name].seconds() for name in ("products", "copies")))
    first = ways[0]
    for name in ways:
        way = found[name]
        seconds, flops = way.seconds(), way.amount
        share, planned = " " * 6, ""
        if flops:
            share = f"{flops * B * T / seconds / rates.products:6.1%}"
        if flops and name in ("llama", "bloom"):
            expected = cost.step_seconds(config_of(name, shape), 1, rates, flops, cost.CPU)
            planned = f"   planned {B * T / expected:8,.0f}, {seconds / expected - 1:+.0%}"
        ratio = found[first].seconds() / seconds
        print(f"  {name:32} {B * T / seconds:8,.0f} tokens/s   {ratio:5.2f}x {first}   {share} of products   "
              f"{way.peak():5.2f} GiB{planned}", flush=True)


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("--shapes", nargs="+", default=list(SHAPES),
                    help=f"{', '.join(SHAPES)}, or LxCxHxTxBxV (default: the named ones)")
    ap.add_argument("--ways", nargs="+", choices=[*REFERENCE, *WAYS], metavar="WAY",
                    help=f"{', '.join([*REFERENCE, *WAYS])} (default: all)")
    ap.add_argument("--reference", metavar="FILE", help="a model.py with classes GPT and GPTConfig")
    ap.add_argument("--grow", action="store_true", help="in place of --shapes: one size grows")
    ap.add_argument("--rounds", type=config.number(1, 1e6), default=5, help="turns of each way (default: 5)")
    ap.add_argument("--work", help=argparse.SUPPRESS)
    args = ap.parse_args()
    if args.work:
        return work(args.work, args.shapes[0], args.reference)
    if args.grow:
        args.shapes, args.ways = GROW, args.ways or ["llama", "bloom"]
    ways = args.ways or [*(REFERENCE if args.reference else []), *WAYS]
    if not args.reference and set(ways) & set(REFERENCE):
        raise ValueError("the reference needs --reference FILE")
    for shape in args.shapes:
        compare(shape, ways, args)


if __name__ == "__main__":
    config.command(main)
