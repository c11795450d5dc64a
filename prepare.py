"""From files to token files: read, drop exact duplicates, train the tokenizer, tokenize. Each source stays apart, with its licence.

    python prepare.py configs/data/sample.py
    python prepare.py --input book.txt notes/ 'crawl/*.jsonl.gz' --name mine --vocab 8000

Writes data/NAME: corpus/SOURCE/documents.jsonl, dropped/REASON.jsonl, tokenizer/, tokens/SOURCE/{train,val}.{bin,idx}, manifest.json.
A text that is not valid UTF-8 is dropped, not repaired: the document it would be part of goes to dropped/invalid_utf8.jsonl with its place.
It is built in data/NAME.partial and renamed when it is complete: an interrupted command leaves nothing that a later one would take for data.
"""
import argparse
import collections
import hashlib
import json
import os
import re
import shutil
import sys
import time

import numpy as np

import config
import tokenizer as tokenizers
from corpus import sources

SHOWN = 1000                    # dropped documents written out per reason; the counts are exact
TOKENIZER_BYTES = 100_000_000   # text the tokenizer is trained on: all of a smaller corpus, else documents chosen by hash
BATCH = 4_000_000               # characters tokenized at once
LEAST = 1024                    # tokens below which there is nothing to train on


class Progress:
    """A line every five seconds with the time left."""
    def __init__(self, what, total):
        self.what, self.total, self.done = what, max(total, 1), 0
        self.start = self.shown = time.time()

    def at(self, done):
        self.done, now = done, time.time()
        if now - self.shown > 5 and done:
            self.shown = now
            print(f"{self.what} {min(1, done / self.total):4.0%}   {(now - self.start) * max(0, self.total / done - 1):.0f}s left", file=sys.stderr, flush=True)


def place(source, document_id):
    """A number in [0, 1) that depends on the document's name alone: what is held out stays held out when the corpus grows."""
    return int.from_bytes(hashlib.sha256(f"{source}/{document_id}".encode()).digest()[:8], "little") / 2 ** 64


def read(corpus, out):
    """Read all sources into corpus/ and dropped/. Returns {source: counts}."""
    progress = Progress("reading", sum(sources.size(s) for s in corpus.sources))
    seen, shown, stats = set(), collections.Counter(), {}
    os.makedirs(f"{out}/dropped")
    for source in corpus.sources:
        s = stats[source.name] = {"documents": 0, "bytes": 0, "languages": collections.Counter(), "dropped": collections.Counter(), "first_bad": None, "lowest": 1.0}
        os.makedirs(f"{out}/corpus/{source.name}")
        with open(f"{out}/corpus/{source.name}/documents.jsonl", "w", encoding="utf-8") as f:
            for document in sources.read(source, progress):
                reason = document.get("dropped")
                if not reason:
                    key = hashlib.blake2b(document["text"].encode(), digest_size=16).digest()       # 16 bytes per document in memory, about 100 with the set's own
                    reason = "empty" if not document["text"].strip() else "duplicate" if key in seen else None
                    seen.add(key)
                if reason:
                    s["dropped"][reason] += 1
                    s["first_bad"] = s["first_bad"] or document.get("place")
                    shown[reason] += 1
                    if shown[reason] <= SHOWN:
                        with open(f"{out}/dropped/{reason}.jsonl", "a", encoding="utf-8") as d:
                            d.write(json.dumps(document, ensure_ascii=False) + "\n")
                    continue
                size = len(document["text"].encode())
                s["documents"] += 1
                s["bytes"] += size
                s["languages"][document.get("lang") or "unknown"] += size
                s["lowest"] = min(s["lowest"], place(source.name, document["id"]))
                f.write(json.dumps(document, ensure_ascii=False) + "\n")
    return stats


def documents(out, name):
    with open(f"{out}/corpus/{name}/documents.jsonl", encoding="utf-8") as f:
        for line in f:
            yield json.loads(line)


def held_out(corpus, stats, name):
    """A document is in the validation split when its place is not above this: val_share, or that of the lowest of a small source."""
    s = stats[name]
    return max(corpus.val_share, s["lowest"]) if s["documents"] > 1 else -1


