"""The drawings of pictures.py that are boxes and arrows, each a function that gives the text of an SVG file.

What they show comes from the program: its configs, a forward pass without memory, its masks, its tokenizers,
its split into rows and its formulas of memory.
"""
import collections
import dataclasses
import glob
import os
import re
import types

import numpy as np
import torch
from drawing import BLUE, GREEN, GREY, LIGHT, ORANGE, PALE, PURPLE, WHITE, Drawing, columns

import config
import data
from corpus import pieces
from model import Cache, Transformer, attention, places
from planning import memory

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def settings(paper, size):
    return config.load(f"{ROOT}/configs/{paper}.py", [f"size={size}"])


# ---- the two decoders ----

LETTERS = {1009: "B", 1013: "T"}        # sizes that nothing else has


def in_letters(shape):
    """in_letters((1009, 32, 1013, 128)) -> "(B, 32, T, 128)" """
    return f"({', '.join(LETTERS.get(n, f'{n:,}') for n in shape)})"


def shapes(m):
    """{part of the Transformer: shape of its result} of a config.Model, and "q", "y" inside the attention.
    It is a forward pass of one block, on tensors without memory."""
    found = {}

    def attend(q, k, v, pos, mask, slopes):
        y = attention(q, k, v, pos, mask, slopes)
        found.update(q=q.shape, y=y.shape)
        return y
    with torch.device("meta"):
        model = Transformer(dataclasses.replace(m, layers=1), attend=attend)
        for name, module in model.named_modules():
            module.register_forward_hook(lambda _, args, out, name=name: found.update({name: out.shape}))
        model(torch.zeros(*LETTERS, dtype=torch.long))
    return {name: in_letters(shape) for name, shape in found.items()}


def parts_of(m):
    """[(switches, words or None where there is no such part, shape of the result)] from the ids down to the
    logits."""
    s = shapes(m)
    alibi, rotary, gated = m.position == "alibi", m.position == "rope", m.mlp == "swiglu"
    norm = {"layer": "LayerNorm", "rms": "RMSNorm"}[m.norm]
    linear = "Linear with bias" if m.bias else "Linear"
    return [
        ("", "token ids", in_letters(LETTERS)),
        ("", f"embedding, {m.vocab:,} x {m.dim:,}", s["embed"]),
        ("embed_norm", "LayerNorm" if m.embed_norm else None, s["embed_norm"]),
        ("norm", norm, s["blocks.0.norm1"]),
        ("bias", f"q, k, v: {linear}", s["q"]),
        ("position", "q and k turned by position" if rotary else None, s["q"]),
        ("position", "softmax(qk/√D + slope·(j - i)) v" if alibi else "softmax(qk/√D) v", s["y"]),
        ("bias", f"out: {linear}", s["blocks.0.attn.out"]),
        ("norm", norm, s["blocks.0.norm2"]),
        ("mlp, bias", f"{'gate and up' if gated else 'up'}: {linear}", s["blocks.0.mlp.up"]),
        ("mlp", "silu(gate) · up" if gated else "gelu", s["blocks.0.mlp.up"]),
        ("bias", f"down: {linear}", s["blocks.0.mlp.down"]),
        ("norm", norm, s["norm"]),
        ("tied", "head: the embedding" if m.tied else "head: a matrix of its own", s[""])]


FIRST, OUT, LAST = 3, 7, 11     # the parts of a block; what OUT and LAST give is added to the stream
TOP, PITCH, HEIGHT, WIDTH = 64, 50, 24, 232


