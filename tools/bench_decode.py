"""Writing token by token: sample.py beside transformers' generate, the same random weights, greedy, interleaved; and how fast the weights can be read at all.

    pip install -r requirements-test.txt
    python tools/bench_decode.py                        # LLaMA shapes of 15M and 110M parameters, 1 and 8 rows, 200 tokens, 2 threads: some 15 minutes
    python tools/bench_decode.py --shapes 15M --batches 1 --rounds 3

For each it prints tokens per second (median of the rounds) and the ratio to transformers in float32. `limit` reads all weights that one step needs,
once per token, by a sum, and does nothing else: no program that reads them can be faster on one row. The first token of a 512-token prompt comes last.
"""
import argparse
import os
import statistics
import sys
import time
import types

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import torch

import config
import sample
from generate import Draw, generate
from model import Transformer, count, init

SHAPES = {"15M": (288, 6, 6, 768), "110M": (768, 12, 12, 2048)}         # width, layers, heads, MLP
TOKENIZER = types.SimpleNamespace(vocab=32_000, ends=set())


def made(shape, dtype=torch.float32):
    cfg = config.load(f"{os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}/configs/llama.py").model
    cfg.dim, cfg.layers, cfg.heads, cfg.mlp_dim = SHAPES[shape]
    cfg.vocab, cfg.context, cfg.tied = 32_000, 2048, True               # tied: that is what makes them 15M and 110M
    return init(Transformer(cfg), 0).eval().to(dtype)


def theirs(m):
    """The same weights in transformers' class."""
    from test_model import hugging_face
    hf = hugging_face("llama", m).eval()
    hf.generation_config.eos_token_id = hf.generation_config.pad_token_id = None
    return lambda prompts, n: hf.generate(torch.tensor(prompts), attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.long), max_new_tokens=n, do_sample=False)[:, -n:].tolist()


def ours(m, compiled):
    if compiled:
        sample.compile(m)

    def write(prompts, n):
        rows = [[] for _ in prompts]
        for r, i, _ in generate(m, TOKENIZER, prompts, n, Draw(temperature=0)):
            rows[r].append(i)
        return rows
    return write


def limit(m):
    weights = [p for p in m.parameters() if p.dim() == 2]               # the embedding counts once: it is the head

    @torch.inference_mode()
    def read(prompts, n):
        for _ in range(n):
            for w in weights:
                w.sum()
    return read


def measure(ways, prompts, n, rounds):
    """{name: median seconds}, interleaved; all of them once before, to compile and to warm up."""
    first = {name: way(prompts, n) for name, way in ways.items()}
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way(prompts, n)
            seconds[name].append(time.perf_counter() - began)
    return first, {name: statistics.median(s) for name, s in seconds.items()}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    ap.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    ap.add_argument("--tokens", type=int, default=200)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    g = torch.Generator().manual_seed(0)
    for shape in args.shapes:
        m = made(shape)
        print(f"{shape}: {count(m):,} parameters, {args.threads} threads, greedy, {args.tokens} tokens, median of {args.rounds} interleaved rounds", flush=True)
        ways = {"transformers float32": theirs(m), "eager float32": ours(m, False), "compiled float32": ours(made(shape), True), "compiled bfloat16": ours(made(shape, torch.bfloat16), True)}
        for batch in args.batches:
            prompts = torch.randint(3, 32_000, (batch, 8), generator=g).tolist()
            first, seconds = measure(ways | ({"limit float32": limit(m)} if batch == 1 else {}), prompts, args.tokens, args.rounds)
            for name, s in seconds.items():
                same = "" if name not in ways or "bfloat16" in name else "   the same tokens" if first[name] == first["transformers float32"] else "   OTHER TOKENS"
                print(f"  {batch} row{'s' * (batch > 1)}  {name:22} {batch * args.tokens / s:8.0f} tokens/s   {seconds['transformers float32'] / s:5.2f}x{same}", flush=True)
        prompts = torch.randint(3, 32_000, (1, 512), generator=g).tolist()
        _, seconds = measure(ways, prompts, 1, 2 * args.rounds)
        for name, s in seconds.items():
            print(f"  512-token prompt, first token: {name:22} {1000 * s:6.0f} ms   {seconds['transformers float32'] / s:5.2f}x", flush=True)


if __name__ == "__main__":
    config.command(main)
