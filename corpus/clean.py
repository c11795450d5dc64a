"""What is kept of a text, and why the rest is not: the papers' rules, each a pure function of a text and its language's row of thresholds.

    python -c "from corpus import clean; print(clean.run('Buy now!', clean.rules(['oscar']), clean.Row('en')))"     # (None, 'word_count', {})

A rule takes (text, row) and gives the text, changed or not, or None to drop the document; the reason is then the rule's name.
RECIPES puts them in the papers' orders. Thresholds and word lists are in corpus/rules, for fluent speakers to read and edit:
"no one-size filtering" (BLOOM, section 3.1) is a row for each language. A language without a row uses the row `default`.
"""
import functools
import ipaddress
import os
import re
import statistics
import tomllib
from collections import Counter

import numpy as np

from corpus import models
from corpus.text import codes, ngrams, special, specials, words

RULES_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rules")


@functools.cache
def table(folder):
    with open(f"{folder}/thresholds.toml", "rb") as f:
        try:
            t = tomllib.load(f)
        except tomllib.TOMLDecodeError as e:
            raise ValueError(f"{folder}/thresholds.toml: {e}") from e
    own = t if folder == RULES_FOLDER else table(RULES_FOLDER)
    wrong = [f"it needs {k}" for k in own if k not in t] + [f"it needs {k}.{n}" for k in own if isinstance(own[k], dict) and k != "languages" for n in own[k] if n not in t.get(k, own[k])] \
        + [f"the row {lang} has {len(r)} numbers for {len(t['columns'])} columns" for lang, r in t.get("languages", {}).items() if len(r) != len(t.get("columns", r))]
    if wrong:
        raise ValueError(f"{folder}/thresholds.toml: {wrong[0]}")
    return t


@functools.cache
def word_list(folder, kind, lang):
    """Set of words, or None where nobody has written a list: a rule that needs it then lets the text pass."""
    path = f"{folder}/{kind}/{lang}.txt"
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as f:
        return {w for line in f if (w := line.strip()) and not w.startswith("#")}


class Row:
    """The thresholds of one language as attributes, its word lists, the general tables (row.c4["sentences"]), and the paths of models."""
    def __init__(self, lang, folder=None, models=None):
        folder = folder or RULES_FOLDER
        t = table(folder)
        self.lang, self.models = lang, models or {}
        self.short = short = (lang or "").lower().replace("_", "-").split("-")[0]
        self.__dict__.update(zip(t["columns"], t["languages"].get(short, t["languages"]["default"])))
        self.__dict__.update({section: values for section, values in t.items() if section not in ("columns", "languages")})
        self.closed_words, self.flagged_words = word_list(folder, "words", short), word_list(folder, "flagged", short)
        self.joined = {"zh": "", "vi": " "}.get(short)      # how two neighbouring words are joined to be looked up as one


def lines_where(text, keep):
    return "\n".join(line for line in text.split("\n") if keep(line))


# ROOTS: the filters of OSCAR, in their order (BLOOM, section 3.1; published filtering.py)

def uniform_whitespace(text, row):
    return re.sub(r"[^\S\n ]", " ", text)


def bad_words(text, row):
    """Take out words that hold a piece of an address or of HTML, and words too long to be one."""
    if not row.remove and not row.longest:
        return text

    def keep(w):
        return not (row.remove and any(part in w for part in row.general["bad_parts"])) and \
            not (0 < row.longest < len(w) and row.longest < len("".join(words(w))))
    return "\n".join(" ".join(w for w in line.split(" ") if keep(w)) for line in text.split("\n"))


def word_count(text, row):
    return text if row.min_words <= len(words(text, row.lang)) <= row.max_words else None


