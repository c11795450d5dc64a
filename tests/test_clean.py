"""Each rule with a text just inside and one just outside its threshold; those that differ by language in four
scripts."""
import collections
import random
import shutil
import unicodedata

import pytest

from corpus import clean
from corpus.text import words

LETTERS = {"en": "abcdefghijklmnopqrstuvwxyz", "ar": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
           "hi": "कखगघचछजझटठडढतथदधनपफबभमयरलवशषसह", "zh": "".join(map(chr, range(0x4e00, 0x4e00 + 400)))}
SCRIPTS = list(LETTERS)


def made(lang, n, seed=0):
    """n different words of a language's letters; a Chinese word is one character."""
    draw, found = random.Random(f"{lang} {seed}"), {}
    while len(found) < n:
        found["".join(draw.choices(LETTERS[lang], k=1 if lang == "zh" else 5))] = None
    return list(found)


def joined(lang, w):
    return ("" if lang == "zh" else " ").join(w)


def verdict(rule, text, row):
    return clean.KEEPS[rule](text, row)


@pytest.mark.parametrize("lang", SCRIPTS)
def test_word_count_at_its_limits(lang):
    row = clean.Row(lang)
    row.max_words = 300
    for n, kept in ((row.min_words - 1, False), (row.min_words, True), (300, True), (301, False)):
        assert verdict("word_count", joined(lang, made(lang, n)), row) == kept, n


def naive(rule, text, row):
    """A share as anyone would count it."""
    found = words(text, row.lang)
    if rule == "special_characters":
        return sum(unicodedata.category(c)[0] not in "LM" for c in text) / len(text)
    if rule == "character_repetition":
        counts = collections.Counter(text[i:i + row.char_n] for i in range(len(text) - row.char_n + 1))
        top = min(int(len(counts) ** 0.5), sum(n > 1 for n in counts.values()))
        return sum(n for _, n in counts.most_common(top)) / counts.total()
    if rule == "word_repetition":
        counts = collections.Counter(zip(*(found[i:] for i in range(row.word_n))))
        return sum(n for n in counts.values() if n > 1) / counts.total()
    return sum(w in row.flagged_words for w in found) / len(found)


@pytest.mark.parametrize("lang", SCRIPTS)
@pytest.mark.parametrize("rule, limit", [
    ("special_characters", "special"), ("character_repetition", "char_max"), ("word_repetition", "word_max"),
    ("closed_class", "closed"), ("flagged", "flagged")])
def test_a_share_is_the_naive_one_and_at_its_limit_a_text_is_kept(lang, rule, limit):
    row, (known, *other) = clean.Row(lang), made(lang, 150)
    row.flagged_words = row.closed_words = {known}
    row.joined = None                   # neighbours are tried below
    for times in (1, 5, 40):
        text = joined(lang, other + made(lang, 12, seed=1) * times + [known] * times) + " 7!😀की" * times
        share = naive(rule, text, row)
        for value, kept in ((share, True), (share + (1e-9 if rule == "closed_class" else -1e-9), False)):
            setattr(row, limit, value)
            assert verdict(rule, text, row) == kept, (share, kept)


def test_neighbours_are_looked_up_together_in_vietnamese_and_chinese():
    for lang, known, text, share in (("vi", {"tuy nhiên"}, "tuy nhiên x y", 1 / 4),
                                     ("zh-Hant", {"我们"}, "我们山", 1 / 3),
                                     ("en", {"a b"}, "a b", 0), ("vi", {"a", "a a"}, "a a", 1)):
        assert clean.share_of(known, text, clean.Row(lang)) == pytest.approx(share)


@pytest.mark.parametrize("lang", SCRIPTS)
def test_words_with_addresses_and_endless_words_are_taken_out(lang):
    row, (a, b) = clean.Row(lang), made(lang, 2)
    kept = (LETTERS[lang] * 2)[:row.longest or 30]
    text = f"{a} http://x.org/{b} {kept}. {kept}q\n{b} see//there {a}"
    got = clean.bad_words(text, row)
    signs = f"{a} {'-' * 60} {b}"
    assert clean.bad_words(signs, row) == signs, "a run of signs has no letters"
    assert got == (text if lang == "zh" else f"{a} {kept}.\n{b} {a}")


def test_documents_below_a_size_go():
    row = clean.Row("en")
    for rule, letter, n in (("bytes_300", "न", 100), ("bytes_1024", "س", 512), ("characters_300", "न", 300)):
        assert verdict(rule, letter * n, row) and not verdict(rule, letter * (n - 1), row)


