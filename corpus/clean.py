"""The papers' rules that decide what is kept of a text, each a pure function.

    python -c "from corpus import clean; print(clean.run('Buy!', clean.rules('oscar'), clean.Row('en')))"

prints (None, 'word_count', {}): the rule word_count dropped it. A rule takes (text, row); `row` has the
thresholds of the text's language. A rule of CHANGES returns the text without what it takes out, one of KEEPS
whether the document stays. RECIPES has the papers' orders. Thresholds and word lists are in corpus/rules, for
fluent speakers to edit: "no one-size filtering" (BLOOM, section 3.1).
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
        ours = table(RULES_FOLDER) if folder != RULES_FOLDER else {}
        for section, entries in ours.items():
            needed = {"default"} if section == "languages" else set(entries)
            if missing := needed - set(t.get(section, ())):
                raise ValueError(f"it needs {section}.{min(missing)}")
        for lang, row in t["languages"].items():
            if len(row) != len(t["columns"]):
                raise ValueError(f"the row {lang} has {len(row)} numbers for {len(t['columns'])} columns")
    return t


@functools.cache
def word_list(folder, kind, lang):
    """Set of words; None where nobody has written a list."""
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
    """Take out words that hold a piece of an address or of HTML, and endless ones."""
    def bad(word):
        if row.remove and any(part in word for part in row.general["bad_parts"]):
            return True
        # signs do not count; most words are short enough with them
        return 0 < row.longest < len(word) and row.longest < len("".join(words(word)))

    lines = [[w for w in line.split(" ") if not bad(w)] for line in text.split("\n")]
    return "\n".join(" ".join(line) for line in lines)


def word_count(text, row):
    return row.min_words <= len(words(text, row.lang)) <= row.max_words


def character_repetition(text, row):
    """Limit the share of the most frequent character n-grams: as many as the square root of the number of
    different ones, and at most those that repeat."""
    counts = np.sort(np.unique(ngrams(codes(text), row.char_n), return_counts=True)[1])[::-1]
    top = min(int(len(counts) ** 0.5), int((counts > 1).sum()))
    return counts[:top].sum() / max(1, counts.sum()) <= row.char_max


def word_repetition(text, row):
    """Limit the share of word n-grams that occur more than once: in "a b a b a" all pairs do."""
    found = words(text, row.lang)
    number = {w: i for i, w in enumerate(found)}
    ids = np.array([number[w] for w in found], np.uint64)
    counts = np.unique(ngrams(ids, row.word_n), return_counts=True)[1]
    return counts[counts > 1].sum() / max(1, counts.sum()) <= row.word_max


def special_characters(text, row):
    return specials(codes(text)).mean() <= row.special


def share_of(known, text, row):
    """Share of words in the set `known`; neighbours with row.joined between count as one more."""
    found = words(text, row.lang)
    count = sum(w in known for w in found)
    if row.joined is not None:
        count += sum(a + row.joined + b in known for a, b in zip(found, found[1:]))
    return min(1, count / max(1, len(found)))


def closed_class(text, row):
    """Words of the kind to which a language adds no new ones: "the", "of", "they"."""
    known = row.closed_words
    return known is None or share_of(known, text, row) >= row.closed


def flagged(text, row):
    known = row.flagged_words
    return known is None or share_of(known, text, row) <= row.flagged


def in_language(text, row, least):
    """A language of which the identifier is not sure is never judged: it would lose most of its texts."""
    path = row.models.get("language")
    if row.short not in models.languages(path):
        return True
    found, score = models.language(text, path)
    return found == row.short and score >= least


def language(text, row):
    return in_language(text, row, row.language)


def perplexity(text, row):
    """Is the text probable for a model of its language? Without a model (nan) it stays."""
    return not models.perplexity(text, row.short, row.models.get("perplexity")) > row.perplexity


# ---- ROOTS: functions of the catalogue, chosen for each dataset by people who read it ----

def lines_with_code(text, row):
    return lines_where(text, lambda line: not any(sign in line for sign in row.general["code_signs"]))


def bytes_300(text, row):
    return len(text.encode()) >= 300


def bytes_1024(text, row):
    return len(text.encode()) >= 1024


# ---- LLaMA, section 2.1: CCNet, C4 ----

def ccnet_language(text, row):
    return in_language(text, row, row.ccnet["language"])


def characters_300(text, row):
    return len(text) >= 300


def reference(text, row):
    """Is the page like those to which Wikipedia refers?"""
    return models.quality(text, row.models.get("quality")) >= row.general["reference"]


def c4_lines(text, row):
    """Take out lines that do not end as sentences do, have few words, or are about cookies or scripts."""
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
        return False
    sentences = len(re.findall(r"[.?!]+[\"')\]]*(?=\s|$)", text))
    return sentences >= row.c4["sentences"]


# ---- not in the two papers, but in most open corpora since ----

def gopher(text, row):
    """The limits of MassiveText on words, signs and lines (Rae et al. 2021, appendix A)."""
    limits, found = row.gopher, text.split()
    if not limits["min_words"] <= len(found) <= limits["max_words"]:
        return False
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    signs = max(text.count("#"), text.count("...") + text.count("…"))

    def mean(of, things):
        return sum(map(of, things)) / len(things)

    return (limits["min_length"] <= mean(len, found) <= limits["max_length"]
            and signs / len(found) <= limits["symbols"]
            and mean(lambda line: line.startswith(("-", "*", "•")), lines) <= limits["bullets"]
            and mean(lambda line: line.endswith(("...", "…")), lines) <= limits["ellipses"]
            and mean(lambda word: any(map(str.isalpha, word)), found) >= limits["letters"]
            and len({word.lower() for word in found} & {*limits["common_words"]}) >= limits["common"])


# ---- code ----

COMMENT = r"#(?![ \t]*(?:include|define|undef|if|ifdef|ifndef|pragma|import|error)\b)"      # not C's #include
HEADER = re.compile(r"\A(#![^\n]*\n)?\s*(/\*.*?\*/[ \t]*\n?|<!--.*?-->[ \t]*\n?"
                    rf"|(?:[ \t]*(?://|{COMMENT}|--|;)[^\n]*\n)+)", re.S)


def code_header(text, row):
    """Take out a first comment that speaks of copyright or licence. A line #! before it stays."""
    m = HEADER.match(text)
    return (m[1] or "") + text[m.end():] if m and re.search("copyright|licen[sc]e", m[2], re.I) else text