def repeated_characters(text, n):
    """Share of the most frequent character n-grams in all. They are as many as the root of the distinct ones, at most those that repeat."""
    counts = np.sort(np.unique(ngrams(codes(text), n), return_counts=True)[1])[::-1]
    top = min(int(len(counts) ** 0.5), len(counts) - int((counts == 1).sum()))
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
    """Share of the words that are in the set `known`, at most 1; with `joined`, two neighbours count as one word too."""
    pairs = (a + joined + b for a, b in zip(found, found[1:])) if joined is not None else ()
    return min(1, (sum(w in known for w in found) + sum(p in known for p in pairs)) / max(1, len(found)))


def closed_class(text, row):
    return text if row.closed_words is None or share_of(words(text, row.lang), row.closed_words, row.joined) >= row.closed else None


def flagged(text, row):
    return text if row.flagged_words is None or share_of(words(text, row.lang), row.flagged_words, row.joined) <= row.flagged else None


def in_language(text, row, least):
    if row.short not in models.languages(row.models.get("language")):
        return text
    found, score = models.language(text, row.models.get("language"))
    return text if found == row.short and score >= least else None


def language(text, row):
    """Drop what the identifier takes for another language, or is not sure of. Languages it does not know pass."""
    return in_language(text, row, row.language)


def perplexity(text, row):
    """Drop text that is improbable for a model of its language. Our own models bring the cut-off; KenLM's is the table's."""
    value, cut = models.perplexity(text, row.lang or "", row.models.get("perplexity"))
    return None if value > (cut or row.perplexity) else text            # without a model of the language it is nan, and the text stays


# ROOTS: functions of the catalogue, chosen for each dataset by people who read it

def lines_with_code(text, row):
    return lines_where(text, lambda line: not any(sign in line for sign in row.general["code_signs"]))


def small_words(text, row):
    return text if len(words(text, row.lang)) >= row.general["small_words"] else None


def bytes_300(text, row):
    return text if len(text.encode()) >= 300 else None


def bytes_1024(text, row):
    return text if len(text.encode()) >= 1024 else None


# ROOTS: personal information becomes PI:KIND. The bounds on lengths keep each pattern linear in the text.

# Chinese, Japanese and Thai put no space around an address: their letters end one, as a space does.
UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"
W = rf"[^\W{UNSPACED}]"         # a letter, digit or _ of the other scripts
SIGNS = rf"""\s@?!;,:)('"<{UNSPACED}"""
EMAIL = re.compile(rf"(?<![^{SIGNS}])[^{SIGNS}]{{1,64}}@(?:[^\W{UNSPACED}][\w-]{{0,62}}\.){{1,8}}[^\W\d_{UNSPACED}]{W}{{1,24}}(?!{W})")
USER = re.compile(rf"""(?<!{W})@[^\s()@,?!;:'"]{{3,64}}""")
IP = re.compile(rf"(?<!{W})(?<![.:])(?:[0-9A-Fa-f]{{0,4}}:){{2,8}}[0-9A-Fa-f.:]{{0,19}}(?!:|{W})|(?<!{W})(?<![.:])\d{{1,3}}(?:\.\d{{1,3}}){{3}}(?!{W}|:|\.\d)")
GROUP = r"(?:\d{3,}+|(?=[A-Z]{0,99}\d)[A-Z\d]{3,}+)"
KEY = re.compile(rf"(?<!{W})(?<![/+=:-])(?=[A-Za-z/+=:_-]{{0,200}}\d)[\d/+=:_-]*+(?:[A-Za-z]++[\d/+=:_-]++){{4,}}+[A-Za-z]*+(?!{W})"
                 rf"|(?<!{W})(?:\d{{9,}}+|{GROUP}(?:[ -]{GROUP}){{2,}}+)(?!{W})")
PHONE = re.compile(r"(?<![\w+])\+?\(?\d[\d ().-]{5,18}\d(?!\w)")
ID = re.compile(r"(?<!\w)[A-Z]{1,3}[ -]?\d{6,12}[A-Z]?(?!\w)")