def draw_decoder(d, x, name, m, color):
    """One decoder, its boxes from `x` on; the arrow below a box has the shape of its result."""
    middle, side = x + WIDTH / 2, x - 20
    d.text(middle, 22, name, "head")
    d.text(middle, 40, f"{memory.sizes(m)[0]:,} parameters", "grey")
    above = TOP + FIRST * PITCH - 25
    d.box(x - 34, above, WIDTH + 44, (LAST - FIRST + 1) * PITCH + 20, "#f6f6f6", frame="plain")
    d.text(x - 28, above + 8, f"{m.layers} blocks", "left bold")
    for i, (switch, words, shape) in enumerate(parts_of(m)):
        y = TOP + i * PITCH
        if words:
            d.box(x, y, WIDTH, HEIGHT, LIGHT[color] if switch else PALE, words)
            d.arrow((middle, y + HEIGHT), (middle, y + PITCH))
        else:
            d.arrow((middle, y), (middle, y + PITCH))
            d.text(middle + 8, y + HEIGHT / 2, "nothing here", "left small grey")
        d.text(middle + 10, y + HEIGHT + 10, shape, "left small")
        if i in (FIRST, OUT + 1):               # the stream goes round the part, and is added behind it
            end = TOP + (OUT if i == FIRST else LAST) * PITCH + HEIGHT + 9
            d.arrow((middle, y - 6), (side, y - 6), (side, end), (middle - 7, end))
        if i in (OUT, LAST):
            d.box(middle - 6, y + HEIGHT + 3, 12, 12, WHITE, "+", "bold")
    d.text(middle, TOP + (LAST + 3) * PITCH + 8, "logits", "bold")


def decoders():
    d = Drawing(720, 786, "The decoders of BLOOM-7B1 and LLaMA-7B, part by part")
    bloom, llama = settings("bloom", "7b1").model, settings("llama", "7b").model
    draw_decoder(d, 44, "BLOOM-7B1", bloom, BLUE)
    draw_decoder(d, 474, "LLaMA-7B", llama, ORANGE)
    d.text(360, 40, "switch", "bold")
    for i, (switch, *_) in enumerate(parts_of(bloom)):
        d.text(360, TOP + i * PITCH + HEIGHT / 2, switch, "bold grey")
    return d.svg()


# ---- from a file to a batch ----

def first_rows(weights, run):
    """(rows of each source in a cycle, the source of each row of the first step)"""
    quota = data.quotas(np.array(weights))
    rows = types.SimpleNamespace(quota=quota, run=run, cycles={})
    return quota, data.Rows.cycle(rows, 0)[0][:run.batch].tolist()


