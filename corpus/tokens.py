"""The last stages of prepare.py: from documents to token files. corpus/stages.py has those before.

    sample_part -> train_tokenizer -> tokenize_part -> join_split -> put_together
"""
import hashlib
import itertools
import json
import os
import shutil
from collections import Counter

import numpy as np

import config
import tokenizer as tokenizers
from corpus import jobs, pieces, stages
from corpus.stages import documents, language_of

BATCH = 64              # documents tokenized at once
BLOCK = 2 ** 24         # bytes of a token file copied at once
SPLITS = ("train", "val")


def sample_part(part, plan, name, number, written):
    """The texts of a part that the tokenizer is trained on, each a JSON line. None of them is held out."""
    t = plan.corpus.tokenizer
    share = pieces.shares(plan.sizes, t.bytes, t.alpha)
    for document, _ in documents(f"{written}/kept.jsonl"):
        part.tick(len(document["text"].encode()))
        chosen = pieces.chosen(f"{name}/{document['id']}", share[language_of(document)])
        if chosen and not plan.held_out(name, document):
            part.add_line("texts", document["text"])


def train_tokenizer(part, plan):
    """The one that was given, or one trained on the samples of all parts."""
    t = plan.corpus.tokenizer
    if t.path:
        tokenizers.load(t.path).save(part.folder)
        return
    share = pieces.shares(plan.sizes, t.bytes, t.alpha)
    total = sum(round(n * share[lang]) for lang, n in plan.sizes.items())
    tick = config.progress("reading text for the tokenizer, bytes", total)

    def texts():
        for base in plan.bases("sample", plan.limits):
            if os.path.exists(f"{base}/texts"):
                with open(f"{base}/texts", encoding="utf-8") as f:
                    for text in map(json.loads, f):
                        tick(len(text.encode()))
                        yield text

    small = plan.sizes.total() <= jobs.SMALL
    workers = 1 if small else plan.workers or os.cpu_count()
    tokenizer = pieces.train_tokenizer(t.kind, texts(), t.vocab, workers, t.special or ())
    tokenizer.save(part.folder)


def tokenize_part(part, plan, name, number, written):
    """{train,val}.{bin,idx,doc}: tokens; where each document begins; (part, byte) of it in corpus/SOURCE."""
    tokenizer = tokenizers.load(f"{plan.folder}/tokenizer")
    facts = part.facts = {split: {"tokens": 0, "documents": 0, "bytes": 0} for split in SPLITS}
    for fact in ("bytes_by_language", "documents_by_language", "tokens_by_language", "licences"):
        facts[fact] = Counter()
    found = documents(f"{written}/kept.jsonl")
    while batch := list(itertools.islice(found, BATCH)):
        encoded = tokenizer.encode_batch([document["text"] for document, _ in batch])
        for (document, at), ids in zip(batch, encoded):
            ids = np.array([*tokenizer.prompt, *ids, tokenizer.eos])
            assert ids.max() < tokenizer.vocab      # a larger id would wrap around in silence
            split = "val" if plan.held_out(name, document) else "train"
            lang, counts = language_of(document), {"tokens": len(ids), "documents": 1}
            counts["bytes"] = len(document["text"].encode())
            part.add_numbers(f"{split}.idx", [facts[split]["tokens"]], "<i8")
            part.add_numbers(f"{split}.doc", [number, at], "<i8")
            part.add_numbers(f"{split}.bin", ids, token_dtype(tokenizer))
            for fact, n in counts.items():
                facts[split][fact] += n
                facts[f"{fact}_by_language"][lang] += n
            facts["licences"][document.get("licence") or "unknown"] += 1
            part.tick(counts["bytes"])


def token_dtype(tokenizer):
    return "<u2" if tokenizer.vocab <= 65_536 else "<u4"


def join_split(part, plan, name, split):
    """The token files of all parts of a source as one, and its hash. One process writes the whole file: it
    must read every byte for the hash anyway, and NFS can spoil a file that two machines write to at once."""
    digest, first = hashlib.sha256(), 0
    tokens, starts, places = (part.file(f"{split}.{kind}") for kind in ("bin", "idx", "doc"))
    for base in plan.bases("tokenize", [name]):
        at = 0
        while len(block := jobs.numbers(base, f"{split}.bin", np.uint8, at, at + BLOCK)):
            tokens.write(block)
            digest.update(block)
            part.tick(len(block))
            at += len(block)
        starts.write((jobs.numbers(base, f"{split}.idx", "<i8") + first).tobytes())
        places.write(jobs.numbers(base, f"{split}.doc", "<i8").tobytes())
        first += jobs.facts(base)[split]["tokens"]
    part.facts = {"sha256": digest.hexdigest()}


def join(plan, names):
    """The token files of sources, as join/SOURCE-SPLIT/SPLIT.{bin,idx,doc}."""
    todo = []
    for name, split in itertools.product(names, SPLITS):
        files = [f"{base}/{split}.bin" for base in plan.bases("tokenize", [name])]
        size = sum(os.path.getsize(file) for file in files if os.path.exists(file))
        todo.append([f"{plan.folder}/join/{name}-{split}", size, [name, split]])
    plan.run("joining the token files", join_split, todo)


def link(old, new):
    """A second name for a file; a copy where the file system has no such thing."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def put_together(plan, out, name, written):
    """OUT/corpus/NAME and OUT/tokens/NAME from what the jobs wrote. Returns their counts and hashes."""
    os.makedirs(f"{out}/corpus/{name}")
    os.makedirs(f"{out}/tokens/{name}")
    for number, base in enumerate(written):
        link(f"{base}/kept.jsonl", f"{out}/corpus/{name}/{number:05}.jsonl")
    total = stages.added(plan.bases("tokenize", [name]))
    for split in SPLITS:
        base = f"{plan.folder}/join/{name}-{split}"
        for kind in ("bin", "idx", "doc"):
            link(f"{base}/{split}.{kind}", f"{out}/tokens/{name}/{split}.{kind}")
        total[split]["sha256"] = jobs.facts(base)["sha256"]
    return total
