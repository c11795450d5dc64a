import collections
import copy
import glob
import gzip
import json
import os
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from conftest import ROOT, run, tiny

import config
import data
import prepare
import tokenizer as tokenizers
import train
from corpus import clean, jobs, recipe, sources, stages, stories, takedown, whence


def texts(n, words="the cat sat on the mat and looked at the dog near the old house"):
    w = words.split()
    return [" ".join(w[(i * 7 + k * (i + 1)) % len(w)] for k in range(40)) + f" {i}." for i in range(n)]


def write(path, content):
    with open(path, "w", encoding="utf-8") as f:
        f.write(content)


def make(name, *paths, vocab=300, **more):
    return prepare.prepare(recipe.Corpus(name, [recipe.Source(n, p, **more) for n, p in prepare.named(list(paths))], recipe.Tokenizer("bpe", vocab)))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_document_and_its_provenance_reach_the_token_files():
    docs = [{"text": t, "id": f"d{i}", "lang": "en", "license": "CC-BY", "url": "u", "other": 1} for i, t in enumerate(texts(100))]
    write("a.jsonl", "".join(json.dumps(d) + "\n" for d in docs))
    manifest = make("mine", "a.jsonl")
    kept = [json.loads(line) for line in open("data/mine/corpus/a/00000.jsonl", encoding="utf-8")]
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


def test_inputs_are_named_by_what_tells_them_apart():
    for lang in ("fr", "sw"):
        os.makedirs(f"t/{lang}")
        write(f"t/{lang}/data.txt", lang)
    assert [n for n, _ in prepare.named(["t/fr/data.txt", "t/sw/data.txt"])] == ["fr-data", "sw-data"] and [n for n, _ in prepare.named(["x/book.txt.gz"])] == ["book"]


def there():
    """What is in data/, but for locks."""
    return sorted(n for n in os.listdir("data") if not n.startswith(".")) if os.path.exists("data") else []


def failure(*args):
    out = run("prepare.py", *args)
    assert out.returncode == 1 and out.stderr.startswith("error: ") and out.stderr.count("\n") == 1, out
    assert not os.path.exists("data/x"), "what is there is complete"
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
    out = run("prepare.py", "--input", "broken.txt.gz", "--name", "y", "--vocab", 300)
    assert out.returncode == 0 and "source broken: 1 document dropped as broken_file; the first at broken.txt.gz, byte" in out.stdout, "what came before the break is kept"
    e = failure("--input", "small.txt", "--name", "x", "--vocab", 9000)
    assert "vocabulary of 9000" in e and "entries" in e


def test_invalid_utf8_is_dropped_with_count_and_place():
    lines = [json.dumps({"text": t}).encode() for t in texts(80)]
    lines[4] = b'{"text": "caf\xe9"}'
    lines[9] = b'{"text": "half a pair \\ud800"}'
    with open("a.jsonl", "wb") as f:
        f.write(b"\n".join(lines))
    out = run("prepare.py", "--input", "a.jsonl", "--name", "x", "--vocab", 300)
    assert out.returncode == 0 and "2 documents dropped as invalid_utf8; the first at a.jsonl:5, byte" in out.stdout, out
    assert len(open("data/x/dropped/invalid_utf8.jsonl").readlines()) == 2


def test_output_that_cannot_be_written_is_one_clear_line():
    write("small.txt", "\n\n".join(texts(60)))
    write("data", "a file where the folder should be")
    out = run("prepare.py", "--input", "small.txt", "--name", "x", "--vocab", 300)
    assert out.returncode == 1 and "data" in out.stderr and out.stderr.count("\n") == 1, out


def test_after_a_full_disk_the_same_command_goes_on(monkeypatch):
    write("small.txt", "\n\n".join(texts(60)))

    def full(*args):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr(stages, "tokenize_part", full)
        with pytest.raises(ValueError, match="No space left on device; the parts that are done stay in data/x.partial"):
            make("x", "small.txt")
    assert there() == ["x.partial"]
    monkeypatch.setattr(stages, "read_part", full)          # what was read before is not read again
    assert make("x", "small.txt")["sources"] and there() == ["x"]


CHAIN = ["ccnet_lines", "pii", "small_words", "bytes_300"]


