import types

import numpy as np

from corpus import clean, dedup, personal

# ---- rules ----

def row(**settings):
    return types.SimpleNamespace(lang=None, joined=None, **settings)


def test_repeated_words_by_hand():
    """Of the pairs of "a b a b c": ab twice, ba and bc once. What occurs more than once counts each time."""
    assert clean.word_repetition("a b a b c", row(word_n=2, word_max=0.5))
    assert not clean.word_repetition("a b a b c", row(word_n=2, word_max=0.49))
    assert not clean.word_repetition("a b a b a", row(word_n=2, word_max=0.99)), "here all pairs repeat"
    assert clean.word_repetition("A, b! c d", row(word_n=1, word_max=0.0)), "nothing repeats"
    assert not clean.word_repetition("A, a", row(word_n=1, word_max=0.9)), "case and signs are no difference"


def test_short_texts_repeat_nothing():
    """A text with fewer than n words or characters has no n-gram: it stays."""
    assert clean.word_repetition("one two", row(word_n=5, word_max=0.0))
    assert clean.character_repetition("abc", row(char_n=10, char_max=0.0))


def test_repeated_characters_by_hand():
    """"aaaaaaab" has the pairs aa (6) and ab (1): of 2 different ones the top is one, and it has 6 of 7."""
    text = "aaaaaaab"
    assert clean.character_repetition(text, row(char_n=2, char_max=6 / 7))
    assert not clean.character_repetition(text, row(char_n=2, char_max=0.85))
    assert clean.character_repetition("abcdefgh", row(char_n=2, char_max=0.0)), "all occur once"
    nine = "aabaacaadbb"        # aa 3; ab, ba, ac, ca, ad, db, bb once: 8 different ones, so 2 may count
    assert clean.character_repetition(nine, row(char_n=2, char_max=0.3))
    assert not clean.character_repetition(nine, row(char_n=2, char_max=0.29))
    four = "ababab-cdcdcd-efefef"
    assert not clean.character_repetition(four, row(char_n=2, char_max=0.4))
    assert clean.character_repetition(four, row(char_n=2, char_max=9 / 19)), "of 10, 3 count"


def test_special_characters_are_no_letters_and_no_marks():
    """Digits, signs and spaces are special; letters and vowel signs of any script are not."""
    assert clean.special_characters("ab1 ", row(special=0.5))
    assert not clean.special_characters("ab1 ", row(special=0.49))
    assert clean.special_characters("हिन्दी", row(special=0.0)), "a vowel sign belongs to its letter"
    assert not clean.special_characters("😀a", row(special=0.4))


def test_the_share_of_known_words():
    """Words in any case, without signs at their ends; where neighbours make one word, these words too."""
    known = {"the", "of"}
    assert clean.share_of(known, "The cat, of THE house", row()) == 3 / 5
    assert clean.share_of(known, "", row()) == 0 and clean.share_of(known, "...", row()) == 0
    joined = types.SimpleNamespace(lang=None, joined=" ")
    assert clean.share_of({"a b"}, "a b c", joined) == 1 / 3
    assert clean.share_of({"a", "b", "a b"}, "a b", joined) == 1, "not more than all"


C4 = clean.Row("en")


def test_lines_end_as_sentences_do():
    """A line stays if it ends with one of the signs, but not with "...", and has at least three words."""
    text = ("This is a line.\nNo end here\nIt goes on ...\nIt goes on...\nToo short.\nIs this one? \n"
            "He said \"yes it is\"")
    assert clean.c4_lines(text, C4) == 'This is a line.\nIs this one? \nHe said "yes it is"'
    assert clean.c4_lines("word " * 3 + "x" * 1001 + ".", C4) == ""


def test_lines_about_cookies_go_and_citations_too():
    """Phrases are looked for in any case. Of a line with marks like [12] and [edit], only these go."""
    text = "We use Cookies on this site.\nPlease enable JavaScript here now.\n"
    text += "Rome is old [12] and large[edit] too."
    assert clean.c4_lines(text, C4) == "Rome is old  and large too."
    assert clean.c4_lines("This [citation needed] is a line.\nThis [12345] is a line.", C4) \
        == "This  is a line.\nThis [12345] is a line."


def test_a_document_has_five_sentences():
    """A sentence ends with signs and then white space or the end: "3.14" and "..." are not several."""
    assert clean.c4_document("One. Two! Three? Four... Five.", C4)
    assert not clean.c4_document("One. Two! Three? Four...", C4)
    assert not clean.c4_document("Pi is 3.14159 and e is 2.71828 at 1.2.3.", C4)
    assert clean.c4_document('He said "one." Then "two." And (three.) Four. Five.', C4)
    assert not clean.c4_document("Lorem Ipsum. " + "One. " * 9, C4)
    assert not clean.c4_document("a { b. " * 9, C4)


# ---- personal information ----

def test_addresses_of_mail():
    """The whole address goes, the text around it stays to the letter, in scripts without spaces too."""
    for text, want in (("write to ana.maria+x@mail.example.org, please", "write to PI:EMAIL, please"),
                       ("a_b@x-y.co and <c@d.net>", "PI:EMAIL and <PI:EMAIL>"),
                       ("请联系zhang@example.com我们会回复您", "请联系PI:EMAIL我们会回复您"),
                       ("me@home is no address, nor a@b.1c", "me@home is no address, nor a@b.1c")):
        assert personal.pii_email(text, None) == want


def test_names_of_users():
    """@ and 3 to 64 signs, at the beginning of a word: an address or a price per piece is something else."""
    for text, want in (("thanks @some_body! @ab", "thanks PI:USER! @ab"), ("5@home", "5@home"),
                       ("लिखें @रामलाल", "लिखें PI:USER"), ("(@user)", "(PI:USER)")):
        assert personal.pii_user(text, None) == want


