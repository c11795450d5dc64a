import bz2
import glob
import gzip
import json
import lzma
import os
import unicodedata

import config
import numpy as np
import prepare
import pytest
import tokenizer as tokenizers
from conftest import ROOT, run
from corpus import sources, stories


def texts(n, words="the cat sat on the mat and looked at the dog near the old house"):
    w = words.split()
    return [" ".join(w[(i * 7 + k * (i + 1)) % len(w)] for k in range(40)) + f" {i}." for i in range(n)]


def write(path, content):
    with open(path, "w", encoding="utf-8") as f:
        f.write(content)


def make(name, *paths, vocab=300, **more):
    return prepare.prepare(config.Corpus(name, [config.Source(n, p, **more) for n, p in prepare.named(list(paths))], config.Tokenizer("bpe", vocab)))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_document_and_its_provenance_reach_the_token_files():
    docs = [{"text": t, "id": f"d{i}", "lang": "en", "license": "CC-BY", "url": "u", "other": 1} for i, t in enumerate(texts(100))]
    write("a.jsonl", "".join(json.dumps(d) + "\n" for d in docs))
    manifest = make("mine", "a.jsonl")
    kept = [json.loads(line) for line in open("data/mine/corpus/a/documents.jsonl", encoding="utf-8")]
    assert kept[3] == {"lang": "en", "url": "u", "id": "d3", "text": docs[3]["text"], "licence": "CC-BY", "source": "a"}
    tokenizer = tokenizers.load("data/mine/tokenizer")
    found = []
    for split in ("train", "val"):
        ids, starts = np.fromfile(f"data/mine/tokens/a/{split}.bin", manifest["dtype"]), np.fromfile(f"data/mine/tokens/a/{split}.idx", "<i8")
        facts = manifest["sources"]["a"][split]
        assert len(ids) == facts["tokens"] and len(starts) == facts["documents"] > 0
        for part in np.split(ids, starts[1:]):
            assert part[-1] == tokenizer.eos
            found.append(tokenizer.decode(part[:-1].tolist()))
    assert sorted(found) == sorted(d["text"] for d in docs)


def test_the_same_input_gives_the_same_files_and_a_second_run_says_it_is_done(capsys):
    write("a.txt", "\n\n".join(texts(200)))
    first = make("one", "a.txt")
    second = make("two", "a.txt")
    assert first["sources"] == second["sources"] and first["tokenizer"] == second["tokenizer"]
    capsys.readouterr()
    make("one", "a.txt")
    assert "data/one is complete" in capsys.readouterr().out
    with pytest.raises(ValueError, match="other settings: tokenizer.vocab"):
        make("one", "a.txt", vocab=310)
    write("a.txt", "\n\n".join(texts(201)))
    with pytest.raises(ValueError, match="changed since"):
        make("one", "a.txt")


def test_what_is_held_out_stays_held_out_when_the_corpus_grows():
    def val(name, n):
        write("a.jsonl", "".join(json.dumps({"text": t, "id": str(i)}) + "\n" for i, t in enumerate(texts(n))))
        make(name, "a.jsonl")
        tokenizer = tokenizers.load(f"data/{name}/tokenizer")
        return {t for t in tokenizer.decode(np.fromfile(f"data/{name}/tokens/a/val.bin", "<u2").tolist()).split(".") if t}
    assert val("small", 150) < val("large", 300)


def test_duplicates_and_empty_documents_are_dropped_and_counted():
    t = texts(60)
    write("a.jsonl", "".join(json.dumps({"text": x}) + "\n" for x in t + t[:7] + ["", " \n"]))
    write("b.jsonl", "".join(json.dumps({"text": x}) + "\n" for x in texts(90)[55:]))
    manifest = make("mine", "a.jsonl", "b.jsonl")
    assert manifest["sources"]["a"]["dropped"] == {"duplicate": 7, "empty": 2} and manifest["sources"]["b"]["dropped"] == {"duplicate": 5}
    assert len(open("data/mine/dropped/duplicate.jsonl").readlines()) == 12


@pytest.mark.parametrize("ending, opener", [("", open), (".gz", gzip.open), (".bz2", bz2.open), (".xz", lzma.open)])
def test_compressed_files_read_as_plain_ones(ending, opener):
    with opener(f"a.txt{ending}", "wt", encoding="utf-8") as f:
        f.write("\n\n".join(texts(100)))
    documents = list(sources.read(config.Source("s", f"a.txt{ending}")))
    assert "\n".join(d["text"] for d in documents).split() == " ".join(texts(100)).split() and len(documents) > 5


def test_text_is_cut_at_blank_lines_and_nothing_is_lost():
    write("a.txt", "\ufeffone\ntwo\n\nthree\n\n\nfour" + "x" * 40 + "\nend")
    assert [d["text"] for d in sources.read(config.Source("s", "a.txt", split=8))] == ["one\ntwo", "three", "four" + "x" * 40, "end"]


