"""Each rule with a text just inside and one just outside its threshold; those that differ by language in four scripts."""
import collections
import itertools
import random
import re
import shutil

import pytest

from corpus import clean, models
from corpus.text import words

LETTERS = {"en": "abcdefghijklmnopqrstuvwxyz", "ar": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي", "hi": "कखगघचछजझटठडढतथदधनपफबभमयरलवशषसह",
           "zh": "".join(map(chr, range(0x4e00, 0x4e00 + 400)))}
SCRIPTS = list(LETTERS)


def made(lang, n, seed=0, length=5):
    """n different words of a language's letters; a Chinese word is one character."""
    draw, found = random.Random(f"{lang} {seed}"), {}
    while len(found) < n:
        found["".join(draw.choice(LETTERS[lang]) for _ in range(1 if lang == "zh" else length))] = None
    return list(found)


def joined(lang, w):
    return ("" if lang == "zh" else " ").join(w)


def verdict(rule, text, row):
    return clean.RULES[rule](text, row) is not None


@pytest.mark.parametrize("lang", SCRIPTS)
def test_word_count_at_its_limits(lang):
    row = clean.Row(lang)
    row.max_words = 300
    for n, kept in ((row.min_words - 1, False), (row.min_words, True), (300, True), (301, False)):
        assert verdict("word_count", joined(lang, made(lang, max(n, 1))[:n]) or "!", row) == kept, n


@pytest.mark.parametrize("lang", SCRIPTS)
def test_share_of_special_characters_at_its_limit(lang):
    row, letters = clean.Row(lang), 1000
    text = "".join(itertools.islice(itertools.cycle(LETTERS[lang]), letters))
    most = int(row.special * letters / (1 - row.special) + 1e-9)
    for signs, kept in ((most, True), (most + 1, False)):
        assert verdict("special_characters", text + ("!7 ;😀" * signs)[:signs], row) == kept, signs
    assert verdict("special_characters", "की" * 50, row), "a vowel sign is a letter's part"


def naive_characters(text, n):
    counts = sorted(collections.Counter(text[i:i + n] for i in range(len(text) - n + 1)).values(), reverse=True)
    return sum(counts[:min(int(len(counts) ** 0.5), len(counts) - counts.count(1))]) / max(1, sum(counts))


def naive_words(w, n):
    counts = collections.Counter(tuple(w[i:i + n]) for i in range(len(w) - n + 1)).values()
    return sum(c for c in counts if c > 1) / max(1, sum(counts))


@pytest.mark.parametrize("lang", SCRIPTS)
@pytest.mark.parametrize("rule", ["character_repetition", "word_repetition"])
def test_repetition_at_its_limit(lang, rule):
    """A text of different words, then one phrase again and again: it passes until the naive count says that it does not."""
    row, verdicts, shares = clean.Row(lang), [], []
    different, phrase = joined(lang, made(lang, 150)), joined(lang, made(lang, 12, seed=1))
    for times in range(0, 400, 1 if lang != "zh" else 2):
        text = different + (" " + phrase) * times
        share = naive_characters(text, row.char_n) if rule == "character_repetition" else naive_words(words(text, lang), row.word_n)
        assert (clean.repeated_characters(text, row.char_n) if rule == "character_repetition" else clean.repeated_words(words(text, lang), row.word_n)) == pytest.approx(share)
        verdicts.append(verdict(rule, text, row))
        shares.append(share <= (row.char_max if rule == "character_repetition" else row.word_max))
        if not shares[-1]:
            break
    assert verdicts == shares and verdicts[0] and not verdicts[-1]


