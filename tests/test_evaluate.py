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

def by_hand(model, context, continuation):
    """(log-probability, whether it is greedy), without batch, cache and padding."""
    row, y = torch.tensor([context + continuation]), torch.tensor(continuation)
    with torch.no_grad():
        p = model(row[:, :-1]).log_softmax(-1)[0, len(context) - 1:]
    return p.gather(1, y.unsqueeze(1)).sum().item(), bool((p.argmax(-1) == y).all())


@BOTH
def test_batch_size_order_and_cache_change_no_score_and_no_decision(name):
    model, r = build(name, 131), random.Random(0)

    def ids(n):
        return tuple(r.randrange(4, 131) for _ in range(n))
    contexts = [ids(r.randint(1, 20)) for _ in range(10)]
    pairs = [(r.choice(contexts), ids(r.randint(1, 9))) for _ in range(40)]
    pairs += [(contexts[0], ids(1)), (contexts[0][:1], ids(28))]
    with torch.no_grad():                                   # one that greedy decoding writes
        pairs.append((contexts[1], (model(torch.tensor([contexts[1]]))[0, -1].argmax().item(),)))
    want = {pair: by_hand(model, *pair) for pair in pairs}
    assert want[pairs[-1]][1] and not all(greedy for _, greedy in want.values())
    for batch in (1, 3, 64):
        got = scoring.score(model, r.sample(pairs, len(pairs)), batch)
        assert got.keys() == want.keys()
        for pair, (p, greedy) in got.items():
            assert abs(p - want[pair][0]) < CLOSE and greedy == want[pair][1]
    x = torch.tensor([range(4, 34), range(40, 70)])
    few = 4 * 2 * 131                   # logits at once: some columns are read at a time
    with torch.no_grad():
        whole, parts = (scoring.row_scores(model, x, x.roll(-1, 1), at_once=n) for n in (2 ** 27, few))
    assert (whole[0] - parts[0]).abs().max() < CLOSE and torch.equal(whole[1], parts[1])


@BOTH
def test_the_border_between_context_and_choice_is_cut_by_ids(name, prepared):
    """The space at the end of the context goes to the choice. Ids before the border are the context's own.
    An imported model begins a text as its files say, ours as in the training rows."""
    pairs = [("Mina had a ", "kite."), ("Mina had a", " kite."), ("", " kite."), ("Mina we", "nt")]
    for imported in (False, True):
        t = tokenizers.load(f"{prepared}/data/{FOLDERS[name]}/tokenizer", imported)
        first = t.prompt if imported or t.prompt else [t.eos]
        one, two, alone, went = scoring.encode(t, pairs)
        assert one == two and list(one[0]) == [*first, *t.encode("Mina had a")]
        assert t.decode([*t.encode("Mina had a"), *one[1]]) == "Mina had a kite."
        assert alone == (tuple(first or [t.bos]), tuple(t.encode(" kite.")))
        assert list(went[1]) == t.encode("Mina went")[len(t.encode("Mina we")):]


@BOTH
def test_items_begin_as_training_rows_do(name, prepared, words):
    """The first ids of a document in the token files, and what is put before the same text."""
    t, folder = words[name][0], f"{prepared}/data/{FOLDERS[name]}"
    dtype = config.read_json(f"{folder}/manifest.json")["dtype"]
    tokens = np.fromfile(f"{folder}/tokens/en/train.bin", dtype)
    starts = np.fromfile(f"{folder}/tokens/en/train.idx", "<i8")
    first = starts[1] - (0 if t.prompt else 1)      # <s>, or the end of the text before
    row = tokens[first:starts[2] - 1].tolist()
    text = t.decode(row[1:])
    at = text.index(" ", 20)
    (c, k), = scoring.encode(t, [(text[:at], text[at:])])
    assert [*c, *k] == row


