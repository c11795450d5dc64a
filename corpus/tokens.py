"""The last stages of prepare.py: from documents to token files. corpus/stages.py has those before.

    train_tokenizer -> tokenize_part -> put_together
"""
import itertools
import os
import shutil
from collections import Counter

import numpy as np

import config
import tokenizer as tokenizers
from corpus import jobs, pieces, stages
from corpus.stages import documents, language_of

BATCH = 64              # documents tokenized at once
SPLITS = ("train", "val")


def train_tokenizer(part, plan, parts):
    """The one that was given, or one trained on documents that are not held out."""
    t = plan.corpus.tokenizer
    share = pieces.shares(plan.sizes, t.bytes, t.alpha)
    total = sum(round(n * share[lang]) for lang, n in plan.sizes.items())
    tick = config.progress("reading text for the tokenizer, bytes", total)

    def texts():
        for name, bases in parts.items():
            for document, _ in documents(*(f"{base}/kept.jsonl" for base in bases)):
                chosen = pieces.chosen(f"{name}/{document['id']}", share[language_of(document)])
                if chosen and not plan.held_out(name, document):
                    tick(len(document["text"].encode()))
                    yield document["text"]
    if t.path:
        tokenizer = tokenizers.load(t.path)
    else:
        small = plan.sizes.total() <= jobs.SMALL
        workers = 1 if small else plan.workers or os.cpu_count()
        tokenizer = pieces.train_tokenizer(t.kind, texts(), t.vocab, workers, t.special or ())
    tokenizer.save(part.base)


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


def put_together(out, name, written, tokenized):
    """OUT/corpus/NAME and OUT/tokens/NAME from the parts of a source. Returns their counts and hashes."""
    os.makedirs(f"{out}/corpus/{name}")
    os.makedirs(f"{out}/tokens/{name}")
    for number, base in enumerate(written):
        shutil.copyfile(f"{base}/kept.jsonl", f"{out}/corpus/{name}/{number:05}.jsonl")
    total = stages.added(tokenized)
    for split in SPLITS:
        first, path = 0, f"{out}/tokens/{name}/{split}"
        with open(f"{path}.bin", "wb") as tokens, open(f"{path}.idx", "wb") as starts, \
                open(f"{path}.doc", "wb") as places:
            for base in tokenized:
                jobs.numbers(base, f"{split}.bin", np.uint8).tofile(tokens)
                (jobs.numbers(base, f"{split}.idx", "<i8") + first).tofile(starts)
                jobs.numbers(base, f"{split}.doc", "<i8").tofile(places)
                first += jobs.facts(base)[split]["tokens"]
        total[split]["sha256"] = config.sha256(f"{path}.bin")
    return total
