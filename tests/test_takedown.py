"""Removal from a finished data/NAME."""
import os
import shutil
import sys

import pytest
from corpora import decoded, everything, records, texts, there, tree, write, write_texts

import config
import prepare
from corpus import takedown
from corpus.recipe import Corpus, Source, Tokenizer
from corpus.text import place


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_removal_rewrites_one_source_and_leaves_no_copy():
    corpus = everything()
    prepare.prepare(corpus)
    before = tree("data/all")
    gone = records("data/all/corpus/web/00000.jsonl")[7:9]
    names = sorted(["web/0-short", *(f"web/{d['id']}" for d in gone)])
    write("ids.txt", "\n".join(names))
    corpus.remove = "ids.txt"
    os.rename("web", "elsewhere")           # a removal needs no input
    manifest = prepare.prepare(corpus)
    os.rename("elsewhere", "web")
    after = tree("data/all")
    changed = [f for f in before if before[f] != after.get(f)]
    assert changed and set(before) == set(after) and there() == ["all", "all.removed"]
    assert not any(f.startswith(("corpus/code", "tokens/code", "tokenizer/")) for f in changed)
    assert manifest["removed"] == names and manifest["sources"]["web"]["dropped"]["removed"] == 2
    assert list(manifest["sources"]) == ["web", "code", "books"], "a run knows a source by its number"
    for name in names:
        assert f'"id": "{name[4:]}"'.encode() not in b"".join(after.values())
    report = config.read_json("data/all/report.json")["web"]
    n = report["write"]["kept"]
    assert report["removed"] == {"in": n, "kept": n - 2, "dropped": {"removed": 2}}
    left = decoded("all", "web", "train") + decoded("all", "web", "val")
    assert len(left) == n - 2 and not {d["text"] for d in gone} & set(left)

    os.rename("data/all", "patched")    # built anew with the same list, the same documents are left out
    again = prepare.prepare(corpus)
    assert again["removed"] == names
    assert again["sources"]["web"]["dropped"]["removed"] == 8, "three, and five more with the text of 0-short"
    write("ids.txt", "web\n")
    assert list(prepare.prepare(corpus)["sources"]) == ["code", "books"]
    assert sorted(os.listdir("data/all/tokens")) == ["books", "code"]
    assert b"Menu" not in b"".join(tree("data/all").values())


def small(remove=None):
    return Corpus("x", [Source("a", "a.jsonl")], Tokenizer("bpe", 300), val_share=1e-6, remove=remove)


def small_and_removed(document):
    """data/x, from which a/`document` was then removed; data/old as it was before. Returns the manifest."""
    write_texts(texts(40))
    assert prepare.prepare(small())["sources"]["a"]["val"]["documents"] == 1
    shutil.copytree("data/x", "old")
    write("ids.txt", f"a/{document}\n")
    return prepare.prepare(small("ids.txt"))


def test_a_removal_leaves_a_document_held_out():
    s = small_and_removed(min(range(40), key=lambda i: place("a", i)))["sources"]["a"]
    assert s["val"]["documents"] == 1 and s["train"]["documents"] == 38


@pytest.mark.parametrize("moment", ["new is half", "old is half", "old is away"])
def test_an_interrupted_removal_is_finished_by_the_next_command(moment):
    """The folders as a kill would leave them."""
    small_and_removed(2)
    whole = tree("data/x")
    os.rename("data/x", "data/x.removing")
    if moment == "new is half":
        os.remove("data/x.removed")
        os.remove("data/x.removing/manifest.json")
    if moment == "old is half":
        shutil.rmtree("old/tokens")
    if moment != "old is away":
        os.rename("old", "data/x")
    prepare.prepare(small("ids.txt"))
    assert tree("data/x") == whole and there() == ["x", "x.removed"]
    takedown.finish("data/x")
    assert tree("data/x") == whole, "where nothing is to be done, nothing is"


def test_near_copies_are_listed_and_nothing_is_removed(monkeypatch, capsys):
    base = texts(40)
    letters = " ".join(t.lower() for t in base[:8])
    copies = [letters + " once more with feeling", "Preface. " + letters, base[20]]
    write_texts([letters, *copies, *base[25:]])
    prepare.prepare(small())
    before = tree("data/x")
    write("ids.txt", "a/0\n")
    monkeypatch.setattr(sys, "argv", ["takedown.py", "data/x", "--near", "ids.txt"])
    takedown.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["a/1", "a/2", "2"], lines
    assert " like a/0: 'Preface. " in lines[-2] and lines[-1] == "2 near copies; nothing is removed"
    assert tree("data/x") == before
    write("ids.txt", "a/none\n")
    with pytest.raises(ValueError, match="^data/x has none of these documents; ask for near copies before"):
        takedown.main()
