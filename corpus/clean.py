"""The papers' rules that decide what is kept of a text, each a pure function.

    python -c "from corpus import clean; print(clean.run('Buy!', clean.rules('oscar'), clean.Row('en')))"

prints (None, 'word_count', {}): the rule word_count dropped it. A rule takes (text, row); `row` has the
thresholds of the text's language. It returns the text, changed or not, or None to drop the document. RECIPES
lists the rules in the papers' orders. Thresholds and word lists are in corpus/rules, for fluent speakers to
read and edit: "no one-size filtering" (BLOOM, section 3.1) is a row for each language and one for the rest.
"""
import functools
import os
import re
import statistics
import tomllib
from collections import Counter
from typing import NamedTuple

import numpy as np

import config
from corpus import models, sources
from corpus.personal import pii_email, pii_ip, pii_key, pii_user
from corpus.text import codes, ngrams, special, specials, words

RULES_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rules")


def entries(t):
    """The names in a table of thresholds: {"columns", "c4", "c4.sentences", ...}. Its languages are free."""
    found = set(t)
    for section in found - {"columns", "languages"}:
        found = found | {f"{section}.{name}" for name in t[section]}
    return found


@functools.cache
def table(folder):
    """thresholds.toml of a folder of rules. One that lacks an entry of ours is refused."""
    path = f"{folder}/thresholds.toml"
    with open(path, "rb") as f, config.blame(path):
        t = tomllib.load(f)
        missing = set() if folder == RULES_FOLDER else entries(table(RULES_FOLDER)) - entries(t)
        if missing:
            raise ValueError(f"it needs {min(missing)}")
        for lang, row in t["languages"].items():
            if len(row) != len(t["columns"]):
                raise ValueError(f"the row {lang} has {len(row)} numbers for {len(t['columns'])} columns")
    return t


@functools.cache
def word_list(folder, kind, lang):
    """Set of words, or None where nobody has written a list: a rule that needs it then lets the text pass."""
    path = f"{folder}/{kind}/{lang}.txt"
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as f:
        lines = [line.strip() for line in f]
    return {line for line in lines if line and not line.startswith("#")}


class Row:
    """What rules compare a text of one language with: its thresholds as attributes (row.min_words), its word
    lists, the tables for all languages (row.c4["sentences"]) and the paths of the models."""
    def __init__(self, lang, folder=None, models=None):
        folder = folder or RULES_FOLDER
        t = table(folder)
        self.lang, self.models = lang, models or {}
        self.short = (lang or "").lower().replace("_", "-").split("-")[0]
        self.__dict__.update({k: v for k, v in t.items() if k not in ("columns", "languages")})
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

    if not row.remove and not row.longest:
        return text
    lines = [[w for w in line.split(" ") if not bad(w)] for line in text.split("\n")]
    return "\n".join(" ".join(line) for line in lines)


def word_count(text, row):
    return text if row.min_words <= len(words(text, row.lang)) <= row.max_words else None


def repeated_characters(text, n):
    """Share of the most frequent character n-grams in all: of as many as the square root of the number of
    different ones, and at most those that repeat."""
    counts = np.sort(np.unique(ngrams(codes(text), n), return_counts=True)[1])[::-1]
    top = min(int(len(counts) ** 0.5), int((counts > 1).sum()))
    return counts[:top].sum() / max(1, counts.sum())


def character_repetition(text, row):
    return text if repeated_characters(text, row.char_n) <= row.char_max else None


def repeated_words(words, n):
    """Share of word n-grams that occur more than once. "a b a b a", n=2 -> 1.0; "a b c a b" -> 0.5"""
    number = {}
    ids = np.array([number.setdefault(w, len(number)) for w in words], np.uint64)
    counts = np.unique(ngrams(ids, n), return_counts=True)[1]
    return counts[counts > 1].sum() / max(1, counts.sum())


def word_repetition(text, row):
    return text if repeated_words(words(text, row.lang), row.word_n) <= row.word_max else None


def special_characters(text, row):
    return text if specials(codes(text)).mean() <= row.special else None


def share_of(found, known, joined=None):
    """Share of words in the set `known`, at most 1. Two neighbours with `joined` between count too."""
    count = sum(w in known for w in found)
    if joined is not None:
        count += sum(a + joined + b in known for a, b in zip(found, found[1:]))
    return min(1, count / max(1, len(found)))


def closed_class(text, row):
    """Keep text with enough words of the kind to which a language adds no new ones: "the", "of", "they"."""
    if row.closed_words is None:
        return text
    return text if share_of(words(text, row.lang), row.closed_words, row.joined) >= row.closed else None


def flagged(text, row):
    if row.flagged_words is None:
        return text
    return text if share_of(words(text, row.lang), row.flagged_words, row.joined) <= row.flagged else None


def in_language(text, row, least):
    """A language that the identifier does not know is never judged: it would lose all of its texts."""
    path = row.models.get("language")
    if row.short not in models.languages(path):
        return text
    found, score = models.language(text, path)
    return text if found == row.short and score >= least else None