def test_white_space_becomes_plain_and_lines_with_code_go():
    row = clean.Row("en")
    assert clean.uniform_whitespace("a\u00a0b\tc\u3000d\ne", row) == "a b c d\ne"
    assert clean.lines_with_code("one\nif (x) {\ntwo\n<script>\n[if IE]\nthree }", row) == "one\ntwo"


MASKED = [
    ("pii_email", "write to ana.maria+x@mail.example.org, please", "write to PI:EMAIL, please"),
    ("pii_email", "me@home is no address, nor a@b.1c", "me@home is no address, nor a@b.1c"),
    ("pii_email", "请联系zhang@example.com我们会回复您", "请联系PI:EMAIL我们会回复您"),
    ("pii_user", "thanks @some_body! @ab 5@home लिखें @रामलाल", "thanks PI:USER! @ab 5@home लिखें PI:USER"),
    ("pii_user", "见@某某某 吧", "见PI:USER 吧"),
    ("pii_ip", "服务器192.168.1.1的", "服务器PI:IP_ADDRESS的"),
    ("pii_ip", "from 192.168.0.17 to 300.1.1.1", "from PI:IP_ADDRESS to 300.1.1.1"),
    ("pii_ip", "version 1.2.3.4.5 and 10.0.0.1.", "version 1.2.3.4.5 and PI:IP_ADDRESS."),
    ("pii_ip", "2001:db8::8a2e:370:7334, not 12:30:45 or ab::", "PI:IP_ADDRESS, not 12:30:45 or ab::"),
    ("pii_ip", "x[::2], fe80::1, not 2001:db8::1", "x[::2], fe80::1, not PI:IP_ADDRESS"),
    ("pii_key", "密码sk1ab2cd3ef4gh5ij6的", "密码PI:KEY的"),
    ("pii_key", "key sk-a1b2c3d4e5f6g7h8, state-of-the-art-thing", "key PI:KEY, state-of-the-art-thing"),
    ("pii_key", "card 1234 5678 9012 3456, 1234 5678", "card PI:KEY, 1234 5678"),
    ("pii_key", "AB12 CD34 EF56 in 1999 2000", "PI:KEY in 1999 2000"),
]


@pytest.mark.parametrize("rule, text, expected", MASKED)
def test_personal_information_is_masked_and_its_neighbours_stay(rule, text, expected):
    assert clean.RULES[rule](text, clean.Row("en")) == expected