def everything(n=400):
    """Two folders of files with each kind of loss in them: copies, repeated lines, near copies, short and broken documents, licences, gated terms."""
    for folder in ("web", "code"):
        os.makedirs(folder)
    t = texts(n)
    for part in range(6):
        docs = [{"id": f"{part}-{i}", "lang": ["en", "fr"][i % 2], "text": f"Menu of the site\n{x} {x[::-1]} {x}\nwrite to me{i}@example.org"} for i, x in enumerate(t[part * 60:part * 60 + 60])]
        docs += [{**docs[3], "id": f"{part}-again"}, {**docs[5], "id": f"{part}-near", "text": docs[5]["text"] + " x"}, {"id": f"{part}-short", "text": "short"}, {"id": f"{part}-none", "text": " "}]
        with gzip.open(f"web/{part}.jsonl.gz", "wt", encoding="utf-8") as f:
            f.write("".join(json.dumps(d) + "\n" for d in docs) + '{"broken": \n')
        write(f"code/{part}.py", f"# SPDX-License-Identifier: {['MIT', 'GPL-3.0-only'][part % 2]}\n" + "\n".join(f"x{i} = {i * part}" for i in range(200)))
    with open("web/3.jsonl.gz", "r+b") as f:
        f.truncate(os.path.getsize("web/3.jsonl.gz") - 40)
    return recipe.Corpus("all", [
        recipe.Source("web", "web", clean=CHAIN, near="minhash", licence="CC0-1.0", origin="made here", custodian="the tests", permission="gated"),
        recipe.Source("code", "code", licences=["MIT"], permission="asked")], recipe.Tokenizer("bpe", 400), accept="web")


def tree(folder):
    return {os.path.relpath(os.path.join(at, name), folder): open(os.path.join(at, name), "rb").read() for at, _, names in os.walk(folder) for name in names}


def test_documents_in_are_documents_kept_and_dropped_at_every_stage():
    manifest = prepare.prepare(everything())
    report = config.read_json("data/all/report.json")
    for source, facts in report.items():
        for stage in facts.values():
            assert stage["in"] == stage["kept"] + sum(stage["dropped"].values()) > 0
        assert facts["read"]["kept"] == facts["clean"]["in"] and facts["clean"]["kept"] == facts["write"]["in"]
        split = manifest["sources"][source]
        assert facts["write"]["kept"] == split["train"]["documents"] + split["val"]["documents"] == sum(split["documents_by_language"].values())
        assert facts["read"]["in"] - facts["write"]["kept"] == sum(split["dropped"].values())
        assert sum(split["tokens_by_language"].values()) == split["train"]["tokens"] + split["val"]["tokens"]
    dropped = manifest["sources"]["web"]["dropped"]
    assert dropped["duplicate"] >= 5 and dropped["near_duplicate"] >= 5 and dropped["broken_json"] >= 5 and dropped["broken_file"] == 1 and dropped["empty"] >= 5 and dropped["small_words"] >= 1
    assert manifest["sources"]["code"]["dropped"] == {"licence": 3} and manifest["sources"]["code"]["licences"] == {"MIT": 3}
    assert report["web"]["clean"]["changed"]["ccnet_lines"] >= report["web"]["clean"]["kept"] - 1 > 20
    text = "".join(open(f, encoding="utf-8").read() for f in glob.glob("data/all/corpus/web/*"))
    assert "PI:EMAIL" in text and "@example.org" not in text and text.count("Menu of the site") == 1, "the rules ran, and of repeated lines the first stays"
    for reason, n in collections.Counter(r for s in manifest["sources"].values() for r in s["dropped"] for _ in range(s["dropped"][r])).items():
        shown = [json.loads(line) for line in open(f"data/all/dropped/{reason}.jsonl", encoding="utf-8")]
        assert len(shown) == n and all(d["dropped"] == reason for d in shown)
    card = open("data/all/DATA_CARD.md", encoding="utf-8").read()
    for word in ("` became `", "CC0-1.0", "made here", "the tests", "gated", "asked", "near_duplicate", "PI:EMAIL", "web/3.jsonl.gz"[4:], manifest["sources"]["web"]["train"]["sha256"]):
        assert word in card, word


