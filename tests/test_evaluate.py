import json
import math
import os
import random
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny

import checkpoint
import config
import evaluate
import tokenizer as tokenizers
import train
from corpus import sources
from evaluation import scoring
from evaluation.formats import FORMATS, Format
from model import Transformer, init

BOTH = pytest.mark.parametrize("name", ["bloom", "llama"])
FOLDERS = {"bloom": "tiny", "llama": "tiny-sp"}
CLOSE = 1e-4            # what the issue asks of scores; products in another order differ in the sixth digit


def build(name, vocab):
    """A small model of random weights, biases and norms too: a wrong one would show."""
    cfg = config.load(f"{ROOT}/configs/{name}.py").model
    cfg.layers, cfg.dim, cfg.heads, cfg.context, cfg.vocab = 2, 32, 4, 48, vocab
    model, g = init(Transformer(cfg), 0).eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=g))
    return model


@pytest.fixture(scope="session")
def words(prepared):
    """{name: (tokenizer, model with a few more entries than it has)}"""
    found = {}
    for name, folder in FOLDERS.items():
        t = tokenizers.load(f"{prepared}/data/{folder}/tokenizer")
        found[name] = t, build(name, t.vocab + 11)
    return found


# ---- scores ----

def pairs_of_ids(n=40):
    r = random.Random(0)

    def ids(least, most):
        return tuple(r.randrange(4, 131) for _ in range(r.randint(least, most)))
    contexts = [ids(1, 20) for _ in range(n // 4)]
    pairs = [(r.choice(contexts), ids(1, 9)) for _ in range(n)]
    return [*pairs, (contexts[0], ids(1, 1)), (contexts[0][:1], ids(28, 28))]


def by_hand(model, context, continuation):
    """No batch, no cache, no padding."""
    row, y = torch.tensor([context + continuation]), torch.tensor(continuation)
    with torch.no_grad():
        p = model(row[:, :-1]).log_softmax(-1)[0, len(context) - 1:]
    return p.gather(1, y.unsqueeze(1)).sum().item(), bool((p.argmax(-1) == y).all())


@BOTH
def test_batch_size_order_and_cache_change_no_score_and_no_decision(name):
    model, pairs = build(name, 131), pairs_of_ids()
    with torch.no_grad():
        best = model(torch.tensor([pairs[0][0]]))[0, -1].argmax().item()
    pairs.append((pairs[0][0], (best,)))                    # one that greedy decoding writes
    want = [by_hand(model, *pair) for pair in pairs]
    assert want[-1][1] and not all(greedy for _, greedy in want)
    order = random.Random(1).sample(range(len(pairs)), len(pairs))
    few = 4 * 131                   # logits at once: the continuations are read some tokens at a time
    for batch, at_once in ((1, 2 ** 27), (3, 2 ** 27), (7, few), (64, 2 ** 27)):
        for numbers in (range(len(pairs)), order):
            got = scoring.score(model, [pairs[i] for i in numbers], batch, at_once=at_once)
            for i, (p, greedy) in zip(numbers, got):
                assert abs(p - want[i][0]) < CLOSE and greedy == want[i][1]


def test_equal_choices_tie_in_every_batch(words):
    t, model = words["bloom"]
    items = [{"context": "Mina had", "choices": [" a kite.", " a kite.", " a drum."], "label": 1}] * 3
    for batch in (1, 2, 5):
        scores = scoring.score_items(model, t, items, batch=batch)["each"][0]["scores"]
        assert scores[0] == scores[1]


@BOTH
def test_the_border_between_context_and_choice_is_cut_by_ids(name, words):
    """The space at the end of the context goes to the choice. Ids before the border are the context's own."""
    t, _ = words[name]
    for begin, first in (("training", [t.eos, *t.prompt]), ("harness", t.prompt)):
        one, two = scoring.encode(t, begin, [("Mina had a ", "kite."), ("Mina had a", " kite.")])
        assert one == two and list(one[0]) == [*first, *t.encode("Mina had a")]
        assert t.decode([*t.encode("Mina had a"), *one[1]]) == "Mina had a kite."
    assert scoring.encode(t, "harness", [("", " kite.")])[0] == ((t.bos,), tuple(t.encode(" kite.")))
    assert scoring.encode(t, "training", [("", " kite.")])[0][0] == (t.eos, *t.prompt)
    (_, k), = scoring.encode(t, "training", [("Mina we", "nt")])
    whole, own = t.encode("Mina went"), t.encode("Mina we")
    assert list(k) == whole[len(own):], "cut by how many ids the context has alone"


@BOTH
def test_items_begin_as_training_rows_do(name, prepared, words):
    """The first ids of a document in the token files, and what is put before the same text."""
    t, folder = words[name][0], f"{prepared}/data/{FOLDERS[name]}"
    dtype = config.read_json(f"{folder}/manifest.json")["dtype"]
    tokens = np.fromfile(f"{folder}/tokens/en/train.bin", dtype)
    starts = np.fromfile(f"{folder}/tokens/en/train.idx", "<i8")
    row = tokens[starts[1] - 1:starts[2] - 1].tolist()
    text = t.decode(row[1 + len(t.prompt):])
    at = text.index(" ", 20)
    (c, k), = scoring.encode(t, "training", [(text[:at], text[at:])])
    assert [*c, *k] == row


def test_long_contexts_are_cut_on_the_left_and_counted(words):
    t, model = words["bloom"]
    item = {"context": "the old dog " * 40 + "sat under the", "choices": [" tree.", " hill."], "label": 0}
    result = scoring.score_items(model, t, [item, {**item, "context": "sat under the"}])
    assert result["cut"] == 1
    (c, k), = scoring.encode(t, "training", [(item["context"], " tree.")])
    p, _ = by_hand(model, (c + k)[-(model.cfg.context + 1):][:-len(k)], k)
    assert abs(result["each"][0]["scores"][0] - p) < CLOSE
    assert scoring.score_items(model, t, [item], T=1000)["cut"] == 0
    with pytest.raises(ValueError, match="an item: what is scored has .* 1 to 48, the window"):
        scoring.score_items(model, t, [{**item, "choices": [" dog" * 60, " hill."]}])


def test_rules_by_hand():
    want = {"sum": -6, "char": -2, "byte": -6 / 5, "answer": -4}
    assert scoring.rule_scores(-6.0, " été", -2.0) == want, "é has two bytes; the space before is not counted"


def test_the_answer_rule_divides_by_the_probability_after_answer(words):
    t, model = words["bloom"]
    choices, languages = [" no", " yes"], {"A dog": "en", "Mina": "fr", "Nobody": "fr"}
    items = [{"context": f"{who} ran. Did it?", "choices": choices, "label": 1, "lang": lang}
             for who, lang in languages.items()]
    got = scoring.score_items(model, t, items, FORMATS["boolq"])
    alone = scoring.encode(t, "training", [("Answer:", choice) for choice in choices])
    a, b = (by_hand(model, *pair)[0] for pair in alone)
    for e in got["each"]:
        no, yes = e["scores"][:2]
        assert e["chosen"]["answer"] == int(yes - b > no - a) and e["chosen"]["sum"] == int(yes > no)
    right = [e["chosen"]["answer"] == 1 for e in got["each"]]
    assert got["rule"] == "answer" and got["answer"] == scoring.mean(right)
    assert got["languages"]["fr"] == scoring.mean(right[1:])


def test_the_standard_error_is_that_of_a_mean():
    assert scoring.mean([1, 0, 1, 1]) == (0.75, pytest.approx(np.std([1, 0, 1, 1], ddof=1) / 2))


@BOTH
def test_targets_and_texts_get_what_one_by_one_scoring_gives(name, words):
    t, model = words[name]
    pairs = [("Mina went to the", " forest."), ("", "Mina")]
    got = scoring.score_items(model, t, [{"context": c, "target": k} for c, k in pairs])
    want = [by_hand(model, *pair)[0] for pair in scoring.encode(t, "training", pairs)]
    assert [e["scores"] for e in got["each"]] == pytest.approx(want, abs=CLOSE)
    assert got["perplexity"] == pytest.approx(math.exp(-np.mean(want)), rel=1e-4)
    texts = ["Mina had a red kite. " * 9, "Hi"]
    for begin, also in (("training", []), ("harness", t.prompt)):
        first = t.bos if begin == "harness" else [t.eos, *t.prompt][-1]
        got = scoring.score_items(model, t, [{"text": text} for text in texts], begin=begin, T=20, batch=3)
        want, tokens, size = [], 0, sum(map(len, texts))
        for text in texts:
            ids = [*also, *t.encode(text)]
            want.append(sum(by_hand(model, *pair)[0] for pair in scoring.windows(ids, first, 20)))
            tokens += len(ids)
        assert [e["scores"] for e in got["each"]] == pytest.approx(want, abs=10 * CLOSE)
        assert got["bits_per_byte"] == pytest.approx(-sum(want) / math.log(2) / size, rel=1e-4)
        assert got["perplexity"] == pytest.approx(math.exp(-sum(want) / tokens), rel=1e-3)


def test_windows_score_each_token_once_and_give_the_last_one_context():
    assert scoring.windows([1, 2, 3, 4, 5], 0, 3) == [((0,), (1, 2, 3)), ((2, 3), (4, 5))]
    for n in range(1, 30):
        parts = scoring.windows(list(range(1, n + 1)), 0, 8)
        assert sum((k for _, k in parts), ()) == tuple(range(1, n + 1))
        assert all(len(c) + len(k) <= 9 for c, k in parts)


def test_answers_are_compared_as_usual():
    assert scoring.normal("The  Louvre.") == scoring.normal("louvre") == "louvre"
    assert scoring.normal("an apple, a day") == "apple day"
    assert scoring.normal("5 + 3 = 8. #### 1,208", number=True) == "1208"
    assert scoring.normal("-3.50 dollars", number=True) == "-3.50"


def test_answers_are_greedy_and_end_at_the_stop(words):
    t, model = words["bloom"]

    def greedy(context):
        ids = [t.eos, *t.encode(context)]
        for _ in range(8):
            with torch.no_grad():
                ids.append(model(torch.tensor([ids]))[0, -1, :t.vocab].argmax().item())
        return t.decode(ids[-8:])

    def written(items, batch=16):
        way = scoring.Way(model, t, "training", 40, batch, lambda n: None)
        return scoring.written_answers(way, items, 8)
    contexts = ("Mina had", "One day, a small dog", "a")
    plain = [greedy(c) for c in contexts]
    # stops inside what the model writes
    items = [{"context": c, "answer": "x", "stop": [p[2:5]]} for c, p in zip(contexts, plain)]
    want = [p.split(i["stop"][0])[0].strip() for p, i in zip(plain, items)]
    for batch in (1, 3):
        assert written(items, batch) == (want, 0)
    whole = [{**i, "stop": ["\0"]} for i in items]
    assert written(whole)[0] == [p.strip() for p in plain]
    right = [{**i, "answer": ["no", p.upper()]} for i, p in zip(whole, plain)]
    form = Format(None, [], tokens=8)
    assert scoring.score_items(model, t, right, form, T=40)["match"] == (1, 0)
    assert scoring.score_items(model, t, whole, form, T=40)["match"] == (0, 0)
    assert written([{"context": "a dog " * 50}])[1] == 1, "a context that was cut"


# ---- losses ----

@pytest.fixture
def trained(work):
    """A tiny run of five steps, with checkpoints of steps 4 and 5."""
    train.train(tiny("bloom", "bloom", "run.tokens=640", "run.eval_rows=none", "machine.save_every=4"))
    return work


@BOTH
def test_losses_by_source_are_those_of_training(name, work):
    train.train(tiny(name, name, "run.tokens=640", "run.eval_rows=none"))
    run, folder = checkpoint.open_run(f"runs/{name}"), f"data/{FOLDERS[name]}"
    model, _ = run.load()
    got = evaluate.losses(model, folder, batch=3)
    val = next(r["val"] for r in reversed(run.records()) if "val" in r)
    for here, there in ((got["all"], val), (got["sources"]["en"], val["sources"]["en"])):
        assert here["loss"] == pytest.approx(there["loss"], abs=1e-5)
        assert here["bits_per_byte"] == pytest.approx(there["bits_per_byte"], abs=1e-5)
        assert here["perplexity"] == math.exp(here["loss"])
    assert got["sources"] == got["languages"], "each source has one language"
    other = evaluate.losses(model, folder, batch=50)
    assert other["all"]["loss"] == pytest.approx(got["all"]["loss"], abs=1e-6)


def test_a_tokens_loss_goes_to_the_language_of_its_document(own_data):
    """Two languages in one source, documents that cross the windows."""
    model = build("bloom", 512)
    model.cfg.context = 32
    path, corpus = "data/tiny/tokens/fr/val", "data/tiny/corpus/fr/00000.jsonl"
    starts, tokens = np.fromfile(f"{path}.idx", "<i8"), np.fromfile(f"{path}.bin", "<u2")
    at = int(np.fromfile(f"{path}.doc", "<i8").reshape(-1, 2)[-1, 1])
    with open(corpus, "rb") as f:
        lines = f.read()
    with open(corpus, "wb") as f:           # the last held-out document becomes Welsh
        f.write(lines[:at] + lines[at:].replace(b'"lang": "fr"', b'"lang": "cy"', 1))
    got, want = evaluate.losses(model, "data/tiny"), 0.0
    for i in range(int(starts[-1]), len(tokens)):       # token i is predicted from the start of its window
        row = tuple(tokens[(i - 1) // 32 * 32:i].tolist())
        want -= by_hand(model, row, (int(tokens[i]),))[0]
    cy, size = got["languages"]["cy"], len(json.loads(lines[at:].split(b"\n")[0])["text"].encode())
    assert len(starts) > 1 and cy["tokens"] == len(tokens) - starts[-1] and cy["bytes"] == size
    assert cy["loss"] * cy["tokens"] == pytest.approx(want, abs=1e-3)
    assert cy["bits_per_byte"] == pytest.approx(want / math.log(2) / size, abs=1e-4)
    assert sum(v["tokens"] for v in got["languages"].values()) == got["all"]["tokens"]


# ---- the command ----

def command(monkeypatch, capsys, *args):
    """(exit code, standard output, errors) of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *args])
    code = 0
    try:
        config.command(evaluate.main)
    except SystemExit as e:
        code = e.code
    return code, *capsys.readouterr()


def test_the_command_writes_what_it_found_and_says_where(trained, capsys, monkeypatch):
    item = '{"context": "Mina saw a", "choices": [" dog", " cat"], "label": 0, "lang": "en"}\n'
    with open("own.jsonl", "w") as f:
        f.write(item * 3 + "oops\n")
    code, out, _ = command(monkeypatch, capsys, "runs/bloom", "--tasks", "loss", "own.jsonl", "--skip-bad",
                           "--shots", "1")
    assert code == 0
    for words in ("1 malformed items left out", "wrote runs/bloom/evaluations/own.1-shot.json", "source en",
                  "language fr", "per character*", "* marks the score that decides", "step 5"):
        assert words in out
    facts = config.read_json("runs/bloom/evaluations/own.1-shot.json")
    assert facts["step"] == 5 and facts["begin"] == "training" and facts["shots"] == 1
    assert facts["prompts"][0]["items"] == len(facts["prompts"][0]["each"]) == 3
    assert config.read_json("runs/bloom/evaluations/loss.json")["languages"].keys() == {"en", "fr"}


def test_another_context_does_not_replace_the_evaluation_at_the_trained_one(trained, capsys, monkeypatch):
    command(monkeypatch, capsys, "runs/bloom", "--tasks", "loss", "--context", "32")
    before = config.read_json("runs/bloom/evaluations/loss.json")
    command(monkeypatch, capsys, "runs/bloom", "--tasks", "loss", "--context", "16")
    assert config.read_json("runs/bloom/evaluations/loss.json") == before and before["context"] == 32
    other = config.read_json("runs/bloom/evaluations/loss.16-context.json")
    assert other["context"] == 16 and other["all"]["loss"] != before["all"]["loss"]


def test_a_record_tells_the_prompts_of_a_task_apart(trained, capsys, monkeypatch):
    record = {"premise": "It rained.", "choice1": "I got wet.", "choice2": "No.", "question": "effect"}
    config.write_json("val.it.json", {**record, "label": 0})
    _, out, _ = command(monkeypatch, capsys, "runs/bloom", "--tasks", "xcopa.it=val.it.json")
    results = config.read_json("runs/bloom/evaluations/xcopa.it-val.it.json")["prompts"]
    assert [(r["prompt"], r["prompt_text"]) for r in results] == [
        (0, "{start} {link} {choice}"), (1, "{premise}\nQuestion: {asked}\nAnswer: {choice}")]
    assert "over 2 prompts: median" in out


def test_the_record_says_the_step_that_was_loaded(trained, capsys, monkeypatch):
    """The newest checkpoint is damaged: the one before it is used."""
    folder = "runs/bloom/checkpoints/0000005/model"
    with open(f"{folder}/{os.listdir(folder)[0]}", "r+b") as f:
        f.seek(-1, os.SEEK_END)
        f.write(b"\0" if f.read(1) != b"\0" else b"\1")
    code, out, err = command(monkeypatch, capsys, "runs/bloom", "--tasks", "loss")
    assert code == 0 and "checkpoint 5 is damaged" in err and "step 4" in out
    assert config.read_json("runs/bloom/evaluations/loss.json")["step"] == 4


def test_an_imported_model_begins_as_its_files_say_or_as_our_rows_do(trained):
    facts = config.read_json("runs/bloom/config.json")
    config.write_json("runs/bloom/config.json", {**facts, "imported": {"from": "elsewhere", "eos": [1, 2]}})
    run = checkpoint.open_run("runs/bloom")
    own, ours = (evaluate.load_tokenizer(run, begin) for begin in ("harness", "training"))
    assert own.begin == own.prompt and ours.begin == [ours.eos, *ours.prompt]
    assert own.ends == ours.ends == {1, 2}


def test_code_and_missing_languages_are_named_as_such(capsys):
    row = {"loss": 1.0, "perplexity": 2.7, "bits_per_byte": 1.0, "tokens": 9, "bytes": 9}
    manifest = {"sources": {"a": {"bytes_by_language": {"python": 9, "en": 9, "yo": 1}},
                            "b": {"bytes_by_language": {"ig": 1}}}}
    result = {"all": row, "sources": {"a": row}, "languages": {"python": row, "en": row}}
    evaluate.show_losses(result, manifest)
    out = capsys.readouterr().out
    assert "code python" in out and "language en" in out and "2 more languages, ig yo" in out
    assert evaluate.CODE == set(sources.CODE.values())


REFUSED = [
    (["runs/nothing", "--tasks", "who"], "runs/nothing is not a run"),
    (["runs/bloom", "--tasks", "wher"], "did you mean 'where'"),
    (["runs/bloom", "--tasks", "pica=x.jsonl"], "unknown format 'pica'"),
    (["runs/bloom", "--tasks", "piqa=x.jsonl"], "no task 'x.jsonl'"),
    (["runs/bloom", "--batch", "0"], "whole number from 1"),
    (["runs/bloom", "--tasks", "loss", "--data", "tiny-sp"], "data/tiny-sp was made with another tokenizer"),
    (["runs/bloom", "--tasks", "loss", "--data", "none"], "no prepared data in data/none"),
    (["runs/bloom", "--tasks", "who", "--prompt", "4"], "--prompt 4: who has 1"),
    (["runs/bloom", "--tasks", "two.jsonl"], "a task has items of one kind"),
    (["runs/bloom", "--tasks", "own.jsonl", "--shots", "2"], "own.jsonl has 2 items"),
    (["runs/bloom", "--tasks", "two.jsonl", "--shots", "1"], "a text has no answer"),
    (["runs/bloom", "--tasks", "own.jsonl", "--shots", "1", "--shots-file", "own.jsonl"], "its own examples"),
]


def test_what_a_user_can_cause_is_one_line(trained, capsys, monkeypatch):
    with open("two.jsonl", "w") as f:
        f.write('{"context": "a", "answer": "b"}\n{"text": "c"}\n')
    with open("own.jsonl", "w") as f:
        f.write('{"context": "a", "answer": "b"}\n' * 2)
    for args, words in REFUSED:
        code, _, error = command(monkeypatch, capsys, *args)
        assert code == 1 and error.startswith("error: ") and words in error and error.count("\n") == 1, error