def test_long_contexts_are_cut_on_the_left_and_counted(words):
    t, model = words["bloom"]
    item = {"context": "the old dog " * 40 + "sat under the", "choices": [" tree.", " hill."], "label": 0}
    result = scoring.score_items(model, t, [item, {**item, "context": "sat under the"}])
    assert result["cut"] == 1
    (c, k), = scoring.encode(t, [(item["context"], " tree.")])
    p, _ = by_hand(model, (c + k)[-(model.cfg.context + 1):][:-len(k)], k)
    assert abs(result["each"][0]["scores"][0] - p) < CLOSE
    assert scoring.score_items(model, t, [item], T=1000)["cut"] == 0


def test_a_choice_longer_than_the_window_stops_or_is_left_out_and_counted(words, capsys):
    t, model = words["bloom"]
    item = {"context": "sat under the", "choices": [" tree.", " hill."], "label": 0}
    long = {**item, "choices": [" dog" * 60, " hill."], "where": "own.jsonl, record 2"}
    with pytest.raises(ValueError, match="record 2: .* scored, not 1 to 48, .*or --skip-bad, which"):
        scoring.score_items(model, t, [item, long])
    got = scoring.score_items(model, t, [item, long, item], skip_bad=True)
    assert (got["items"], got["left_out"], len(got["each"])) == (2, 1, 2)
    assert got["each"] == scoring.score_items(model, t, [item, item])["each"]
    assert "left out: own.jsonl, record 2: " in capsys.readouterr().err
    with pytest.raises(ValueError, match="no item fits into a window of 48 tokens; give --context"):
        scoring.score_items(model, t, [long], skip_bad=True)


def test_rules_and_errors_by_hand():
    """The space before a choice is not counted."""
    got = scoring.rule_scores([" été", " a"], [-6.0, -1.0, -2.0, -3.0])
    want = {"sum": [-6, -1], "char": [-2, -1], "answer": [-4, 2]}
    assert {rule: list(each) for rule, each in got.items()} == want
    assert scoring.mean([1, 0, 1, 1]) == (0.75, pytest.approx(np.std([1, 0, 1, 1], ddof=1) / 2))


def test_items_get_what_one_by_one_scoring_gives(words):
    """By "answer", which asks for the choices after "Answer:" too; and of targets."""
    t, model = words["bloom"]
    items = [{"context": f"{who} ran. Did it?", "choices": [" no", " yes"], "label": 1, "lang": lang}
             for who, lang in (("A dog", "en"), ("Mina", "fr"), ("Nobody", "fr"))]
    got = scoring.score_items(model, t, items, FORMATS["boolq"])
    for e, item in zip(got["each"], items):
        asked = [(before, choice) for before in (item["context"], "Answer:") for choice in item["choices"]]
        want = [by_hand(model, *pair)[0] for pair in scoring.encode(t, asked)]
        assert e["scores"] == pytest.approx(want, abs=CLOSE)
        assert e["right"]["answer"] == (want[1] - want[3] > want[0] - want[2])
    right = [e["right"]["answer"] for e in got["each"]]
    assert got["rule"] == "answer" and got["answer"] == scoring.mean(right)
    assert got["languages"]["fr"] == scoring.mean(right[1:])

    pairs = [("Mina went to the", " forest."), ("", "Mina")]
    got = scoring.score_items(model, t, [{"context": c, "target": k} for c, k in pairs])
    p, greedy = zip(*[by_hand(model, *pair) for pair in scoring.encode(t, pairs)])
    assert [e["scores"] for e in got["each"]] == pytest.approx(p, abs=CLOSE)
    assert got["perplexity"] == pytest.approx(math.exp(-np.mean(p)), rel=1e-4)
    assert got["rule"] == "greedy" and got["greedy"] == scoring.mean(greedy)


@pytest.mark.parametrize("text, number, want", [
    ("The  Louvre.", False, "louvre"), ("an apple, a day", False, "apple day"),
    ("5 + 3 = 8. #### 1,208", True, "1208"), ("-3.50 dollars", True, "-3.50"), ("none", True, "")])
