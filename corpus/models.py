"""Three small models that the cleaning rules ask: which language a text is in, how usual it is, how good. Learnt from text you have.

language    naive Bayes on character 1- to 4-grams       ROOTS: fastText's lid.176; give its .bin or .ftz file as `path` instead
perplexity  character 5-grams, Witten-Bell smoothing     ROOTS, CCNet: KenLM; give a folder of LANG.arpa.bin and LANG.sp.model instead
quality     logistic regression on words and word pairs  LLaMA: references of Wikipedia against random pages (section 2.1)

Without a path the first two learn from samples/, a few hundred words a language: enough to try every stage, too little for a corpus; the
perplexity then drops nothing. python -m corpus.learn makes your own from your own text. The files are arrays in .npz; nothing is pickled.
"""
import collections
import functools
import importlib
import itertools
import math
import os
import random
import re
import unicodedata
import zlib

import numpy as np

from corpus import recipe, sources
from corpus import text as texts

SAMPLES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "samples")
STORIES = 40                # drawn stories beside the samples of a language
LOOK = 3000                 # characters of a document that decide on language and quality
PER_LANGUAGE = 30_000       # characters to learn a language from: one with much more text would draw the others' texts to it
FOLDS = 5
TRUSTED = 0.9               # of the documents of a language: a model that knows fewer of them may not judge it
ORDER = 5
ALPHABET = 150_000          # characters there are, about Unicode's
LONGEST = 5_000_000         # characters to learn a 5-gram model from
WEIGHTS = 2 ** 20           # of the quality model
PUNCTUATION = str.maketrans(dict(zip("，、。„”“«»」「《》´’∶：？！（）；–━〈〉【】％►～—．…", [*",,.\"\"\"\"\"\"\"\"\"''::?!();--<>[]%-~", " - ", ". ", "..."])))     # CCNet


# N-grams and what is known of each

def table(keys, rows, weight, unseen):
    """`keys` (n,) uint64 hashes, `rows` (n, columns), those of least `weight` first. Row 0 is that of n-grams never seen."""
    order = np.argsort(weight, kind="stable")
    return {"keys": np.concatenate([[np.uint64(0)], keys[order]]), "rows": np.concatenate([[unseen], rows[order]]).astype(np.float32)}


def ready(model):
    """Add the row numbers, by the lowest bits of the hash. Where two n-grams meet the later row stays: a few of the rarest are lost."""
    place = np.zeros(1 << (16 * len(model["keys"])).bit_length(), np.uint32)
    place[model["keys"] & np.uint64(len(place) - 1)] = np.arange(len(model["keys"]))
    return model | {"place": place}


def look_up(model, hashes):
    """(n,) row numbers. The whole hash is compared: an n-gram never seen is not taken for another."""
    at = model["place"].take((hashes & np.uint64(len(model["place"]) - 1)).view(np.int64))
    return at * (model["keys"].take(at) == hashes)


# Language

def letters(text):
    """(n,) hashes of the 1- to 4-grams in lower case; line ends count as spaces (ROOTS)."""
    codes = texts.codes(f" {' '.join(text[:LOOK].lower().split())} ")
    return np.concatenate([texts.ngrams(codes, n) for n in range(1, 5)])


def learn_language(labelled):
    """log p(n-gram | lang) / p(n-gram) of each n-gram and language, from [(lang, text)]; p(n-gram) is the mean of the languages."""
    langs = sorted({lang for lang, _ in labelled})
    counted = [np.unique(np.concatenate([letters(t[i:i + LOOK]) for l, t in labelled if l == lang for i in range(0, len(t), LOOK)]), return_counts=True) for lang in langs]
    keys = np.unique(np.concatenate([k for k, _ in counted]))
    counts = np.zeros((len(keys), len(langs)))
    for column, (k, count) in enumerate(counted):
        counts[np.searchsorted(keys, k), column] = count
    total = counts.sum(0)
    mean, prior = (counts / total).mean(1, keepdims=True), total.mean() / 100        # each language starts with `prior` n-grams of the mean
    return {"langs": np.array(langs), "scale": np.float32(1)} | table(keys, np.log((counts / mean + prior) / (total + prior)), counts.sum(1), [0] * len(langs))


