"""Prompt to text.

    python sample.py runs/bloom-toy --prompt "Once upon a time"
    echo "def main():" | python sample.py runs/bloom-toy --tokens 100 --temperature 0

Several prompts (--prompt A --prompt B, or a file with one per line) make one batch; each is continued as if it were alone.

Letters: B prompts   T tokens   V vocabulary   S tokens the cache holds
"""
import argparse
import codecs
import os
import sys

import torch

import checkpoint
import config
import tokenizer as tokenizers
from model import Cache, Transformer


def load(run, device="cpu", step=None):
    """(model, tokenizer) of a run folder, from its newest whole checkpoint or that of `step`."""
    if not os.path.exists(f"{run}/config.json"):
        raise ValueError(f"{run} is not a run: it has no config.json; train.py makes one")
    facts = config.read_json(f"{run}/config.json")
    tokenizer = tokenizers.load(f"{run}/tokenizer")
    if tokenizers.fingerprint(tokenizer) != facts["tokenizer"]["fingerprint"]:
        raise ValueError(f"{run}/tokenizer is not the one the model was trained with; put that one back")
    with torch.device("meta"):
        model = Transformer(config.Model(**facts["model"]))
    model.to_empty(device=device)
    if checkpoint.newest(run, model, step=step) is None:
        raise ValueError(f"{run} has no checkpoint yet")
    return model.eval(), tokenizer


def choose(logits, temperature, top_k, top_p, generator):
    """One id from logits (V,): the likeliest at temperature 0; else drawn among the top_k likeliest ids, cut where their
    probabilities reach top_p (nucleus sampling, Holtzman et al. 2019). The likeliest id always stays."""
    if temperature == 0:
        return int(logits.argmax())
    p, ids = torch.softmax(logits.double() / temperature, -1).sort(descending=True, stable=True)
    keep = torch.arange(len(p)) < (top_k or len(p))
    keep &= p.cumsum(-1) - p < top_p
    p = p * keep
    return int(ids[torch.multinomial(p / p.sum(), 1, generator=generator)])


@torch.inference_mode()
def generate(model, tokenizer, prompts, tokens, temperature=0.8, top_k=None, top_p=1.0, seed=0):
    """Yield (prompt number, id) as they are drawn for `prompts`, a list of lists of ids; after `</s>` a prompt gets no more.

    Shorter prompts are padded on the left; every prompt has a generator of its own with the same seed, so it gets the same
    text alone or in a batch.
    """
    device, cfg = next(model.parameters()).device, model.cfg
    lengths = [len(p) for p in prompts]
    S = max(lengths) + tokens
    if cfg.position != "alibi" and max(lengths) + tokens > cfg.context:
        room = cfg.context - max(lengths)
        raise ValueError(f"a prompt of {max(lengths)} tokens and {tokens} new ones are more than the {cfg.context} this model was trained on, which position={cfg.position} "
                         + (f"does not go beyond; use --tokens {room} or less" if room > 0 else "does not go beyond; shorten the prompt"))
    pad = torch.tensor([max(lengths) - n for n in lengths], device=device)
    ids = torch.tensor([[0] * (max(lengths) - len(p)) + p for p in prompts], device=device)
    cache = Cache(cfg, len(prompts), S, pad if pad.any() else None, device, model.embed.weight.dtype)
    generators = [torch.Generator().manual_seed(seed) for _ in prompts]
    open_ = set(range(len(prompts)))
    for _ in range(tokens):
        logits = model(ids, cache=cache, last=True)[:, -1, :tokenizer.vocab].float().cpu()      # (B, V): rows of padding are never drawn
        drawn = [tokenizer.eos] * len(prompts)
        for b in sorted(open_):
            drawn[b] = choose(logits[b], temperature, top_k, top_p, generators[b])
            if drawn[b] == tokenizer.eos:
                open_.discard(b)
            elif (yield b, drawn[b]):               # the caller sends True to end this prompt
                open_.discard(b)
        if not open_:
            return
        ids = torch.tensor(drawn, device=device).unsqueeze(1)