def test_folders_globs_and_code_are_found_and_named():
    os.makedirs("src/inner")
    os.makedirs("src/.git")
    for name in ("src/a.py", "src/inner/b.rs", "src/c.bin", "src/.git/d.py"):
        write(name, f"text of {name}")
    found = {d["id"]: d.get("lang") for d in sources.read(config.Source("s", "src"))}
    assert found == {"a.py": "python", "inner/b.rs": "rust"}
    for lang in ("fr", "sw"):
        os.makedirs(f"t/{lang}")
        write(f"t/{lang}/data.txt", lang)
    assert [d["id"] for d in sources.read(config.Source("s", "t/*/data.txt"))] == ["fr/data.txt#0", "sw/data.txt#0"]
    assert [n for n, _ in prepare.named(["t/fr/data.txt", "t/sw/data.txt"])] == ["fr-data", "sw-data"] and [n for n, _ in prepare.named(["x/book.txt.gz"])] == ["book"]


def failure(*args):
    out = run("prepare.py", *args)
    assert out.returncode == 1 and out.stderr.startswith("error: ") and out.stderr.count("\n") == 1, out
    assert not os.path.exists("data") or os.listdir("data") == [], "nothing is left behind"
    return out.stderr


def test_bad_input_is_one_clear_line_and_leaves_nothing():
    write("empty.txt", "")
    write("ten.txt", "one two three four five six seven eight nine ten")
    write("bad.jsonl", '{"text": "fine"}\n{"text": \n')
    write("field.jsonl", '{"body": "fine"}\n')
    write("small.txt", "\n\n".join(texts(60)))
    with open("latin.txt", "wb") as f:
        f.write("caf\xe9".encode("latin-1") * 10)
    with open("broken.txt.gz", "wb") as f:
        f.write(gzip.compress("\n\n".join(texts(60)).encode())[:-20])
    assert "missing.txt" in failure("--input", "missing.txt", "--name", "x")
    assert "at least 1,024 tokens" in failure("--input", "empty.txt", "--name", "x")
    ten = failure("--input", "ten.txt", "--name", "x")
    assert "48 bytes" in ten and "at least 1,024 tokens" in ten
    assert "bad.jsonl:2" in failure("--input", "bad.jsonl", "--name", "x")
    assert "field.jsonl:1" in (e := failure("--input", "field.jsonl", "--name", "x")) and "body" in e
    assert "latin.txt, byte 3" in failure("--input", "latin.txt", "--name", "x")
    assert "broken.txt.gz" in failure("--input", "broken.txt.gz", "--name", "x")
    e = failure("--input", "small.txt", "--name", "x", "--vocab", 9000)
    assert "vocabulary of 9000" in e and "entries" in e


def test_invalid_utf8_is_dropped_with_count_and_place():
    lines = [json.dumps({"text": t}).encode() for t in texts(80)]
    lines[4] = b'{"text": "caf\xe9"}'
    lines[9] = b'{"text": "half a pair \\ud800"}'
    with open("a.jsonl", "wb") as f:
        f.write(b"\n".join(lines))
    out = run("prepare.py", "--input", "a.jsonl", "--name", "x", "--vocab", 300)
    assert out.returncode == 0 and "2 documents not valid UTF-8, dropped; the first at a.jsonl:5, byte" in out.stdout, out
    assert len(open("data/x/dropped/invalid_utf8.jsonl").readlines()) == 2


def test_output_that_cannot_be_written_is_one_clear_line():
    write("small.txt", "\n\n".join(texts(60)))
    write("data", "a file where the folder should be")
    out = run("prepare.py", "--input", "small.txt", "--name", "x", "--vocab", 300)
    assert out.returncode == 1 and "cannot write data/x" in out.stderr and out.stderr.count("\n") == 1, out


def test_a_full_disk_leaves_nothing(monkeypatch):
    write("small.txt", "\n\n".join(texts(60)))

    def full(*args):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(prepare, "tokenize", full)
    with pytest.raises(ValueError, match="No space left on device; nothing was kept"):
        make("x", "small.txt")
    assert os.listdir("data") == []


def test_samples_are_clean_text_in_many_languages_and_scripts():
    paths = glob.glob(f"{ROOT}/samples/*.txt")
    scripts = set()
    for path in paths:
        text = open(path, encoding="utf-8").read()
        assert unicodedata.normalize("NFC", text) == text or "/pa" in path or "/bn" in path or "/hi" in path, path    # some Indic letters decompose in NFC
        scripts |= {unicodedata.name(c).split()[0] for c in text if c.isalpha()}
    assert len(paths) >= 24 and {"LATIN", "ARABIC", "DEVANAGARI", "CJK", "TAMIL", "BENGALI"} <= scripts


def test_stories_are_the_same_everywhere_and_remember_their_slots():
    grammar = stories.parse("hero: Mina | Sara\nplace: river\n\nplot\n{hero} ran. | {hero} sat.\nAt the {place}, {hero} slept.\n", "t")
    drawn = [stories.draw(grammar, "en", i) for i in range(20)]
    assert drawn == [stories.draw(grammar, "en", i) for i in range(20)] and len(set(drawn)) == 4
    assert all(t.split()[0] == t.split()[-2] for t in drawn)
    with pytest.raises(ValueError, match="t:3: no slot named place"):
        stories.parse("hero: Mina\nplot\nAt the {place}\n", "t")
