import json

import pytest
from conftest import ROOT, run

import tokenizer as T
from corpus import fertility

TEXT = open(f"{ROOT}/samples/en.txt", encoding="utf-8").read()


@pytest.fixture(scope="module", params=["bpe", "sentencepiece"])
def tokenizer(request):
    return T.train(request.param, [TEXT], 450)


def test_a_count_by_hand():
    bpe = T.BPE([(b" ", b"t"), (b"h", b"e"), (b" t", b"he")])
    f = fertility.Count(bpe, ["the the, the?\n(it)"], "en").facts()
    assert (f["words"], f["characters"], f["bytes"]) == (4, 18, 18)
    # " the" is one token and " it" three: (3 * 1 + 3) / 4; one word in four is cut
    assert f["fertility"] == pytest.approx(6 / 4) and f["continued"] == 1 / 4
    # t he | ' the' | , | ' the' | ? | \n | ( | i | t | ) : the single ones are 8 of 11
    assert f["tokens"] == 11 and f["single"] == pytest.approx(8 / 11) and f["bytes_per_token"] == pytest.approx(18 / 11)


def test_a_han_character_is_a_word_and_has_no_space_before_it():
    bpe = T.BPE([(b"\xe4", b"\xbd"), (b"\xe4\xbd", b"\xa0")])
    f = fertility.Count(bpe, ["你好,你"], "zh").facts()
    assert f["words"] == 3 and f["fertility"] == pytest.approx((1 + 3 + 1) / 3)


def test_words_of_the_training_text_are_few_tokens_and_others_many(tokenizer):
    known, unknown = (fertility.Count(tokenizer, [t], "en").facts() for t in (TEXT, "quixotic zephyrs jabbed my vexing fjord"))
    assert known["fertility"] < unknown["fertility"] and known["bytes_per_token"] > unknown["bytes_per_token"] and known["single"] < unknown["single"]


def test_a_tokenizer_of_one_language_is_worse_for_another_and_bloom_s_criterion_says_so():
    en, fr = (open(f"{ROOT}/samples/{lang}.txt", encoding="utf-8").read().split("\n\n") for lang in ("en", "fr"))
    wide = T.train("bpe", en * 3, 600)
    result = fertility.monolingual(wide, {("s", "en"): en * 10, ("s", "fr"): fr * 10})
    assert result["fr"]["worse"] > fertility.WORST > result["en"]["worse"] and result["fr"]["alone"] < result["fr"]["fertility"]
    f = result["fr"]
    assert f["worse"] == pytest.approx((f["fertility"] - f["alone"]) / f["fertility"]) and f["entries"] <= wide.vocab


def test_the_use_of_the_vocabulary_is_told():
    bpe = T.BPE([(b" ", b"t"), (b"h", b"e"), (b" t", b"he"), (b"t", b"he"), (b"w", b"w"), (b"ww", b"w"), (b"T", b"he")])
    v = fertility.vocabulary(bpe, fertility.Count(bpe, ["the the"], "en").used)
    assert v["entries"] == 267 and v["alike"] == 2, "' the', 'the' and 'The' are one word"
    assert v["addresses"] == 1 and v["examples_of_addresses"] == ["www"] and v["never_used"] == 5 and "The" in v["longest"]
    assert fertility.shown(b"\xe0\xa6") == "<E0><A6>" and fertility.shown("\n é".encode()) == "\\n é"


def test_the_report_command(tmp_path):
    T.train("bpe", [open(f"{ROOT}/samples/en.txt", encoding="utf-8").read()], 400).save(tmp_path / "t")
    out = run("tokenizer.py", "report", tmp_path / "t", "--input", f"{ROOT}/samples/en.txt", f"{ROOT}/samples/hi.txt", "--monolingual", "--json", tmp_path / "r.json")
    assert out.returncode == 0 and "bytes/token" in out.stdout and "never used" in out.stdout, out.stderr
    facts = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert set(facts["sources"]) == {"en/unknown", "hi/unknown"} and facts["sources"]["hi/unknown"]["fertility"] > facts["sources"]["en/unknown"]["fertility"]
    out = run("tokenizer.py", "report", tmp_path / "t", "--show", "the rain न")
    assert out.returncode == 0 and "\033[4" in out.stdout and "<E0>" in out.stdout
    out = run("tokenizer.py", "report", tmp_path / "t")
    assert out.returncode == 1 and out.stderr.count("\n") == 1 and "--input" in out.stderr


def test_the_figure(tmp_path):
    pytest.importorskip("matplotlib")
    fertility.figure({"en": {"fertility": 1.2}, "hi": {"fertility": 2.0}}, str(tmp_path / "f.png"))
    assert (tmp_path / "f.png").stat().st_size > 1000