def share_of_characters(text, test):
    return sum(n for c, n in Counter(text).items() if test(c)) / len(text)


def code_llama(text, row):
    limits, lines = row.code_llama, list(map(len, text.split("\n")))
    return (max(lines) <= limits["longest_line"]
            and sum(lines) / len(lines) <= limits["mean_line"]
            and share_of_characters(text, str.isalnum) >= limits["alphanumeric"])


def code_roots(text, row):
    def inside(name, value):
        least, most = row.code_roots[name]
        return least <= value <= most

    return (len(text.encode()) <= row.code_roots["bytes"]
            and inside("longest_line", max(map(len, text.split("\n"))))
            and inside("characters", len(text))
            and inside("special", share_of_characters(text, special))
            and statistics.pstdev(map(len, text.split())) > row.code_roots["token_length_deviation"])


CHANGES = {rule.__name__: rule for rule in (
    uniform_whitespace, bad_words, pii_email, pii_user, pii_ip, pii_key, lines_with_code, c4_lines,
    code_header)}
KEEPS = {rule.__name__: rule for rule in (
    word_count, character_repetition, word_repetition, special_characters, closed_class, flagged, language,
    perplexity, bytes_300, bytes_1024, characters_300, ccnet_language, reference, c4_document, gopher,
    code_llama, code_roots)}
RULES = CHANGES | KEEPS
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
    """A line, or "": which rules let every text pass, since their model is not here.
    `paths` is {kind: path} of the models; a path that does not open is an error."""
    idle = []
    for name in sorted(set(rules(names)) & set(MODEL_OF)):
        kind = MODEL_OF[name]
        way_out = models.missing(kind, (paths or {}).get(kind))
        if way_out:
            idle.append(f"{name} ({way_out})")
    return f"rules that let every text pass: {', '.join(idle)}" if idle else ""


def not_judged(names, langs, paths=None):
    """A line, or "": which of the languages `langs` the identifier does not judge (BLOOM, section 3.1)."""
    known = models.languages((paths or {}).get("language"))
    asking = [name for name in rules(names) if MODEL_OF.get(name) == "language"]
    if not asking or not known:         # without a model check_rules() says so
        return ""
    left = [lang for lang in sorted(langs) if applies(asking[0], lang) and Row(lang).short not in known]
    return f"{asking[0]} does not judge {', '.join(left)}: its model is not sure of them" if left else ""


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
        new = CHANGES[name](text, row) if name in CHANGES else text
        if not new.strip() or name in KEEPS and not KEEPS[name](text, row):
            return None, name, changed
        if new != text:
            changed[name] = text, new
        text = new
    return text, None, changed
