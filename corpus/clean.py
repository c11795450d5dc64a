"""The papers' rules that decide what is kept of a text, each a pure function.

    python -c "from corpus import clean; print(clean.run('Buy!', clean.rules('oscar'), clean.Row('en')))"

prints (None, 'word_count', {}): the rule word_count dropped it. A rule takes (text, row); `row` has the
thresholds of the text's language. It returns the text, changed or not, or None to drop the document. RECIPES
has the papers' orders. Thresholds and word lists are in corpus/rules, for fluent speakers to
edit: "no one-size filtering" (BLOOM, section 3.1) is a row for each language and one for the rest.
"""
import functools
import os
import re
import statistics
import tomllib
from collections import Counter

import numpy as np

import config
from corpus import models, sources
from corpus.personal import pii_email, pii_ip, pii_key, pii_user
from corpus.text import codes, ngrams, special, specials, words

RULES_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rules")


@functools.cache
def table(folder):
    """thresholds.toml of a folder of rules."""
    path = f"{folder}/thresholds.toml"
    with open(path, "rb") as f, config.blame(path):
        t = tomllib.load(f)
        for section, entries in table(RULES_FOLDER).items() if folder != RULES_FOLDER else ():
            missing = set(entries) - set(t[section])
            if missing and section != "languages":
                raise ValueError(f"it needs {section}.{min(missing)}")
        for lang, row in t["languages"].items():
            if len(row) != len(t["columns"]):
                raise ValueError(f"the row {lang} has {len(row)} numbers for {len(t['columns'])} columns")
    return t


@functools.cache
def word_list(folder, kind, lang):
    """Set of words; None where nobody has written a list: the rule then lets the text pass."""
    path = f"{folder}/{kind}/{lang}.txt"
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as f:
        lines = [line.strip() for line in f]
    return {line for line in lines if line and not line.startswith("#")}


class Row:
    """What rules compare a text of one language with: thresholds (row.min_words), word lists, the tables for
    all languages (row.c4["sentences"]), paths of models."""
    def __init__(self, lang, folder=None, models=None):
        folder = folder or RULES_FOLDER
        t = table(folder)
        self.lang, self.models = lang, models or {}
        self.short = (lang or "").lower().replace("_", "-").split("-")[0]
        self.__dict__.update(t)
        self.__dict__.update(zip(t["columns"], t["languages"].get(self.short, t["languages"]["default"])))
        self.closed_words = word_list(folder, "words", self.short)
        self.flagged_words = word_list(folder, "flagged", self.short)
        self.joined = {"zh": "", "vi": " "}.get(self.short)     # between two neighbours that are one word


def lines_where(text, wanted):
    return "\n".join(line for line in text.split("\n") if wanted(line))


# ---- ROOTS: the filters of OSCAR, in their order (BLOOM, section 3.1; published filtering.py) ----

def uniform_whitespace(text, row):
    return re.sub(r"[^\S\n ]", " ", text)


def bad_words(text, row):
    """Take out words that hold a piece of an address or of HTML, and words too long to be one."""
    def bad(word):
        if row.remove and any(part in word for part in row.general["bad_parts"]):
            return True
        # signs do not count, and the letters are counted only where it matters
        return 0 < row.longest < len(word) and row.longest < len("".join(words(word)))

    lines = [[w for w in line.split(" ") if not bad(w)] for line in text.split("\n")]
    return "\n".join(" ".join(line) for line in lines)


def word_count(text, row):
    return text if row.min_words <= len(words(text, row.lang)) <= row.max_words else None


def repeated_characters(text, n):
    """Share of the most frequent character n-grams: as many as the square root of the number of different
    ones, and at most those that repeat."""
    counts = np.sort(np.unique(ngrams(codes(text), n), return_counts=True)[1])[::-1]
    top = min(int(len(counts) ** 0.5), int((counts > 1).sum()))
    return counts[:top].sum() / max(1, counts.sum())


def character_repetition(text, row):
    return text if repeated_characters(text, row.char_n) <= row.char_max else None


def repeated_words(words, n):
    """Share of word n-grams that occur more than once. "a b a b a", n=2 -> 1.0; "a b c a b" -> 0.5"""
    number = {w: i for i, w in enumerate(words)}
    ids = np.array([number[w] for w in words], np.uint64)
    counts = np.unique(ngrams(ids, n), return_counts=True)[1]
    return counts[counts > 1].sum() / max(1, counts.sum())


def word_repetition(text, row):
    return text if repeated_words(words(text, row.lang), row.word_n) <= row.word_max else None