def test_answers_are_compared_as_usual(text, number, want):
    assert scoring.normal(text, number) == want


def test_answers_are_greedy_and_end_at_the_stop(words):
    t, model = words["bloom"]
    plain, form = {}, Format(None, [], tokens=8)
    for context in ("Mina had", "One day, a small dog", "a", "my" + " dog" * 99):
        ids = [t.eos, *t.encode(context)][-32:]             # what a window of 40 has room for
        for _ in range(8):
            with torch.no_grad():
                ids.append(model(torch.tensor([ids]))[0, -1, :t.vocab].argmax().item())
        plain[context] = t.decode(ids[-8:])
    stopped = [{"context": c, "answer": "x", "stop": [p[2:5]]} for c, p in plain.items()]
    for batch in (1, 3):
        got = scoring.score_items(model, t, stopped, form, T=40, batch=batch)
        assert [e["text"] for e in got["each"]] == [p.split(p[2:5])[0].strip() for p in plain.values()]
        assert got["match"] == (0, 0) and got["cut"] == 1
    whole = [{"context": c, "answer": ["no", p.upper()], "stop": "\0"} for c, p in plain.items()]
    assert scoring.score_items(model, t, whole, form, T=40)["match"] == (1, 0)


# ---- losses ----

@pytest.fixture
def trained(work):
    """A tiny run of five steps, with checkpoints of steps 4 and 5."""
    train.train(tiny("bloom", "bloom", "run.tokens=640", "run.eval_rows=none", "machine.save_every=4"))
    return work


def test_losses_by_source_are_those_of_training(trained):
    run = checkpoint.open_run("runs/bloom")
    (model, _), val = run.load(), next(r["val"] for r in reversed(run.records()) if "val" in r)
    for batch in (3, 50):
        got = evaluate.losses(model, "data/tiny", batch=batch)
        for here, there in ((got["all"], val), (got["sources"]["en"], val["sources"]["en"])):
            assert here["loss"] == pytest.approx(there["loss"], abs=1e-5)
            assert here["bits_per_byte"] == pytest.approx(there["bits_per_byte"], abs=1e-5)
            assert here["perplexity"] == math.exp(here["loss"])
        assert got["sources"] == got["languages"], "each source has one language"


