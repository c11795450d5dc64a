import collections
import json
import math
import random
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny
from test_model import build, small

import config
import evaluate
import sample
import tokenizer as tokenizers
import train
from corpus import recipe, sources
from evaluation import tasks
from model import Transformer, init

BOTH = pytest.mark.parametrize("name", ["bloom", "llama"])
CLOSE = 1e-4            # what the issue asks of scores; products in another order differ in the sixth digit


@pytest.fixture(scope="session")
def words(prepared):
    """(tokenizer, model of random weights with a few more entries than it has) by name."""
    found = {}
    for name, folder in ("bloom", "tiny"), ("llama", "tiny-sp"):
        t = tokenizers.load(f"{prepared}/data/{folder}/tokenizer")
        cfg = small(name)
        cfg.vocab = t.vocab + 11
        model = init(Transformer(cfg), 0).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        found[name] = t, model
    return found


def pairs_of_ids(n=40):
    r = random.Random(0)
    ids = lambda least, most: tuple(r.randrange(4, 131) for _ in range(r.randint(least, most)))
    contexts = [ids(1, 20) for _ in range(n // 4)]
    return [(r.choice(contexts), ids(1, 9)) for _ in range(n)] + [(contexts[0], ids(1, 1)), (contexts[0][:1], ids(28, 28))]


def by_hand(model, context, continuation):
    """No batch, no cache, no padding."""
    row = torch.tensor([context + continuation])
    p = model(row[:, :-1]).log_softmax(-1)[0, len(context) - 1:]
    y = torch.tensor(continuation)
    return p.gather(1, y.unsqueeze(1)).sum().item(), bool((p.argmax(-1) == y).all())


@BOTH
def test_batch_size_order_and_cache_change_no_score_and_no_decision(name, monkeypatch):
    model, pairs = build(name).eval(), pairs_of_ids()
    with torch.no_grad():
        best = model(torch.tensor([pairs[0][0]]))[0, -1].argmax().item()
        pairs.append((pairs[0][0], (best,)))                    # one that greedy decoding writes
        want = [by_hand(model, *pair) for pair in pairs]
    assert want[-1][1] and not all(greedy for _, greedy in want)
    order = random.Random(1).sample(range(len(pairs)), len(pairs))
    for batch, logits in (1, 2 ** 27), (3, 2 ** 27), (7, 4 * 131), (64, 2 ** 27):       # and with the continuations read a few tokens at a time
        monkeypatch.setattr(evaluate, "LOGITS", logits)
        got = evaluate.score(model, pairs, batch)
        mixed = evaluate.score(model, [pairs[i] for i in order], batch)
        for i, (p, greedy) in enumerate(want):
            assert abs(got[i][0] - p) < CLOSE and got[i][1] == greedy
            assert abs(mixed[order.index(i)][0] - p) < CLOSE and mixed[order.index(i)][1] == greedy


def test_equal_choices_tie_in_every_batch(words):
    t, model = words["bloom"]
    items = [{"context": "Mina had", "choices": [" a kite.", " a kite.", " a drum."], "label": 1}] * 3
    for batch in 1, 2, 5:
        scores = evaluate.task(model, t, items, batch=batch)["each"][0]["scores"]
        assert scores[0] == scores[1]


@BOTH
def test_the_border_between_context_and_choice_is_cut_by_ids(name, words):
    """The space at the end of the context goes to the choice, and ids before the border are the context's own."""
    t, _ = words[name]
    for begin, first in ("training", [t.eos, *t.prompt]), ("harness", t.prompt):
        (c1, k1), (c2, k2) = evaluate.encode(t, begin, [("Mina went to the ", "forest."), ("Mina went to the", " forest.")])
        assert (c1, k1) == (c2, k2) and list(c1) == [*first, *t.encode("Mina went to the")]
        assert t.decode([*t.encode("Mina went to the"), *k1]) == "Mina went to the forest."
    assert evaluate.encode(t, "harness", [("", " forest.")])[0] == ((t.bos,), tuple(t.encode(" forest."))), "with no context there is <s>"
    assert evaluate.encode(t, "training", [("", " forest.")])[0][0] == (t.eos, *t.prompt), "a training row has the end of another text there"
    (_, k), = evaluate.encode(t, "training", [("Mina we", "nt")])
    whole, own = t.encode("Mina went"), t.encode("Mina we")
    assert list(k) == whole[len(own):], "cut by the number of the context's own ids, even where the whole is encoded otherwise"


def test_items_begin_as_training_rows_do(prepared, words):
    """The first ids of a document in the token files, and what evaluate.py puts before the same text."""
    for name, folder in ("bloom", "tiny"), ("llama", "tiny-sp"):
        t, _ = words[name]
        where = f"{prepared}/data/{folder}"
        tokens, starts = np.fromfile(f"{where}/tokens/en/train.bin", config.read_json(f"{where}/manifest.json")["dtype"]), np.fromfile(f"{where}/tokens/en/train.idx", "<i8")
        row = tokens[starts[1] - 1:starts[2] - 1].tolist()
        text = t.decode(row[1 + len(t.prompt):])
        (c, k), = evaluate.encode(t, "training", [(text[:(at := text.index(" ", 20))], text[at:])])
        assert [*c, *k] == row


def test_long_contexts_are_cut_on_the_left_and_counted(words):
    t, model = words["bloom"]
    item = {"context": "the old dog " * 40 + "sat under the", "choices": [" tree.", " hill."], "label": 0}
    short = {"context": "sat under the", "choices": [" tree.", " hill."], "label": 0}
    result = evaluate.task(model, t, [item, short])
    assert result["cut"] == 1
    (c, k), = evaluate.encode(t, "training", [(item["context"], " tree.")])
    with torch.no_grad():
        p, _ = by_hand(model, (c + k)[-(model.cfg.context + 1):][:-len(k)], k)
    assert abs(result["each"][0]["scores"][0] - p) < CLOSE
    assert evaluate.task(model, t, [item], T=1000)["cut"] == 0
    with pytest.raises(ValueError, match="an item: what is scored has .* 1 to 48, the window"):
        evaluate.task(model, t, [{"context": "a", "choices": [" dog" * 60, " hill."], "label": 0}])


def test_rules_by_hand():
    p, text, free = -6.0, " été", -2.0
    assert [rule(p, text, free) for rule in evaluate.RULES.values()] == [-6, -2, -6 / 5, -4], "é has two bytes; the space before is not counted"


def test_the_answer_rule_divides_by_the_probability_after_answer(words):
    t, model = words["bloom"]
    items = [{"context": f"{w} ran. Did it?", "choices": [" no", " yes"], "label": 1} for w in ("A dog", "Mina", "Nobody")]
    got = evaluate.task(model, t, items, tasks.FORMATS["boolq"])
    (a, b), = [[p for p, _ in evaluate.score(model, evaluate.encode(t, "training", [("Answer:", c) for c in (" no", " yes")]))]]
    for e in got["each"]:
        no, yes = e["scores"][:2]
        assert e["chosen"]["answer"] == int(yes - b > no - a) and e["chosen"]["sum"] == int(yes > no)
    assert got["rule"] == "answer" and got["answer"][0] == np.mean([e["chosen"]["answer"] == 1 for e in got["each"]])


def test_the_standard_error_is_that_of_a_mean():
    assert evaluate.mean([1, 0, 1, 1]) == (0.75, pytest.approx(np.std([1, 0, 1, 1], ddof=1) / 2))


def test_windows_score_each_token_once_and_give_the_last_one_context():
    assert evaluate.windows([1, 2, 3, 4, 5], 0, 3) == [((0,), (1, 2, 3)), ((2, 3), (4, 5))]
    for n in range(1, 30):
        parts = evaluate.windows(list(range(1, n + 1)), 0, 8)
        assert [i for _, k in parts for i in k] == list(range(1, n + 1)) and all(len(c) + len(k) <= 9 for c, k in parts)


def test_answers_are_compared_as_usual():
    assert evaluate.normal("The  Louvre.") == evaluate.normal("louvre") == "louvre" and evaluate.normal("an apple, a day") == "apple day"
    assert evaluate.normal("5 + 3 = 8. #### 1,208", number=True) == "1208" and evaluate.normal("-3.50 dollars", True) == "-3.50"


def test_generation_is_greedy_and_ends_at_the_stop(words):
    t, model = words["bloom"]
    def greedy(context):
        ids = [t.eos, *t.encode(context)]
        for _ in range(8):
            with torch.no_grad():
                ids.append(model(torch.tensor([ids]))[0, -1, :t.vocab].argmax().item())
        return t.decode(ids[-8:])
    contexts = ("Mina had", "One day, a small dog", "a")
    plain = [greedy(c) for c in contexts]
    items = [{"context": c, "answer": "x", "stop": [p[2:5]]} for c, p in zip(contexts, plain)]        # a stop inside what it would write; the first has it once
    want = [p.split(i["stop"][0])[0].strip() for p, i in zip(plain, items)]
    for batch in 1, 3:
        assert evaluate.write(model, t, "training", items, 40, 8, batch) == (want, 0)
    whole = [{**i, "stop": ["\0"]} for i in items]
    assert evaluate.write(model, t, "training", whole, 40, 8)[0] == [p.strip() for p in plain]
    right = [{**i, "answer": ["no", p.upper()]} for i, p in zip(whole, plain)]
    form = tasks.Format(None, [], tokens=8)
    assert evaluate.task(model, t, right, form, T=40)["match"] == (1, 0) and evaluate.task(model, t, whole, form, T=40)["match"] == (0, 0)
    assert evaluate.write(model, t, "training", [{"context": "a dog " * 50}], 40, 8)[1] == 1


@pytest.fixture
def trained(work):
    """Two tiny runs of a few steps."""
    for name in ("bloom", "llama"):
        train.train(tiny(name, name, "run.tokens=640", "run.eval_rows=none"))
    return work


def test_losses_by_source_and_language_are_those_of_every_document(trained):
    """Against train.py's validation loss; and, in windows that hold whole documents, against each document read alone from its text."""
    for name, folder in ("bloom", "tiny"), ("llama", "tiny-sp"):
        model, t = sample.load(f"runs/{name}")
        got = evaluate.losses(model, f"data/{folder}", batch=3)
        val = json.loads(open(f"runs/{name}/log.jsonl").readlines()[-1])["val"]
        assert got["all"]["loss"] == pytest.approx(val["loss"], abs=1e-5) and got["all"]["bits_per_byte"] == pytest.approx(val["bits_per_byte"], abs=1e-5)
        for source in ("en", "fr"):         # each source has one language
            assert got["sources"][source] == got["languages"][source]
            assert got["sources"][source]["loss"] == pytest.approx(val["sources"][source]["loss"], abs=1e-5)
        assert got == evaluate.losses(model, f"data/{folder}", batch=3), "the same again"
        assert evaluate.losses(model, f"data/{folder}", batch=50)["languages"]["fr"]["loss"] == pytest.approx(got["languages"]["fr"]["loss"], abs=1e-6)


def test_a_tokens_loss_goes_to_the_language_of_its_document(own_data):
    """Two languages in one source, documents that cross the windows."""
    train.train(tiny("bloom", "b", "run.tokens=256"))
    model, t = sample.load("runs/b")
    path = "data/tiny/tokens/fr/val"
    starts, places, tokens = np.fromfile(f"{path}.idx", "<i8"), np.fromfile(f"{path}.doc", "<i8").reshape(-1, 2), np.fromfile(f"{path}.bin", "<u2")
    assert len(starts) > 1
    lines = open("data/tiny/corpus/fr/00000.jsonl", "rb").read()
    at = int(places[-1, 1])                                  # the last held-out document becomes Welsh, at the same place and length
    open("data/tiny/corpus/fr/00000.jsonl", "wb").write(lines[:at] + lines[at:].replace(b'"lang": "fr"', b'"lang": "cy"', 1))
    got = evaluate.losses(model, "data/tiny")
    T, want = model.cfg.context, 0.0
    for i in range(int(starts[-1]), len(tokens)):           # token i is predicted from the beginning of its window
        row = torch.from_numpy(tokens[(i - 1) // T * T:i].astype(np.int64))[None]
        with torch.no_grad():
            want -= model(row).log_softmax(-1)[0, -1, int(tokens[i])].item()
    cy = got["languages"]["cy"]
    assert cy["tokens"] == len(tokens) - starts[-1] and cy["loss"] * cy["tokens"] == pytest.approx(want, abs=1e-3)
    assert cy["bits_per_byte"] == pytest.approx(want / math.log(2) / len(json.loads(lines[at:].split(b"\n")[0])["text"].encode()), abs=1e-4)
    assert sum(v["tokens"] for v in got["languages"].values()) == got["all"]["tokens"] == sum(v["tokens"] for v in got["sources"].values())


# one record of each released format, as it stands in the file; then the item its first prompt makes of it
ARC = {"id": "x", "question": {"stem": "What is hot?", "choices": [{"text": "ice", "label": "A"}, {"text": "fire", "label": "B"}]}, "answerKey": "B"}
RELEASED = {
    "hellaswag": ("jsonl", {"activity_label": "Baking", "ctx_a": "A man mixes.", "ctx_b": "he", "endings": ["eats [step] it.", "flies."], "label": "1", "ind": 3},
                  {"context": "Baking: A man mixes. He", "choices": [" eats it.", " flies."], "label": 1}),
    "piqa": ("jsonl", {"goal": "Open a jar", "sol1": "twist {it}", "sol2": "sing", "label": 0}, {"context": "Question: Open a jar\nAnswer:", "choices": [" twist {it}", " sing"], "label": 0}),
    "copa": ("jsonl", {"premise": "It rained.", "choice1": "I got wet.", "choice2": "I slept.", "question": "effect", "label": 0, "idx": 0},
             {"context": "It rained therefore", "choices": [" i got wet.", " i slept."], "label": 0}),
    "xcopa.it": ("jsonl", {"premise": "Piove.", "choice1": "Dormo.", "choice2": "Nuvole.", "question": "cause", "label": 1}, {"context": "Piove perché", "choices": [" dormo.", " nuvole."], "label": 1}),
    "winogrande": ("jsonl", {"sentence": "The cup and the bag: _ is full.", "option1": "cup", "option2": "bag", "answer": "2"},
                   {"context": ["The cup and the bag: cup", "The cup and the bag: bag"], "choices": [" is full.", " is full."], "label": 1}),
    "arc": ("jsonl", ARC, {"context": "Question: What is hot?\nAnswer:", "choices": [" ice", " fire"], "label": 1}),
    "openbookqa": ("jsonl", ARC, {"context": "What is hot?", "choices": [" ice", " fire"], "label": 1}),
    "boolq": ("jsonl", {"question": "is it so", "title": "T", "answer": True, "passage": "It is."}, {"context": "It is.\nQuestion: is it so?\nAnswer:", "choices": [" no", " yes"], "label": 1}),
    "lambada": ("txt", "she went to the market\n", {"context": "she went to the", "target": " market"}),
    "siqa": ("jsonl", {"context": "Al ran.", "question": "Why?", "answerA": "fun", "answerB": "fear", "answerC": "food", "label": "3"},
             {"context": "Q: Al ran. Why?\nA:", "choices": [" fun", " fear", " food"], "label": 2}),
    "race": ("txt", {"article": "Long.", "questions": ["Who?", "What?"], "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"]], "answers": ["C", "A"], "id": "middle1.txt"},
             {"context": "Article: Long.\n\nQuestion: Who?\nAnswer:", "choices": [" a", " b", " c", " d"], "label": 2}),
    "xnli.fr": ("tsv", "language\tgold_label\tsentence1\tsentence2\nen\tneutral\tA\tB\nfr\tcontradiction\t\"Dort\" dit-il\tIl court\n",
                {"context": "", "choices": ['"Dort" dit-il, right? Yes, Il court', '"Dort" dit-il, right? Also, Il court', '"Dort" dit-il, right? No, Il court'], "label": 2}),
    "xstorycloze": ("tsv", "InputStoryid\tInputSentence1\tInputSentence2\tInputSentence3\tInputSentence4\tRandomFifthSentenceQuiz1\tRandomFifthSentenceQuiz2\tAnswerRightEnding\n"
                    "1\tA.\tB.\tC.\tD.\tE.\tF.\t2\n", {"context": "A. B. C. D.", "choices": [" E.", " F."], "label": 1}),
    "triviaqa": ("json", {"Data": [{"Question": "Which city has the Louvre?", "Answer": {"Value": "Paris", "Aliases": ["Paris", "Lutetia"]}}], "Version": 1.0},
                 {"context": "Answer these questions:\n\nQ: Which city has the Louvre?\nA:", "answer": ["Paris", "Lutetia"], "stop": ("\n", ".", ",")}),
    "nq": ("jsonl", {"question": "who wrote it", "answer": ["Ada", "A."]}, {"context": "Answer these questions:\n\nQ: who wrote it?\nA:", "answer": ["Ada", "A."], "stop": ("\n", ".", ",")}),
    "gsm8k": ("jsonl", {"question": "1+1?", "answer": "It is 2.\n#### 2"}, {"context": "Question: 1+1?\nAnswer:", "answer": "2", "stop": ("Question:",), "number": True, "shot": " It is 2.\n#### 2"}),
    "mmlu": ("csv", 'What is "it"?,one,"two, or",three,four,B\n',
             {"context": "The following are multiple choice questions (with answers) about x y.\n\nWhat is \"it\"?\nA. one\nB. two, or\nC. three\nD. four\nAnswer:".replace('What is "it"?', "What is it?"),
              "choices": [" A", " B", " C", " D"], "label": 1, "subject": "x y"}),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_are_read_as_they_are(name, tmp_path):
    assert {n.partition(".")[0] for n in RELEASED} == set(tasks.FORMATS), "every format has an example here"
    end, record, want = RELEASED[name]
    path = tmp_path / f"x_y_test.{end}"
    path.write_text(record.replace('"it"', "it") if end == "csv" else record if isinstance(record, str) else json.dumps(record) + "\n")
    for prompt in range(len(tasks.FORMATS[name.partition(".")[0]].prompts)):
        items, bad, form = tasks.items(f"{name}={path}", prompt, shots=0)
        item = {k: v for k, v in items[0].items() if k != "where"}
        assert prompt or item == want
        assert bad == 0 and len(items) == (2 if name == "race" else 1) and "{" not in str(item).replace("{it}", "")[1:-1]


def test_labels_in_a_file_of_their_own(tmp_path):
    (tmp_path / "valid.jsonl").write_text('{"goal": "g", "sol1": "a", "sol2": "b"}\n' * 2)
    (tmp_path / "valid-labels.lst").write_text("1\n0\n")
    assert [i["label"] for i in tasks.items(f"piqa={tmp_path}/valid.jsonl")[0]] == [1, 0]


def test_examples_are_drawn_from_the_other_items_by_the_seed(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"context": f"item {i} is", "choices": [f" yes{i}", " no"], "label": 0}) + "\n" for i in range(9)))
    plain, two = tasks.items(str(path))[0], tasks.items(str(path), shots=2)[0]
    for i, (a, b) in enumerate(zip(plain, two)):
        first, second, rest = b["context"].split("\n\n")
        assert rest == a["context"] and len({first, second, rest}) == 3 and f"item {i} is yes" not in b["context"]
        assert all(e.endswith(f" is yes{e.split()[1]}") for e in (first, second)), "with the right answer"
    assert tasks.items(str(path), shots=2)[0] == two != tasks.items(str(path), shots=2, seed=1)[0]
    (tmp_path / "more.jsonl").write_text('{"context": "first", "answer": ["one", "1"]}\n{"context": "second", "answer": "two"}\n')
    assert tasks.items(str(path), shots=1, shots_file=str(tmp_path / "more.jsonl"))[0][0]["context"] == "first one\n\nitem 0 is"
    with pytest.raises(ValueError, match="has 9 items"):
        tasks.items(str(path), shots=9)


