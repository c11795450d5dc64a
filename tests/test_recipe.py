"""The data configs of the project, and the texts in samples/."""
import glob
import os
import unicodedata

import pytest
from conftest import ROOT

import config
import prepare
from corpus import recipe, stories
from corpus.recipe import Corpus, Source


def test_the_recipes_of_both_papers_load_and_their_shares_are_the_papers():
    papers = {"llama": {"commoncrawl": 0.67, "c4": 0.15, "github": 0.045, "wikipedia": 0.045, "books": 0.045,
                        "arxiv": 0.025, "stackexchange": 0.02},
              "roots": {"en": 0.22171, "zh-oscar": 0.05529, "code": 0.13027}}
    for name, shares in papers.items():
        corpus = config.load(f"{ROOT}/configs/data/{name}.py")
        weights = {s.name: s.weight for s in corpus.sources}
        assert abs(sum(weights.values()) - 1) < 1e-4 and weights.items() >= shares.items()
        corpus.accept = ",".join(s.name for s in corpus.sources if s.permission == "gated")
        recipe.check_corpus(corpus)
        for s in corpus.sources:
            assert s.origin and s.custodian and (s.licence or s.reader in ("code", "stackexchange"))
    assert len({s.lang for s in corpus.sources if s.lang}) == 46
    corpus.accept, corpus.only = None, "code"
    recipe.check_corpus(corpus)             # what is gated and not read needs no acceptance


def test_the_config_to_copy_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(f"{ROOT}/samples", "samples")
    manifest = prepare.prepare(config.load(f"{ROOT}/configs/data/mine.py"))
    assert {name: s["weight"] for name, s in manifest["sources"].items()} == {"english": 0.6, "others": 0.4}


def test_settings_are_written_as_before_so_that_older_data_is_complete():
    source = {"name": "a", "path": "a.txt", "reader": "auto", "lang": None, "licence": None, "weight": None,
              "field": "text", "split": 2048, "url": None, "sha256": None, "origin": None, "custodian": None,
              "permission": "public", "licences": None, "clean": [], "near": None}
    tokenizer = {"kind": "bpe", "vocab": 4096, "path": None, "bytes": 30_000_000, "alpha": 1.0}
    older = {"name": "x", "sources": [source], "tokenizer": tokenizer, "val_share": 0.05, "only": "a",
             "alike": 0.7, "accept": None, "remove": None, "rules": None, "models": None}
    corpus = Corpus("x", [Source("a", "a.txt"), Source("b", "b.txt")], only="a")
    before, now = recipe.with_newer_settings(older), config.plain(recipe.selected(corpus))
    new = [key for key, _, _ in config.differences(before, now)]
    assert new == ["part"], "a setting that is new and None is no difference; other parts are no other data"
    assert "encoding" not in source and corpus.sources[0].encoding is None


def test_samples_are_clean_text_in_many_languages_and_scripts():
    paths, scripts = glob.glob(f"{ROOT}/samples/*.txt"), set()
    for path in paths:
        with open(path, encoding="utf-8") as f:
            text = f.read()
        decomposing = os.path.basename(path)[:2] in ("pa", "bn", "hi")      # some letters decompose in NFC
        assert decomposing or unicodedata.normalize("NFC", text) == text, path
        scripts |= {unicodedata.name(c).split()[0] for c in text if c.isalpha()}
    assert len(paths) >= 24 and {"LATIN", "ARABIC", "DEVANAGARI", "CJK", "TAMIL", "BENGALI"} <= scripts


def test_stories_are_the_same_everywhere_and_remember_their_slots():
    grammar = stories.parse("hero: Mina | Sara\nplace: river\n\nplot\n{hero} ran. | {hero} sat.\n"
                            "At the {place}, {hero} slept.\n", "t")
    drawn = [stories.draw(grammar, "en", i) for i in range(20)]
    assert drawn == [stories.draw(grammar, "en", i) for i in range(20)] and len(set(drawn)) == 4
    assert all(t.split()[0] == t.split()[-2] for t in drawn)
    with pytest.raises(ValueError, match="t:3: no slot named place"):
        stories.parse("hero: Mina\nplot\nAt the {place}\n", "t")