def address(match):
    try:
        return "PI:IP_ADDRESS" if ipaddress.ip_address(match[0]) and re.search(r"\d", match[0]) else match[0]
    except ValueError:
        return match[0]


def pii_email(text, row):
    return EMAIL.sub("PI:EMAIL", text) if "@" in text else text


def pii_user(text, row):
    return USER.sub("PI:USER", text) if "@" in text else text


def pii_ip(text, row):
    return IP.sub(address, text)


def pii_key(text, row):
    return KEY.sub("PI:KEY", text)


def pii_phone(text, row):
    """Not in the recipe `pii`: BLOOM switched it off for its false positives, as pii_id. Name it to use it."""
    return PHONE.sub(lambda m: "PI:PHONE" if sum(c.isdigit() for c in m[0]) >= 7 else m[0], text)


def pii_id(text, row):
    return ID.sub("PI:ID", text)


# LLaMA, section 2.1: CCNet, C4, code

def ccnet_language(text, row):
    return in_language(text, row, row.ccnet["language"])


def characters_300(text, row):
    return text if len(text) >= 300 else None


def reference(text, row):
    """Keep pages that look like the references of Wikipedia: needs models={'quality': FILE}, made by python -m corpus.learn quality."""
    if not row.models.get("quality"):
        raise ValueError("the rule reference needs a classifier: make one with python -m corpus.learn quality, and set models={'quality': FILE}")
    return text if models.quality(text, row.models["quality"]) >= row.general["reference"] else None


def c4_lines(text, row):
    """Keep lines that end as sentences do, have words, and are not about cookies or scripts; citation marks go."""
    def keep(line):
        found, low = line.split(), line.lower()
        return (line.rstrip().endswith(tuple(row.c4["line_ends"])) and not line.rstrip().endswith("...") and len(found) >= row.c4["line_words"]
                and max(map(len, found)) <= row.c4["longest_word"] and not any(p in low for p in row.c4["line_phrases"]))
    return lines_where(re.sub(r"\[\d{1,4}\]|\[edit\]|\[citation needed\]", "", text), keep)


def c4_document(text, row):
    sentences = len(re.findall(r"[.?!]+[\"')\]]*(?=\s|$)", text))
    return text if sentences >= row.c4["sentences"] and not any(p in text.lower() for p in row.c4["document_phrases"]) else None


def gopher(text, row):
    g, found, lines = row.gopher, text.split(), [line.strip() for line in text.split("\n") if line.strip()]
    ok = (g["min_words"] <= len(found) <= g["max_words"]
          and g["min_length"] <= sum(map(len, found)) / len(found) <= g["max_length"]
          and max(text.count("#"), text.count("...") + text.count("…")) / len(found) <= g["symbols"]
          and sum(line.startswith(("-", "*", "•")) for line in lines) / len(lines) <= g["bullets"]
          and sum(line.endswith(("...", "…")) for line in lines) / len(lines) <= g["ellipses"]
          and sum(any(map(str.isalpha, w)) for w in found) / len(found) >= g["letters"]
          and len({w.lower() for w in found} & set(g["common_words"])) >= g["common"])
    return text if ok else None


HEADER = re.compile(r"\A(#![^\n]*\n)?\s*(/\*.*?\*/[ \t]*\n?|<!--.*?-->[ \t]*\n?|(?:[ \t]*(?://|#(?![ \t]*(?:include|define|undef|if|ifdef|ifndef|pragma|import|error)\b)|--|;)[^\n]*\n)+)", re.S)


def code_header(text, row):
    """Take out a first comment that speaks of copyright or licence."""
    m = HEADER.match(text)
    return (m[1] or "") + text[m.end():] if m and re.search("copyright|licen[sc]e", m[2], re.I) else text


def code_llama(text, row):
    longest, mean = lengths(text)
    letters = sum(n for c, n in Counter(text).items() if c.isalnum()) / len(text)
    return text if longest <= row.code_llama["longest_line"] and mean <= row.code_llama["mean_line"] and letters >= row.code_llama["alphanumeric"] else None


