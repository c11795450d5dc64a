"""prepare.py and its stages. Readers, rules, duplicates and removal have tests of their own."""
import collections
import copy
import glob
import itertools
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from corpora import decoded, everything, make, records, texts, there, tree, write, write_records, write_texts

import config
import prepare
import tokenizer as tokenizers
from corpus import clean, jobs
from corpus.recipe import Corpus, Source, Tokenizer
from corpus.text import place


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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
    card = tree("data/all")["DATA_CARD.md"].decode()
    for word in ("CC0-1.0", "made here", "the tests", "gated", "asked", "near_duplicate", "3.jsonl.gz"):
        assert word in card, word


def test_the_number_of_workers_changes_no_byte(monkeypatch):
    corpus = everything()
    corpus.part = 1000
    prepare.prepare(corpus)                    # by this process, a job for each file or two
    os.rename("data/all", "alone")
    monkeypatch.setattr(jobs, "SMALL", 30_000)              # this little text is worth three processes
    prepare.prepare(corpus, 3)
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


@pytest.mark.parametrize("rule, field, a, b, same", [
    ("same_letters", "text", "One two 3", "ONE... t w o 4", False),
    ("same_letters", "text", "One two 3", "One... t w o 4", True),
    ("same_url", "url", "http://a.b/c?x=1", "https://a.b/c#top", True),
    ("same_url", "id", "why?.txt#1", "why?.txt#2", False),
    ("same_signs", "text", "x = 1\n\ny", "x=1 y", True), ("same_signs", "text", "x = 1", "x = 2", False)])
def test_keys_of_documents(rule, field, a, b, same):
    a, b = ({"id": "1", "text": "text", field: value} for value in (a, b))
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
    write("a.txt", "\n\n".join(texts(60)))
    make("x", "a.txt", clean=["uniform_whitespace"], lang="python")
    assert "source a: rules for prose pass over source code" in capsys.readouterr().out


# ---- the command, again and again ----

def test_a_second_run_says_that_it_is_done_and_what_differs(capsys):
    write("a.txt", "\n\n".join(texts(200)))
    first, second = make("one", "a.txt"), make("two", "a.txt")
    assert first["sources"] == second["sources"] and first["tokenizer"] == second["tokenizer"]
    os.makedirs("data/one/work/read")       # as a kill at the end leaves it
    capsys.readouterr()
    make("one", "a.txt")
    assert capsys.readouterr().out == "data/one is complete\n" and not os.path.exists("data/one/work")
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
    """kill -9 before more and more new folders and renames; tools/kill.py does it at random moments."""
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
web = Source("web", "web", clean=["ccnet_lines", "pii"], near="minhash")
prepare.prepare(Corpus("all", [web, Source("code", "code")], Tokenizer("bpe", 400), part=1000))
""")

    def go(at):
        return subprocess.run([sys.executable, "c.py", str(at)], capture_output=True).returncode
    assert go(0) == 0
    os.rename("data/all", "alone")
    at, killed = 5, 0
    while go(at) == -9:                 # each start gets a little further than the one before
        at, killed = at + 40, killed + 1
    assert killed >= 5 and tree("alone") == tree("data/all") and there() == ["all"]


def test_each_setting_reaches_what_it_concerns():
    """An interrupted build goes on under another setting: the result is that of a build from nothing."""
    corpus = everything()
    corpus.rules, corpus.remove = "rules", "ids.txt"
    write("ids.txt", "web/0-3\n")
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
        text = tree("rules")["thresholds.toml"].decode()
        write("rules/thresholds.toml", text.replace("code_signs = [", 'code_signs = ["cat sat", '))
        clean.table.cache_clear()

    def damaged(c):
        """A part with a file less must not be taken for done."""
        for ending in ("read/*/duplicate", "read-lines-decide/*/verdicts", "repeats/*/cut", "bands/*/values",
                       "near/*/drop", "write/*/kept.jsonl", "sample/*/texts", "tokenizer/tokenizer.json",
                       "tokenize/*/train.bin", "join/*/train.idx"):
            os.remove(sorted(glob.glob(f"data/all.partial/work/*/{ending}"))[0])
    plain = continued(damaged)
    for change in (edit, lambda c: setattr(c, "remove", None), lambda c: setattr(c, "val_share", 0.2),
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


# ---- what is refused ----

SOURCE, CORPUS, TOKENIZER = "source", "corpus", "tokenizer"         # what a setting is of


@pytest.mark.parametrize("of, name, value, words", [
    (SOURCE, "permission", "Gated", "source a: permission='Gated' must be one of public, gated, asked"),
    (SOURCE, "path", None, "source a has neither path nor url"),
    (SOURCE, "name", "b", "two sources are named b"),
    (SOURCE, "path", "no/*.txt", "source a, which comes from the moon: there is no no"),
    (SOURCE, "permission", "gated", r"gated by its custodian \(the moon\): read its terms, then .* accept=a"),
    (SOURCE, "clean", ["pii", "ccnet_lines"], "source a: in clean, .* come first"),
    (SOURCE, "clean", "osar", "unknown rule 'osar'"), (SOURCE, "sha256", ["0"], "one sha256 for each url"),
    (SOURCE, "path", "b.txt", "documents left: 0, bytes: 0. 2 and 1,024 are needed"),
    (SOURCE, "path", "ten.txt", "left: 1, bytes: 48"), (SOURCE, "path", "latin.txt", "1 invalid_utf8"),
    (CORPUS, "models", {"langauge": "x"}, "models: there is no langauge"),
    (CORPUS, "sizes", {"none": 1.0}, "sizes: there is no none; there are a, b"),
    (CORPUS, "rules", "nofolder", "nofolder/thresholds.toml"), (CORPUS, "alike", 0.2, "alike=0.2"),
    (CORPUS, "accept", "webb", "accept: there is no webb; there are a, b"),
    (CORPUS, "val_share", 1.0, "val_share"), (CORPUS, "part", 0, "part=0: it must be above 0"),
    (CORPUS, "sources", [], "x has no sources"),
    (CORPUS, "name", "raw", "raw, and endings"),
    (CORPUS, "name", "x.removing", "are taken"), (CORPUS, "name", "there", "is no prepared data"),
    (CORPUS, "remove", "ids.txt", "ids.txt: 'c/1' is in none of the sources a, b"),
    (TOKENIZER, "vocab", 200, "vocabulary of 200"), (TOKENIZER, "vocab", 9000, "of 9000.*entries")])
def test_what_cannot_be_prepared_is_one_clear_line_and_leaves_nothing(of, name, value, words):
    write("a.txt", "\n\n".join(texts(60)))
    write("b.txt", "")
    write("ten.txt", "one two three four five six seven eight nine ten")
    write("ids.txt", "c/1\n")
    with open("latin.txt", "wb") as f:
        f.write("caf\xe9".encode("latin-1") * 10)
    os.makedirs("data/there/corpus")
    found = [Source("a", "a.txt", origin="the moon"), Source("b", "b.txt")]
    corpus = Corpus("x", found, Tokenizer("bpe", 300))
    setattr({SOURCE: found[0], CORPUS: corpus, TOKENIZER: corpus.tokenizer}[of], name, value)
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