def test_mmlu_takes_five_of_its_subjects_own_examples(tmp_path):
    for part, n in ("test", 2), ("dev", 5):
        (tmp_path / part).mkdir()
        for s in "ab":
            (tmp_path / part / f"{s}_x_{part}.csv").write_text("".join(f"{part} {s}{i}?,1,2,3,4,C\n" for i in range(n)))
    items = tasks.items(f"mmlu={tmp_path}/test")[0]
    assert len(items) == 4 and items[3]["context"].startswith("The following are multiple choice questions (with answers) about b x.\n\ndev b0?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: C\n\ndev b1?")
    assert items[3]["context"].count("Answer:") == 6 and items[3]["context"].endswith("test b1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:")


BROKEN = ['{"context": "a", "choices": ["b"], "label": 0}', '{"context": "a", "choices": ["b", "c"], "label": 2}', '{"context": "a", "choices": ["b", " "], "label": 0}',
          '{"context": "a", "choices": ["b", "c"], "label": true}', '{"context": ["a"], "choices": ["b", "c", "d"]', '{"context": "a"}', '{"answer": "b"}', '[1]', '{"context": 3, "answer": "b"}', '']


@pytest.mark.parametrize("line", BROKEN)
def test_malformed_items_are_named_and_left_out_only_if_asked(line, tmp_path):
    path = tmp_path / "own.jsonl"
    good = '{"context": "a", "choices": ["b", "c"], "label": 0}'
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(ValueError, match="own.jsonl, line 2 is no such item"):
        tasks.items(str(path))
    items, bad, _ = tasks.items(str(path), skip_bad=True)
    assert len(items) == 2 and bad == 1