class Text:
    """Bytes of tokens to text that may be shown: whole characters, and nothing that could be the beginning of a stop string."""
    def __init__(self, stops=()):
        self.stops, self.decoder = [s for s in stops if s], codecs.getincrementaldecoder("utf-8")("replace")
        self.text, self.shown, self.stopped = "", 0, False

    def add(self, piece, final=False):
        """The text that can be shown now."""
        self.text += self.decoder.decode(piece, final)
        found = [at for s in self.stops if (at := self.text.find(s, max(0, self.shown - len(s)))) >= 0]
        end = len(self.text)
        if found:
            end, self.stopped = min(found), True
            self.text = self.text[:end]
        elif not final:
            end -= max((n for s in self.stops for n in range(1, len(s)) if self.text.endswith(s[:n])), default=0)
        new, self.shown = self.text[self.shown:end], max(end, self.shown)
        return new


def continuations(model, tokenizer, prompts, stops=(), **settings):
    """Yield (prompt number, new text) for a list of strings, as it becomes certain; joined they are each prompt's continuation."""
    ids = [[tokenizer.eos, *tokenizer.prompt, *tokenizer.encode(p)] for p in prompts]        # in the training rows a text follows the end of another
    texts, words = [Text(stops) for _ in prompts], generate(model, tokenizer, ids, **settings)
    try:
        b, i = next(words)
        while True:
            piece = tokenizer.bytes_of(i)
            if tokenizer.prompt and not prompts[b] and not texts[b].text and piece.startswith(b" "):
                piece = piece[1:]                   # SentencePiece begins a text with a space
            if new := texts[b].add(piece):
                yield b, new
            b, i = words.send(texts[b].stopped)
    except StopIteration:
        pass
    for b, text in enumerate(texts):
        if not text.stopped and (new := text.add(b"", final=True)):
            yield b, new


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("run", metavar="runs/NAME")
    ap.add_argument("--prompt", action="append", help="text to continue; may be repeated. Without it and --file: standard input")
    ap.add_argument("--file", help="file with one prompt per line")
    ap.add_argument("--tokens", type=int, default=200, help="most tokens to draw (default: 200)")
    ap.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    ap.add_argument("--top-k", type=int, help="draw among the K likeliest tokens (default: all)")
    ap.add_argument("--top-p", type=float, default=0.95, help="draw among the likeliest tokens that make up P (default: 0.95)")
    ap.add_argument("--stop", action="append", default=[], help="end before this text; may be repeated")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--step", type=int, help="use the checkpoint of this step (default: the newest)")
    ap.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda if there, else cpu")
    args = ap.parse_args()
    if args.tokens < 1 or args.temperature < 0 or not 0 < args.top_p <= 1 or args.top_k is not None and args.top_k < 1:
        raise ValueError("--tokens and --top-k are at least 1, --temperature at least 0, --top-p above 0 and at most 1")
    if args.device == "cuda" and not torch.cuda.is_available() or args.device == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {args.device}: this machine has none; use --device cpu")
    with open(args.file or os.devnull, encoding="utf-8") as f:
        prompts = (args.prompt or []) + f.read().splitlines() or [sys.stdin.read().removesuffix("\n")]
    model, tokenizer = load(args.run, args.device, args.step)
    parts = continuations(model, tokenizer, prompts, args.stop, tokens=args.tokens, temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, seed=args.seed)
    if len(prompts) == 1:
        for i, (_, new) in enumerate(parts):
            print((prompts[0] if i == 0 else "") + new, end="", flush=True)
        print()
    else:
        texts = list(prompts)
        for b, new in parts:
            texts[b] += new
        print("\n---\n".join(texts))


if __name__ == "__main__":
    config.command(main)