def make_tokenizer(corpus, out, stats):
    """The corpus's own tokenizer, trained on its training documents, or the one given."""
    if corpus.tokenizer.path:
        return tokenizers.load(corpus.tokenizer.path)
    share = TOKENIZER_BYTES / max(1, sum(s["bytes"] for s in stats.values()))

    def texts():
        for name in stats:
            for d in documents(out, name):
                p = place(name, d["id"])
                if p > held_out(corpus, stats, name) and p * 1000 % 1 < share:
                    yield d["text"]
    print(f"training a {corpus.tokenizer.kind} tokenizer of {corpus.tokenizer.vocab} entries")
    return tokenizers.train(corpus.tokenizer.kind, texts(), corpus.tokenizer.vocab)


def tokenize(corpus, out, stats, tokenizer):
    """Write tokens/SOURCE/{train,val}.{bin,idx}; returns {source: {split: counts and hashes}}. A document is prompt + text + </s>."""
    dtype = np.dtype("<u2" if tokenizer.vocab <= 65_536 else "<u4")
    progress, result = Progress("tokenizing", sum(s["bytes"] for s in stats.values())), {}
    for name in stats:
        os.makedirs(f"{out}/tokens/{name}")
        result[name] = {split: {"tokens": 0, "documents": 0, "bytes": 0} for split in ("train", "val")}
        limit = held_out(corpus, stats, name)
        files = {split: [open(f"{out}/tokens/{name}/{split}.{end}", "wb") for end in ("bin", "idx")] for split in ("train", "val")}
        batch, size = [], 0

        def flush():
            for d, ids in zip(batch, tokenizer.encode_batch([d["text"] for d in batch])):
                ids = np.array([*tokenizer.prompt, *ids, tokenizer.eos])
                assert ids.max() < tokenizer.vocab      # a larger id would wrap around in silence
                split = "val" if place(name, d["id"]) <= limit else "train"
                r, (tokens, starts) = result[name][split], files[split]
                starts.write(np.array([r["tokens"]], "<i8").tobytes())
                tokens.write(ids.astype(dtype).tobytes())
                r["tokens"], r["documents"], r["bytes"] = r["tokens"] + len(ids), r["documents"] + 1, r["bytes"] + len(d["text"].encode())
            batch.clear()
        for d in documents(out, name):
            batch.append(d)
            size += len(d["text"])
            if size > BATCH:
                flush()
                size = 0
                progress.at(sum(r["bytes"] for splits in result.values() for r in splits.values()))
        flush()
        for split in files:
            for f in files[split]:
                f.close()
            result[name][split]["sha256"] = config.sha256(f"{out}/tokens/{name}/{split}.bin")
    return result, dtype.str


def build(corpus, out):
    stats = read(corpus, out)
    for name, s in stats.items():
        if n := s["dropped"]["invalid_utf8"]:
            print(f"source {name}: {n} document{'s' * (n > 1)} not valid UTF-8, dropped; the first at {s['first_bad']}")
    size, count = sum(s["bytes"] for s in stats.values()), sum(s["documents"] for s in stats.values())
    if size + count < LEAST or count < 2:
        bad = next((f"; not valid UTF-8: {s['dropped']['invalid_utf8']}, the first at {s['first_bad']}" for s in stats.values() if s["dropped"]["invalid_utf8"]), "")
        raise ValueError(f"{corpus.name}: {size:,} bytes in {count} document{'s' * (count != 1)} are at most {size + count:,} tokens{bad}; "
                         f"at least {LEAST:,} tokens and 2 documents are needed (one is held out): add text")
    stats = {name: s for name, s in stats.items() if s["documents"]}
    tokenizer = make_tokenizer(corpus, out, stats)
    tokenizer.save(f"{out}/tokenizer")
    tokens, dtype = tokenize(corpus, out, stats, tokenizer)
    weights = {s.name: s for s in corpus.sources}
    manifest = {
        "name": corpus.name, "dtype": dtype, "vocab": tokenizer.vocab,
        "tokenizer": {"kind": tokenizer.kind, "fingerprint": tokenizers.fingerprint(tokenizer)},
        "sources": {name: {"weight": weights[name].weight, "licence": weights[name].licence, "bytes_by_language": dict(s["languages"].most_common()),
                           "dropped": dict(s["dropped"]), **tokens[name]} for name, s in stats.items()},
        "settings": config.plain(corpus), "input_bytes": sum(sources.size(s) for s in corpus.sources)}
    config.write_json(f"{out}/manifest.json", manifest)
    return manifest