def test_masking_takes_time_in_proportion_to_the_text():
    for part in ("a", "a1", "1", "12 ", "a@", ":", "a.", "@", "A1A "):
        for rule in clean.rules("pii"):        # a pattern that is not linear would not end
            clean.RULES[rule](part * (200_000 // len(part)) + "b", None)


def test_c4_keeps_sentences():
    row = clean.Row("en")
    assert clean.c4_lines("The cat sat down.[1]\nno end [2]", row) == "The cat sat down.", "marks go first"
    inside = ["It has three words.", 'She said "two more words."', f"An {'x' * 1000} is not long."]
    outside = ["Two words.", "no sign at the end", "an ellipsis is no...", "We use cookies on our site.",
               "Please turn on Javascript now.", "see our Privacy Policy there.", f"An {'x' * 1001} is long."]
    assert clean.c4_lines("\n".join(inside + outside), row) == "\n".join(inside)
    four = 'One. Two! Three? "Four."'
    assert verdict("c4_document", f"{four} Five.", row) and not verdict("c4_document", four, row)
    for phrase in ("Lorem ipsum.", "Five {."):
        assert not verdict("c4_document", f"{four} Five. {phrase}", row)


GOOD = "the cat of " + "word " * 47        # 50 words, two of the common ones


@pytest.mark.parametrize("threshold, inside, outside", [
    ("min_words", GOOD, GOOD.replace("word ", "", 1)),
    ("max_words", GOOD + "a " * 99_950, GOOD + "a " * 99_951),
    ("min_length", "the dog bed", "the dog of"),
    ("max_length", "x" * 10 + " " + "x" * 10, "x" * 10 + " " + "x" * 11),
    ("symbols", "a " * 9 + "#", "a " * 8 + "#"), ("symbols", "a " * 9 + "…", "a " * 8 + "..."),
    ("bullets", "- a\n" * 9 + "a", "• a\n" * 19 + "a"), ("ellipses", "a...\n" * 3 + "a\n" * 7, "a…\na\na"),
    ("letters", "a b c d 5", "a b c 5"), ("common", "The cat of", "the cat The")])
def test_gopher_at_each_limit(threshold, inside, outside):
    row = clean.Row("en")
    off = {"min_words": 1, "max_words": 10 ** 9, "min_length": 0, "max_length": 10 ** 9, "symbols": 1,
           "bullets": 1, "ellipses": 1, "letters": 0, "common": 0,
           "common_words": row.gopher["common_words"]}
    row.gopher = {**off, threshold: row.gopher[threshold]}
    assert verdict("gopher", inside, row) and not verdict("gopher", outside, row)


@pytest.mark.parametrize("text, kept", [
    ("#!/bin/sh\n# Copyright 2020 X\n# All rights.\n\necho\n", "#!/bin/sh\n\necho\n"),
    ("/* License: MIT\n   more */\nint x;\n", "int x;\n"),
    ("#include <license.h>\n#define LICENSE\nint x;\n", "#include <license.h>\n#define LICENSE\nint x;\n"),
    ("# What this file does\nx = 1\n", "# What this file does\nx = 1\n")])
def test_code_headers_go_and_other_comments_stay(text, kept):
    assert clean.code_header(text, clean.Row("python")) == kept


@pytest.mark.parametrize("rule, threshold, inside, outside", [
    ("code_llama", "longest_line", "x" * 1000 + "\ny" * 30, "x" * 1001 + "\ny" * 30),
    ("code_llama", "mean_line", "\n".join(["x" * 100] * 5), "\n".join(["x" * 100] * 4 + ["x" * 101])),
    ("code_llama", "alphanumeric", "x" * 25 + "=" * 75, "x" * 24 + "=" * 76),
    ("code_roots", "bytes", "x" * 1048575, "x" * 1048576),
    ("code_roots", "longest_line", "x" * 20, "x" * 19),
    ("code_roots", "longest_line", "x" * 1000, "x" * 1001),
    ("code_roots", "characters", "x" * 100, "x" * 99),
    ("code_roots", "characters", "x" * 200_000, "x" * 200_001),
    ("code_roots", "special", "a" * 85 + "=" * 15, "a" * 86 + "=" * 14),
    ("code_roots", "special", "a" * 35 + "=" * 65, "a" * 34 + "=" * 66),
    ("code_roots", "token_length_deviation", "a " + "b" * 8, "a " + "b" * 7),
])
def test_code_rules_at_each_limit(rule, threshold, inside, outside):
    row = clean.Row("python")
    off = {"bytes": 10 ** 9, "longest_line": 10 ** 9, "mean_line": 10 ** 9, "alphanumeric": 0,
           "characters": [0, 10 ** 9], "special": [0, 1], "token_length_deviation": -1}
    if rule == "code_roots":
        off["longest_line"] = [0, 10 ** 9]
    setattr(row, rule, {**off, threshold: getattr(row, rule)[threshold]})
    assert verdict(rule, inside, row) and not verdict(rule, outside, row)


def test_rules_for_prose_pass_over_source_code():
    """The whole recipe for web pages keeps a Python file as it is, but for what is personal."""
    code = "import os\n\n\n@functools.cache\ndef f(x):\n\treturn x[::2] % 1000000000\t# by ana@example.org\n"
    code += "    # 192.168.0.17 http://a.org/a1b2c3d4e5f6g7h8/1234567890 2001:db8::8a2e:370:7334\n"
    for lang in clean.CODE_LANGUAGES:
        got = clean.run(code, clean.rules(["oscar", "c4"]), clean.Row(lang))[:2]
        assert got == (code.replace("ana@example.org", "PI:EMAIL"), None), "programs that ran still run"
    assert clean.run(code, clean.rules("oscar"), clean.Row("en"))[0] is None
    assert clean.run("x = 1\n", clean.rules("roots_code")[1:], clean.Row("Python"))[1] == "code_roots"
    for name in [*clean.RULES, *clean.KEYS, *clean.LINES]:
        assert clean.applies(name, "en") and clean.applies(name, None), name
    assert clean.applies("same_signs", "go") and not clean.applies("ccnet_lines", "go")


def test_recipes_are_written_out_and_unknown_rules_are_named():
    assert clean.rules(["c4", "pii_email"]) == ["c4_lines", "c4_document", "pii_email"]
    assert clean.rules("pii") == clean.RECIPES["pii"] == clean.rules("oscar")[-4:]
    assert all(map(clean.rules, clean.RECIPES))
    with pytest.raises(ValueError, match="unknown rule 'osar'"):
        clean.rules(["osar"])
    with pytest.raises(ValueError, match="python -m corpus.learn quality makes one"):
        clean.check_rules(["reference"])


def test_the_first_rule_that_fails_names_the_reason():
    row = clean.Row("en")
    assert clean.run("Buy now!", clean.rules("oscar"), row) == (None, "word_count", {})
    got = clean.run("only { code }\n", ["lines_with_code", "bytes_300"], row)
    assert got == (None, "lines_with_code", {}), "what a rule empties, it drops"
    changed = {"uniform_whitespace": ("a@b.org\tx", "a@b.org x"), "pii_email": ("a@b.org x", "PI:EMAIL x")}
    got = clean.run("a@b.org\tx", ["uniform_whitespace", "pii_email", "bytes_300"], row)
    assert got == (None, "bytes_300", changed)


# ROOTS' parameters as published: words, least and most; repetition of characters, then of words; special,
# closed-class, flagged; language; perplexity; remove; longest word
ROOTS = """
default 10 100000 10 .2   5 .3  .4  .1    .1   .70 10000 0 0
ar      20 100000 10 .2   5 .34 .3  .07   .03  .81 2300  1 25
bn      33 100000 10 .13  5 .21 .45 .002  .001 .95 2000  1 20
ca      15 100000 10 .2   5 .4  .25 .25   .1   .80 2500  1 20
en      20 100000 10 .106 5 .19 .4  .3    .01  .80 1500  1 25
es      16 100000 10 .14  5 .25 .34 .4    .01  .80 1300  1 25
eu      8  100000 10 .2   5 .4  .31 .05   .1   .70 3000  1 28
fr      13 100000 10 .14  5 .13 .34 .27   .008 .80 1770  1 45
hi      38 100000 10 .18  5 .47 .45 .01   .005 .90 1517  1 25
id      15 100000 10 .15  5 .2  .34 .15   .01  .70 5000  1 30
pt      19 100000 10 .25  5 .98 .35 .2    .007 .60 3038  1 19
ur      25 100000 10 .19  7 .5  .25 .01   .025 .90 1495  1 20
vi      30 100000 10 .15  5 .2  .34 .08   .005 .90 1600  1 25
zh      1  1000000 3 .2   5 .96 .3  .1691 .001 .85 2095  0 0
"""


def test_the_table_is_the_published_one():
    published = {lang: list(map(float, row)) for lang, *row in map(str.split, ROOTS.strip().split("\n"))}
    ours = clean.table(clean.RULES_FOLDER)["languages"]
    assert {lang: row[2:] + row[:2] for lang, row in ours.items()} == published
    row = clean.Row("hi")
    assert (row.remove, row.longest, row.min_words, row.char_max, row.perplexity) == (1, 25, 38, .18, 1517)


def test_the_table_is_for_people_to_edit(tmp_path):
    folder, path = str(tmp_path / "rules"), tmp_path / "rules/thresholds.toml"
    shutil.copytree(clean.RULES_FOLDER, folder)
    good = path.read_text("utf-8").replace("bn      = [true,   20, ", "bn      = [true,   21, ")
    path.write_text(good, "utf-8")
    (tmp_path / "rules/flagged/bn.txt").write_text("# a comment\n bad \n", "utf-8")
    row, unknown = clean.Row("bn", folder), clean.Row("xx", folder)
    assert row.longest == 21 and clean.Row("bn").longest == 20 and row.flagged_words == {"bad"}
    assert unknown.closed_words is None and verdict("closed_class", "a", unknown), "nobody wrote a list"
    assert unknown.min_words == clean.Row(None).min_words == 10
    assert clean.Row("zh_CN").char_n == clean.Row("zh-Hant").char_n == 3
    assert clean.Row("EN-us").min_words == 20
    for broken, message in (("[languages\n", "thresholds.toml: "),
                            (good.replace(" 0.95,   2000]", " 0.95]"), "bn has 12 numbers for 13 columns")):
        path.write_text(broken, "utf-8")
        clean.table.cache_clear()
        with pytest.raises(ValueError, match=message):
            clean.Row("bn", folder)