def test_no_copy_is_in_both_splits_and_the_first_one_stays():
    prepare.prepare(everything())
    ids = [json.loads(line)["id"] for f in sorted(glob.glob("data/all/corpus/web/*")) for line in open(f, encoding="utf-8")]
    assert "0-3" in ids and "0-again" not in ids and "0-5" in ids and "0-near" not in ids


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_number_of_workers_changes_no_byte(workers, monkeypatch):
    corpus = everything()
    monkeypatch.setattr(prepare, "PART", 1000)              # a job for each file or two
    prepare.prepare(corpus)
    os.rename("data/all", "alone")
    prepare.prepare(corpus, workers)
    assert len(glob.glob("alone/corpus/web/*")) > 3 and tree("alone") == tree("data/all")
    tokens, starts = np.fromfile("alone/tokens/web/train.bin", "<u2"), np.fromfile("alone/tokens/web/train.idx", "<i8")
    assert starts.tolist() == [0, *(np.flatnonzero(tokens == 2)[:-1] + 1).tolist()], "a document begins after the end of another, across parts too"


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes():
    """kill -9 after more and more of the files have been written; tools/kill.py does it at random moments, with workers."""
    everything()
    write("c.py", f"import sys, os\nsys.path.insert(0, {ROOT!r})\nimport prepare, config\nfrom corpus import jobs\nprepare.PART = 1000\n"
          "at, old = int(sys.argv[1]), os.replace\ncount = [0]\n"
          "def replace(a, b):\n    count[0] += 1\n    if count[0] == at:\n        os.kill(os.getpid(), 9)\n    old(a, b)\nos.replace = replace\n"
          f"prepare.prepare(recipe.Corpus('all', [recipe.Source('web', 'web', clean={CHAIN!r}, near='minhash'), recipe.Source('code', 'code')], recipe.Tokenizer('bpe', 400)))\n")

    def go(at):
        return subprocess.run([sys.executable, "c.py", str(at)], capture_output=True, text=True).returncode
    assert go(0) == 0
    os.rename("data/all", "alone")
    at, killed = 4, 0
    while go(at) == -9:                 # each start gets a little further than the one before
        at, killed = at + 9, killed + 1
    assert killed >= 5 and tree("alone") == tree("data/all") and there() == ["all"]


def test_a_gated_source_needs_its_terms_accepted():
    corpus = everything()
    corpus.accept = None
    with pytest.raises(ValueError, match=r"source web is gated by the tests \(made here\): read its terms, then give accept=web"):
        prepare.prepare(corpus)
    corpus.accept = "webb"
    with pytest.raises(ValueError, match="accept=webb: there is no webb; there are web, code"):
        prepare.prepare(corpus)
    corpus.accept, corpus.only = None, "code"
    assert list(prepare.prepare(corpus)["sources"]) == ["code"], "what is not read needs no acceptance"


def test_removal_rewrites_one_source_and_leaves_no_copy():
    corpus = everything()
    prepare.prepare(corpus)
    before = tree("data/all")
    one, two = [json.loads(line) for line in before["corpus/web/00000.jsonl"].splitlines()][7:9]
    write("ids.txt", f"web/{one['id']}\nweb/{two['id']}\nweb/0-short\n")
    corpus.remove = "ids.txt"
    os.rename("web", "elsewhere")           # a removal needs no input
    manifest = prepare.prepare(corpus)
    os.rename("elsewhere", "web")
    after = tree("data/all")
    changed = {f for f in before if before[f] != after.get(f)}
    assert changed and not any(f.startswith(("corpus/code", "tokens/code", "tokenizer/")) for f in changed) and set(before) == set(after)
    assert manifest["removed"] == sorted([f"web/{one['id']}", f"web/{two['id']}", "web/0-short"]) and manifest["sources"]["web"]["dropped"]["removed"] == 2
    assert not any(f'"id": "{i}"'.encode() in content for content in after.values() for i in (one["id"], two["id"], "0-short")), "a copy was left"
    assert f"- web/{two['id']}" in after["DATA_CARD.md"].decode()
    report = config.read_json("data/all/report.json")["web"]
    assert report["removed"] == {"in": report["write"]["kept"], "kept": report["write"]["kept"] - 2, "dropped": {"removed": 2}}
    tokens = np.fromfile("data/all/tokens/web/train.bin", "<u2")
    text = tokenizers.load("data/all/tokenizer").decode(tokens.tolist())
    assert len(tokens) == manifest["sources"]["web"]["train"]["tokens"] and one["text"] not in text and two["text"] not in text

    os.rename("data/all", "patched")    # built anew with the same list, the same documents are left out
    again = prepare.prepare(corpus)
    assert again["removed"] == manifest["removed"] and again["sources"]["web"]["dropped"]["removed"] == 7, "three, and four more with the text of 0-short"
    write("ids.txt", "web\n")
    assert list(prepare.prepare(corpus)["sources"]) == ["code"] and os.listdir("data/all/tokens") == ["code"]
    assert b"Menu" not in b"".join(tree("data/all").values())
    write("ids.txt", "wbe/1\n")
    with pytest.raises(ValueError, match="'wbe/1' is in none of the sources"):
        prepare.prepare(corpus)


