import random

import numpy as np
import pytest

from corpus import clean, dedup

WORDS = [w for lang in ("en", "fr", "vi", "hi", "ar") for w in sorted(clean.word_list(clean.RULES_FOLDER, "words", lang))]


def text(seed, n=200):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(n))


def edited(text, share, seed):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) if draw.random() < share else w for w in text.split(" "))


def jaccard(a, b):
    a, b = (set(dedup.shingles(x).tolist()) for x in (a, b))
    return len(a & b) / len(a | b)


def test_repeated_values_are_found_across_arrays_in_any_number_of_passes(monkeypatch):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 50, n).astype(np.uint64) for n in (40, 0, 100, 7)]
    alive = [rng.random(len(a)) < 0.8 for a in arrays]
    for least, first_stays in ((2, True), (2, False), (4, False), (4, True)):
        seen, expected = {}, []
        count = {v: sum(int(((a == v) & live).sum()) for a, live in zip(arrays, alive)) for v in range(1, 50)}
        for a, live in zip(arrays, alive):
            for v, ok in zip(a.tolist(), live):
                hit = ok and v and count[v] >= least
                expected.append(bool(hit and (not first_stays or v in seen)))
                if ok:
                    seen[v] = True
        for memory in (10 ** 9, 1000):
            monkeypatch.setattr(dedup, "MEMORY", memory)
            assert np.concatenate(dedup.repeated(arrays, least, first_stays, alive)).tolist() == expected


def test_lines_are_compared_as_ccnet_does():
    a, b, c, short, empty = dedup.lines("Page 12.\n  page ３４\nPage twelve\nab\n\u200b", 3, True).tolist()
    assert a == b != c and short == empty == 0
    assert len(set(dedup.lines("Page 12.\nPage 13.").tolist())) == 2


def test_signatures_estimate_similarity():
    """The mean of many errors is 0 within its standard error, their spread sqrt(j (1 - j) / HASHES): also for texts with fewer shingles than entries."""
    for n in (200, 12):
        errors, spread = [], []
        for seed in range(150):
            a = text(seed, n)
            b = edited(a, 0.1, seed)
            j = jaccard(a, b)
            errors.append((dedup.signature(dedup.shingles(a)) == dedup.signature(dedup.shingles(b))).mean() - j)
            spread.append(j * (1 - j) / dedup.HASHES)
        assert abs(np.mean(errors)) < 4 * np.std(errors) / len(errors) ** 0.5
        if n == 200:
            assert 0.8 < np.std(errors) / np.mean(spread) ** 0.5 < 1.2


def test_planted_near_duplicates_are_found_as_the_s_curve_says():
    originals = [text(seed) for seed in range(150)]
    for share in (0.05, 0.1, 0.3):
        copies = [edited(t, share, i) for i, t in enumerate(originals)]
        found = dedup.near(np.stack([dedup.signature(dedup.shingles(t)) for t in originals + copies]), 0.7)
        expected = np.array([dedup.found_with(jaccard(a, b), 0.7) for a, b in zip(originals, copies)])
        assert not found[:150].any(), "different documents stay"
        assert abs(found[150:].sum() - expected.sum()) <= 4 * max(1, (expected * (1 - expected)).sum()) ** 0.5, share


def test_the_first_of_a_chain_stays():
    a = text(1)
    w = a.split(" ")
    chain = [" ".join(w[i * 16:i * 16 + 120]) for i in range(5)]       # neighbours share 76%, the ends far less
    found = dedup.near(np.stack([dedup.signature(dedup.shingles(t)) for t in chain]), 0.6)
    assert found.tolist() == [False, True, True, True, True] and jaccard(chain[0], chain[4]) < 0.4
    assert dedup.near(np.stack([dedup.signature(dedup.shingles(t)) for t in ("", "1, 2, 3", "7, 8, 9", a, a, "x")]), 0.8).tolist() == [False, False, False, False, True, False]
    assert not dedup.near(np.zeros((0, dedup.HASHES), np.uint16), 0.8).any()


def test_half_alike_texts_in_one_bucket_are_each_compared():
    a = [text(seed) for seed in range(3)]
    signatures = np.stack([dedup.signature(dedup.shingles(t)) for t in (a[0], a[1], a[1] + " x", a[2], a[2] + " y")])
    signatures[:, :4] = 7               # all meet in the first band
    assert dedup.near(signatures, 0.7).tolist() == [False, False, True, False, True]


def test_spaces_case_digits_and_punctuation_do_not_make_a_difference():
    assert jaccard("The river, 12 km long, rises here.", "the  RIVER 13km long -- rises here!") == 1
    assert jaccard("नदी का पानी ठंडा है।", "नदी का पानी ठंडा है") == 1
    assert jaccard("नदी का पानी ठंडा है", "नद क पान ठड ह") < 1, "vowel signs count"


def test_books_inside_books_go_and_the_longer_one_stays():
    book, other = text(1, 20_000), text(2, 20_000)
    cut = book[:len(book) // 2]
    mixed = " ".join(book.split(" ")[:4000] + other.split(" ")[:6000])
    books = [cut, book, other, mixed, edited(book, 0.002, 3)]
    found = dedup.overlapping([dedup.sampled(dedup.shingles(b)) for b in books])
    assert found[[0, 2, 3]].tolist() == [True, False, False] and found[[1, 4]].sum() == 1, "of two alike one stays; no one book holds 90% of the mixture"
    assert dedup.overlapping([dedup.sampled(dedup.shingles(b)) for b in (other, mixed)]).tolist() == [False, False], "40% is not 90%"
    assert dedup.overlapping([dedup.sampled(dedup.shingles(book))] * (dedup.CROWD + 5)).sum() == dedup.CROWD + 4
    assert dedup.overlapping([dedup.sampled(dedup.shingles(book))] * 2).tolist() == [False, True], "of equal ones the first stays"
    tenth = np.arange(1, 101, dtype=np.uint64)
    assert dedup.overlapping([tenth, np.r_[tenth[:90], np.arange(500, 700, dtype=np.uint64)]]).tolist() == [False, False], "90% is not more than 90%"
    assert dedup.overlapping([tenth, np.r_[tenth[:91], np.arange(500, 700, dtype=np.uint64)]]).tolist() == [True, False]
    assert dedup.overlapping([tenth[:15], tenth]).tolist() == [False, False] and dedup.overlapping([tenth[:16], tenth]).tolist() == [True, False], "too few say nothing"
    assert dedup.overlapping([]).tolist() == [] and dedup.overlapping([dedup.sampled(dedup.shingles("short"))] * 2).tolist() == [False, False]


def test_bands_follow_the_threshold():
    assert dedup.bands(0.7) == (32, 4) and dedup.bands(0.9) == (16, 8)
    for j in (0.3, 0.7, 0.9, 1.0):
        b, r = dedup.bands(0.7)
        assert dedup.found_with(j, 0.7) <= 1 - (1 - j ** r) ** b + 1e-9
    assert dedup.found_with(1, 0.7) == 1
    for alike in (0.3, 0, 1.2):
        with pytest.raises(ValueError, match="0.6 to 1"):
            dedup.bands(alike)