def evidence(model, text):
    """(langs,) sum of the log ratios, over the square root of their number: neighbouring n-grams overlap, the plain sum is always sure."""
    at = look_up(model, letters(text))
    return (at > 0).astype(np.float32) @ model["rows"].take(at, 0) / math.sqrt(max(1, np.count_nonzero(at)))     # a product: .sum(0) takes ten times as long


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def train_language(labelled):
    """(model, [(lang, whole document?, answer, score)]), from [(lang, text)]. Each document is held out once, whole and as its first 60 characters.

    On these the scale is chosen by which a score of 0.8 means: right 8 times of 10. Cut-offs such as ROOTS' 0.6 to 0.95 then mean what they say."""
    size, kept = collections.Counter(), []
    for lang, t in random.Random(0).sample(labelled, len(labelled)):
        lang = lang.split("-")[0]           # zh-Hans and zh-Hant are one language, as in lid.176
        if t.strip() and size[lang] < PER_LANGUAGE:
            size[lang] += len(t)
            kept.append((lang, t))
    model, tried = ready(learn_language(kept)), []
    langs = model["langs"].tolist()
    for fold in range(FOLDS):
        part = ready(learn_language([pair for i, pair in enumerate(kept) if i % FOLDS != fold]))
        among = [langs.index(lang) for lang in part["langs"]]
        for lang, t in kept[fold::FOLDS]:
            for whole, piece in enumerate([t[:60], t]):
                found = np.full(len(langs), -np.inf)
                found[among] = evidence(part, piece)
                tried += [(lang, whole, found)] if lang in part["langs"] else []
    if not tried or len(langs) < 2:
        raise ValueError(f"at least 2 languages with 2 documents each are needed to tell them apart; there is {', '.join(langs)}")
    right, found = [langs.index(lang) for lang, *_ in tried], np.array([f for *_, f in tried])
    model["scale"] = np.float32(min(np.geomspace(0.01, 100, 200), key=lambda scale: -np.log(softmax(found * scale)[range(len(right)), right] + 1e-9).sum()))
    tried = [(lang, whole, langs[f.argmax()], softmax(f * model["scale"]).max()) for lang, whole, f in tried]
    found = {lang: [answer == lang for l, whole, answer, _ in tried if l == lang and whole] for lang in langs}
    model["trusted"] = np.array([lang for lang in langs if found[lang] and np.mean(found[lang]) >= TRUSTED], "U8")
    return model, tried


def language(text, path=None):
    """(language, score in 0 .. 1) of the first 3000 characters. `path`: a file of train_language, or fastText's lid.176.bin or .ftz; None: learnt from samples/."""
    if path and path.endswith((".bin", ".ftz")):
        (score, label), = fasttext(path).f.predict(" ".join(text.lower().split()) + "\n", 1, 0.0, "strict") or [(0.0, "")]     # .f: the wrapper fails on numpy 2
        return label.removeprefix("__label__"), min(1.0, score)
    model = load(path, "language") if path else own_language()
    scores = softmax(evidence(model, text) * model["scale"])
    return str(model["langs"][scores.argmax()]), float(scores.max())


def languages(path=None):
    """The languages that language() may judge: of which it knew TRUSTED of the documents held out. It would drop all of another's text."""
    if path and path.endswith((".bin", ".ftz")):
        return {label.removeprefix("__label__") for label in fasttext(path).get_labels()}
    return set((load(path, "language") if path else own_language())["trusted"].tolist())


# Perplexity: how surprised a model of one language is by each character, given the four before it

def plain(text):
    """Lower case, digits as 0, single spaces (CCNet)."""
    return " ".join(re.sub(r"\d", "0", text.lower()).split())


def grams(documents):
    """For n = 0 .. ORDER the hashes of n-grams, such that [n][i] ends at character i and [n - 1][i - 1] is its context; and which i are characters.

    Documents begin after line ends, which plain() leaves nowhere else: these are context, never predicted."""
    codes = texts.codes("".join("\n" * ORDER + d for d in documents))
    return [texts.ngrams(codes, n)[ORDER - n:len(codes) - n + 1] for n in range(ORDER + 1)], codes[ORDER - 1:] != 10