def test_addresses_of_machines():
    """Four numbers up to 255, not a fifth; a time is none. The long form counts; an idiom like [::2] not."""
    for text, want in (
        ("from 192.168.0.17 to 300.1.1.1", "from PI:IP_ADDRESS to 300.1.1.1"),
        ("version 1.2.3.4.5 and 10.0.0.1.", "version 1.2.3.4.5 and PI:IP_ADDRESS."),
        ("服务器192.168.1.1的", "服务器PI:IP_ADDRESS的"),
        ("2001:db8::8a2e:370:7334, not 12:30:45 or ab::", "PI:IP_ADDRESS, not 12:30:45 or ab::"),
        ("x[::2], fe80::1, not 2001:db8::1", "x[::2], fe80::1, not PI:IP_ADDRESS"),
    ):
        assert personal.pii_ip(text, None) == want


def test_masking_does_not_hang():
    """100,000 letters without an end: who begins anew at each letter takes minutes. Bound the lengths."""
    for part in ("a", "a@", "a.", ":", "1.", "@"):
        for rule in (personal.pii_email, personal.pii_user, personal.pii_ip):
            rule(part * (100_000 // len(part)) + "b", None)


# ---- near duplicates ----

def test_shingles_are_runs_of_eight_letters():
    """n letters have n - 7 shingles; case, spaces, digits and signs are no difference; the order is."""
    found = dedup.shingles("abcdefghij")
    assert found.dtype == np.uint64 and len(found) == 3 == len(set(found.tolist()))
    assert dedup.shingles("ABC, def-ghi 12 j!").tolist() == found.tolist()
    assert dedup.shingles("abcdefghijabcdefgh")[:3].tolist() == found.tolist()
    assert dedup.shingles("hgfedcba").tolist() != found[:1].tolist()


def test_shingles_of_short_and_odd_texts():
    """A text below eight letters is one shingle, and in a text without letters the signs are not left out."""
    assert len(dedup.shingles("abc")) == 1
    assert dedup.shingles("abc").tolist() != dedup.shingles("abd").tolist()
    assert len(dedup.shingles("12 345 6789")) == 4
    assert dedup.shingles("12345678").tolist() != dedup.shingles("12345679").tolist()


def pair_of_sets(j, n, seed):
    """Two sets of n numbers with similarity j, in any order."""
    r = np.random.default_rng(seed)
    common = round(2 * n * j / (1 + j))
    numbers = r.integers(0, 2 ** 64, 2 * n, dtype=np.uint64)
    a, b = numbers[:n], np.concatenate([numbers[:common], numbers[n:2 * n - common]])
    return r.permutation(a), r.permutation(b)


def estimates(j, n, times=12):
    pairs = [pair_of_sets(j, n, seed) for seed in range(times)]
    return np.array([(dedup.signature(a) == dedup.signature(b)).mean() for a, b in pairs])


def test_signatures_estimate_similarity():
    """The share of equal entries is the Jaccard similarity, give or take: each entry is a vote of its own."""
    for j in (0.2, 0.5, 0.8):
        found = estimates(j, 3000)
        assert abs(found.mean() - j) < 0.06 and np.abs(found - j).max() < 0.2


def test_signatures_of_few_shingles():
    """Fewer shingles than entries: no entry may stay empty, or all short texts would look alike."""
    for j, n in ((0.0, 20), (0.5, 30)):
        assert abs(estimates(j, n, 40).mean() - j) < 0.12
    assert len(dedup.signature(np.array([5], np.uint64))) == dedup.HASHES


def test_a_signature_is_that_of_a_set():
    """128 numbers of 16 bits; order and repetition of the shingles change nothing; the same every time."""
    a, _ = pair_of_sets(0.5, 500, 0)
    found = dedup.signature(a)
    assert found.shape == (dedup.HASHES,) and found.dtype == np.uint16
    assert dedup.signature(a[::-1]).tolist() == found.tolist() == dedup.signature(np.tile(a, 2)).tolist()
    assert len(set(found.tolist())) > 100, "entries are different hashes"


def test_the_s_curve_by_hand():
    """One of b bands must agree in all its r entries: 1 - (1 - j^r)^b."""
    assert dedup.meeting(0.5, 2, 1) == 0.75 and dedup.meeting(0.5, 1, 2) == 0.25
    assert abs(dedup.meeting(0.8, 20, 5) - 0.99964) < 1e-5 and dedup.meeting(1.0, 4, 32) == 1


def test_bands_are_as_long_as_they_may_be():
    """All entries are used; of 32, 16, 8, 4 in a band the most that lets 98% of such pairs meet."""
    for alike, want in ((0.6, (32, 4)), (0.8, (32, 4)), (0.85, (16, 8)), (0.95, (8, 16)), (1.0, (4, 32))):
        assert dedup.bands(alike) == want
    for alike in (0.2, 0, 1.1, -1):
        try:
            dedup.bands(alike)
        except ValueError:
            continue
        raise AssertionError


def test_near_duplicates_are_found():
    """Put all parts together: a copy with a word changed is found, the first stays, another text stays."""
    text = " ".join(f"the {a} of the {b} is {c}" for a in ("river", "mountain", "garden")
                    for b in ("king", "baker", "sailor") for c in ("old", "green"))
    changed = text.replace("the garden of the sailor is green", "the garden of the sailor is blue")
    other = "Une autre histoire commence ici, avec des mots que personne n'a encore lus dans ce livre."
    signatures = [dedup.signature(dedup.shingles(t)) for t in (text, other, changed, text)]
    found = dedup.near(np.array(signatures), 0.7)
    assert found.tolist() == [False, False, True, True]