def prepare(corpus):
    """Build data/NAME unless it is there; returns its manifest."""
    names = [s.name for s in corpus.sources]
    for name in [corpus.name, *names]:
        if not re.fullmatch(r"\w[\w.-]*", name) or names.count(name) > 1:
            raise ValueError(f"the name {name!r} must be letters, digits, '-', '_' and '.', and each source needs its own")
    if not 0 < corpus.val_share < 1:
        raise ValueError(f"val_share={corpus.val_share}: the share of documents held out is between 0 and 1")
    out, partial = f"data/{corpus.name}", f"data/{corpus.name}.partial"
    if os.path.exists(f"{out}/manifest.json"):
        manifest = config.read_json(f"{out}/manifest.json")
        changed = [key for key, _, _ in config.differences(manifest["settings"], config.plain(corpus))]
        if changed or manifest["input_bytes"] != sum(sources.size(s) for s in corpus.sources):
            raise ValueError(f"{out} was prepared from {'other settings: ' + ', '.join(changed) if changed else 'files that have changed since'}; "
                             "use another name, or delete it to prepare it again")
        print(f"{out} is complete")
        return manifest
    shutil.rmtree(partial, ignore_errors=True)
    try:
        os.makedirs(partial)
        manifest = build(corpus, partial)
        os.rename(partial, out)
    except BaseException as e:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(e, OSError):
            raise ValueError(f"cannot write {out}: {e.strerror or e}; nothing was kept") from e
        raise
    report(manifest)
    print(f"wrote {out}")
    return manifest


def report(manifest):
    width = max(8, *map(len, manifest["sources"]))
    print(f"{'source':{width}}  documents  dropped        bytes  train tokens  val tokens  bytes per token")
    for name, s in manifest["sources"].items():
        train, val = s["train"], s["val"]
        print(f"{name:{width}}  {train['documents'] + val['documents']:9,}  {sum(s['dropped'].values()):7,}  {train['bytes'] + val['bytes']:11,}  "
              f"{train['tokens']:12,}  {val['tokens']:10,}  {(train['bytes'] + val['bytes']) / (train['tokens'] + val['tokens']):15.2f}")


def named(paths):
    """A source per path: named by what tells the paths apart. ["a/en.txt", "a/fr.txt"] -> en, fr"""
    bare = [p.rstrip("/") for p in paths]
    common = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in bare])
    for path, p in zip(paths, bare):
        name = os.path.relpath(os.path.abspath(p), common)
        for _ in range(2):                  # book.txt.gz -> book
            name = os.path.splitext(name)[0] if not os.path.isdir(p) else name
        yield re.sub(r"[^\w.-]+", "-", name).strip("-.") or "text", path


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("config", nargs="?", help="a data config; or use --input")
    ap.add_argument("settings", nargs="*", metavar="field=value", help="changes to the data config, e.g. tokenizer.vocab=8000")
    ap.add_argument("--input", nargs="+", metavar="PATH", help="files, folders or globs: .txt .jsonl or source code, also .gz .bz2 .xz; each is a source")
    ap.add_argument("--name", help="data/NAME")
    ap.add_argument("--field", default="text", help="field of the .jsonl records that holds the text (default: text)")
    ap.add_argument("--kind", default="bpe", choices=tokenizers.KINDS, help="tokenizer to train (default: bpe)")
    ap.add_argument("--vocab", type=int, default=4096, help="its entries (default: 4096)")
    ap.add_argument("--tokenizer", metavar="DIR", help="use this trained tokenizer instead")
    ap.add_argument("--lang", help="language of the input, where its records do not say")
    ap.add_argument("--licence", help="licence of the input, where its records do not say")
    args, more = ap.parse_known_args()
    if bool(args.config) == bool(args.input):
        ap.error("give a data config, or --input PATH... --name NAME")
    if args.input:
        if not args.name or more:
            ap.error(f"unknown argument {more[0]}" if more else "--input needs --name")
        corpus = config.Corpus(args.name, [config.Source(n, p, field=args.field, lang=args.lang, licence=args.licence) for n, p in named(args.input)],
                               config.Tokenizer(args.kind, args.vocab, args.tokenizer))
    else:
        corpus = config.load(args.config, args.settings + more)
        if not isinstance(corpus, config.Corpus):
            raise ValueError(f"{args.config} is a training config; a data config such as configs/data/sample.py is needed")
    prepare(corpus)


if __name__ == "__main__":
    config.command(main)