def test_no_task_of_the_benchmark_stands_in_the_corpus():
    """What the model reads with the right answer, and each sentence written by hand, in any document prepare.py can make of samples/."""
    corpus = collections.defaultdict(str)
    for reader, path in ("stories", "samples/stories/*.txt"), ("samples", "samples/*.txt"):
        for d in sources.read(recipe.Source(reader, f"{ROOT}/{path}", reader=reader)):
            corpus[d["lang"]] += d["text"] + "\n"
    assert sum(map(len, corpus.values())) > 500_000
    for name in tasks.BENCHMARK:
        items = tasks.items(name)[0]
        assert len(items) >= 60 and {i["lang"] for i in items} == set(tasks.languages())
        for i in items:
            assert i["context"] + i["choices"][i["label"]] not in corpus[i["lang"]], (name, i)
        share = [sum(i["label"] == k for i in items) / len(items) for k in range(len(items[0]["choices"]))]
        assert max(share) < 1.4 * min(share) + 0.05, "the right choice is at every place as often"


def command(monkeypatch, *args):
    """The command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *args])
    try:
        config.command(evaluate.main)
    except SystemExit as e:
        return e.code
    return 0


def test_the_command_writes_what_it_found_and_says_where(trained, capsys, monkeypatch):
    with open("own.jsonl", "w") as f:
        f.write('{"context": "Mina saw a", "choices": [" dog", " cat"], "label": 0, "lang": "en"}\n' * 3 + "oops\n")
    assert command(monkeypatch, "runs/bloom", "--tasks", "loss", "own.jsonl", "--skip-bad", "--shots", "1") == 0
    out = capsys.readouterr().out
    assert "1 malformed items left out" in out and "wrote runs/bloom/evaluations/own.1-shot.json" in out and "source en" in out
    facts = config.read_json("runs/bloom/evaluations/own.1-shot.json")
    assert facts["step"] == 5 and facts["begin"] == "training" and facts["prompts"][0]["items"] == 3 and len(facts["prompts"][0]["each"]) == 3
    assert config.read_json("runs/bloom/evaluations/loss.json")["languages"].keys() == {"en", "fr"}


def test_what_a_user_can_cause_is_one_line(trained, capsys, monkeypatch):
    for message, args in (
            ("runs/nothing is not a run", ["runs/nothing", "--tasks", "who"]), ("did you mean 'where'", ["runs/bloom", "--tasks", "wher"]),
            ("unknown format 'pica'", ["runs/bloom", "--tasks", "pica=x.jsonl"]), ("no task 'piqa=x.jsonl'", ["runs/bloom", "--tasks", "piqa=x.jsonl"]), ("--batch 0", ["runs/bloom", "--batch", "0"]),
            ("data/tiny-sp was made with another tokenizer", ["runs/bloom", "--tasks", "loss", "--data", "tiny-sp"]), ("no prepared data in data/none", ["runs/bloom", "--tasks", "loss", "--data", "none"]),
            ("--prompt 4: who has 1", ["runs/bloom", "--tasks", "who", "--prompt", "4"]), ("a task has items of one kind", ["runs/bloom", "--tasks", "two.jsonl"]),
            ("two.jsonl has 2 items", ["runs/bloom", "--tasks", "two.jsonl", "--shots", "2"])):
        with open("two.jsonl", "w") as f:
            f.write('{"context": "a", "answer": "b"}\n{"text": "c"}\n')
        assert command(monkeypatch, *args) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1, error
