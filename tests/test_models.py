"""The small models of text: the formulas by hand, languages never seen in training, files that are what they say."""
import json
import math
import os
import pathlib
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import ROOT

from corpus import learn, models

UNSEEN = {      # written for this test; none of it is in samples/
    "en": "We waited for the train and talked about the weather until the evening.",
    "fr": "Nous avons attendu le train et nous avons parlé du temps jusqu'au soir.",
    "es": "Esperamos el tren y hablamos del tiempo hasta que llegó la noche.",
    "id": "Kami menunggu kereta api dan berbicara tentang cuaca sampai malam hari.",
    "vi": "Chúng tôi chờ tàu hỏa và nói chuyện về thời tiết cho đến buổi tối.",
    "sw": "Tulisubiri gari na tukazungumza kuhusu hali ya hewa mpaka jioni.",
    "ar": "انتظرنا القطار وتحدثنا عن الطقس حتى جاء المساء.",
    "hi": "हमने रेलगाड़ी की प्रतीक्षा की और शाम तक मौसम के बारे में बात करते रहे।",
    "bn": "আমরা ট্রেনের জন্য অপেক্ষা করলাম এবং সন্ধ্যা পর্যন্ত কথা বললাম।",
    "ta": "நாங்கள் ரயிலுக்காகக் காத்திருந்தோம், மாலை வரை பேசிக்கொண்டிருந்தோம்.",
    "zh": "我们在等火车，一直到晚上都在谈天气。"}


def char_model(*documents):
    return models.ready(models.learn_perplexity([models.plain(d) for d in documents]))


def test_witten_bell_is_the_formula_worked_by_hand(monkeypatch):
    """abab then b: P(b) under orders 0 .. 5, from the counts that one can see in ^abab, with 4 characters to choose from."""
    monkeypatch.setattr(models, "ALPHABET", 4)
    p0 = 1 / 4
    p1 = (2 + 2 * p0) / (4 + 2)         # b twice of 4 characters; 2 different ones
    p2 = (2 + 1 * p1) / (2 + 1)         # after a: b, b
    p3 = (1 + 1 * p2) / (1 + 1)         # after ba: b; ^a is another context
    p4 = (1 + 1 * p3) / (1 + 1)         # after aba: b
    p5 = p4                             # after aaba, which was never seen
    assert models.probabilities(char_model("abab"), ["aabab"])[-1] == pytest.approx(p5, rel=1e-6)
    assert models.perplexed(char_model("abab"), "b") == pytest.approx(1 / ((0 + 1 * ((0 + 1 * ((0 + 1 * ((0 + 1 * p1) / 2)) / 2)) / 2)) / 2), rel=1e-6)      # after ^^^^, ^^^, ^^ and ^: a, once


def test_next_characters_sum_to_one(monkeypatch):
    """In every context, seen or not, also where texts begin."""
    monkeypatch.setattr(models, "ALPHABET", 3)
    model = char_model("abcab", "ccab", "b")
    for context in ("", "a", "ab", "abca", "ccc", "bbbbbb"):
        assert sum(models.probabilities(model, [context + c])[-1] for c in "abc") == pytest.approx(1, abs=1e-6), f"after {context!r}"


def test_a_text_starts_afresh_after_another():
    model = char_model("abcab", "ccab")
    both = models.probabilities(model, ["abc", "cab"])
    assert np.allclose(both, np.concatenate([models.probabilities(model, [t]) for t in ("abc", "cab")]), rtol=1e-6)


@pytest.mark.parametrize("lang, other", [("en", "fr"), ("id", "sw"), ("hi", "mr"), ("ar", "ur"), ("vi", "id")])
def test_unseen_text_is_more_usual_in_its_own_language(lang, other):
    own, cut = models.perplexity(UNSEEN[lang], lang)
    foreign, _ = models.perplexity(UNSEEN[lang], other)
    assert own < foreign and cut == math.inf, f"{lang} {own:.1f}, as {other} {foreign:.1f}"


def test_digits_case_and_spaces_do_not_count():
    assert models.plain(" In 1984  the\nRain, ٣ times ") == "in 0000 the rain, 0 times"
    assert models.perplexity("In 1984  the\nRain came", "en") == models.perplexity("in 2023 the rain CAME", "en")


@pytest.mark.parametrize("lang", UNSEEN)
def test_unseen_sentences_are_told_apart(lang):
    found, score = models.language(UNSEEN[lang])
    assert found == lang and 0.4 < score <= 1, f"{lang} taken for {found}, score {score:.2f}"


def test_what_no_language_explains_has_a_low_score():
    for text in ("", "12 34 56", "Мы ждали поезд и говорили о погоде."):
        assert models.language(text)[1] < 0.3, text


def test_longer_texts_are_surer_up_to_where_one_looks():
    start, whole = UNSEEN["es"][:20], " ".join([UNSEEN["es"], "Mi hermana perdió las llaves y volvimos a casa por el camino largo."])
    assert models.language(start)[1] < models.language(whole)[1]
    assert models.language(" ".join([start] * 4))[1] > models.language(start)[1] + 0.05
    assert models.language(" " * models.LOOK + UNSEEN["ta"]) == models.language("")


