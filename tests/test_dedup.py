"""Duplicates: MinHash against exact Jaccard similarities and its S-curve, the rest against plain counting."""
import random
import sys

import numpy as np
import pytest

from corpus import clean, dedup

WORDS = [w for lang in ("en", "fr", "vi", "hi", "ar")
         for w in sorted(clean.word_list(clean.RULES_FOLDER, "words", lang))]


def text(seed, n=200):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(n))


def edited(text, share, seed):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) if draw.random() < share else w for w in text.split(" "))


def jaccard(a, b):
    a, b = (set(dedup.shingles(x).tolist()) for x in (a, b))
    return len(a & b) / len(a | b)


def signatures(texts):
    return np.stack([dedup.signature(dedup.shingles(t)) for t in texts])


def inside(*books):
    return dedup.overlapping([dedup.sampled(dedup.shingles(b)) for b in books]).tolist()


@pytest.mark.parametrize("least, first_stays", [(2, True), (2, False), (4, False), (4, True)])
def test_repeated_values_are_found_across_arrays_in_any_number_of_buckets(least, first_stays):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 50, n).astype(np.uint64) for n in (40, 0, 100, 7)]
    alive = [rng.random(len(a)) < 0.8 for a in arrays]
    there = [v if ok else 0 for v, ok in zip(np.concatenate(arrays).tolist(), np.concatenate(alive))]
    expected = []
    for i, v in enumerate(there):
        expected.append(v > 0 and there.count(v) >= least and (v in there[:i] or not first_stays))
    for buckets in (1, 3):              # by the remainder: these values have no top bits
        found = [np.zeros(len(a), bool) for a in arrays]
        for b in range(buckets):
            made = [dedup.distinct(a, live & (a % buckets == b)) for a, live in zip(arrays, alive)]
            values, counts, orders = zip(*made)
            verdicts = dedup.repeated(np.concatenate(values), np.concatenate(counts), least, first_stays)
            for i, n in enumerate(map(len, values)):
                found[i] |= dedup.gathered(len(arrays[i]), counts[i], orders[i], verdicts[:n]) > 0
                verdicts = verdicts[n:]
        assert np.concatenate(found).tolist() == expected


def test_lines_are_compared_as_ccnet_does():
    a, b, c, short, empty = dedup.lines("Page 12.\n  page ３４\nPage twelve\nab\n\u200b", 3, True).tolist()
    assert a == b != c and short == empty == 0
    assert len(set(dedup.lines("Page 12.\nPage 13.").tolist())) == 2


@pytest.mark.parametrize("n", [200, 12])  # 12 words have fewer shingles than a signature has entries
def test_signatures_estimate_similarity(n):
    """The mean of many errors is 0 within its standard error; their spread is sqrt(j (1 - j) / HASHES)."""
    errors, spread = [], []
    for seed in range(150):
        pair = text(seed, n), edited(text(seed, n), 0.1, seed)
        j = jaccard(*pair)
        a, b = signatures(pair)
        errors.append((a == b).mean() - j)
        spread.append(j * (1 - j) / dedup.HASHES)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / len(errors) ** 0.5
    if n == 200:
        assert 0.8 < np.std(errors) / np.mean(spread) ** 0.5 < 1.2


def test_planted_near_duplicates_are_found_as_the_s_curve_says():
    originals = [text(seed) for seed in range(150)]
    for share in (0.05, 0.1, 0.3):
        copies = [edited(t, share, i) for i, t in enumerate(originals)]
        found = dedup.near(signatures(originals + copies), 0.7)
        expected = np.array([dedup.found_with(jaccard(a, b), 0.7) for a, b in zip(originals, copies)])
        error = max(1, (expected * (1 - expected)).sum()) ** 0.5
        assert not found[:150].any(), "different documents stay"
        assert abs(found[150:].sum() - expected.sum()) <= 4 * error, share