def language(text, row):
    """Drop what the identifier takes for another language or is not sure of. Without identifier all pass."""
    return in_language(text, row, row.language)


def perplexity(text, row):
    """Drop text that is improbable for a model of its language. Without a model (nan) the text stays."""
    value = models.perplexity(text, row.short, row.models.get("perplexity"))
    return None if value > row.perplexity else text


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
    """Keep pages like those to which Wikipedia refers. `python -m corpus.learn quality` makes the model."""
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
    if not m or not re.search("copyright|licen[sc]e", m[2], re.I):
        return text
    return (m[1] or "") + text[m.end():]


def line_lengths(text):
    """Longest and mean line, in characters."""
    each = [len(line) for line in text.split("\n")]
    return max(each), sum(each) / len(each)


def share_of_characters(text, test):
    return sum(n for c, n in Counter(text).items() if test(c)) / len(text)


def code_llama(text, row):
    limits = row.code_llama
    longest, mean = line_lengths(text)
    if longest > limits["longest_line"] or mean > limits["mean_line"]:
        return None
    return text if share_of_characters(text, str.isalnum) >= limits["alphanumeric"] else None


def code_roots(text, row):
    def inside(value, name):
        least, most = row.code_roots[name]
        return least <= value <= most

    tokens = [len(t) for t in text.split()]
    kept = (len(text.encode()) <= row.code_roots["bytes"]
            and inside(line_lengths(text)[0], "longest_line")
            and inside(len(text), "characters")
            and inside(share_of_characters(text, special), "special")
            and statistics.pstdev(tokens) > row.code_roots["token_length_deviation"])
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
    """ROOTS' dedup_document"""
    return "".join(c for c in document["text"] if not special(c))


def same_url(document):
    """Host and path."""
    url = document.get("url")
    return re.sub(r"^\w+://|[?#].*", "", url) if url else document["id"]


def same_signs(document):
    """Code: everything but white space."""
    return "".join(document["text"].split())


class LineRule(NamedTuple):
    """Lines that repeat in a source go. For newspapers a source is a site."""
    characters: int         # a line must have
    times: int              # it must occur
    first_stays: bool
    normalised: bool        # compared as CCNet does: lower case, digits as 0, no punctuation


# keys of a document: of two documents with the same key the later one goes
KEYS = {rule.__name__: rule for rule in (same_letters, same_url, same_signs)}
LINES = {
    "template_lines": LineRule(15, 10, first_stays=False, normalised=False),
    "newspaper_lines": LineRule(0, 2, first_stays=False, normalised=False),
    "ccnet_lines": LineRule(0, 2, first_stays=True, normalised=True),
}


def rules(names):
    """Names with recipes written out. rules(["c4", "pii_ip"]) -> ["c4_lines", "c4_document", "pii_ip"]"""
    found = []
    for name in [names] if isinstance(names, str) else names:
        if name in RECIPES:
            found += rules(RECIPES[name])
        elif name in RULES or name in KEYS or name in LINES:
            found.append(name)
        else:
            raise ValueError(f"unknown rule {name!r}; the recipes are {', '.join(RECIPES)}; "
                             f"the rules are {', '.join([*KEYS, *LINES, *RULES])}")
    return found


MODEL_OF = {"language": "language", "ccnet_language": "language", "perplexity": "perplexity",
            "reference": "quality"}


def check_rules(names, paths=None):
    """A line to print before the work, or "": which rules will let every text pass, since their model is not
    here, and what to do. `paths` is {kind: path} of the models; a path that does not open is an error."""
    missing = {}
    for name in set(rules(names)) & set(MODEL_OF):
        kind = MODEL_OF[name]
        way_out = models.missing(kind, (paths or {}).get(kind))
        if way_out:
            missing[name] = f"{name} ({way_out})"
    return f"rules that let every text pass: {', '.join(sorted(missing.values()))}" if missing else ""


# ---- source code ----

CODE_LANGUAGES = set(sources.CODE.values())
# On source code only these rules act: on size, on code, and masks. The others were made for prose. In code an
# @ begins a decorator, tabs and repetition have a meaning, and few words are closed-class words.
ALSO_FOR_CODE = {"bytes_300", "bytes_1024", "characters_300", "code_header", "code_llama", "code_roots",
                 "pii_email", "pii_ip", "pii_key", *KEYS}
CODE_NOTE = "rules for prose pass over source code, which has recipes of its own: roots_code, llama_code"


def applies(name, lang):
    """Whether a rule acts on documents of this language. applies("word_count", "python") -> False"""
    return name in ALSO_FOR_CODE or (lang or "").lower() not in CODE_LANGUAGES


def run(text, names, row):
    """(text or None, the rule that dropped it, {rule that changed it: (before, after)}).
    A rule that leaves nothing of a text drops it."""
    changed = {}
    for name in names:
        if not applies(name, row.lang):     # see CODE_NOTE
            continue
        new = RULES[name](text, row)
        if new is None or not new.strip():
            return None, name, changed
        if new != text:
            changed[name] = text, new
        text = new
    return text, None, changed