def test_scores_mean_shares_of_right_answers():
    """Where the score is high most are right, and more than where it is low."""
    _, tried = models.train_language(models.samples())
    high, low = ([lang == answer for lang, _, answer, score in tried if (score > 0.8) == which] for which in (True, False))
    assert np.mean(high) > 0.9 > np.mean(low) and len(high) > len(tried) / 2, (np.mean(high), np.mean(low), len(high), len(tried))
    for size in (0, 1):         # documents as well as their first 60 characters; of some 400 a percent is 4
        right, score = np.mean([(lang == answer, score) for lang, whole, answer, score in tried if whole == size], axis=0)
        assert right < 0.99, "with so little text all can be right only of text already seen"
        assert abs(right - score) < 0.02, f"{'documents' if size else 'beginnings'}: {right:.3f} right, mean score {score:.3f}"


def toy_sets():
    """Two kinds of page from the same everyday words: one says where things are known from, the other sells them."""
    rng = np.random.default_rng(1)
    def page(words):
        return " ".join(rng.choice(["the", "river", "house", "and", "a", "in", "of", "market", *words], 40))
    return [page(["survey", "published", "according", "century"]) for _ in range(150)], [page(["buy", "cheap", "click", "discount"]) for _ in range(60)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One saved model of each kind: {kind: path}"""
    folder = tmp_path_factory.mktemp("models")
    found = {"language": f"{folder}/language.npz", "perplexity": f"{folder}/en.npz", "quality": f"{folder}/quality.npz"}
    models.save(models.train_language(models.samples())[0], "language", found["language"])
    models.save(models.train_perplexity([t for lang, t in models.samples() if lang == "en"])[0], "perplexity", found["perplexity"])
    models.save(models.train_quality(*toy_sets())[0], "quality", found["quality"])
    return found


def test_saved_scores_are_the_scores(files):
    assert models.language(UNSEEN["fr"], files["language"]) == models.language(UNSEEN["fr"])
    assert models.perplexity(UNSEEN["en"], "en-GB", os.path.dirname(files["perplexity"])) == models.perplexity(UNSEEN["en"], "en")
    assert models.perplexity(UNSEEN["fr"], "fr", os.path.dirname(files["perplexity"]))[1] is None


def test_the_same_text_gives_the_same_file(files, tmp_path):
    models.save(models.train_language(models.samples())[0], "language", f"{tmp_path}/again.npz")
    models.save(models.train_quality(*toy_sets())[0], "quality", f"{tmp_path}/quality.npz")
    for kind, again in ("language", "again"), ("quality", "quality"):
        with open(files[kind], "rb") as a, open(f"{tmp_path}/{again}.npz", "rb") as b:
            assert a.read() == b.read(), kind


def test_quality_tells_two_kinds_of_page_apart(files):
    _, y, p = models.train_quality(*toy_sets())
    assert np.mean((p > 0.5) == y) == 1 and len(y) == 21
    assert models.quality("according to a survey published in the century", files["quality"]) > 0.5 > models.quality("click and buy a cheap house", files["quality"])
    assert models.quality("", files["quality"]) == 0.5


def test_a_set_of_many_texts_does_not_outweigh_one_of_few():
    """Pages that say nothing of their kind are even, though there are 20 times as many of one."""
    rng = np.random.default_rng(2)
    pages = [" ".join(rng.choice(["the", "river", "house", "and", "a"], 30)) for _ in range(420)]
    _, y, p = models.train_quality(pages[:20], pages[20:])
    assert 0.3 < p.mean() < 0.7 and sum(y) == 2
    with pytest.raises(ValueError, match="several of both"):
        models.train_quality(pages[:1], pages[20:])


def test_held_out_text_is_not_learnt_from(monkeypatch):
    """Nobody can foresee random letters: whoever is less perplexed than there are letters has seen them. Text beyond LONGEST is left out."""
    rng = np.random.default_rng(4)
    documents = ["".join(rng.choice([*"abcdefgh"], 60)) for _ in range(100)]
    assert np.mean(models.train_perplexity(documents)[1]) > 8
    monkeypatch.setattr(models, "LONGEST", 600)
    assert len(models.train_perplexity(documents)[1]) == 1


def test_the_cut_is_above_nearly_all_held_out_text():
    rng = np.random.default_rng(3)
    documents = [" ".join(rng.choice(["rain", "river", "stone", "light", "house"], 12)) for _ in range(400)]
    model, held_out = models.train_perplexity(documents)
    assert len(held_out) == 40 and sum(v > model["cut"] for v in held_out) == 1 and model["cut"] < 3
    assert models.perplexed(model, UNSEEN["en"]) > 10 * model["cut"]


@pytest.mark.parametrize("kind", ["language", "perplexity", "quality"])
def test_a_broken_file_ends_in_one_line(kind, files, tmp_path):
    def ask(path):
        {"language": lambda: models.language("text", path), "quality": lambda: models.quality("text", path), "perplexity": lambda: models.perplexity("text", "en", os.path.dirname(path))}[kind]()
    path = f"{tmp_path}/en.npz"
    objects = tmp_path / "objects.npz"
    np.savez(objects, **{name: np.array([{}], object) for name in models.FIELDS[kind]})
    whole, other = (pathlib.Path(files[k]).read_bytes() for k in (kind, "quality" if kind != "quality" else "language"))
    for content in b"", b"nonsense", whole[:len(whole) // 2], whole[:200] + b"??" + whole[202:], pickle.dumps({"keys": 1}), objects.read_bytes(), other:
        with open(path, "wb") as f:
            f.write(content)
        models.load.cache_clear()
        with pytest.raises(ValueError, match=f"en.npz is no {kind} model") as e:
            ask(path)
        assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="makes"):
        ask(f"{tmp_path}/none/en.npz")


def test_fasttext_is_one_path_away(monkeypatch):
    """The calls that its models get, and what to install where it is missing."""
    for name, wrong in ("lid.176.bin", None), ("lid.176.ftz", None):
        monkeypatch.setitem(sys.modules, "fasttext", wrong)
        models.fasttext.cache_clear()
        with pytest.raises(ValueError, match="pip install fasttext"):
            models.language("text", name)
    asked = []
    f = types.SimpleNamespace(predict=lambda *a: asked.append(a) or [(1.00002, "__label__en")])
    monkeypatch.setitem(sys.modules, "fasttext", types.SimpleNamespace(load_model=lambda path: types.SimpleNamespace(f=f)))
    models.fasttext.cache_clear()
    assert models.language("The RAIN\ncame", "lid.176.bin") == ("en", 1.0) and asked == [("the rain came\n", 1, 0.0, "strict")]
    models.fasttext.cache_clear()


def test_kenlm_is_scored_as_ccnet_does(monkeypatch, tmp_path):
    """Two lines of 2 and 3 pieces with log10 p of -2 and -5: 10 ** (7 / (3 + 4)). An uncased vocabulary gets lower case without accents."""
    said = []
    class Pieces:
        vocab = ["a", "b"]
        def __init__(self, model_file): assert model_file == f"{tmp_path}/en.sp.model"
        def vocab_size(self): return 2
        def id_to_piece(self, i): return self.vocab[i]
        def encode(self, line, out_type): return line.split()
    lm = types.SimpleNamespace(score=lambda line: said.append(line) or (-5 if len(line.split()) == 3 else -2))
    open(f"{tmp_path}/en.arpa.bin", "w").close()
    monkeypatch.setitem(sys.modules, "kenlm", types.SimpleNamespace(Model=lambda path: lm))
    monkeypatch.setitem(sys.modules, "sentencepiece", types.SimpleNamespace(SentencePieceProcessor=Pieces))
    for vocab, lines in (["a", "b"], ["ete 0000", 'a "b" c']), (["a", "B"], ["Été 0000", 'A "b" c']):
        Pieces.vocab, said[:] = vocab, []
        models.kenlm.cache_clear()
        assert models.perplexity("Été 1984\n\nA «b»\tc", "en", str(tmp_path)) == (pytest.approx(10), None) and said == lines
    models.kenlm.cache_clear()
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(ValueError, match="pip install kenlm sentencepiece"):
        models.perplexity("text", "en", str(tmp_path))


def test_the_commands_measure_and_write(tmp_path):
    for lang in ("en", "hi"):
        os.mkdir(f"{tmp_path}/{lang}")
        with open(f"{tmp_path}/{lang}/data.jsonl", "w") as f:
            f.write("".join(json.dumps({"text": t}) + "\n" for l, t in models.samples() if l == lang))
    def run(*args):
        return subprocess.run([sys.executable, "-m", "corpus.learn", *args], cwd=ROOT, capture_output=True, text=True, timeout=60)
    got = run("language", "--input", f"{tmp_path}", "--out", f"{tmp_path}/l.npz")
    assert got.returncode == 0 and "most confused with" in got.stdout and models.language(UNSEEN["hi"], f"{tmp_path}/l.npz")[0] == "hi", got.stderr
    got = run("quality", "--reference", f"{tmp_path}/en", "--random", f"{tmp_path}/nothing", "--out", f"{tmp_path}/q.npz")
    assert got.returncode == 1 and got.stderr.startswith("error: ") and got.stderr.count("\n") == 1


def test_languages_come_from_records_folders_and_files(tmp_path):
    os.mkdir(f"{tmp_path}/fr")
    for name, line in ("fr/data.txt", "bonjour"), ("zh-Hans.txt", "你好"), ("pages.jsonl", '{"text": "hi", "lang": "en"}\n{"text": "?"}\n{"text": "?", "lang": "../../en"}'), ("notes.txt", "?"):
        with open(f"{tmp_path}/{name}", "w", encoding="utf-8") as f:
            f.write(line + "\n")
    assert sorted(learn.labelled([str(tmp_path)])) == [("en", "hi"), ("fr", "bonjour"), ("zh", "你好")]
    with pytest.raises(ValueError, match="no text of a known language"):
        learn.labelled([f"{tmp_path}/notes.txt"])
