import tokenizer
from course import parts

FIRST = 4 + 256             # the special tokens and the bytes: the first merge is entry number 260


# ---- training ----

def test_merges_by_hand():
    """"low" 5 times and "lot" twice: which pair occurs 7 times, and which 5 times once it is joined?"""
    count = {"low": 5, "lot": 2}
    assert tokenizer.merge_most_frequent(count, FIRST + 2) == [(b"l", b"o"), (b"lo", b"w")]
    assert tokenizer.merge_most_frequent(count, FIRST + 1) == [(b"l", b"o")]
    assert tokenizer.merge_most_frequent(count, FIRST) == []
    assert count == {"low": 5, "lot": 2}, "what you are given is not yours to change"


def test_pairs_count_as_often_as_their_piece():
    """A pair in one piece that occurs 9 times is more frequent than one in three pieces that occur twice."""
    count = {"xa": 2, "xab": 2, "xac": 2, "qz": 9}
    assert tokenizer.merge_most_frequent(count, FIRST + 2) == [(b"q", b"z"), (b"x", b"a")]


def test_ties_go_to_the_older_parts():
    """Equally frequent pairs: the one whose first part is older, then whose second part is. Bytes are
    oldest, and among them age is their place in BYTES, not their value."""
    want = [(b"a", b"b"), (b"x", b"y"), (b"ab", b"c")]
    assert tokenizer.merge_most_frequent({"xy": 2, "abc": 2}, FIRST + 3) == want
    assert tokenizer.merge_most_frequent({"abc": 2, "xy": 2}, FIRST + 3) == want
    want = [(b"b", b"c"), (b" ", b"a")]
    assert tokenizer.merge_most_frequent({" a": 2, "bc": 2}, FIRST + 2) == want, "see BYTES"


def test_a_run_of_one_letter():
    """In "aaaaa" the pair is joined from the left, without overlap: aa aa a."""
    got = tokenizer.merge_most_frequent({"aaaaa": 2, "aaa": 1}, FIRST + 4)       # no two pairs are a tie
    assert got == [(b"a", b"a"), (b"aa", b"a"), (b"aa", b"aaa")]


def test_what_occurs_once_is_not_joined():
    """A pair that occurs once teaches nothing: training ends, though there is room for more entries."""
    assert tokenizer.merge_most_frequent({"ab": 2, "cd": 1}, FIRST + 9) == [(b"a", b"b")]
    assert tokenizer.merge_most_frequent({}, FIRST + 9) == []


def test_letters_are_bytes():
    """A letter beyond ASCII is several bytes, and these are joined like any others. Pieces never touch."""
    assert tokenizer.merge_most_frequent({"é": 3}, FIRST + 9) == [(b"\xc3", b"\xa9")]
    got = tokenizer.merge_most_frequent({"न": 5, " न": 2}, FIRST + 9)
    assert [a + b for a, b in got][1:] == ["न".encode(), " न".encode()]


# ---- encoding ----

def ranks_of(*entries):
    found = {bytes([b]): b for b in range(256)}
    return found | {entry: 256 + i for i, entry in enumerate(entries)}


def test_the_earliest_merge_comes_first():
    """Not from the left, not the longest: of all neighbours the ones that were joined first in training."""
    ranks = ranks_of(b"bc", b"ab", b"abcd")
    assert parts.encode_piece(b"abc", ranks) == [97, 256]
    assert parts.encode_piece(b"ab", ranks) == [257]
    assert parts.encode_piece(b"abcd", ranks) == [97, 256, 100], "no two neighbours make abcd"


def test_merges_build_on_merges():
    """After each join, look at the new neighbours: "lower" becomes low + er, not l + ow + er."""
    ranks = ranks_of(b"lo", b"er", b"low", b"lower")
    assert parts.encode_piece(b"low", ranks) == [258]
    assert parts.encode_piece(b"lower", ranks) == [259]
    assert parts.encode_piece(b"slowest", ranks) == [115, 258, 101, 115, 116]