def test_the_first_of_a_chain_stays_and_half_alike_texts_in_one_bucket_are_each_compared():
    words = text(1).split(" ")
    chain = [" ".join(words[i * 16:i * 16 + 120]) for i in range(5)]    # neighbours share 76%
    assert dedup.near(signatures(chain), 0.6).tolist() == [False, True, True, True, True]
    assert jaccard(chain[0], chain[4]) < 0.4
    short = ["", "1, 2, 3", "7, 8, 9", text(1), text(1), "x"]
    assert dedup.near(signatures(short), 0.8).tolist() == [False, False, False, False, True, False]
    assert not dedup.near(np.zeros((0, dedup.HASHES), np.uint16), 0.8).any()
    found = signatures([text(0), text(1), text(1), text(2), text(2)])
    found[[[2], [4]], np.arange(4, dedup.HASHES, 4)] ^= 1  # the copies agree in no other band,
    found[:, :4] = 7  # all five meet in the first one
    assert dedup.near(found, 0.7).tolist() == [False, False, True, False, True]


def test_components_are_those_of_plain_search_and_the_first_place_stands_for_each():
    rng = np.random.default_rng(0)
    for n, m in ((1, 0), (30, 12), (200, 190), (500, 499)):
        pairs = np.sort(rng.integers(0, n, (m, 2)), 1)
        if m == 499:                    # a chain in a wild order
            pairs = rng.permutation(np.stack([np.arange(499), np.arange(1, 500)], 1))
        first = list(range(n))
        for _ in range(n):
            for a, b in pairs.tolist():
                first[a] = first[b] = min(first[a], first[b])
        expected = [[first[i], i] for i in range(n) if first[i] != i]
        assert (dedup.forest(pairs + (7 << 32)) - (7 << 32)).tolist() == expected


def test_spaces_case_digits_and_punctuation_do_not_make_a_difference():
    assert jaccard("The river, 12 km long, rises here.", "the  RIVER 13km long -- rises here!") == 1
    assert jaccard("नदी का पानी ठंडा है।", "नदी का पानी ठंडा है") == 1
    assert jaccard("नदी का पानी ठंडा है", "नद क पान ठड ह") < 1, "vowel signs count"


def test_books_inside_books_go_and_the_longer_one_stays():
    book, other = text(1, 20_000), text(2, 20_000)
    mixture = " ".join(book.split(" ")[:4000] + other.split(" ")[:6000])
    found = inside(book[:len(book) // 2], book, other, mixture, edited(book, 0.002, 3))
    assert found[0] and not found[2] and not found[3], "no one book holds 90% of the mixture"
    assert found[1] + found[4] == 1, "of two alike one stays"
    assert sum(inside(*[book] * (dedup.CROWD + 5))) == dedup.CROWD + 4
    assert inside() == [] and inside("short", "short") == [False, False]
    book, rest = np.arange(1, 101, dtype=np.uint64), np.arange(500, 700, dtype=np.uint64)
    for books, expected in (([book, book], [False, True]), ([book, np.r_[book[:90], rest]], [False, False]),
                            ([book, np.r_[book[:91], rest]], [True, False]),
                            ([book[:15], book], [False, False]), ([book[:16], book], [True, False])):
        assert dedup.overlapping(books).tolist() == expected


def test_bands_follow_the_threshold_and_the_command_prints_the_curve(monkeypatch, capsys):
    assert dedup.bands(0.7) == (32, 4) and dedup.bands(0.9) == (16, 8) and dedup.found_with(1, 0.7) == 1
    for alike in (0.3, 0, 1.2):
        with pytest.raises(ValueError, match="0.6 to 1"):
            dedup.bands(alike)
    monkeypatch.setattr(sys, "argv", ["dedup", "0.9"])
    dedup.main()
    out = capsys.readouterr().out
    assert out.startswith("16 bands of 8;") and out.endswith("1.00     1.0000   1.0000\n")