def test_a_tokens_loss_goes_to_the_language_of_its_document(own_data):
    """Two languages in one source, documents that cross the windows."""
    model = build("bloom", 512)
    model.cfg.context = 32
    path, corpus = "data/tiny/tokens/fr/val", "data/tiny/corpus/fr/00000.jsonl"
    starts, tokens = np.fromfile(f"{path}.idx", "<i8"), np.fromfile(f"{path}.bin", "<u2")
    at = int(np.fromfile(f"{path}.doc", "<i8").reshape(-1, 2)[-1, 1])
    with open(corpus, "r+b") as f:          # the last held-out document becomes Welsh
        f.seek(at)
        line = f.readline()
        f.seek(at)
        f.write(line.replace(b'"lang": "fr"', b'"lang": "cy"'))
    got, want = evaluate.losses(model, "data/tiny"), 0.0
    for i in range(int(starts[-1]), len(tokens)):       # token i is predicted from the start of its window
        row = tuple(tokens[(i - 1) // 32 * 32:i].tolist())
        want -= by_hand(model, row, (int(tokens[i]),))[0]
    cy = got["languages"]["cy"]
    assert len(starts) > 1 and cy["tokens"] == len(tokens) - starts[-1]
    assert cy["bytes"] == len(json.loads(line)["text"].encode())
    assert cy["loss"] * cy["tokens"] == pytest.approx(want, abs=1e-3)
    assert cy["bits_per_byte"] == pytest.approx(want / math.log(2) / cy["bytes"], abs=1e-4)
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
    with open("own.jsonl", "w") as f:
        f.write('{"context": "Mina saw a", "choices": [" dog", " cat"], "label": 0}\n' * 3)
        f.write(json.dumps({"context": "", "choices": [" dog" * 99, " cat"], "label": 0}) + "\n")
    config.write_json("copa.json", {"premise": "It rained.", "choice1": "I got wet.", "choice2": "No.",
                                    "question": "effect", "label": 0})
    args = ["runs/bloom", "--tasks", "loss", "own.jsonl", "--shots", "1"]
    code, out, _ = command(monkeypatch, capsys, *args, "--skip-bad")
    assert code == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command(monkeypatch, capsys, "runs/bloom")[2] == (
        "error: evaluate.py works in one process: start it with python, not with torchrun\n")
    monkeypatch.delenv("WORLD_SIZE")
    for words in ("wrote runs/bloom/evaluations/own.1-shot.json", "source en", "text in fr", "char*",
                  "* decides", "step 5", "   1 items left out"):
        assert words in out
    own, loss = (config.read_json(f"runs/bloom/evaluations/{name}.json") for name in ("own.1-shot", "loss"))
    assert (own["step"], own["shots"], len(own["prompts"][0]["each"])) == (5, 1, 3)
    assert loss["languages"].keys() == {"en", "fr"} and loss["context"] == 32
    # in another window it is another measurement; each prompt of a task is told apart
    command(monkeypatch, capsys, "runs/bloom", "--tasks", "loss", "copa=copa.json", "--context", "16")
    assert config.read_json("runs/bloom/evaluations/loss.json") == loss
    assert config.read_json("runs/bloom/evaluations/loss.16-context.json")["all"] != loss["all"]
    prompts = config.read_json("runs/bloom/evaluations/copa-copa.16-context.json")["prompts"]
    assert [r["prompt_text"] for r in prompts] == [
        "{start} {link} {choice}", "{premise}\nQuestion: {asked}\nAnswer: {choice}"]


def test_the_record_says_the_step_that_was_loaded(trained, capsys, monkeypatch):
    """The newest checkpoint is damaged: the one before it is used."""
    folder = "runs/bloom/checkpoints/0000005/model"
    with open(f"{folder}/{os.listdir(folder)[0]}", "r+b") as f:
        f.seek(-1, os.SEEK_END)
        f.write(b"\0" if f.read(1) != b"\0" else b"\1")
    code, out, err = command(monkeypatch, capsys, "runs/bloom", "--tasks", "loss")
    assert code == 0 and "checkpoint 5 is damaged" in err and "step 4" in out
    assert config.read_json("runs/bloom/evaluations/loss.json")["step"] == 4


REFUSED = [
    (["runs/nothing", "--tasks", "who"], "runs/nothing is not a run"),
    (["runs/bloom", "--tasks", "wher"], "no task 'wher'"),
    (["runs/bloom", "--tasks", "pica=x.jsonl"], "unknown format 'pica'"),
    (["runs/bloom", "--tasks", "loss", "--data", "tiny-sp"], "data/tiny-sp was made with another tokenizer"),
    (["runs/bloom", "--tasks", "two.jsonl"], "two.jsonl must have items, of one kind"),
    (["runs/bloom", "--tasks", "empty.jsonl"], "empty.jsonl must have items, of one kind"),
    (["runs/bloom", "--tasks", "own.jsonl", "--shots", "2"], "there are 1 examples for own.jsonl"),
    (["runs/bloom", "--tasks", "own.jsonl", "--shots", "1", "--shots-file", "own.jsonl"], "of its own items"),
]


def test_what_a_user_can_cause_is_one_line(trained, capsys, monkeypatch):
    with open("two.jsonl", "w") as f:
        f.write('{"context": "a", "answer": "b"}\n{"context": "a", "target": "c"}\n')
    with open("own.jsonl", "w") as f:
        f.write('{"context": "a", "answer": "b"}\n' * 2)
    open("empty.jsonl", "w").close()
    for args, words in REFUSED:
        code, _, error = command(monkeypatch, capsys, *args)
        assert code == 1 and error.startswith("error: ") and words in error and error.count("\n") == 1, error
