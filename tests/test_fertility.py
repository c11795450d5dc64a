import json

import pytest
from conftest import ROOT, run

import tokenizer as T
from corpus import fertility
from corpus.pieces import train_tokenizer


def sample(lang):
    with open(f"{ROOT}/samples/{lang}.txt", encoding="utf-8") as f:
        return f.read()


def figures(tokenizer, text, lang):
    return fertility.figures(fertility.count_tokens(tokenizer, [text], lang)[0])


def test_a_count_by_hand():
    bpe = T.BPE([(b" ", b"t"), (b"h", b"e"), (b" t", b"he")])
    f = figures(bpe, "the the, the?\n(it)", "en")
    assert (f["words"], f["characters"], f["bytes"]) == (4, 18, 18)
    # " the" is one token and " it" three: (3 * 1 + 3) / 4; one word in four is cut
    assert f["fertility"] == pytest.approx(6 / 4) and f["continued"] == 1 / 4
    # t he | ' the' | , | ' the' | ? | \n | ( | i | t | ) : 8 of 11 are one byte
    assert f["tokens"] == 11 and f["single"] == pytest.approx(8 / 11)
    assert f["bytes_per_token"] == pytest.approx(18 / 11)


def test_a_han_character_is_a_word_and_has_no_space_before_it():
    f = figures(T.BPE([(b"\xe4", b"\xbd"), (b"\xe4\xbd", b"\xa0")]), "你好,你", "zh")
    assert f["words"] == 3 and f["fertility"] == pytest.approx((1 + 3 + 1) / 3)


@pytest.mark.parametrize("kind", T.KINDS)
def test_words_of_the_training_text_are_few_tokens_and_others_many(kind):
    tokenizer = train_tokenizer(kind, [sample("en")], 450)
    known = figures(tokenizer, sample("en"), "en")
    unknown = figures(tokenizer, "quixotic zephyrs jabbed my vexing fjord", "en")
    assert known["fertility"] < unknown["fertility"] and known["single"] < unknown["single"]


def test_a_tokenizer_of_one_language_is_worse_for_another_and_bloom_s_criterion_says_so():
    en, fr = sample("en").split("\n\n"), sample("fr").split("\n\n")
    wide = train_tokenizer("bpe", en * 3, 600)
    result = fertility.monolingual(wide, {"en": en * 10, "fr": fr * 10, "xx": ["alone"]})
    assert result.keys() == {"en", "fr"}, "one document is too few to train on and to measure"
    assert result["fr"]["worse"] > fertility.WORST > result["en"]["worse"]
    f = result["fr"]
    assert f["worse"] == pytest.approx((f["fertility"] - f["alone"]) / f["fertility"]) and f["entries"] <= 600


def test_the_use_of_the_vocabulary_is_told():
    bpe = T.BPE([(b" ", b"t"), (b"h", b"e"), (b" t", b"he"), (b"t", b"he"), (b"w", b"w"), (b"T", b"he")])
    v = fertility.vocabulary(bpe, fertility.count_tokens(bpe, ["the the"], "en")[1])
    assert v == {"entries": 266, "alike": 2, "never_used": 4}, "' the', 'the' and 'The' are one word"
    assert fertility.shown(b"\xe0\xa6") == "<E0><A6>" and fertility.shown("\n é".encode()) == "\\n é"


def test_languages_are_named_and_change_what_is_trained_on(tmp_path):
    for lang, times in ("en", 10), ("fr", 2):
        records = [json.dumps({"text": part}) + "\n" for part in sample(lang).split(",") * times]
        (tmp_path / f"{lang}.jsonl").write_text("".join(records))
    given = ["--input", tmp_path / "en.jsonl", tmp_path / "fr.jsonl", "--lang", "en", "fr"]
    made = {}
    for alpha in 1, 0.3:
        more = ["--vocab", 320, "--bytes", 4000, "--alpha", alpha, "--out", tmp_path / str(alpha)]
        out = run("tokenizer.py", "train", *given, *more)
        assert out.returncode == 0, out.stderr
        made[alpha] = T.fingerprint(T.load(tmp_path / str(alpha)))
    assert made[1] != made[0.3]
    more = ["--monolingual", "--json", tmp_path / "r.json"]
    out = run("tokenizer.py", "report", tmp_path / "1", *given, *more)
    assert out.returncode == 0 and "bytes/token" in out.stdout and "never used" in out.stdout, out.stderr
    facts = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert facts["languages"].keys() == {"en", "fr"} and facts["sources"].keys() == {"en/en", "fr/fr"}
    out = run("tokenizer.py", "report", tmp_path / "1", *given, "xh")
    assert out.returncode == 1 and "3 languages for 2 paths" in out.stderr and out.stderr.count("\n") == 1
    out = run("tokenizer.py", "report", tmp_path / "1", "--show", "the rain न")
    assert out.returncode == 0 and "\033[4" in out.stdout and "<E0>" in out.stdout