def lengths(text):
    """Longest and mean line, in characters."""
    each = [len(line) for line in text.split("\n")]
    return max(each), sum(each) / len(each)


def code_roots(text, row):
    r, tokens = row.code_roots, [len(t) for t in text.split()]
    ok = (len(text.encode()) <= r["bytes"] and r["longest_line"][0] <= lengths(text)[0] <= r["longest_line"][1]
          and r["characters"][0] <= len(text) <= r["characters"][1]
          and r["special"][0] <= sum(n for c, n in Counter(text).items() if special(c)) / len(text) <= r["special"][1]
          and statistics.pstdev(tokens) > r["token_length_deviation"])
    return text if ok else None


RULES = {f.__name__: f for f in (
    uniform_whitespace, bad_words, word_count, character_repetition, word_repetition, special_characters, closed_class, flagged, language, perplexity,
    lines_with_code, small_words, bytes_300, bytes_1024, pii_email, pii_user, pii_ip, pii_key, pii_phone, pii_id,
    characters_300, ccnet_language, reference, c4_lines, c4_document, gopher, code_header, code_llama, code_roots)}
RECIPES = {         # in the papers' orders, but that ROOTS masked personal information after near duplicates, not before
    "pii": ["pii_email", "pii_user", "pii_ip", "pii_key"],
    "oscar": ["uniform_whitespace", "bad_words", "word_count", "character_repetition", "word_repetition", "special_characters", "closed_class", "flagged",
              "language", "perplexity", "pii"],
    "catalogue": ["same_letters", "template_lines", "bytes_300"],
    "pseudo_crawl": ["same_url", "same_letters", "newspaper_lines", "lines_with_code", "bytes_1024"],
    "ccnet": ["ccnet_lines", "characters_300", "ccnet_language", "perplexity"],        # CCNet sorts by perplexity in three; LLaMA does not say which it kept. Here ROOTS' cut-off
    "c4": ["c4_lines", "c4_document"],
    "roots_code": ["same_signs", "code_roots"],
    "llama_code": ["code_header", "code_llama"],
}
# What the rules above cannot see, since it takes the whole source: corpus/dedup.py. Keys of a document that none before it may have ...
KEYS = {
    "same_letters": lambda d: "".join(c for c in d["text"] if not special(c)),                  # ROOTS' dedup_document
    "same_url": lambda d: re.sub(r"^\w+://|[?#].*", "", d["url"]) if d.get("url") else d["id"],        # host and path
    "same_signs": lambda d: "".join(d["text"].split()),                                         # code: all but spaces
}
# ... and lines that repeat in a source, which for newspapers is a site: (characters a line must have, times it occurs, whether the first one stays, normalised as CCNet does)
LINES = {"template_lines": (15, 10, False, False), "newspaper_lines": (0, 2, False, False), "ccnet_lines": (0, 2, True, True)}


def rules(names):
    """Names with their recipes written out. rules(["c4", "pii_email"]) -> ["c4_lines", "c4_document", "pii_email"]"""
    found = []
    for name in [names] if isinstance(names, str) else names:
        if name in RECIPES:
            found += rules(RECIPES[name])
        elif name in RULES or name in KEYS or name in LINES:
            found.append(name)
        else:
            raise ValueError(f"unknown rule {name!r}; the recipes are {', '.join(RECIPES)}; the rules are {', '.join([*KEYS, *LINES, *RULES])}")
    return found


def run(text, names, row):
    """(text or None, the rule that dropped it, {rule that changed it: (before, after)}). What is empty after a rule is dropped by it."""
    changed = {}
    for name in names:
        new = RULES[name](text, row)
        if new is None or not new.strip():
            return None, name, changed
        if new != text:
            changed[name] = text, new
        text = new
    return text, None, changed
