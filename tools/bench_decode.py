"""Writing token by token, sample.py beside transformers' generate: same random weights, greedy, interleaved.

    pip install -r requirements-test.txt
    python tools/bench_decode.py                # 15M and 110M parameters, 1 and 8 rows: some 15 minutes
    python tools/bench_decode.py --shapes 15M --batches 1 --rounds 3

It prints tokens per second, the median of the rounds, and the ratio to transformers in float32. `limit`
reads all weights that a step needs, once per token, by a sum, and does nothing else: no program can write
one row faster. The first token of a 512-token prompt comes last. The shapes are LLaMA's.
"""
import os
import statistics
import sys
import time
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, f"{ROOT}/tests"]
import torch

import config
from fast import decode, forms
from generate import Draw, generate
from model import Transformer, count, init

SHAPES = {"15M": (288, 6, 6, 768), "110M": (768, 12, 12, 2048)}         # width, layers, heads, MLP
VOCAB = 32_000
TOKENIZER = types.SimpleNamespace(vocab=VOCAB, ends=set())
THEIRS = "transformers float32"


def random_model(shape, dtype=torch.float32):
    cfg = config.load(f"{ROOT}/configs/llama.py").model
    cfg.dim, cfg.layers, cfg.heads, cfg.mlp_dim = SHAPES[shape]
    cfg.vocab, cfg.context, cfg.tied = VOCAB, 2048, True        # tied: that makes them 15M and 110M
    return init(Transformer(cfg, **forms.of_writing(cfg, "cpu", dtype)), 0).eval().to(dtype)


def theirs(model):
    """The same weights in transformers' class."""
    from test_model import hugging_face
    hf = hugging_face("llama", model).eval()
    hf.generation_config.eos_token_id = hf.generation_config.pad_token_id = None

    def write(prompts, n):
        ids = torch.tensor(prompts)
        written = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False)
        return written[:, -n:].tolist()
    return write


def ours(model, compiled):
    decode.read_weights_fast(model)
    if compiled:
        decode.compile_step(model)

    def write(prompts, n):
        rows = [[] for _ in prompts]
        for r, i, _ in generate(model, TOKENIZER, prompts, n, Draw(temperature=0)):
            rows[r].append(i)
        return rows
    return write


def limit(model):
    weights = [p for p in model.parameters() if p.dim() == 2]      # the embedding is the head: it counts once

    @torch.inference_mode()
    def read_all(prompts, n):
        for _ in range(n):
            for w in weights:
                w.sum()
    return read_all


def measure(ways, prompts, n, rounds):
    """({name: what it wrote}, {name: median seconds}); all run once before, to compile."""
    first = {name: way(prompts, n) for name, way in ways.items()}
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way(prompts, n)
            seconds[name].append(time.perf_counter() - began)
    return first, {name: statistics.median(s) for name, s in seconds.items()}


def compare(shape, args, generator):
    model = random_model(shape)
    print(f"{shape}: {count(model):,} parameters, {torch.get_num_threads()} threads, greedy, "
          f"{args.tokens} tokens, median of {args.rounds} interleaved rounds", flush=True)
    ways = {THEIRS: theirs(model), "eager float32": ours(model, False),
            "compiled float32": ours(random_model(shape), True),
            "compiled bfloat16": ours(random_model(shape, torch.bfloat16), True)}
    for batch in args.batches:
        prompts = torch.randint(3, VOCAB, (batch, 8), generator=generator).tolist()
        measured = {**ways, "limit float32": limit(model)} if batch == 1 else ways
        first, seconds = measure(measured, prompts, args.tokens, args.rounds)
        for name, s in seconds.items():
            same = "the same tokens" if first[name] == first[THEIRS] else ""
            print(f"  rows: {batch}  {name:22} {batch * args.tokens / s:8.0f} tokens/s   "
                  f"{seconds[THEIRS] / s:5.2f}x   {same}", flush=True)
    prompts = torch.randint(3, VOCAB, (1, 512), generator=generator).tolist()
    _, seconds = measure(ways, prompts, 1, 2 * args.rounds)
    for name, s in seconds.items():
        print(f"  512-token prompt, first token: {name:22} {1000 * s:6.0f} ms   {seconds[THEIRS] / s:5.2f}x",
              flush=True)


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    ap.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    ap.add_argument("--tokens", type=int, default=200)
    ap.add_argument("--rounds", type=int, default=5)
    args = ap.parse_args()
    generator = torch.Generator().manual_seed(0)
    for shape in args.shapes:
        compare(shape, args, generator)


if __name__ == "__main__":
    config.command(main)