def file_to_batch():
    corpus, cfg = config.load(f"{ROOT}/configs/data/sample.py"), settings("bloom", "toy")
    quota, rows = first_rows([s.weight for s in corpus.sources], cfg.run)
    colors = [BLUE, ORANGE, GREEN]
    d = Drawing(760, 560, "From a file to a batch: sources stay apart until rows are mixed")
    labels = [(30, "as it is found"), (86, "read"), (142, "clean"), (198, "write"), (270, "tokenize"),
              (334, "windows"), (414, "mix")]
    for y, label in labels:
        d.text(14, y + 15, label, "left bold")
    for i, source in enumerate(corpus.sources):
        x, fill = 130 + i * 212, LIGHT[colors[i]]
        ours = source.path.startswith(ROOT)
        steps = [(30, os.path.relpath(source.path, ROOT) if ours else "Python's own files"),
                 (86, f"reader {source.reader}: documents"),
                 (142, "copies and rules: drop, count"),
                 (198, f"corpus/{source.name}/*.jsonl"),
                 (334, f"tokens/{source.name}/train.bin")]
        for y, words in steps:
            d.box(x, y, 196, 30, fill, words)
        for y, end in ((60, 86), (116, 142), (172, 198), (228, 264), (306, 334)):
            d.arrow((x + 98, y), (x + 98, end))
        d.boxes([(x + 4 + k * 27, 366, 25) for k in range(7)], 12, fill)
        d.arrow((x + 98, 382), (x + 98, 410))
        d.text(x + 106, 393, f"{source.weight:.0%} of the rows", "left small bold")
    d.text(14, 228, "id, licence, language", "left small grey")
    kind = {"bpe": "byte-level BPE"}[corpus.tokenizer.kind]
    d.box(130, 264, 620, 42, PALE)
    d.text(440, 278, f"one tokenizer for all: {kind}, {corpus.tokenizer.vocab:,} entries")
    d.text(440, 294, "document -> ids </s>", "small grey")
    d.text(14, 364, f"{cfg.model.context} tokens each", "left small grey")
    d.box(130, 410, 620, 42, PALE)
    parts = " + ".join(f"{n:,}" for n in quota)
    d.text(440, 424, f"every {data.CYCLE:,} rows hold {parts} rows of the sources")
    d.text(440, 440, "in an order that is computed from (seed, cycle), not stored", "small grey")
    d.arrow((440, 452), (440, 478))
    d.text(14, 494, "batch (B, T)", "left bold")
    for k, source in enumerate(rows):
        d.box(130 + k % 4 * 156, 480 + k // 4 * 15, 152, 12, LIGHT[colors[source]])
    d.text(440, 548, f"the {len(rows)} rows of step 1, {cfg.model.context} tokens each", "small grey")
    return d.svg()


# ---- the mask ----

def visible():
    """[(pos (B, T), who is seen (B, T, S))] of two prompts of 6 and 4 tokens, then of the next token."""
    cache, found = Cache(settings("bloom", "toy").model, B=2, S=8, pad=torch.tensor([0, 2])), []
    for T in (6, 1):
        pos, mask = places(*cache.columns(T), cache.pad)
        found.append((pos.tolist(), mask[:, 0].tolist()))
        cache.n += T
    return found


SEEN, LATER, PAD, SELF = "seen", "later: not seen", "padding: not seen", "padding sees itself"
FILL = {SEEN: LIGHT[BLUE], LATER: WHITE, PAD: LIGHT[GREY], SELF: "#aaaaaa"}
PROMPTS = "The market opens early in the morning".split(), "pad pad Once upon a time there".split()


def kind_of(words, query, key, sees):
    """What is drawn where the word of column `query` sees that of column `key`, or does not."""
    if words[key] == "pad" and key <= query:
        return SELF if sees else PAD
    return SEEN if sees else LATER


def draw_seen(d, x, y, words, pos, seen, size=28):
    """The mask of one row of the batch: who is seen (T, S) by the last T of S tokens."""
    cells, S = collections.defaultdict(list), len(seen[0])
    for t, keys in enumerate(seen):
        query = S - len(seen) + t
        d.text(x - 36, y + t * size + 14, words[query], "right small")
        d.text(x - 16, y + t * size + 14, str(pos[t]), "small bold")
        for key, sees in enumerate(keys):
            cells[kind_of(words, query, key, sees)].append((x + key * size, y + t * size, size))
    for kind, corners in cells.items():
        d.boxes(corners, size, FILL[kind])


def mask():
    d = Drawing(720, 400, "Which keys a query sees: causal, with left padding, and with a cache")
    prompt, step = visible()
    for b, words in enumerate(PROMPTS):
        x = 120 + b * 340
        d.text(x + 90, 20, ("a prompt of 6 tokens", "a prompt of 4, padded on the left")[b], "bold")
        d.text(x - 16, 52, "pos", "small grey")
        for key, word in enumerate(words):
            d.text(x + key * 28 + 14, 52 - key % 2 * 13, word, "small")
        draw_seen(d, x, 64, words, *(part[b] for part in prompt))
        d.text(x, 254, "the next token; the keys before it are in the cache", "left small grey")
        draw_seen(d, x, 272, words, *(part[b] for part in step))
    for i, (kind, fill) in enumerate(FILL.items()):
        d.box(60 + i * 165, 328, 18, 18, fill)
        d.text(84 + i * 165, 337, kind, "left small")
    d.text(60, 370, "A line is a query, a column is a key. pos is the position of the query: padding does "
           "not count.", "left small grey")
    return d.svg()


# ---- the tokenizers ----

SENTENCE = {"English": "en", "French": "fr", "Swahili": "sw", "Arabic": "ar", "Hindi": "hi",
            "Chinese": "zh-Hans"}
ENTRIES = 1500


def paragraphs(path):
    with open(path, encoding="utf-8") as f:
        return f.read().strip().split("\n\n")


def cut_sentences():
    """{language: {kind: tokens in bytes}} of the first sentence of samples/LANGUAGE.txt. The tokenizers have
    learned from the other paragraphs of all samples."""
    texts = [text for path in sorted(glob.glob(f"{ROOT}/samples/*.txt")) for text in paragraphs(path)[1:]]
    found = collections.defaultdict(dict)
    for kind in ("bpe", "sentencepiece"):
        trained = pieces.train_tokenizer(kind, texts, ENTRIES)
        for language, lang in SENTENCE.items():
            sentence = re.match(".*?[.。।]", paragraphs(f"{ROOT}/samples/{lang}.txt")[0])[0]
            found[language][kind] = [trained.bytes_of(i) for i in trained.encode(sentence)]
    return found


def shown(token):
    """What is written on a token. shown(b" the") -> "_the"; bytes that are no whole character are numbers."""
    parts = []
    for char in token.decode("utf-8", "surrogateescape"):
        half = "\udc80" <= char <= "\udcff"
        parts.append(f"{ord(char) - 0xDC00:x}" if half else char)
    return "".join(parts).replace(" ", "_")


def tokens():
    d = Drawing(830, 388, "One sentence in six languages, cut by both tokenizers")
    d.text(12, 18, f"Tokens of one sentence, by two tokenizers of {ENTRIES:,} entries each", "left bold")
    for i, (language, kinds) in enumerate(cut_sentences().items()):
        top = 38 + i * 52
        d.text(12, top + 10, language, "left bold")
        for k, (kind, cut) in enumerate(kinds.items()):
            y, name = top + k * 23, {"bpe": "BPE", "sentencepiece": "SentencePiece"}[kind]
            d.text(176, y + 10, name, "right small grey")
            d.text(204, y + 10, str(len(cut)), "right bold")
            widths = [columns(shown(token)) * 7.5 + 7 for token in cut]
            ends = np.cumsum(widths)
            lefts = 214 + (ends[-1] - ends if language == "Arabic" else ends - widths)
            d.boxes(list(zip(lefts, [y] * len(cut), widths)), 20, LIGHT[(BLUE, ORANGE)[k]])
            for x, w, token in zip(lefts, widths, cut):
                d.text(x + w / 2, y + 10, shown(token))
    d.text(12, 362, "_ is a space, and e0 is a byte that is no character alone. BPE joins bytes: it can cut "
           "within a character.", "left small grey")
    d.text(12, 376, "SentencePiece joins characters: one that it has not learned becomes its bytes. It puts "
           "a space before a text.", "left small grey")
    return d.svg()


# ---- four processes ----

PROCESSES, ROWS = 4, 10
KEPT = "weight", "gradient", "moment 1", "moment 2"
COLORS = dict(zip(memory.PARTS, (BLUE, "#aec7e8", "#c5b0d5", ORANGE, "#98df8a", "#ff9896", "#9edae5")))
WORDS = {**{line: memory.PARTS[line].split(":")[0] for line in COLORS}, "": "work on one block"}


def kept_rows():
    """[[numbers of the rows of a matrix of ROWS] of each process]: FSDP cuts by torch.chunk, as
    parallel.local_rows() knows."""
    return [rows.tolist() for rows in torch.arange(ROWS).chunk(PROCESSES)]


def travels(m):
    """{what is sent: gigabytes that a process gets, or gives away} in a micro-batch. Weights travel as
    bfloat16, gradients as float32; the root's weights (of what is in no block) are gathered once."""
    P, block = memory.sizes(m)
    others = (PROCESSES - 1) / PROCESSES / 1e9
    return {"forward": 2 * P * others, "backward": 2 * m.layers * block * others, "gradients": 4 * P * others}


def by_moment(cfg):
    """{line of memory.PARTS or "": [gigabytes at each of memory.MOMENTS]} on one of PROCESSES GPUs."""
    found = {line: np.zeros(len(memory.MOMENTS)) for line in WORDS}
    for line, size, first, last in memory.held(cfg, PROCESSES):
        found[line][memory.MOMENTS.index(first):memory.MOMENTS.index(last) + 1] += size / 1e9
    return found


def draw_kept(d):
    """Four copies of a matrix for each process, with the rows that it keeps."""
    for p, rows in enumerate(kept_rows()):
        x, color = 20 + p * 200, (BLUE, ORANGE, GREEN, PURPLE)[p]
        d.text(x + 86, 44, f"process {p}: {len(rows)} of {ROWS} rows", "bold")
        for k, name in enumerate(KEPT):
            d.text(x + k * 46 + 18, 60, name.replace("moment", "mom."), "small grey")
            for mine in (False, True):
                corners = [(x + k * 46, 70 + r * 9, 36) for r in range(ROWS) if (r in rows) == mine]
                d.boxes(corners, 9, color if mine else WHITE)


def draw_memory(d, cfg):
    """The bars: what one GPU holds at each moment of a step."""
    found, left, bottom, scale = by_moment(cfg), 60, 516, 4
    for gb in (0, 10, 20, 30):
        d.arrow((left - 6, bottom - gb * scale), (590, bottom - gb * scale), tip=False)
        d.text(left - 10, bottom - gb * scale, f"{gb} GB", "right small grey")
    for i, moment in enumerate(memory.MOMENTS):
        y = bottom
        for line, sizes in found.items():
            height = sizes[i] * scale
            y -= height
            if height > 0.1:
                d.box(left + i * 66, y, 52, height, COLORS.get(line, "#dddddd"), frame="plain")
        d.text(left + i * 66 + 26, bottom + 10, moment, "small")
        d.text(left + i * 66 + 26, y - 8, f"{(bottom - y) / scale:.1f}", "small bold")
    for k, line in enumerate(reversed(found)):
        d.box(606, 330 + k * 22, 14, 14, COLORS.get(line, "#dddddd"), frame="plain")
        d.text(626, 337 + k * 22, WORDS[line], "left small")


def shards():
    cfg = settings("bloom", "7b1")
    d = Drawing(850, 572, "What each of four processes keeps and sends during a training step")
    d.text(410, 18, f"Each of {PROCESSES} processes keeps some rows of every parameter", "head")
    draw_kept(d)
    sent = travels(cfg.model)
    steps = [("forward", "gather a block, use it, let it go", f"gets {sent['forward']:.1f} GB, bfloat16"),
             ("backward", "gather each block again", f"gets {sent['backward']:.1f} GB, bfloat16"),
             ("gradients", "sum over all; keep own rows", f"gives {sent['gradients']:.1f} GB, float32"),
             ("update", "AdamW on own rows", "one number: the norm")]
    for i, (name, does, sends) in enumerate(steps):
        x = 20 + i * 200
        d.box(x, 196, 180, 66, PALE)
        d.text(x + 90, 210, name, "bold")
        d.text(x + 90, 229, does, "small")
        d.text(x + 90, 247, sends, "small")
        if i:
            d.arrow((x - 20, 229), (x, 229))
    d.arrow((110, 262), (110, 276), (510, 276), (510, 262), tip=False)
    d.text(310, 284, "for every micro-batch", "small grey")
    d.text(410, 308, "Memory of one process, BLOOM-7B1, at the moments of a step", "bold")
    draw_memory(d, cfg)
    d.text(20, 552, "blocks, loss: they are computed. logits, head, block: their gradients are. travel: "
           "those of a block are sent. root: those of what is in no block.", "left small grey")
    return d.svg()
