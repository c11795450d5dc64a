import json
import pathlib

import pytest
from conftest import ROOT

import tokenizer as T
from corpus import fertility
from corpus.pieces import train_tokenizer


def sample(lang):
    return pathlib.Path(f"{ROOT}/samples/{lang}.txt").read_text("utf-8")


def figures(tokenizer, text, lang):
    return fertility.figures(tokenizer, [text], lang)


def test_a_count_by_hand():
    bpe = T.BPE([(b" ", b"t"), (b"h", b"e"), (b" t", b"he")])
    f = figures(bpe, "the the, the?\n(it)", "en")
    # " the" is one token and " it" three: (3 * 1 + 3) / 4; one word in four is cut
    assert (f["words"], f["bytes"], f["fertility"], f["continued"]) == (4, 18, 6 / 4, 1 / 4)
    # t he | ' the' | , | ' the' | ? | \n | ( | i | t | ) : 8 of 11 are one byte
    assert (f["tokens"], f["single"], f["bytes/token"]) == (11, 8 / 11, 18 / 11)
    # a Han character is a word and has no space before it
    f = figures(T.BPE([(b"\xe4", b"\xbd"), (b"\xe4\xbd", b"\xa0")]), "你好,你", "zh")
    assert f["words"] == 3 and f["fertility"] == (1 + 3 + 1) / 3


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
    assert result["fr"]["worse"] > 0.1 > result["en"]["worse"]
    f = result["fr"]
    assert f["worse"] == pytest.approx((f["fertility"] - f["alone"]) / f["fertility"])


def test_languages_are_named_and_change_what_is_trained_on(tmp_path, monkeypatch, capsys):
    def said(*words):
        monkeypatch.setattr("sys.argv", ["tokenizer.py", *map(str, words)])
        fertility.main()
        return capsys.readouterr().out
    for lang, times in ("en", 10), ("fr", 2):
        records = [json.dumps({"text": part}) + "\n" for part in sample(lang).split(",") * times]
        (tmp_path / f"{lang}.jsonl").write_text("".join(records))
    given = ["--input", tmp_path / "en.jsonl", tmp_path / "fr.jsonl", "--lang", "en", "fr"]
    train = ["train", *given, "--vocab", 320, "--bytes", 4000]
    for alpha in 1, 0.3:
        assert "320 entries" in said(*train, "--alpha", alpha, "--out", tmp_path / str(alpha))
    assert T.fingerprint(T.load(tmp_path / "1")) != T.fingerprint(T.load(tmp_path / "0.3"))
    out = said("report", tmp_path / "1", *given, "--monolingual")
    rows = [line.split()[0] for line in out.splitlines() if line]
    assert rows == ["bytes", "en", "fr", "fertility", "en", "fr"]
    out = said("report", tmp_path / "1", "--show", "the rain न")
    assert "\033[4" in out and "\\xe0" in out
    for kind, vocab in ("bpe", 320), ("sentencepiece", 400):
        own = ["--special", "<|user|>", "<|end|>", "--kind", kind, "--out", tmp_path / kind]
        said("train", *given, "--vocab", vocab, *own)
        t = T.load(tmp_path / kind)
        assert t.vocab == vocab and len(t.encode("<|user|><|end|>", special=True)) == 2
    for refused, words in [(["report", tmp_path / "1", *given, "xh"], "3 languages for 2 paths"),
                           ([*train, "--out", tmp_path / "1"], "not empty")]:
        with pytest.raises(ValueError, match=words):
            said(*refused)
