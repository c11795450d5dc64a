"""The last stages of prepare.py: from documents to token files. corpus/stages.py has those before.

    train_tokenizer -> tokenize_part -> join_tokens
"""
import itertools
import os
from collections import Counter

import numpy as np

import config
import tokenizer as tokenizers
from corpus import jobs, pieces, stages
from corpus.stages import documents

BATCH = 64              # documents tokenized at once
SPLITS = ("train", "val")


def train_tokenizer(part, plan, parts):
    """FOLDER/tokenizer: the one that was given, or one trained on documents that are not held out."""
    t = plan.corpus.tokenizer
    share = pieces.shares(plan.sizes, t.bytes, t.alpha)

    def texts():
        for name, bases in parts.items():
            for document, _ in itertools.chain.from_iterable(documents(f"{base}.jsonl") for base in bases):
                lang = document.get("lang") or "unknown"
                chosen = pieces.chosen(f"{name}/{document['id']}", share[lang])
                if chosen and not plan.held_out(name, document):
                    yield document["text"]
    if t.path:
        tokenizer = tokenizers.load(t.path)
    else:
        small = sum(plan.sizes.values()) <= jobs.SMALL
        workers = 1 if small else plan.workers or os.cpu_count()
        tokenizer = pieces.train_tokenizer(t.kind, texts(), t.vocab, workers)
    tokenizer.save(f"{plan.folder}/tokenizer")


def tokenize_part(part, plan, name, number, written):
    """.{train,val}.{bin,idx,doc}: tokens; where each document begins; (part, byte) of it in corpus/SOURCE."""
    tokenizer = tokenizers.load(f"{plan.folder}/tokenizer")
    part.facts = {split: {"tokens": 0, "documents": 0, "bytes": 0} for split in SPLITS}
    part.facts["tokens_by_language"] = Counter()
    found = documents(f"{written}.jsonl")
    while batch := list(itertools.islice(found, BATCH)):
        encoded = tokenizer.encode_batch([document["text"] for document, _ in batch])
        for (document, at), ids in zip(batch, encoded):
            ids = np.array([*tokenizer.prompt, *ids, tokenizer.eos])
            assert ids.max() < tokenizer.vocab      # a larger id would wrap around in silence
            split = "val" if plan.held_out(name, document) else "train"
            counts, size = part.facts[split], len(document["text"].encode())
            part.add_numbers(f"{split}.idx", [counts["tokens"]], "<i8")
            part.add_numbers(f"{split}.doc", [number, at], "<i8")
            part.add_numbers(f"{split}.bin", ids, token_dtype(tokenizer))
            counts["tokens"] += len(ids)
            counts["documents"] += 1
            counts["bytes"] += size
            part.facts["tokens_by_language"][document.get("lang") or "unknown"] += len(ids)
            part.tick(size)


def token_dtype(tokenizer):
    return "<u2" if tokenizer.vocab <= 65_536 else "<u4"


def join_tokens(out, bases):
    """The tokens of a source's parts as one file per split in `out`. Returns their counts and hashes."""
    os.makedirs(out)
    total = stages.added(bases)
    for split in SPLITS:
        first, path = 0, f"{out}/{split}"
        with open(f"{path}.bin", "wb") as tokens, open(f"{path}.idx", "wb") as starts, \
                open(f"{path}.doc", "wb") as places:
            for base in bases:
                jobs.numbers(base, f"{split}.bin", np.uint8).tofile(tokens)
                (jobs.numbers(base, f"{split}.idx", "<i8") + first).tofile(starts)
                jobs.numbers(base, f"{split}.doc", "<i8").tofile(places)
                first += jobs.facts(base)[split]["tokens"]
        total[split]["sha256"] = config.sha256(f"{path}.bin")
    total["tokens_by_language"] = dict(Counter(total["tokens_by_language"]).most_common())
    return total