def test_equal_pairs_are_joined_from_the_left():
    """"aaa" is aa + a, not a + aa."""
    assert parts.encode_piece(b"aaa", ranks_of(b"aa")) == [256, 97]
    assert parts.encode_piece(b"aaaaa", ranks_of(b"aa", b"aaaa")) == [257, 97]


def test_single_bytes_and_nothing():
    """What no merge reaches stays single bytes, a piece of one byte is its own id, and nothing is no id."""
    assert parts.encode_piece("é!".encode(), ranks_of(b"ab")) == [0xc3, 0xa9, 33]
    assert parts.encode_piece(b"x", ranks_of()) == [120] and parts.encode_piece(b"", ranks_of()) == []


def test_training_and_encoding_agree():
    """A piece of the training text is cut as it was when the last merge was learned."""
    count = {" banana": 6, " bandana": 3, " ana": 4, "nab": 2}
    merges = tokenizer.merge_most_frequent(count, FIRST + 7)
    ranks = ranks_of(*(a + b for a, b in merges))
    entry = {i: e for e, i in ranks.items()}
    for piece in count:
        pieces = [bytes([b]) for b in piece.encode()]
        for a, b in merges:
            i = 0
            while i < len(pieces) - 1:
                if pieces[i:i + 2] == [a, b]:
                    pieces[i:i + 2] = [a + b]
                i += 1
        assert [entry[i] for i in parts.encode_piece(piece.encode(), ranks)] == pieces


# ---- special tokens, decoding ----

def test_special_tokens_are_parts_of_their_own():
    """The text is cut at each special token; the parts joined are the text, and no part is empty."""
    assert parts.split_specials("a<s>b<s><s>", ["<s>"]) == ["a", "<s>", "b", "<s>", "<s>"]
    assert parts.split_specials("<s>", ["<s>"]) == ["<s>"] and parts.split_specials("", ["<s>"]) == []
    assert parts.split_specials("plain", []) == ["plain"] == parts.split_specials("plain", ["<s>"])


def test_the_longer_special_token_counts():
    """Two special tokens begin at the same place: the longer one. And "|" in one means the sign itself."""
    both = ["<|e|>", "<|e|><|e|>"]
    assert parts.split_specials("x<|e|><|e|>y<|e|>", both) == ["x", "<|e|><|e|>", "y", "<|e|>"]
    assert parts.split_specials("e<e|", ["<|e|>"]) == ["e<e|"]
    assert parts.split_specials("a.b+c", [".", "+"]) == ["a", ".", "b", "+", "c"]


def of_entries(entries, space=False):
    made = tokenizer.Tokenizer()
    made.entries, made.space = entries, space
    return made


def test_a_letter_may_be_cut_by_tokens():
    """Join the bytes first, then make text of them: a token may hold half a letter."""
    made = of_entries([b"caf\xc3", b"\xa9", b"", b" noir"])
    assert made.decode([0, 1, 3]) == "café noir" and made.decode([0, 1, 2, 3]) == "café noir"
    assert made.decode([]) == ""


def test_broken_bytes_are_shown_as_such():
    """Ids that a model writes may be no UTF-8: what is broken becomes U+FFFD, and nothing is raised."""
    made = of_entries([b"ok \xc3", b"\xff", b"a"])
    assert made.decode([0]) == "ok \ufffd" and made.decode([1, 2]) == "\ufffda"


def test_the_space_in_front_goes_once():
    """SentencePiece puts one space before a text (`space`): one goes, and none that was there before."""
    entries = [b" ", b" a", b"b"]
    assert of_entries(entries, space=True).decode([1, 2]) == "ab"
    assert of_entries(entries, space=True).decode([0, 1]) == " a"
    assert of_entries(entries).decode([1, 2]) == " ab"
    assert of_entries(entries, space=True).decode([2, 1]) == "b a"