def learn_perplexity(documents):
    """Three columns: count(n-gram) and, of the same n-gram as a context, types(context) and count(context) + types(context)."""
    hashed, real = grams(documents)
    found = []
    for n in range(1, ORDER + 1):
        keys, first, count = np.unique(hashed[n][real], return_index=True, return_counts=True)
        contexts, of = np.unique(hashed[n - 1][:-1][real[1:]][first], return_inverse=True)
        found += [(keys, 0, count), (contexts, 1, np.bincount(of)), (contexts, 2, np.bincount(of, count + 1))]
    keys = np.unique(np.concatenate([k for k, *_ in found]))
    rows = np.tile(np.float32([0, 1, 1]), (len(keys), 1))       # a context that nothing followed says nothing: p_n = p_(n-1)
    for k, column, values in found:
        rows[np.searchsorted(keys, k), column] = values
    return table(keys, rows, rows[:, 0] + rows[:, 2], [0, 1, 1])


def probabilities(model, documents):
    """(characters,) p_n = (count(n-gram) + types(context) p_(n-1)) / (count(context) + types(context)), p_0 = 1 / ALPHABET (Witten-Bell)."""
    hashed, real = grams(documents)
    p, columns = 1 / ALPHABET, [model["rows"].take(look_up(model, h), 0).T for h in hashed]
    for (_, types, total), (count, _, _) in zip(columns, columns[1:]):
        p = (count[1:] + types[:-1] * p) / total[:-1]
    return p[real[1:]]


def perplexed(model, text):
    """2 ** bits per character; nan of an empty text."""
    p = probabilities(model, [plain(text)])
    return float(np.exp2(-np.log2(p).mean())) if len(p) else math.nan


def train_perplexity(documents):
    """(model, perplexities of each tenth document, which is held out). 99% of these are below the model's `cut`; where fewer than 10 were held out it is
    infinite: so few do not show how different a good text may be. It holds for text of the same kind: trained on stories, it cuts off the news."""
    documents = [plain(t) for t in random.Random(0).sample(documents, len(documents)) if t.strip()]
    documents = documents[:1 + np.searchsorted(np.cumsum([len(t) for t in documents]), LONGEST)]
    model = ready(learn_perplexity([t for i, t in enumerate(documents) if i % 10 or len(documents) < 2]))
    held_out = [perplexed(model, t) for t in documents[::10] if len(documents) > 1]
    return model | {"cut": np.float32(np.quantile(held_out, 0.99) if len(held_out) >= 10 else np.inf)}, held_out


def perplexity(text, lang, path=None):
    """(perplexity, the cut-off above which a text is unusual). `path`: a folder of LANG.npz, whose perplexity is per character, or of KenLM's LANG.arpa.bin and
    LANG.sp.model, per word piece: then the cut-off is None and ROOTS' thresholds apply. (nan, None) without a model of the language."""
    lang = lang.split("-")[0]
    if path is None:
        model = own_perplexity(lang)
    elif not os.path.isdir(path):
        raise ValueError(f"no folder {path} of perplexity models; python -m corpus.learn perplexity --out {path} makes it")
    elif arpa := [f for f in (f"{path}/{lang}.arpa.bin", f"{path}/{lang}.arpa") if os.path.exists(f)]:
        return by_pieces(text, *kenlm(arpa[0], f"{path}/{lang}.sp.model")), None
    else:
        model = load(f"{path}/{lang}.npz", "perplexity") if os.path.exists(f"{path}/{lang}.npz") else None
    return (perplexed(model, text), float(model["cut"])) if model else (math.nan, None)


def by_pieces(text, model, pieces, cased):
    """KenLM's perplexity: 10 ** (-sum log10 p / sum(pieces + 1)) over the lines; the 1 is the line's end (CCNet)."""
    score = length = 0
    for line in text.splitlines():
        if not cased:
            line = "".join(c for c in unicodedata.normalize("NFD", line.lower()) if unicodedata.category(c) != "Mn")
        line = "".join(c for c in " ".join(re.sub(r"\d", "0", line).translate(PUNCTUATION).split()) if unicodedata.category(c) != "Cc")
        if line:
            found = pieces.encode(line, out_type=str)
            score, length = score + model.score(" ".join(found)), length + len(found) + 1
    return 10 ** (-score / length) if length else math.nan


# Quality

def pairs(text):
    """(n,) places of the words and pairs of neighbours in the weights. Han characters are words; other scripts without spaces need them put in."""
    ids = np.fromiter((zlib.crc32(w.encode()) for w in texts.words(text[:LOOK], "zh")), np.uint64)
    return (np.concatenate([texts.ngrams(ids, 1), texts.ngrams(ids, 2)]) % np.uint64(WEIGHTS)).astype(np.int64)


