"""prepare.py, its stages, removal. Readers, rules and duplicates have tests of their own."""
import collections
import copy
import glob
import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import config
import prepare
import tokenizer as tokenizers
from corpus import clean, jobs, takedown
from corpus.recipe import Corpus, Source, Tokenizer
from corpus.text import place


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def texts(n):
    words = "the cat sat on the mat and looked at the dog near the old house".split()
    found = []
    for i in range(n):
        drawn = [words[(i * 7 + k * (i + 1)) % len(words)] for k in range(40)]
        found.append(f"{' '.join(drawn)} {i}.")
    return found


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def write_records(path, records):
    write(path, "".join(json.dumps(r) + "\n" for r in records))


def write_texts(found):
    """a.jsonl, with ids 0, 1, 2 ..."""
    write_records("a.jsonl", [{"text": text, "id": str(i)} for i, text in enumerate(found)])


def records(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def make(name, *paths, vocab=300, **more):
    found = [Source(os.path.splitext(path)[0], path, **more) for path in paths]
    return prepare.prepare(Corpus(name, found, Tokenizer("bpe", vocab)))


def there():
    """What is in data/, but for locks."""
    return sorted(n for n in os.listdir("data") if not n.startswith(".")) if os.path.isdir("data") else []


def tree(folder):
    found = {}
    for at, _, names in os.walk(folder):
        for path in (os.path.join(at, name) for name in names):
            with open(path, "rb") as f:
                found[os.path.relpath(path, folder)] = f.read()
    return found


def decoded(name, source, split):
    """The texts in a token file, and what the manifest says of it."""
    manifest = config.read_json(f"data/{name}/manifest.json")
    tokenizer = tokenizers.load(f"data/{name}/tokenizer")
    ids = np.fromfile(f"data/{name}/tokens/{source}/{split}.bin", manifest["dtype"])
    starts = np.fromfile(f"data/{name}/tokens/{source}/{split}.idx", "<i8")
    parts = np.split(ids, starts[1:])
    assert all(part[-1] == tokenizer.eos for part in parts)
    facts = manifest["sources"][source][split]
    assert (facts["tokens"], facts["documents"]) == (len(ids), len(starts))
    return [tokenizer.decode(part[:-1].tolist()) for part in parts]


CHAIN = ["ccnet_lines", "pii", "lines_with_code", "bytes_300"]


def everything():
    """Folders of files with each kind of loss: copies, repeated lines, near copies, short and broken files,
    licences, gated terms, books inside books."""
    for folder in ("web", "code", "books"):
        os.makedirs(folder)
    t = texts(360)
    for part in range(6):
        docs = []
        for i, x in enumerate(t[part * 60:part * 60 + 60]):
            text = f"Menu of the site\n{x} {x[::-1]} {x}\nwrite to me{i}@example.org"
            docs.append({"id": f"{part}-{i}", "lang": ["en", "fr"][i % 2], "text": text})
        docs += [{**docs[3], "id": f"{part}-again"}, {"id": f"{part}-short", "text": "short"},
                 {**docs[5], "id": f"{part}-near", "text": docs[5]["text"] + " x"},
                 {"id": f"{part}-none", "text": " "}]
        with gzip.open(f"web/{part}.jsonl.gz", "wt", encoding="utf-8") as f:
            f.write("".join(json.dumps(d) + "\n" for d in docs) + '{"broken": \n')
        lines = "\n".join(f"x{i} = {i * part}" for i in range(200))
        write(f"code/{part}.py", f"# SPDX-License-Identifier: {['MIT', 'GPL-3.0-only'][part % 2]}\n{lines}")
    with open("web/3.jsonl.gz", "r+b") as f:
        f.truncate(os.path.getsize("web/3.jsonl.gz") - 40)
    random = np.random.default_rng(0)
    story = "".join(random.choice(list("abcdefgh "), 30_000))
    write("books/whole.txt", story)
    write("books/inside.txt", story[500:29_000])
    write("books/other.txt", "".join(random.choice(list("ijklmnop "), 20_000)))
    web = Source("web", "web", clean=CHAIN, near="minhash", licence="CC0-1.0", origin="made here",
                 custodian="the tests", permission="gated")
    code = Source("code", "code", licences=["MIT"], permission="asked")
    books = Source("books", "books", split=10 ** 9, near="overlap")
    return Corpus("all", [web, code, books], Tokenizer("bpe", 400), accept="web")


# ---- what comes out ----

def test_every_document_and_its_provenance_reach_the_token_files():
    docs = [{"text": t, "id": f"d{i}", "lang": "en", "license": "CC-BY", "url": "u", "other": 1}
            for i, t in enumerate(texts(100))]
    write_records("a.jsonl", docs)
    make("mine", "a.jsonl")
    about = {"lang": "en", "url": "u", "licence": "CC-BY", "source": "a"}
    assert records("data/mine/corpus/a/00000.jsonl")[3] == about | {"id": "d3", "text": docs[3]["text"]}
    found = decoded("mine", "a", "train") + decoded("mine", "a", "val")
    assert sorted(found) == sorted(d["text"] for d in docs)


def test_documents_in_are_kept_or_dropped_at_every_stage_and_the_card_says_so():
    manifest = prepare.prepare(everything())
    report = config.read_json("data/all/report.json")
    for source, facts in report.items():
        for stage in facts.values():
            assert stage["in"] == stage["kept"] + sum(stage["dropped"].values()) > 0
        assert facts["read"]["kept"] == facts["clean"]["in"]
        assert facts["clean"]["kept"] == facts["write"]["in"]
        split = manifest["sources"][source]
        kept = split["train"]["documents"] + split["val"]["documents"]
        assert facts["write"]["kept"] == kept == sum(split["documents_by_language"].values())
        assert facts["read"]["in"] - kept == sum(split["dropped"].values())
        assert sum(split["tokens_by_language"].values()) == split["train"]["tokens"] + split["val"]["tokens"]
    dropped = {name: dict(s["dropped"]) for name, s in manifest["sources"].items()}
    for reason in ("duplicate", "near_duplicate", "broken_json", "empty"):
        assert dropped["web"][reason] >= 5, reason
    assert dropped["web"]["broken_file"] == 1
    assert dropped["books"] == {"near_duplicate": 1} and dropped["code"] == {"licence": 3}
    assert report["web"]["clean"]["changed"]["ccnet_lines"] >= report["web"]["clean"]["kept"] - 1 > 20
    kept = list(itertools.chain.from_iterable(map(records, sorted(glob.glob("data/all/corpus/web/*")))))
    text, ids = "".join(d["text"] for d in kept), {d["id"] for d in kept}
    assert "PI:EMAIL" in text and "@example.org" not in text and text.count("Menu of the site") == 1
    assert {"0-3", "0-5"} <= ids and not {"0-again", "0-near"} & ids, "the first one stays"
    for reason, n in sum(map(collections.Counter, dropped.values()), collections.Counter()).items():
        shown = records(f"data/all/dropped/{reason}.jsonl")
        assert len(shown) == n and all(d["dropped"] == reason for d in shown)
    with open("data/all/DATA_CARD.md", encoding="utf-8") as f:
        card = f.read()
    for word in ("CC0-1.0", "made here", "the tests", "gated", "asked", "near_duplicate", "3.jsonl.gz"):
        assert word in card, word


def test_the_number_of_workers_changes_no_byte():
    corpus = everything()
    prepare.prepare(corpus, most=1000)                      # by this process, a job for each file or two
    os.rename("data/all", "alone")
    prepare.prepare(corpus, 3, most=1000)
    assert len(glob.glob("alone/corpus/web/*")) > 3 and tree("alone") == tree("data/all")
    starts = np.fromfile("alone/tokens/web/train.idx", "<i8")
    ends = np.flatnonzero(np.fromfile("alone/tokens/web/train.bin", "<u2") == 2)
    assert starts.tolist() == [0, *(ends[:-1] + 1).tolist()], "a document begins after the end of another"


def test_what_is_held_out_stays_held_out_when_the_corpus_grows():
    held = []
    for name, n in (("small", 150), ("large", 300)):
        write_texts(texts(n))
        make(name, "a.jsonl")
        held.append(set(decoded(name, "a", "val")))
    assert held[0] < held[1]


def test_of_a_small_source_one_document_is_held_out_but_not_its_only_one(capsys):
    write("a.txt", texts(1)[0])
    write("b.txt", "\n\n".join(texts(60)))
    found = make("x", "a.txt", "b.txt", split=1000)["sources"]
    assert found["a"]["val"]["documents"] == 0 < found["b"]["val"]["documents"] < 3
    out = capsys.readouterr().out
    assert "source a: nothing is held out" in out and "source b" not in out


def test_the_tokenizer_does_not_learn_from_what_is_held_out():
    write_texts(t + (" trained" * 20 if place("a", i) > 0.05 else " heldout" * 200)
                for i, t in enumerate(texts(150)))
    make("x", "a.jsonl", vocab=310)
    entries = tokenizers.load("data/x/tokenizer").entries
    assert b" trained" in entries and not any(b"ldou" in e for e in entries)


def test_what_rules_make_equal_is_dropped_as_a_copy():
    write_texts(f"{t} write to me{k}@example.org now" for k in "ab" for t in texts(60))
    assert make("x", "a.jsonl", clean=["pii"])["sources"]["a"]["dropped"] == {"duplicate": 60}


def test_what_is_a_copy_already_takes_no_other_with_it():
    docs = [{"text": t, "url": f"http://x/{i}"} for i, t in enumerate(texts(60))]
    docs += [{"text": docs[0]["text"], "url": "http://x/new"},
             {"text": "another text at the address of a copy", "url": "http://x/new"},
             {"text": "and one at a known address", "url": "http://x/5"}]
    write_records("a.jsonl", docs)
    manifest = make("x", "a.jsonl", clean=["same_url"])
    assert manifest["sources"]["a"]["dropped"] == {"duplicate": 1, "same_url": 1}


@pytest.mark.parametrize("rule, a, b, same", [
    ("same_letters", {"text": "One two 3"}, {"text": "ONE... t w o 4"}, False),
    ("same_letters", {"text": "One two 3"}, {"text": "One... t w o 4"}, True),
    ("same_url", {"url": "http://a.b/c?x=1"}, {"url": "https://a.b/c#top"}, True),
    ("same_url", {"id": "why?.txt#1"}, {"id": "why?.txt#2"}, False),
    ("same_signs", {"text": "x = 1\n\ny"}, {"text": "x=1 y"}, True),
    ("same_signs", {"text": "x = 1"}, {"text": "x = 2"}, False)])
def test_keys_of_documents(rule, a, b, same):
    a, b = ({"id": str(i), "text": "text"} | d for i, d in enumerate((a, b)))
    assert (clean.KEYS[rule](a) == clean.KEYS[rule](b)) == same


@pytest.mark.parametrize("rule, line, times, left", [
    ("template_lines", "x" * 15, 10, 0), ("template_lines", "x" * 15, 9, 9),
    ("template_lines", "x" * 14, 10, 10), ("newspaper_lines", "x", 2, 0), ("newspaper_lines", "x", 1, 1),
    ("ccnet_lines", "Page 1, ", 2, 1), ("ccnet_lines", "x", 5, 1)])
def test_lines_that_repeat(rule, line, times, left):
    """`line` in `times` documents, of which it stays in `left`; a copy of a whole document does not count."""
    docs = [f"{t}\n{line if i < times else i}" for i, t in enumerate(texts(60))]
    docs = [t.replace("Page 1", f"pAGE {i % 10}.") for i, t in enumerate(docs + docs[:1])]
    write_texts(docs)
    make("x", "a.jsonl", clean=[rule])
    kept = [d["text"].split("\n") for d in records("data/x/corpus/a/00000.jsonl")]
    assert sum(len(lines) > 1 and not lines[1].isdigit() for lines in kept) == left
    assert len(kept) == 60 or rule == "ccnet_lines"


def test_rules_for_prose_pass_over_source_code_and_say_so(capsys):
    write_records("a.jsonl", [{"text": t, "lang": ["en", "python"][i % 2]} for i, t in enumerate(texts(90))])
    make("x", "a.jsonl", clean=["uniform_whitespace"])
    assert "source a: rules for prose pass over source code" in capsys.readouterr().out


# ---- the command, again and again ----

def test_a_second_run_says_that_it_is_done_and_what_differs(capsys):
    write("a.txt", "\n\n".join(texts(200)))
    first, second = make("one", "a.txt"), make("two", "a.txt")
    assert first["sources"] == second["sources"] and first["tokenizer"] == second["tokenizer"]
    capsys.readouterr()
    make("one", "a.txt")
    assert capsys.readouterr().out == "data/one is complete\n"
    with pytest.raises(ValueError, match="from other tokenizer.vocab"):
        make("one", "a.txt", vocab=310)
    write("a.txt", "\n\n".join(texts(201)))
    with pytest.raises(ValueError, match="from other files"):
        make("one", "a.txt")


def test_downloaded_data_is_complete_the_second_time(capsys):
    url = "https://example.org/a.txt"
    folder = f"data/raw/a/{jobs.hash_of(url)[:8]}"
    os.makedirs(folder)
    write(f"{folder}/a.txt", "\n\n".join(texts(80)))         # as fetch.py leaves it
    for _ in range(2):
        prepare.prepare(Corpus("x", [Source("a", url=url)], Tokenizer("bpe", 300)))
    assert capsys.readouterr().out.endswith("data/x is complete\n")


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes():
    """kill -9 before more and more new folders and renames; tools/kill.py does it at random moments, with
    workers."""
    everything()
    write("c.py", f"""
import os, sys
sys.path.insert(0, {ROOT!r})
import prepare
from corpus.recipe import Corpus, Source, Tokenizer
last, count = int(sys.argv[1]), [0]
def killing(function):
    def other(*args, **more):
        count[0] += 1
        if count[0] == last:
            os.kill(os.getpid(), 9)
        function(*args, **more)
    return other
os.replace, os.rename, os.makedirs = map(killing, (os.replace, os.rename, os.makedirs))
web = Source("web", "web", clean={CHAIN!r}, near="minhash")
prepare.prepare(Corpus("all", [web, Source("code", "code")], Tokenizer("bpe", 400)), most=1000)
""")

    def go(at):
        return subprocess.run([sys.executable, "c.py", str(at)], capture_output=True).returncode
    assert go(0) == 0
    os.rename("data/all", "alone")
    at, killed = 5, 0
    while go(at) == -9:                 # each start gets a little further than the one before
        at, killed = at + 9, killed + 1
    assert killed >= 5 and tree("alone") == tree("data/all") and there() == ["all"]


def test_each_setting_reaches_what_it_concerns():
    """An interrupted build goes on under another setting: the result is that of a build from nothing."""
    corpus = everything()
    corpus.rules = "rules"
    shutil.copytree(clean.RULES_FOLDER, "rules")

    def continued(change):
        shutil.rmtree("data", ignore_errors=True)
        os.makedirs("data/all.partial/DATA_CARD.md")        # it ends at the last file: it cannot write it
        with pytest.raises(IsADirectoryError):
            prepare.prepare(copy.deepcopy(corpus))
        os.rmdir("data/all.partial/DATA_CARD.md")
        other = copy.deepcopy(corpus)
        change(other)
        prepare.prepare(other)
        found = tree("data/all")
        shutil.rmtree("data/all")
        prepare.prepare(other)
        assert tree("data/all") == found, "old parts were mixed in"
        return found

    def edit(c):
        with open("rules/thresholds.toml", encoding="utf-8") as f:
            text = f.read()
        write("rules/thresholds.toml", text.replace("code_signs = [", 'code_signs = ["cat sat", '))
        clean.table.cache_clear()

    def listed(c):
        write("ids.txt", "web/0-3\nweb/0-4\n")
        c.remove = "ids.txt"

    def damaged(c):
        """A part with a file less must not be taken for done."""
        for ending in ("read/*/duplicate", "repeats/*.cut", "near/*.drop", "write/*/kept.jsonl",
                       "tokenizer/tokenizer.json", "tokenize/*/train.bin"):
            os.remove(sorted(glob.glob(f"data/all.partial/work/{ending}"))[0])
    plain = continued(damaged)
    for change in (edit, listed, lambda c: setattr(c, "val_share", 0.2),
                   lambda c: setattr(c.tokenizer, "vocab", 350),
                   lambda c: setattr(c.sources[0], "clean", ["pii"]),
                   lambda c: write_records("web/new.jsonl", [{"text": "\n".join(texts(20)), "id": "new"}])):
        assert continued(change) != plain


def test_two_commands_at_once_make_it_once():
    """Also the happy path as a user types it."""
    write("a.txt", "\n\n".join(texts(80)))
    write("b.txt", "\n\n".join(texts(160)[80:]))
    command = [sys.executable, f"{ROOT}/prepare.py", "--name", "x", "--vocab", "300"]
    command += ["--input", "a.txt", "b.txt"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    late, first = sorted((p.communicate()[0] for p in both), key=lambda text: text.splitlines()[-1])
    assert [p.returncode for p in both] == [0, 0] and there() == ["x"]
    assert late.endswith("data/x is complete\n")
    assert first.endswith("wrote data/x; read data/x/DATA_CARD.md\n")


def test_a_marker_vouches_only_for_the_files_of_its_job():
    part = jobs.Part("part")
    part.add_line("lines", 1)
    part.finish("old")
    assert jobs.done("part", "old") and not jobs.done("part", "new")
    part = jobs.Part("part")
    part.add_numbers("numbers", [2 ** 64 - 1, 3], "<u8")
    assert not jobs.done("part", "old") and os.listdir("part") == ["numbers"], "nothing earlier is left"
    part.finish("new")
    assert jobs.done("part", "new") and jobs.numbers("part", "numbers", "<u8").tolist() == [2 ** 64 - 1, 3]
    os.remove("part/numbers")
    assert not jobs.done("part", "new")


# ---- what is refused ----

SOURCE, CORPUS, TOKENIZER = (lambda c: c.sources[0]), (lambda c: c), (lambda c: c.tokenizer)


@pytest.mark.parametrize("of, name, value, words", [
    (SOURCE, "permission", "Gated", "source a: permission='Gated' must be one of public, gated, asked"),
    (SOURCE, "path", None, "source a has neither path nor url"),
    (SOURCE, "name", "b", "two sources are named b"),
    (SOURCE, "path", "no/*.txt", "source a, which comes from the moon: there is no no"),
    (SOURCE, "permission", "gated", r"gated by its custodian \(the moon\): read its terms, then .* accept=a"),
    (SOURCE, "clean", ["pii", "ccnet_lines"], "source a: in clean, .* come first"),
    (SOURCE, "clean", "osar", "unknown rule 'osar'"), (SOURCE, "sha256", ["0"], "source a.* zip"),
    (SOURCE, "path", "empty.txt", "documents left: 0, bytes: 0. 2 and 1,024 are needed"),
    (SOURCE, "path", "ten.txt", "left: 1, bytes: 48"), (SOURCE, "path", "latin.txt", "1 invalid_utf8"),
    (CORPUS, "models", {"langauge": "x"}, "models: there is no langauge"),
    (CORPUS, "rules", "nofolder", "nofolder/thresholds.toml"), (CORPUS, "alike", 0.2, "alike=0.2"),
    (CORPUS, "accept", "webb", "accept: there is no webb; there are a, b"),
    (CORPUS, "val_share", 1.0, "val_share"),
    (CORPUS, "name", "raw", "raw, and endings"),
    (CORPUS, "name", "x.removing", "are taken"), (CORPUS, "name", "there", "is no prepared data"),
    (CORPUS, "remove", "ids.txt", "ids.txt: 'c/1' is in none of the sources a, b"),
    (TOKENIZER, "vocab", 200, "vocabulary of 200"), (TOKENIZER, "vocab", 9000, "of 9000.*entries")])
def test_what_cannot_be_prepared_is_one_clear_line_and_leaves_nothing(of, name, value, words):
    write("a.txt", "\n\n".join(texts(60)))
    write("b.txt", "")
    write("empty.txt", "")
    write("ten.txt", "one two three four five six seven eight nine ten")
    write("ids.txt", "c/1\n")
    with open("latin.txt", "wb") as f:
        f.write("caf\xe9".encode("latin-1") * 10)
    os.makedirs("data/there/corpus")
    found = [Source("a", "a.txt", origin="the moon"), Source("b", "b.txt")]
    corpus = Corpus("x", found, Tokenizer("bpe", 300))
    setattr(of(corpus), name, value)
    with pytest.raises((ValueError, OSError), match=words):
        prepare.prepare(corpus)
    assert set(there()) <= {"there", "x.partial"}, "what is there is complete"


@pytest.mark.parametrize("arguments, words", [
    ([], "give a data config, or --input"), (["--input", "a.txt"], "--input PATH... --name NAME"),
    (["--input", "a.txt", "--name", "x", "--vocab", "100"], "must be a whole number from 300"),
    (["--input", "a.txt", "--name", "x", "--clan", "oscar"], "cannot read '--clan'"),
    ([f"{ROOT}/configs/bloom.py"], "is a training config"),
    ([f"{ROOT}/configs/data/sample.py", "nme=x"], "'name'")])
def test_wrong_arguments_are_named(arguments, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments])
    with pytest.raises(ValueError, match=words):
        prepare.main()
    assert not os.path.exists("data")


def test_what_is_gated_and_not_read_needs_no_acceptance():
    corpus = everything()
    corpus.accept, corpus.only = None, "code"
    assert list(prepare.prepare(corpus)["sources"]) == ["code"]


# ---- removal ----

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