def test_a_removal_leaves_a_document_held_out():
    write("a.jsonl", "".join(json.dumps({"text": t, "id": f"d{i}"}) + "\n" for i, t in enumerate(texts(40))))
    corpus = recipe.Corpus("work", [recipe.Source("a", "a.jsonl")], recipe.Tokenizer("bpe", 300), val_share=1e-6)
    assert prepare.prepare(corpus)["sources"]["a"]["val"]["documents"] == 1
    held = min((f"d{i}" for i in range(40)), key=lambda i: stages.place("a", i))
    write("ids.txt", f"a/{held}\n")
    corpus.remove = "ids.txt"
    s = prepare.prepare(corpus)["sources"]["a"]
    assert s["val"]["documents"] == 1 and s["train"]["documents"] == 38


def test_an_interrupted_removal_is_finished_by_the_next_command(monkeypatch):
    corpus = everything()
    prepare.prepare(corpus)
    ids = [json.loads(line)["id"] for line in open("data/all/corpus/web/00000.jsonl", encoding="utf-8")]
    for moment, gone in ("before", ids[2]), ("within", ids[9]):
        write("ids.txt", f"web/{gone}\n")
        corpus.remove = "ids.txt"
        def stop(*args):
            if os.path.exists("data/all/removing/ready"):
                raise KeyboardInterrupt
        with monkeypatch.context() as m:
            m.setattr(takedown, "commit", stop) if moment == "before" else m.setattr(os, "rename", stop)
            with pytest.raises(KeyboardInterrupt):
                prepare.prepare(corpus)
        corpus.remove = None
        manifest = prepare.prepare(corpus)
        assert f"web/{gone}" in manifest["removed"] and not os.path.exists("data/all/removing")
        for split in ("train", "val"):
            assert config.sha256(f"data/all/tokens/web/{split}.bin") == manifest["sources"]["web"][split]["sha256"]


