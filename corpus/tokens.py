"""The last stages of prepare.py: from documents to token files. corpus/stages.py has those before.

    train_tokenizer -> tokenize_part -> join_tokens
"""
import contextlib
import itertools
import os
from collections import Counter

import numpy as np

import config
import tokenizer as tokenizers
from corpus import jobs, pieces
from corpus.stages import documents
from corpus.text import place

BATCH = 1_000_000       # characters tokenized at once
SPLITS = ("train", "val")
ENDINGS = ("bin", "idx", "doc")


def train_tokenizer(part, plan, parts):
    """FOLDER/tokenizer: the one that was given, or one trained on documents that are not held out."""
    t = plan.corpus.tokenizer
    share = pieces.shares(plan.sizes, t.bytes, t.alpha)

    def texts():
        for name, bases in parts.items():
            for document, _ in itertools.chain.from_iterable(documents(f"{base}.jsonl") for base in bases):
                held_out = place(name, document["id"]) <= plan.limits[name]
                part_of_it = share[document.get("lang") or "unknown"]
                if not held_out and pieces.chosen(f"{name}/{document['id']}", part_of_it):
                    yield document["text"]
    if t.path:
        tokenizer = tokenizers.load(t.path)
    else:
        small = sum(plan.sizes.values()) <= jobs.SMALL
        workers = 1 if small else plan.workers or os.cpu_count()
        tokenizer = pieces.train_tokenizer(t.kind, texts(), t.vocab, workers)
    tokenizer.save(f"{plan.folder}/tokenizer")


def tokenize_part(part, plan, source, number, written):
    """.{train,val}.{bin,idx,doc}: tokens; where each document begins; (part, byte) of it in corpus/SOURCE."""
    tokenizer = tokenizers.load(f"{plan.folder}/tokenizer")
    dtype = token_dtype(tokenizer)
    part.facts = begin_counts()
    for split, end in itertools.product(SPLITS, ENDINGS):
        part.file(f"{split}.{end}")
    for batch in batches(documents(f"{written}.jsonl")):
        texts = [document["text"] for document, _ in batch]
        for (document, at), ids in zip(batch, tokenizer.encode_batch(texts)):
            ids = np.array([*tokenizer.prompt, *ids, tokenizer.eos])
            assert ids.max() < tokenizer.vocab      # a larger id would wrap around in silence
            held_out = place(source.name, document["id"]) <= plan.limits[source.name]
            split, size = "val" if held_out else "train", len(document["text"].encode())
            counts = part.facts[split]
            part.add_numbers(f"{split}.idx", [counts["tokens"]], "<i8")
            part.add_numbers(f"{split}.doc", [number, at], "<i8")
            part.add_numbers(f"{split}.bin", ids, dtype)
            counts["tokens"] += len(ids)
            counts["documents"] += 1
            counts["bytes"] += size
            part.facts["tokens_by_language"][document.get("lang") or "unknown"] += len(ids)
            part.tick(size)


def begin_counts():
    counts = {split: {"tokens": 0, "documents": 0, "bytes": 0} for split in SPLITS}
    return counts | {"tokens_by_language": Counter()}


def batches(found):
    """Lists of (document, byte), each of about BATCH characters."""
    batch, size = [], 0
    for document, at in found:
        batch.append((document, at))
        size += len(document["text"])
        if size > BATCH:
            yield batch
            batch, size = [], 0
    yield batch


def token_dtype(tokenizer):
    return "<u2" if tokenizer.vocab <= 65_536 else "<u4"


def join_tokens(out, bases):
    """The tokens of a source's parts as one file per split in `out`. Returns their counts and hashes."""
    os.makedirs(out)
    result = begin_counts()
    for split in SPLITS:
        counts, path = result[split], f"{out}/{split}"
        with contextlib.ExitStack() as stack:
            tokens, starts, where = (stack.enter_context(open(f"{path}.{end}", "wb")) for end in ENDINGS)
            for base in bases:
                jobs.numbers(base, f"{split}.bin", np.uint8).tofile(tokens)
                (jobs.numbers(base, f"{split}.idx", "<i8") + counts["tokens"]).tofile(starts)
                jobs.numbers(base, f"{split}.doc", "<i8").tofile(where)
                for fact, n in jobs.facts(base)[split].items():
                    counts[fact] += n
        counts["sha256"] = config.sha256(f"{path}.bin")
    for base in bases:
        result["tokens_by_language"].update(jobs.facts(base)["tokens_by_language"])
    result["tokens_by_language"] = dict(result["tokens_by_language"].most_common())
    return result