def good(weights, found):
    """p(reference) of each list of places: a sigmoid of the summed weights over the square root of their number."""
    of, places = np.repeat(np.arange(len(found)), [len(f) for f in found]), np.concatenate(found)
    z = np.bincount(of, weights[places], len(found)) / np.sqrt([max(1, len(f)) for f in found])
    return 1 / (1 + np.exp(-z))


def train_quality(reference, others, epochs=5, rate=0.1, batch=32):
    """(model, labels, probabilities of the held-out tenth). Adagrad; both sets weigh the same, however many texts they have."""
    found, y = [pairs(t) for t in [*reference, *others]], np.repeat([1.0, 0.0], [len(reference), len(others)])
    order = np.random.default_rng(0).permutation(len(y))
    held_out = np.concatenate([order[y[order] == label][::10] for label in (0, 1)])
    order = order[~np.isin(order, held_out)]
    if set(y[order]) != {0, 1}:
        raise ValueError(f"{len(reference)} reference and {len(others)} random documents: a classifier needs several of both")
    share = len(order) / 2 / np.bincount(y[order].astype(int))
    weights, squares = np.zeros(WEIGHTS), np.full(WEIGHTS, 1e-3)
    for at in (order[i:i + batch] for _ in range(epochs) for i in range(0, len(order), batch)):     # the order is random already
        some, lengths = [found[i] for i in at], [len(found[i]) for i in at]
        slope = (good(weights, some) - y[at]) * share[y[at].astype(int)] / np.sqrt(np.maximum(lengths, 1))
        places, of = np.unique(np.concatenate(some), return_inverse=True)
        gradient = np.bincount(of, np.repeat(slope, lengths), len(places))
        squares[places] += gradient ** 2
        weights[places] -= rate * gradient / np.sqrt(squares[places])
    return {"weights": weights.astype(np.float32)}, y[held_out], good(weights, [found[i] for i in held_out])


def quality(text, path):
    """Probability that a text is of the kind of the reference, by a file of train_quality: 0.5 is even."""
    return float(good(load(path, "quality")["weights"], [pairs(text)])[0])


# Files

FIELDS = {"language": {"langs", "trusted", "scale", "keys", "rows"}, "perplexity": {"cut", "keys", "rows"}, "quality": {"weights"}}


def save(model, kind, path):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(f"{path}.new", "wb") as f:
        np.savez_compressed(f, **{name: model[name] for name in sorted(FIELDS[kind])})
    os.replace(f"{path}.new", path)


@functools.cache
def load(path, kind):
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            model = {name: arrays[name] for name in FIELDS[kind]}
    except Exception as e:          # a damaged file raises a dozen kinds, from BadZipFile to tokenize.TokenError
        raise ValueError(f"{path} is no {kind} model: {' '.join(str(e).split())}; python -m corpus.learn {kind} makes one") from e
    return ready(model) if "keys" in model else model


def bring(path, *names):
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as e:
        raise ValueError(f"{path} needs {' and '.join(names)}: pip install {' '.join(names)}") from e


@functools.cache
def fasttext(path):
    return bring(path, "fasttext")[0].load_model(path)


@functools.cache
def kenlm(path, pieces):
    """(model, SentencePiece, cased): CCNet learnt from lower case without accents, ROOTS kept both; whether the pieces have capitals tells which."""
    lm, sp = bring(path, "kenlm", "sentencepiece")
    try:
        pieces = sp.SentencePieceProcessor(model_file=pieces)
        return lm.Model(path), pieces, any(p != p.lower() for p in map(pieces.id_to_piece, range(pieces.vocab_size())))
    except (OSError, RuntimeError) as e:
        raise ValueError(f"cannot read {path} and its .sp.model: {' '.join(str(e).split())}") from e


@functools.cache
def samples():
    """[(lang, text)] of samples/ and a few drawn stories."""
    found = []
    for reader, folder in ("samples", SAMPLES), ("stories", f"{SAMPLES}/stories"):
        for name in sorted(n for n in os.listdir(folder) if n.endswith(".txt")):
            found += [(d["lang"], d["text"]) for d in itertools.islice(sources.read(recipe.Source("samples", f"{folder}/{name}", reader=reader)), STORIES)]
    return found


@functools.cache
def own_language():
    return train_language(samples())[0]


@functools.cache
def own_perplexity(lang):
    found = [t for l, t in samples() if l.split("-")[0] == lang]
    return train_perplexity(found)[0] if found else None