def special_characters(text, row):
    return text if specials(codes(text)).mean() <= row.special else None


def share_of(known, text, row):
    """Share of words in the set `known`, at most 1. Neighbours with row.joined between count as one more."""
    found = words(text, row.lang)
    count = sum(w in known for w in found)
    if row.joined is not None:
        count += sum(a + row.joined + b in known for a, b in zip(found, found[1:]))
    return min(1, count / max(1, len(found)))


def closed_class(text, row):
    """Keep text with enough words of the kind to which a language adds no new ones: "the", "of", "they"."""
    known = row.closed_words
    return text if known is None or share_of(known, text, row) >= row.closed else None


def flagged(text, row):
    known = row.flagged_words
    return text if known is None or share_of(known, text, row) <= row.flagged else None


def in_language(text, row, least):
    """A language that the identifier does not know is never judged: it would lose all of its texts."""
    path = row.models.get("language")
    if row.short not in models.languages(path):
        return text
    found, score = models.language(text, path)
    return text if found == row.short and score >= least else None


def language(text, row):
    """Drop what the identifier takes for another language or is not sure of."""
    return in_language(text, row, row.language)


def perplexity(text, row):
    """Drop text that is improbable for a model of its language. Without a model (nan) it stays."""
    return None if models.perplexity(text, row.short, row.models.get("perplexity")) > row.perplexity else text


# ---- ROOTS: functions of the catalogue, chosen for each dataset by people who read it ----

def lines_with_code(text, row):
    return lines_where(text, lambda line: not any(sign in line for sign in row.general["code_signs"]))


def bytes_300(text, row):
    return text if len(text.encode()) >= 300 else None


def bytes_1024(text, row):
    return text if len(text.encode()) >= 1024 else None


# ---- LLaMA, section 2.1: CCNet, C4, code ----

def ccnet_language(text, row):
    return in_language(text, row, row.ccnet["language"])


def characters_300(text, row):
    return text if len(text) >= 300 else None


def reference(text, row):
    """Keep pages like those to which Wikipedia refers."""
    return text if models.quality(text, row.models.get("quality")) >= row.general["reference"] else None


def c4_lines(text, row):
    """Keep lines that end as sentences do, have words, and are not about cookies or scripts."""
    c4 = row.c4

    def wanted(line):
        if not line.rstrip().endswith(tuple(c4["line_ends"])) or line.rstrip().endswith("..."):
            return False
        found = line.split()
        if len(found) < c4["line_words"] or max(map(len, found)) > c4["longest_word"]:
            return False
        return not any(phrase in line.lower() for phrase in c4["line_phrases"])
    return lines_where(re.sub(r"\[\d{1,4}\]|\[edit\]|\[citation needed\]", "", text), wanted)


def c4_document(text, row):
    if any(phrase in text.lower() for phrase in row.c4["document_phrases"]):
        return None
    sentences = len(re.findall(r"[.?!]+[\"')\]]*(?=\s|$)", text))
    return text if sentences >= row.c4["sentences"] else None


COMMENT = r"#(?![ \t]*(?:include|define|undef|if|ifdef|ifndef|pragma|import|error)\b)"      # not C's #include
HEADER = re.compile(r"\A(#![^\n]*\n)?\s*(/\*.*?\*/[ \t]*\n?|<!--.*?-->[ \t]*\n?"
                    rf"|(?:[ \t]*(?://|{COMMENT}|--|;)[^\n]*\n)+)", re.S)


def code_header(text, row):
    """Take out a first comment that speaks of copyright or licence. A line #! before it stays."""
    m = HEADER.match(text)
    return (m[1] or "") + text[m.end():] if m and re.search("copyright|licen[sc]e", m[2], re.I) else text


def line_lengths(text):
    return [len(line) for line in text.split("\n")]


def share_of_characters(text, test):
    return sum(n for c, n in Counter(text).items() if test(c)) / len(text)


def code_llama(text, row):
    limits, lines = row.code_llama, line_lengths(text)
    kept = (max(lines) <= limits["longest_line"]
            and sum(lines) / len(lines) <= limits["mean_line"]
            and share_of_characters(text, str.isalnum) >= limits["alphanumeric"])
    return text if kept else None


def code_roots(text, row):
    def inside(name, value):
        least, most = row.code_roots[name]
        return least <= value <= most

    kept = (len(text.encode()) <= row.code_roots["bytes"]
            and inside("longest_line", max(line_lengths(text)))
            and inside("characters", len(text))
            and inside("special", share_of_characters(text, special))
            and statistics.pstdev(map(len, text.split())) > row.code_roots["token_length_deviation"])
    return text if kept else None