@pytest.mark.parametrize("lang", SCRIPTS)
def test_share_of_closed_class_words_at_its_limit(lang):
    row, n = clean.Row(lang), 2000 if lang != "zh" else 300
    known = sorted(w for w in row.closed_words if len(words(w, lang)) == 1 and len(words(w, lang)[0]) == len(w))[0]
    row.joined = None                   # neighbours are tried below
    least = -int(-row.closed * n // 1)
    for closed, kept in ((least, True), (least - 1, False)):
        other = [w for w in made(lang, 400) if w not in row.closed_words]
        text = joined(lang, [known] * closed + list(itertools.islice(itertools.cycle(other), n - closed)))
        assert verdict("closed_class", text, row) == kept, (closed, n)


def test_neighbours_are_looked_up_together_in_vietnamese_and_chinese():
    assert clean.share_of(["tuy", "nhiên", "x", "y"], {"tuy nhiên"}, " ") == 0.25
    assert clean.share_of(["我", "们", "山"], {"我们"}, "") == pytest.approx(1 / 3)
    assert clean.share_of(["a", "a"], {"a", "a a"}, " ") == 1, "capped"
    assert clean.Row("vi").joined == " " and clean.Row("zh-Hant").joined == "" and clean.Row("en").joined is None


@pytest.mark.parametrize("lang", SCRIPTS)
def test_flagged_words_at_their_limit(lang, tmp_path):
    shutil.copytree(clean.RULES_FOLDER, tmp_path / "rules")
    bad, *other = made(lang, 400, seed=7)
    (tmp_path / f"rules/flagged/{lang}.txt").write_text(f"# a comment\n{bad}\n", encoding="utf-8")
    row = clean.Row(lang, str(tmp_path / "rules"))
    n = 3000
    most = int(row.flagged * n + 1e-9)
    for flagged, kept in ((most, True), (most + 1, False)):
        text = joined(lang, [bad] * flagged + list(itertools.islice(itertools.cycle(other), n - flagged)))
        assert verdict("flagged", text, row) == kept, flagged


@pytest.mark.parametrize("lang", SCRIPTS)
def test_language_and_perplexity_at_their_limits(lang, monkeypatch):
    row = clean.Row(lang)
    monkeypatch.setattr(models, "languages", lambda path: {"en", "ar", "hi", "zh"})
    for answer, kept in (((lang, row.language), True), ((lang, row.language - 0.001), False), (("fr", 0.99), False)):
        monkeypatch.setattr(models, "language", lambda text, path: answer)
        assert verdict("language", "text", row) == kept
    for answer, kept in (((row.perplexity, None), True), ((row.perplexity + 0.1, None), False), ((30.0, 30.0), True), ((30.1, 30.0), False), ((float("nan"), None), True)):
        monkeypatch.setattr(models, "perplexity", lambda text, lang, path: answer)
        assert verdict("perplexity", "text", row) == kept
    row.short = "tlh"
    assert verdict("language", "text", row), "a language that the identifier does not know passes"


@pytest.mark.parametrize("lang", SCRIPTS)
def test_words_with_addresses_and_endless_words_are_taken_out(lang):
    row, (a, b) = clean.Row(lang), made(lang, 2)
    kept = "".join(itertools.islice(itertools.cycle(LETTERS[lang]), row.longest or 30))
    text = f"{a} http://x.org/{b} {kept}. {kept}q\n{b} see//there {a}"
    got = clean.bad_words(text, row)
    assert clean.bad_words(f"{a} {'-' * 60} {b}", row) == f"{a} {'-' * 60} {b}", "a run of signs has no letters"
    assert got == (text if lang == "zh" else f"{a} {kept}.\n{b} {a}")


@pytest.mark.parametrize("lang", SCRIPTS)
@pytest.mark.parametrize("rule, limit", [("bytes_300", 300), ("bytes_1024", 1024)])
def test_documents_below_a_size_in_bytes_go(lang, rule, limit):
    letter = LETTERS[lang][0]
    size = len(letter.encode())
    text = letter * (limit // size)
    assert verdict(rule, text + "." * (limit - len(text.encode())), clean.Row(lang))
    assert not verdict(rule, text[:-1] + "." * (limit - 1 - len(text[:-1].encode())), clean.Row(lang))


@pytest.mark.parametrize("lang", SCRIPTS)
def test_small_documents_by_words_and_characters(lang):
    row = clean.Row(lang)
    assert verdict("small_words", joined(lang, made(lang, 15)), row) and not verdict("small_words", joined(lang, made(lang, 14)), row)
    assert verdict("characters_300", LETTERS[lang][0] * 300, row) and not verdict("characters_300", LETTERS[lang][0] * 299, row)


def test_white_space_becomes_plain_and_lines_with_code_go():
    row = clean.Row("en")
    assert clean.uniform_whitespace("a\u00a0b\tc\u3000d\ne", row) == "a b c d\ne"
    assert clean.lines_with_code("one\nif (x) {\ntwo\n<script>\n[if IE]\nthree }", row) == "one\ntwo"


MASKED = [
    ("pii_email", "write to ana.maria+x@mail.example.org, please", "write to PI:EMAIL, please"),
    ("pii_email", "地址ana@example.com。", "地址PI:EMAIL。"),
    ("pii_email", "me@home is no address, nor a@b.1c", "me@home is no address, nor a@b.1c"),
    ("pii_email", "请联系zhang@example.com我们会在收到邮件之后的三个工作日之内回复您", "请联系PI:EMAIL我们会在收到邮件之后的三个工作日之内回复您"),
    ("pii_ip", "服务器192.168.1.1的", "服务器PI:IP_ADDRESS的"),
    ("pii_key", "密码sk1ab2cd3ef4gh5ij6的", "密码PI:KEY的"),
    ("pii_user", "thanks @some_body! @ab 5@home लिखें @रामलाल", "thanks PI:USER! @ab 5@home लिखें PI:USER"),
    ("pii_user", "见@某某某 吧", "见PI:USER 吧"),
    ("pii_ip", "from 192.168.0.17 to 300.1.1.1", "from PI:IP_ADDRESS to 300.1.1.1"),
    ("pii_ip", "version 1.2.3.4.5 and 10.0.0.1.", "version 1.2.3.4.5 and PI:IP_ADDRESS."),
    ("pii_ip", "2001:db8::8a2e:370:7334, not 12:30:45 or ab::", "PI:IP_ADDRESS, not 12:30:45 or ab::"),
    ("pii_key", "key sk-a1b2c3d4e5f6g7h8 and state-of-the-art-thing", "key PI:KEY and state-of-the-art-thing"),
    ("pii_key", "card 1234 5678 9012 3456, 1234 5678", "card PI:KEY, 1234 5678"),
    ("pii_key", "AB12 CD34 EF56 in 1999 2000", "PI:KEY in 1999 2000"),
    ("pii_phone", "call +44 20 7946 0958 or (030) 1234567, 1914-18", "call PI:PHONE or PI:PHONE, 1914-18"),
    ("pii_id", "passport AB1234567, room A12", "passport PI:ID, room A12"),
]


@pytest.mark.parametrize("rule, text, expected", MASKED)
def test_personal_information_is_masked_and_its_neighbours_stay(rule, text, expected):
    assert clean.RULES[rule](text, clean.Row("en")) == expected


@pytest.mark.parametrize("text", ["a" * 200_000, "a1" * 100_000, "1" * 200_000, "12 " * 60_000, "a@" * 100_000, ":" * 200_000, "a." * 100_000, "@" * 200_000, "A1A " * 50_000 + "b"])
def test_masking_takes_time_in_proportion_to_the_text(text):
    for rule in clean.rules(["pii", "pii_phone", "pii_id"]):        # a pattern that is not linear would not end
        clean.RULES[rule](text, clean.Row("en"))


def test_c4_keeps_sentences():
    row = clean.Row("en")
    inside = "It has three words.\nShe said \"two more words.\"\n"
    assert clean.c4_lines("The cat sat on a mat.[1]\nno end [2]", row) == "The cat sat on a mat.", "citation marks go before the line's end is looked at"
    outside = f"Two words.\nno sign at the end\nan ellipsis is no...\nWe use cookies on our site.\nPlease turn on Javascript now.\nsee our Privacy Policy there.\nAn {'x' * 1001} is long."
    assert clean.c4_lines(inside + outside + f"\nAn {'x' * 1000} is not long[12].", row) == inside + f"An {'x' * 1000} is not long."
    assert verdict("c4_document", "One. Two! Three? Four. \"Five.\"", row) and not verdict("c4_document", "One. Two! Three? Four.", row)
    assert not verdict("c4_document", "One. Two. Three. Four. Five. Lorem ipsum.", row) and not verdict("c4_document", "One. Two. Three. Four. Five {.", row)


def gopher_text(n=100, word="word", common=("the", "of"), extra=(), lines=1):
    w = [word] * (n - len(common) - len(extra)) + list(common) + list(extra)
    return "\n".join(" ".join(w[i::lines]) for i in range(lines))


@pytest.mark.parametrize("inside, outside", [
    (gopher_text(50), gopher_text(49)),
    (gopher_text(100000), gopher_text(100001)),
    (gopher_text(word="to", common=("the", "that"), extra=("x" * 99,)), gopher_text(word="to", common=("the", "that"), extra=("x" * 98,))),      # mean 3 exactly, then less
    (gopher_text(word="x" * 10, common=("of", "be"), extra=("x" * 26,)), gopher_text(word="x" * 10, common=("of", "be"), extra=("x" * 27,))),      # mean 10 exactly, then more
    (gopher_text(extra=["b..."] * 10 + ["a#"] * 10), gopher_text(extra=["a#"] * 11)),          # either alone
    (gopher_text(extra=["b…"] * 10 + ["c"]), gopher_text(extra=["b…"] * 5 + ["b..."] * 6 + ["c"])),
    (gopher_text(lines=10).replace("\n", "\n- ").replace("\n- ", "\n", 1), "- " + gopher_text(lines=10).replace("\n", "\n- ")),
    (re.sub("\n", "...\n", gopher_text(lines=10), count=3), re.sub("\n", "...\n", gopher_text(lines=10), count=4)),
    (gopher_text(extra=["1234"] * 20), gopher_text(extra=["1234"] * 21)),
    (gopher_text(common=("the", "with")), gopher_text(common=("the", "the"))),
], ids=["min_words", "max_words", "min_length", "max_length", "hashes", "ellipsis_signs", "bullets", "ellipses", "letters", "common"])
def test_gopher_at_each_limit(inside, outside):
    row = clean.Row("en")
    assert verdict("gopher", inside, row) and not verdict("gopher", outside, row)


def test_code_headers_go_and_other_comments_stay():
    row = clean.Row("python")
    assert clean.code_header("#!/bin/sh\n# Copyright 2020 X\n# All rights.\n\necho\n", row) == "#!/bin/sh\n\necho\n"
    assert clean.code_header("/* License: MIT\n   more */\nint x;\n", row) == "int x;\n"
    assert clean.code_header("#include <license.h>\n#define COPYRIGHT 1\nint x;\n", row) == "#include <license.h>\n#define COPYRIGHT 1\nint x;\n"
    assert clean.code_header("# What this file does\nx = 1\n", row) == "# What this file does\nx = 1\n"


@pytest.mark.parametrize("rule, threshold, inside, outside", [
    ("code_llama", "longest_line", "\n".join(["x" * 1000] + ["y"] * 30), "\n".join(["x" * 1001] + ["y"] * 30)),
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
    off = {"bytes": 10 ** 9, "longest_line": [0, 10 ** 9] if rule == "code_roots" else 10 ** 9, "mean_line": 10 ** 9, "alphanumeric": 0, "characters": [0, 10 ** 9],
           "special": [0, 1], "token_length_deviation": -1}
    setattr(row, rule, {**off, threshold: getattr(row, rule)[threshold]})
    assert verdict(rule, inside, row) and not verdict(rule, outside, row)


def test_recipes_are_written_out_and_unknown_rules_are_named():
    assert clean.rules(["c4", "pii_email"]) == ["c4_lines", "c4_document", "pii_email"] and clean.rules("pii") == clean.RECIPES["pii"]
    assert clean.rules("oscar")[-4:] == clean.RECIPES["pii"]
    for recipe in clean.RECIPES:
        assert clean.rules(recipe)
    with pytest.raises(ValueError, match="unknown rule 'osar'"):
        clean.rules(["osar"])


def test_the_first_rule_that_fails_names_the_reason():
    row = clean.Row("en")
    assert clean.run("Buy now!", clean.rules("oscar"), row) == (None, "word_count", {})
    assert clean.run("only { code }\n", ["lines_with_code", "bytes_300"], row) == (None, "lines_with_code", {}), "what a rule empties, it drops"
    assert clean.run("mail a@b.org\tnow", ["uniform_whitespace", "pii_email", "small_words"], row)[1:] == (
        "small_words", {"uniform_whitespace": ("mail a@b.org\tnow", "mail a@b.org now"), "pii_email": ("mail a@b.org now", "mail PI:EMAIL now")})


# ROOTS' parameters as published: min and max words; character and word repetition; special, closed-class, flagged; language; perplexity; remove; longest word
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
    rows = [line.split() for line in ROOTS.strip().split("\n")]
    assert clean.table(clean.RULES_FOLDER)["languages"].keys() == {lang for lang, *_ in rows}
    for lang, *numbers in rows:
        r = clean.Row(lang)
        assert [r.min_words, r.max_words, r.char_n, r.char_max, r.word_n, r.word_max, r.special, r.closed, r.flagged, r.language, r.perplexity, r.remove, r.longest] == list(map(float, numbers)), lang


def test_the_table_is_for_people_to_edit(tmp_path):
    shutil.copytree(clean.RULES_FOLDER, tmp_path / "rules")
    path = tmp_path / "rules/thresholds.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("bn      = [true,   20, ", "bn      = [true,   21, "), encoding="utf-8")
    assert clean.Row("bn", str(tmp_path / "rules")).longest == 21 and clean.Row("bn").longest == 20
    assert clean.Row("xx").min_words == clean.Row(None).min_words == 10 and clean.Row("zh-Hant").char_n == 3
    assert clean.Row("zh_CN").char_n == 3 and clean.Row("EN-us").min_words == 20
    good = path.read_text(encoding="utf-8")
    for broken, message in (("[languages\n", "thresholds.toml: "), (good.replace("[c4]", "[c5]"), "it needs c4"), (good.replace("sentences = 5", ""), "it needs c4.sentences"),
                            (good.replace("0.001, 0.95,   2000]", "0.001, 0.95]"), "the row bn has 12 numbers for 13 columns")):
        path.write_text(broken, encoding="utf-8")
        clean.table.cache_clear()
        with pytest.raises(ValueError, match=message):
            clean.Row("bn", str(tmp_path / "rules"))


@pytest.mark.parametrize("lang", ["en", "hi"])
def test_ccnet_is_content_with_less_certainty(lang, monkeypatch):
    monkeypatch.setattr(models, "languages", lambda path: {lang})
    for score, kept in ((0.5, True), (0.499, False)):
        monkeypatch.setattr(models, "language", lambda text, path: (lang, score))
        assert verdict("ccnet_language", "text", clean.Row(lang)) == kept