def test_a_change_of_rules_is_not_answered_with_old_parts(monkeypatch):
    corpus = everything()
    with monkeypatch.context() as m:
        m.setattr(prepare.tokenizers, "train", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(corpus)
    corpus.sources[0].clean = ["pii"]
    assert "bytes_300" not in prepare.prepare(corpus)["sources"]["web"]["dropped"]


def test_what_rules_make_equal_is_dropped_as_a_copy():
    write("a.jsonl", "".join(json.dumps({"text": f"{t} write to me{k}@example.org now", "id": f"{i}{k}"}) + "\n" for i, t in enumerate(texts(60)) for k in "ab"))
    manifest = make("x", "a.jsonl", clean=["pii"])
    assert manifest["sources"]["a"]["dropped"] == {"duplicate": 60}
    card = open("data/x/DATA_CARD.md", encoding="utf-8").read()
    assert "PI:EMAIL" in card and "@example" not in card + open("data/x/report.json", encoding="utf-8").read(), "what was masked is not shown as an example"


def test_what_is_a_copy_already_takes_no_other_with_it():
    docs = [{"text": t, "url": f"http://x/{i}"} for i, t in enumerate(texts(60))]
    docs += [{"text": docs[0]["text"], "url": "http://x/new"}, {"text": "another text at the address of a copy", "url": "http://x/new"}, {"text": "and one at a known address", "url": "http://x/5"}]
    write("a.jsonl", "".join(json.dumps(d) + "\n" for d in docs))
    assert make("x", "a.jsonl", clean=["same_url"])["sources"]["a"]["dropped"] == {"duplicate": 1, "same_url": 1}


KEYED = [("same_letters", {"text": "One, two: 3 three.\nfour"}, {"text": "onetwothreefour"}, False), ("same_letters", {"text": "One two 3"}, {"text": "ONE... t w o 4"}, False),
         ("same_letters", {"text": "One two 3"}, {"text": "One... t w o 4"}, True), ("same_url", {"url": "http://a.b/c?x=1"}, {"url": "https://a.b/c#top"}, True),
         ("same_url", {"url": "http://a.b/c"}, {"url": "http://a.b/d"}, False), ("same_url", {"id": "why?.txt#1"}, {"id": "why?.txt#2"}, False),
         ("same_signs", {"text": "x = 1\n\ny"}, {"text": "x=1 y"}, True), ("same_signs", {"text": "x = 1"}, {"text": "x = 2"}, False)]


@pytest.mark.parametrize("rule, a, b, same", KEYED)
def test_keys_of_documents(rule, a, b, same):
    a, b = ({"id": str(i), "text": "text"} | d for i, d in enumerate((a, b)))
    assert (clean.KEYS[rule](a) == clean.KEYS[rule](b)) == same


@pytest.mark.parametrize("rule, line, times, left", [("template_lines", "x" * 15, 10, 0), ("template_lines", "x" * 15, 9, 9), ("template_lines", "x" * 14, 10, 10),
                                                     ("newspaper_lines", "x", 2, 0), ("newspaper_lines", "x", 1, 1), ("ccnet_lines", "Page 1, ", 2, 1), ("ccnet_lines", "x", 5, 1)])
def test_lines_that_repeat(rule, line, times, left):
    """`line` in `times` documents, of which it stays in `left`; a copy of a whole document does not count."""
    docs = [f"{t}\n{line if i < times else i}" for i, t in enumerate(texts(60))]
    write("a.jsonl", "".join(json.dumps({"text": t.replace("Page 1", f"pAGE {i % 10}."), "id": str(i)}) + "\n" for i, t in enumerate(docs + docs[:1])))
    make("x", "a.jsonl", clean=[rule])
    kept = [json.loads(x)["text"].split("\n") for x in open("data/x/corpus/a/00000.jsonl", encoding="utf-8")]
    assert sum(len(t) > 1 and not t[1].isdigit() for t in kept) == left and (len(kept) == 60 or rule == "ccnet_lines")


def test_the_tokenizer_does_not_learn_from_what_is_held_out(monkeypatch):
    write("a.jsonl", "".join(json.dumps({"text": t, "id": str(i)}) + "\n" for i, t in enumerate(texts(150))))
    seen = []
    with monkeypatch.context() as m:
        m.setattr(tokenizers, "train", lambda kind, found, vocab, workers, old=tokenizers.train: old(kind, seen.extend(found) or list(seen), vocab, workers))
        manifest = make("x", "a.jsonl")
    assert len(seen) == manifest["sources"]["a"]["train"]["documents"] < 150


def test_each_setting_reaches_what_it_concerns(monkeypatch, tmp_path):
    """An interrupted build goes on under another setting: the result is that of a build from nothing."""
    corpus = everything()

    def interrupted(change):
        for name in there():
            shutil.rmtree(f"data/{name}") if os.path.isdir(f"data/{name}") else os.remove(f"data/{name}")
        with monkeypatch.context() as m:
            m.setattr(prepare.card, "write", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                prepare.prepare(copy.deepcopy(corpus))
        other = copy.deepcopy(corpus)
        change(other)
        prepare.prepare(other)
        continued = tree("data/all")
        shutil.rmtree("data/all")
        prepare.prepare(other)
        assert tree("data/all") == continued, "old parts were mixed in"
        return continued
    corpus.rules = str(tmp_path / "rules")
    shutil.copytree(clean.RULES_FOLDER, corpus.rules)
    plain = interrupted(lambda c: None)

    def edit(c):
        path = f"{corpus.rules}/thresholds.toml"
        write(path, open(path, encoding="utf-8").read().replace("small_words = 15", "small_words = 80"))
        clean.table.cache_clear(), stages.row_of.cache_clear()

    def listed(c):
        write("ids.txt", "web/0-3\nweb/0-4\n")
        c.remove = "ids.txt"
    for change in (edit, lambda c: setattr(c, "alike", 0.95), lambda c: setattr(c.tokenizer, "vocab", 350), lambda c: setattr(c, "val_share", 0.2), listed,
                   lambda c: setattr(c.sources[0], "clean", ["pii"]), lambda c: setattr(c.sources[0], "near", None), lambda c: setattr(c.sources[1], "licences", None),
                   lambda c: write("web/new.jsonl", json.dumps({"text": "\n".join(texts(20)), "id": "new"}))):
        assert interrupted(change) != plain


@pytest.mark.parametrize("change, message", [
    (lambda s, c: setattr(s, "permission", "Gated"), "source a: permission='Gated' must be one of public, gated, asked"), (lambda s, c: setattr(s, "near", "minhsh"), "near='minhsh' must be one of minhash, overlap"),
    (lambda s, c: setattr(s, "licences", "MIT"), "licences='MIT' must be list"), (lambda s, c: setattr(c, "models", {"langauge": "x"}), "models=langauge: there is no langauge"),
    (lambda s, c: setattr(c, "rules", "nofolder"), "rules: there is no nofolder"), (lambda s, c: setattr(s, "path", None), "source a has neither path nor url"),
    (lambda s, c: setattr(c.tokenizer, "vocab", 200), "vocabulary of 200"), (lambda s, c: setattr(c, "name", "raw"), "and not raw"), (lambda s, c: c.sources.append(s), "two sources are named a")])
def test_a_wrong_setting_is_named_before_any_work(change, message):
    write("a.txt", "\n\n".join(texts(60)))
    corpus = recipe.Corpus("x", [recipe.Source("a", "a.txt")], recipe.Tokenizer("bpe", 300))
    change(corpus.sources[0], corpus)
    with pytest.raises(ValueError, match=message):
        prepare.prepare(corpus)
    assert not os.path.exists("data") or there() == []


def test_odd_files_cost_only_themselves(capsys):
    os.makedirs("in")
    write("in/good.txt", "\n\n".join(texts(80)))
    write("in/page.html", "<p>")
    write("in/odd.jsonl", "".join(json.dumps({"text": t + "!", "lang": lang}) + "\n" for t, lang in zip(texts(4), (True, 5, "zh_CN", None))))
    os.symlink("nowhere", "in/dangling.txt")
    os.mkfifo("in/pipe.txt")
    write(b"in/caf\xe9.txt", "\n\n".join(texts(30)[20:]))
    manifest = make("x", "in", clean=["small_words"])
    assert manifest["sources"]["in"]["documents_by_language"].keys() >= {"True", "5", "zh_CN"} and "1 files of other kinds are not read: .html 1" in capsys.readouterr().out
    os.makedirs("data/y")
    with pytest.raises(ValueError, match="data/y is there and is no prepared data"):
        make("y", "in")
    out = run("prepare.py", f"{ROOT}/configs/data/sample.py", "--vocab", 500)
    assert out.returncode == 2 and "--vocab belongs to --input" in out.stderr


def test_a_file_that_vanishes_is_counted_and_the_others_are_read(monkeypatch):
    write("a.txt", "\n\n".join(texts(80)))
    write("b.txt", "gone")
    source = recipe.Source("s", ["a.txt", "b.txt"])
    files = sources.found(source)
    os.remove("b.txt")
    documents = list(sources.read(source, files))
    assert documents[-1] == {"id": "b.txt", "dropped": "unreadable", "place": "b.txt (No such file or directory)", "source": "s"} and len(documents) > 2


def test_two_commands_at_once_make_it_once():
    write("a.txt", "\n\n".join(texts(80)))
    command = [sys.executable, f"{ROOT}/prepare.py", "--input", "a.txt", "--name", "x", "--vocab", "300"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    out = sorted(p.communicate()[0].splitlines()[-1] for p in both)
    assert [p.returncode for p in both] == [0, 0] and out == ["data/x is complete", "wrote data/x; read data/x/DATA_CARD.md"] and there() == ["x"]


def test_work_that_is_half_deleted_is_not_taken_for_done(monkeypatch):
    """kill -9 while the finished parts are being cleared away."""
    prepare.prepare(corpus := everything())
    os.rename("data/all", "whole")
    with monkeypatch.context() as m:
        m.setattr(os, "rename", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(corpus)
    for ending in ("read/*.drop", "clean/*.near", "read/*.cut", "read/*.keys", "write/*.jsonl", "tokenize/*.train.bin"):
        os.remove(sorted(glob.glob(os.path.join("data", "all.partial", "work", ending)))[0])
    prepare.prepare(corpus)
    assert tree("data/all") == tree("whole")


def test_an_old_marker_does_not_vouch_for_new_files(tmp_path):
    base = str(tmp_path / "part")
    with jobs.Part(base, "old") as part:
        part.write("jsonl", 1), part.write("extra", 1)
    assert jobs.done(base, "old") and not jobs.done(base, "new") and jobs.path(base, "extra")
    with pytest.raises(KeyboardInterrupt), jobs.Part(base, "new") as part:
        part.write("jsonl", 2)
        raise KeyboardInterrupt
    assert not jobs.done(base, "old") and sorted(os.listdir(tmp_path)) == ["part.extra", "part.jsonl"]
    with jobs.Part(base, "new") as part:
        part.write("jsonl", 2)
    assert jobs.done(base, "new") and jobs.path(base, "extra") is None, "what an earlier job left beside is not this one's"
    os.remove(f"{base}.jsonl")
    assert not jobs.done(base, "new")


def test_rules_in_an_impossible_order_are_refused():
    write("a.txt", "\n\n".join(texts(60)))
    for rules, message in ((["pii", "ccnet_lines"], "ccnet_lines must come before"), (["ccnet_lines", "template_lines"], "cannot be used together"), ("osar", "unknown rule 'osar'")):
        with pytest.raises(ValueError, match=message):
            make("x", "a.txt", clean=rules)
    with pytest.raises(ValueError, match="source nowhere: .*; it comes from the moon"):
        prepare.prepare(recipe.Corpus("x", [recipe.Source("nowhere", "nowhere/*.txt", origin="the moon")]))


def test_the_recipes_of_both_papers_load_and_their_shares_are_the_papers():
    for name, shares in ("llama", {"commoncrawl": 0.67, "c4": 0.15, "github": 0.045, "wikipedia": 0.045, "books": 0.045, "arxiv": 0.025, "stackexchange": 0.02}), ("roots", {"en": 0.22171, "zh-oscar": 0.05529, "code": 0.13027}):
        corpus = config.load(f"{ROOT}/configs/data/{name}.py")
        weights = {s.name: s.weight for s in corpus.sources}
        assert abs(sum(weights.values()) - 1) < 1e-4 and weights.items() >= shares.items()
        corpus.accept = ",".join(s.name for s in corpus.sources if s.permission == "gated")
        prepare.check(corpus)
        assert all(s.licence or s.reader in ("code", "stackexchange") for s in corpus.sources) and all(s.origin and s.custodian for s in corpus.sources)
    assert len({s.lang.split("-oscar")[0] for s in corpus.sources if s.lang}) == 46


def test_whence_names_the_documents_of_a_step(work, capsys, monkeypatch):
    train.train(tiny("bloom", "r"))

    def ask(*words):
        monkeypatch.setattr(sys, "argv", ["data.py", "whence", "runs/r", *words])
        capsys.readouterr()
        whence.main()
        return capsys.readouterr().out
    found = [json.loads(line) for line in ask("step=3", "--json").splitlines()]
    rows = data.Rows(tiny("bloom", "r"))
    x, y, which, _ = rows.rows(2)
    tokenizer = tokenizers.load("data/tiny/tokenizer")
    for row in range(len(x)):
        ids = []
        for d in (d for d in found if d["row"] == row):
            ids += [*tokenizer.encode(d["text"]), tokenizer.eos][slice(*d["tokens"])]
        assert ids == [x[row][0], *(t for t in y[row] if t >= 0)], "the documents' tokens are the row's"
        assert {d["source"] for d in found if d["row"] == row} == {rows.sources[which[row][0]]}
    assert all(d["tokens"][0] < d["tokens"][1] for d in map(json.loads, ask("step=1:21", "--json").splitlines())), "a document without a token in the row is not in it"
    out = ask("step=1:3")
    assert "documents: " in out and "licences by tokens: no licence named" in out
    for step, message in (("step=0", "counted from 1"), ("step=x", "counted from 1"), ("step=21", "has read 20 steps")):
        with pytest.raises(ValueError, match=message):
            ask(step)
    assert run("data.py", "whence", "runs/r", "step=2").returncode == 0


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