RULES = {rule.__name__: rule for rule in (
    uniform_whitespace, bad_words, word_count, character_repetition, word_repetition, special_characters,
    closed_class, flagged, language, perplexity, lines_with_code, bytes_300, bytes_1024,
    pii_email, pii_user, pii_ip, pii_key,
    characters_300, ccnet_language, reference, c4_lines, c4_document, code_header, code_llama, code_roots)}
RECIPES = {         # in the papers' orders, but ROOTS masked personal information after near duplicates
    "pii": ["pii_email", "pii_user", "pii_ip", "pii_key"],
    "oscar": ["uniform_whitespace", "bad_words", "word_count", "character_repetition", "word_repetition",
              "special_characters", "closed_class", "flagged", "language", "perplexity", "pii"],
    "catalogue": ["same_letters", "template_lines", "bytes_300"],
    "pseudo_crawl": ["same_url", "same_letters", "newspaper_lines", "lines_with_code", "bytes_1024"],
    # CCNet sorts by perplexity into three parts. LLaMA does not say which it kept: here ROOTS' limit decides
    "ccnet": ["ccnet_lines", "characters_300", "ccnet_language", "perplexity"],
    "c4": ["c4_lines", "c4_document"],
    "roots_code": ["same_signs", "code_roots"],
    "llama_code": ["code_header", "code_llama"],
}


# ---- rules that need the whole source: corpus/dedup.py finds what repeats ----

def same_letters(document):
    return "".join(c for c in document["text"] if not special(c))


def same_url(document):
    url = document.get("url")
    return re.sub(r"^\w+://|[?#].*", "", url) if url else document["id"]


def same_signs(document):
    return "".join(document["text"].split())


# of two documents with the same key the later one goes
KEYS = {rule.__name__: rule for rule in (same_letters, same_url, same_signs)}
# Lines that repeat in a source go; for newspapers a source is a site. The characters that a line must have,
# the times it must occur, whether the first stays, whether lines are compared as CCNet does: in lower case,
# digits as 0, no punctuation
LINES = {
    "template_lines": (15, 10, False, False),
    "newspaper_lines": (0, 2, False, False),
    "ccnet_lines": (0, 2, True, True),
}


def rules(names):
    """Names with recipes written out. rules(["c4", "pii_ip"]) -> ["c4_lines", "c4_document", "pii_ip"]"""
    found, known = [], [*KEYS, *LINES, *RULES]
    for name in [names] if isinstance(names, str) else names:
        if name not in RECIPES and name not in known:
            raise ValueError(f"unknown rule {name!r}; the recipes are {', '.join(RECIPES)}; "
                             f"the rules are {', '.join(known)}")
        found += rules(RECIPES[name]) if name in RECIPES else [name]
    return found


MODEL_OF = {"language": "language", "ccnet_language": "language", "perplexity": "perplexity",
            "reference": "quality"}


def check_rules(names, paths=None):
    """A line to print before the work, or "": which rules let every text pass, since their model is not here.
    `paths` is {kind: path} of the models; a path that does not open is an error."""
    missing = []
    for name in sorted(set(rules(names)) & set(MODEL_OF)):
        way_out = models.missing(MODEL_OF[name], (paths or {}).get(MODEL_OF[name]))
        missing += [f"{name} ({way_out})"] if way_out else []
    return f"rules that let every text pass: {', '.join(missing)}" if missing else ""


# ---- source code ----

CODE_LANGUAGES = set(sources.CODE.values())
# On source code only these rules act. The others were made for prose: in code an @ begins a decorator, tabs
# and repeated lines have a meaning, 1000000000 is a number and no key, and x[::2] holds no address.
ALSO_FOR_CODE = {"bytes_300", "bytes_1024", "characters_300", "code_header", "code_llama", "code_roots",
                 "pii_email", *KEYS}
CODE_NOTE = "rules for prose pass over source code, which has recipes of its own: roots_code, llama_code"


def applies(name, lang):
    """Whether a rule acts on documents of this language. applies("word_count", "python") -> False"""
    return name in ALSO_FOR_CODE or (lang or "").lower() not in CODE_LANGUAGES


def run(text, names, row):
    """(text or None, the rule that dropped it, {rule that changed it: (before, after)}).
    A rule that leaves nothing of a text drops it."""
    changed = {}
    for name in [name for name in names if applies(name, row.lang)]:
        new = RULES[name](text, row)
        if new is None or not new.strip():
            return None, name, changed
        if new != text:
            changed[name] = text, new
        text = new
    return text, None, changed
