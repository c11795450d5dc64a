import vocabulary
from corpus import fertility, pieces


class Pairs:
    """A tokenizer that cuts a text into tokens of two bytes. Beside it stands what was encoded."""
    kind, vocab = "bpe", 1000

    def __init__(self, size=2, space=False):
        self.size, self.space, self.asked = size, space, []

    def encode_batch(self, texts):
        self.asked += texts
        cut = []
        for text in texts:
            data = text.encode()
            starts = range(0, len(data), self.size)
            cut.append([int.from_bytes(b"\1" + data[i:i + self.size]) for i in starts])
        return cut

    def bytes_of(self, i):
        return i.to_bytes((i.bit_length() + 7) // 8)[1:]


# ---- the text that a tokenizer is trained on ----

def test_shares_by_hand():
    """en has 900 bytes and yo 100, 500 are wanted, alpha is 1/2: the parts are as 30 to 10."""
    got = pieces.shares({"en": 900, "yo": 100}, 500, 0.5)
    assert abs(got["en"] - 375 / 900) < 1e-9 and got["yo"] == 1.0, "a language is not repeated"


def test_alpha_decides_between_sizes_and_languages():
    """alpha 1: each language gives the same share of its text. alpha 0: each gives as many bytes."""
    got = pieces.shares({"a": 300, "b": 100}, 200, 1.0)
    assert abs(got["a"] - 0.5) < 1e-9 and abs(got["b"] - 0.5) < 1e-9
    got = pieces.shares({"a": 300, "b": 100}, 100, 0.0)
    assert abs(got["a"] * 300 - 50) < 1e-9 and abs(got["b"] * 100 - 50) < 1e-9


def test_more_than_there_is_is_everything():
    """A budget above all the text is all the text: no share is above 1."""
    assert pieces.shares({"a": 300, "b": 100}, 10 ** 9, 1.0) == {"a": 1.0, "b": 1.0}


def test_lines_have_a_length_that_is_read():
    """SentencePiece skips long lines: they come in parts of at most 1000 characters, and nothing is lost."""
    texts = ["short\n" + "ab" * 1250, "x" * 1000, "y" * 1001 + "\n"]
    assert list(map(len, pieces.short_lines(texts))) == [5, 1000, 1000, 500, 1000, 1000, 1]
    assert "".join(pieces.short_lines(texts)) == "".join(texts).replace("\n", "")


def test_no_line_is_empty():
    """Empty lines teach nothing and are not handed on; other kinds of line ends stay in their line."""
    assert list(pieces.short_lines(["a\n\n\nb", "", "c\u2028d"])) == ["a", "b", "c\u2028d"]


# ---- the pieces of SentencePiece ----

def test_pieces_become_bytes():
    """U+2581 stands for a space wherever it is, and <0x41> for the byte 0x41."""
    for piece, want in (("\u2581the", b" the"), ("\u2581", b" "), ("a\u2581b", b"a b"), ("é", b"\xc3\xa9"),
                        ("<0x41>", b"A"), ("<0xE2>", b"\xe2"), ("<0x0A>", b"\n")):
        assert vocabulary.piece_bytes(piece) == want


def test_what_only_looks_like_a_byte():
    """<0x4>, <0x041>, <0xZZ> and a<0x41> are text that somebody wrote."""
    for piece in ("<0x4>", "<0x041>", "<0xZZ>", "a<0x41>", "<0x41>\n", "<0xe2>"):
        assert vocabulary.piece_bytes(piece) == piece.encode()


# ---- fertility ----

def test_a_count_by_hand():
    """Two bytes make a token. " abc" has 2 and " d" 1: (2 + 2 + 1) tokens for three words."""
    f = fertility.figures(Pairs(), ["abc abc, d"], "en")
    assert (f["bytes"], f["words"], f["tokens"]) == (10, 3, 5)
    assert f["bytes/token"] == 2 and abs(f["fertility"] - 5 / 3) < 1e-9


def test_words_count_as_often_as_they_occur():
    """A frequent word weighs more than a rare one, and case is a difference to a tokenizer."""
    t = Pairs(4)
    f = fertility.figures(t, ["the the the The", "elephantine"], "en")
    assert f["words"] == 5 and abs(f["fertility"] - (4 * 1 + 3) / 5) < 1e-9
    assert " The" in t.asked and " the" in t.asked


def test_words_that_are_cut():
    """`continued` is the share of the words, counted with repetition, that need two tokens or more."""
    f = fertility.figures(Pairs(4), ["the the the elephantine tigers"], "en")
    assert abs(f["continued"] - 2 / 5) < 1e-9


def test_tokens_of_one_byte():
    """`single` is the share of the tokens of the text, not of its words, that are one byte."""
    f = fertility.figures(Pairs(), ["abcde", "xy", "z"], "en")
    assert f["tokens"] == 5 and abs(f["single"] - 2 / 5) < 1e-9


def test_the_space_before_a_word():
    """A word of a text has a space before it. SentencePiece puts it there itself; before Han is none."""
    t = Pairs(space=True)
    fertility.figures(t, ["abc"], "en")
    assert t.asked[1:] == ["abc"]
    t = Pairs()
    f = fertility.figures(t, ["你好 ok"], "zh")
    assert sorted(t.asked[1:]) == sorted(["你", "好", " ok"])
    assert f["words"] == 3 and f["bytes"] == 9 and abs(f["fertility"] - (2 + 2 + 2) / 3) < 1e-9


def with_own(languages, size_of_own, tokenizer=None):
    """What monolingual() says, and the texts that the tokenizers of one language were trained on."""
    trained = []

    def largest(kind, texts, vocab):
        assert (kind, vocab) == ("bpe", 1000)
        trained.append(list(texts))
        return Pairs(size_of_own) if size_of_own else None
    fertility.largest = largest
    return fertility.monolingual(tokenizer or Pairs(2), languages), trained


def test_what_is_measured_was_not_trained_on():
    """Every tenth document is held out: the first, the eleventh, ... The others train."""
    texts = [f"text{i}" for i in range(25)]
    _, trained = with_own({"en": texts}, 4)
    assert trained == [[t for i, t in enumerate(texts) if i % 10]]


def test_the_criterion_of_bloom():
    """`worse` says by which share of ours the tokenizer for one language alone is lower."""
    got, _ = with_own({"en": ["abcdefg"] * 10}, 4)
    assert got["en"]["fertility"] == 4 and got["en"]["alone"] == 2 and got["en"]["worse"] == 0.5
    got, _ = with_own({"en": ["ab" if i % 10 else "abcdefg" for i in range(20)]}, 4)
    assert got["en"]["fertility"] == 4, "of the documents that are held out"
    got, _ = with_own({"en": ["abcdefg"] * 10}, 1)
    assert got["en"]["worse"] == -1


def test_too_little_text_is_left_out():
    """One document cannot be measured and trained on; a text too small for a tokenizer says nothing."""
    got, trained = with_own({"xx": ["alone"], "en": ["abc"] * 11}, 4)
    assert list(got) == ["en"] and len(trained) == 1
    assert with_own({"en": ["abc"] * 11}, None)[0] == {}
