"""What a model is asked: the papers' tasks as their authors released them, tasks of your own, and a benchmark for models of a laptop's size.

    python tasks.py piqa=valid.jsonl            # prints the items as JSON lines, each as the model reads it (first prompt)
    python tasks.py who                         # a task of the laptop benchmark
    python evaluate.py runs/NAME --tasks piqa=valid.jsonl who mine.jsonl        # evaluate.py scores them

A task is  FORMAT=PATH  or  FORMAT.LANG=PATH  for a released file (folder, glob), the name of one of ours, or a file of items, one JSON object a line:
    {"context", "choices", "label"}     which choice is likeliest; context may be a list, one for each choice
    {"context", "answer"}               greedy text up to "stop" is the answer, or one of a list of answers
    {"context", "target"}               the target's probability, and whether greedy text begins with it
    {"text"}                            the text's probability: perplexity and bits per byte
The model reads context + choice to the letter: write the space between them where there is one. "lang" is reported by if it is there.
Read FORMATS first, then items().
"""
import csv
import dataclasses
import difflib
import glob
import json
import os
import random
import re
import sys
from typing import Callable

import config
from corpus import stories

HERE = os.path.dirname(os.path.abspath(__file__))
QA = [("Question: {question}\nAnswer:", " {choice}"), ("{question}", " {choice}"), ("Q: {question}\nA:", " {choice}")]
TRIVIA = ("\n", ".", ",")       # an answer ends at the first of these (LLaMA, section 3.2)


@dataclasses.dataclass
class Format:
    """A released format. `item` turns a record into the fields of an item, or a list of them; a prompt is (context, continuation), templates of the
    fields and of `choice`. `rule` is the score that decides (evaluate.py): LLaMA divides by characters, or by P(choice | "Answer:") (section 3.1)."""
    item: Callable
    prompts: list
    rule: str = "char"
    head: str = ""              # before the first example
    between: str = "\n\n"       # after each example
    shots: int = 0              # where --shots is not given
    tokens: int = 32            # of an answer, at most


def hellaswag(d, lang):
    def clean(text):            # [title], [step], ...: left by WikiHow
        return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")
    return {"query": clean(f"{d['activity_label']}: {d['ctx_a']} {d['ctx_b'].capitalize()}"), "choices": [clean(e) for e in d["endings"]], "label": int(d["label"])}


# because, so
LINKS = {"en": ("because", "therefore"), "et": ("sest", "seetõttu"), "ht": ("poukisa", "donk sa"), "id": ("karena", "maka"), "it": ("perché", "quindi"),
         "qu": ("imataq", "chaymi"), "sw": ("kwa sababu", "kwa hiyo"), "ta": ("காரணமாக", "எனவே"), "th": ("เพราะ", "ดังนั้น"), "tr": ("çünkü", "bu yüzden"),
         "vi": ("bởi vì", "vì vậy"), "zh": ("因为", "所以")}


def copa(d, lang):
    effect = {"cause": 0, "effect": 1}[d["question"]]
    return {"start": d["premise"].strip()[:-1], "link": LINKS[lang or "en"][effect], "asked": ("What was the cause?", "What happened then?")[effect],
            "choices": [c[0].lower() + c[1:] for c in (d["choice1"], d["choice2"])], "label": int(d["label"])}


def winogrande(d, lang):
    before, after = d["sentence"].split("_")
    return {"before": before, "after": after.strip(), "choices": [d["option1"], d["option2"]], "label": int(d.get("answer") or d["label"]) - 1}


def arc(d, lang):
    choices = d["question"]["choices"]
    return {"question": d["question"]["stem"], "choices": [c["text"] for c in choices], "label": [c["label"] for c in choices].index(d["answerKey"].strip())}


def boolq(d, lang):
    return {"question": d["question"].rstrip("?"), "choices": ["no", "yes"], "label": int(d["answer"] if "answer" in d else d["label"])}


def lambada(d, lang):
    before, last = d["text"].strip().rsplit(" ", 1)
    return {"before": before, "target": last}


def race(d, lang):
    return [{"article": d["article"], "question": q, "choices": o, "label": "ABCD".index(a)} for q, o, a in zip(d["questions"], d["options"], d["answers"], strict=True)]


def xnli(d, lang):
    label = ["entailment", "neutral", "contradiction"].index(d["gold_label"])
    return {"choices": ["Yes", "Also", "No"], "plain": ["True", "Neither", "False"][label], "label": label} if d.get("language", lang) == (lang or "en") else []


def xstorycloze(d, lang):
    return {"choices": [d["RandomFifthSentenceQuiz1"], d["RandomFifthSentenceQuiz2"]], "label": int(d["AnswerRightEnding"]) - 1}


def trivia(d, lang):            # TriviaQA's own fields, or NQ-open's
    names = d["Answer"]["Aliases"] + [d["Answer"]["Value"]] if "Answer" in d else d["answer"]
    return {"question": d.get("Question", d.get("question")).rstrip("? ") + "?", "answer": list(dict.fromkeys(names)), "stop": TRIVIA}


def gsm8k(d, lang):
    return {"answer": d["answer"].split("####")[1].strip(), "shot": d["answer"], "stop": ("Question:",), "number": True}


def mmlu(d, lang):
    return {"choices": ["A", "B", "C", "D"], "label": "ABCD".index(d["answer"])}


OPEN = "Answer these questions:\n\n"
FORMATS = {
    "hellaswag": Format(hellaswag, [("{query}", " {choice}")]),
    "piqa": Format(lambda d, lang: {"choices": [d["sol1"], d["sol2"]], "label": int(d["label"])}, [("Question: {goal}\nAnswer:", " {choice}"), ("{goal}", " {choice}")]),
    "copa": Format(copa, [("{start} {link}", " {choice}"), ("{premise}\nQuestion: {asked}\nAnswer:", " {choice}")], rule="sum"),
    "winogrande": Format(winogrande, [("{before}{choice}", " {after}")], rule="sum"),          # the name is in the context: the same words after it are scored
    "arc": Format(arc, QA),
    "openbookqa": Format(arc, [QA[1], QA[0]], rule="answer"),
    "boolq": Format(boolq, [("{passage}\nQuestion: {question}?\nAnswer:", " {choice}"), ("{passage}\nAfter reading this, is it true: {question}?", " {choice}")], rule="answer"),
    "lambada": Format(lambada, [("{before}", " {target}")]),
    "siqa": Format(lambda d, lang: {"choices": [d["answerA"], d["answerB"], d["answerC"]], "label": int(d["label"]) - 1},
                   [("Q: {context} {question}\nA:", " {choice}"), ("{context}\nQuestion: {question}\nAnswer:", " {choice}")]),
    "race": Format(race, [("Article: {article}\n\nQuestion: {question}\nAnswer:", " {choice}"), ("{article}\n\n{question}", " {choice}")]),
    "xnli": Format(xnli, [("", "{sentence1}, right? {choice}, {sentence2}")], rule="sum"),
    "xstorycloze": Format(xstorycloze, [("{InputSentence1} {InputSentence2} {InputSentence3} {InputSentence4}", " {choice}")]),
    "triviaqa": Format(trivia, [("Q: {question}\nA:", " {answer}"), ("Question: {question}\nAnswer:", " {answer}")], head=OPEN, between="\n"),
    "nq": Format(trivia, [("Q: {question}\nA:", " {answer}"), ("Question: {question}\nAnswer:", " {answer}")], head=OPEN, between="\n"),
    "gsm8k": Format(gsm8k, [("Question: {question}\nAnswer:", " {answer}")], tokens=256),
    "mmlu": Format(mmlu, [("{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer:", " {choice}")], rule="sum", shots=5,
                   head="The following are multiple choice questions (with answers) about {subject}.\n\n"),
}
FORMATS |= {"xcopa": FORMATS["copa"]}
OWN = Format(lambda d, lang: d, [None], between="\n\n")


def records(path):
    """Yield (line, record) of a released file: JSON lines (a line is not parsed yet), a table with a head, MMLU's table without, or one JSON document."""
    end, labels = os.path.splitext(path)[1], path.removesuffix(".jsonl") + "-labels.lst"
    with open(path, encoding="utf-8", newline="") as f:
        if end == ".tsv":
            table = csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)
            yield from ((table.line_num, row) for row in table)
        elif end == ".csv":
            table, subject = csv.reader(f), re.sub("_(test|dev|val)$", "", os.path.splitext(os.path.basename(path))[0]).replace("_", " ")
            yield from ((table.line_num, {**dict(zip(("question", "A", "B", "C", "D", "answer"), row, strict=True)), "subject": subject}) for row in table)
        elif end == ".jsonl":
            given = open(labels).read().split() if os.path.exists(labels) else None        # PIQA, SIQA and WinoGrande keep the labels in a file of their own
            for n, line in enumerate(f, 1):
                yield n, line if given is None else f'{{"label": {json.dumps(given[n - 1])}, {line.strip().removeprefix("{")}'
        elif (text := f.read()).lstrip().startswith("{"):
            whole = json.loads(text)
            yield from enumerate(whole.get("Data", [whole]), 1)
        else:                           # LAMBADA as plain text
            yield from ((n, {"text": line}) for n, line in enumerate(text.splitlines(), 1))


def kind_of(item):
    return next((k for k in ("choices", "answer", "target", "text") if k in item), None)


def check(item):
    """Stop what is not an item, saying what is wrong."""
    if (kind := kind_of(item)) is None or kind != "text" and "context" not in item:
        raise ValueError('it needs "context" and one of "choices", "answer", "target"; or "text"')
    texts = [item.get("context", "")] if isinstance(item.get("context", ""), str) else item["context"]
    answers = [item[kind]] if isinstance(item[kind], str) else item[kind]
    if not isinstance(answers, list) or not answers or not all(isinstance(t, str) and t.strip() for t in answers) or not all(isinstance(t, str) for t in texts):
        raise ValueError(f'"context" must be text and "{kind}" text that is not blank')
    if kind == "choices" and (len(answers) < 2 or len(texts) not in (1, len(answers)) or type(item.get("label")) is not int or not 0 <= item["label"] < len(answers)):
        raise ValueError(f'"label" must be the number of one of at least two "choices", counted from 0; it is {item.get("label")!r} of {len(answers)}')
    return item


def fill(fields, prompt):
    """An item from the fields of a record and a prompt's two templates."""
    if prompt is None:
        return check(dict(fields))
    kept = {k: fields[k] for k in ("lang", "subject", *{"choices": ("label",), "answer": ("answer", "stop", "number")}.get(kind_of(fields), ())) if k in fields}
    if "choices" in fields:
        contexts = [prompt[0].format(**{**fields, "choice": c}) for c in fields["choices"]]
        kept["choices"] = [prompt[1].format(**{**fields, "choice": c}) for c in fields["choices"]]
        kept["context"] = contexts if len(set(contexts)) > 1 else contexts[0]
    else:
        kept["context"] = prompt[0].format(**fields)
        if kind_of(fields) == "target":
            kept["target"] = prompt[1].format(**fields)
    return check(kept | ({"shot": f" {fields['shot']}"} if "shot" in fields else {}))


def example(item):
    """An item with its right answer, as it stands before another one."""
    if "text" in item:
        raise ValueError("a text has no answer: it cannot be an example, use --shots 0")
    context = item["context"] if isinstance(item["context"], str) else item["context"][item["label"]]
    if "choices" in item:
        return context + item["choices"][item["label"]]
    answer = item["answer"] if isinstance(item.get("answer"), str) else item.get("answer", [""])[0]
    return context + (item.get("shot") or item.get("target") or " " * (not context.endswith((" ", "\n"))) + answer)


def read(path, form, lang, prompt, skip_bad):
    """(items of one file with one prompt, how many were left out as malformed)."""
    found, bad = [], 0
    rows = records(path)
    while True:
        n = None
        try:
            n, record = next(rows)
            record = json.loads(record) if isinstance(record, str) else record
            fields = form.item(record, lang)
            for one in fields if isinstance(fields, list) else [fields]:
                found.append({"where": f"{path}, line {n}"} | fill({**record, **one} if prompt else one, prompt))
        except StopIteration:
            return found, bad
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, csv.Error) as e:
            if not skip_bad or n is None:           # without n the file itself could not be read
                what = f"it has no {e}" if isinstance(e, KeyError) else e
                raise ValueError(f"{path}{f', line {n}' if n else ''} is no such item: {what}. --skip-bad leaves such lines out and counts them") from e
            bad += 1


def load_items(spec, prompt=0, shots=None, shots_file=None, seed=0, skip_bad=False):
    """(items, left out, format) of a task with its prompt number `prompt`. The examples before an item are `shots` others of its file, drawn by (seed, item),
    or the first ones of `shots_file`; MMLU has a file of five for each subject."""
    name, _, path = spec.partition("=")
    name, _, lang = name.partition(".") if path else (spec, "", "")
    form = FORMATS.get(name) if path else OWN
    if form is None or form.item is copa and lang and lang not in LINKS:
        raise ValueError(f"unknown format {spec.partition('=')[0]!r}; known: {', '.join(FORMATS)}; copa and xcopa in {', '.join(LINKS)}")
    path = path or spec
    if not os.path.exists(path) and spec in BENCHMARK:
        files = [f"{HERE}/samples/tasks/{spec}.jsonl"]
    else:
        files = sorted(f for f in glob.glob(f"{path}/**" if os.path.isdir(path) else path, recursive=True) if os.path.isfile(f))
    if not files:
        near = difflib.get_close_matches(spec, BENCHMARK, 1)
        raise ValueError(f"no task {spec!r}" + (f", did you mean {near[0]!r}?" if near else f": there is no such file, and ours are {', '.join(BENCHMARK)}; a released file is FORMAT=PATH"))
    shots = form.shots if shots is None else shots
    everything, left_out = [], 0
    for file in files:
        if spec in GENERATED and not os.path.exists(spec):
            found, bad = [i for lang in languages() for i in story_items(spec, lang)], 0
        else:
            found, bad = read(file, form, lang, form.prompts[prompt], skip_bad)
        others = shots_file or form.item is mmlu and shots and file.replace(f"{os.sep}test{os.sep}", f"{os.sep}dev{os.sep}").replace("_test.csv", "_dev.csv")
        if others and not os.path.exists(others):
            raise ValueError(f"the examples of {file} should be in {others}: it is not there; give --shots-file, or --shots 0")
        pool = read(others, form, lang, form.prompts[prompt], skip_bad)[0] if others and shots else None
        if shots and shots > len(found) - 1 and pool is None or pool is not None and shots > len(pool):
            raise ValueError(f"--shots {shots}: {others or file} has {len(found if pool is None else pool)} items; ask for fewer")
        for i, item in enumerate(found):
            drawn = pool[:shots] if pool is not None else [found[j + (j >= i)] for j in random.Random(f"{seed} {i}").sample(range(len(found) - 1), shots)]
            before = (form.head.format(**item) + "".join(example(e) + form.between for e in drawn)) if "context" in item else ""
            everything.append(item | ({"context": before + item["context"] if isinstance(item["context"], str) else [before + c for c in item["context"]]} if before else {}))
        left_out += bad
    return everything, left_out, form


# The laptop benchmark: three tasks of remembering, one of sense and one of order in stories of the kind the sample corpus has, drawn with other
# numbers; two written by hand, of words the corpus has in sentences it has not.
GENERATED = {"who": ("hero", "friend"), "what": ("thing", "animal", "food", "fruit"), "where": ("place",), "ending": (), "order": ()}
BENCHMARK = [*GENERATED, "grammar", "sense"]
PER_LANGUAGE = 40


def languages():
    return sorted(os.path.basename(f).removesuffix(".txt") for f in glob.glob(f"{HERE}/samples/stories/*.txt"))


def story_items(task, lang):
    """Items of a generated task in one language, the same on every machine; none of them, with its right answer, stands in a story of the corpus."""
    with open(f"{HERE}/samples/stories/{lang}.txt", encoding="utf-8") as f:
        slots, plots = grammar = stories.parse(f.read(), lang)
    corpus = "\n".join(stories.draw(grammar, lang, n) for n in range(stories.PER_LANGUAGE))
    space, found, number = "" if lang.startswith("zh") else " ", [], stories.PER_LANGUAGE
    while len(found) < PER_LANGUAGE:
        number, r = number + 1, random.Random(f"{task} {lang} {number}")
        values, plot = {slot: r.choice(options) for slot, options in slots.items()}, r.choice(plots)
        lines, at = [r.choice(line) for line in plot], len(plot) - 1

        def told(line, **other):
            return re.sub(r"{(.*?)}", lambda m: {**values, **other}[m[1]], line)
        if GENERATED[task]:             # the right line, and with other values of a slot that was named before
            asked = [(i, s) for i in range(1, len(lines)) for s in GENERATED[task] if f"{{{s}}}" in lines[i] and f"{{{s}}}" in "".join(lines[:i])]
            if not asked:
                continue
            at, slot = r.choice(asked)
            choices = [told(lines[at], **{slot: v}) for v in (values[slot], *r.sample([o for o in slots[slot] if o != values[slot]], 3))]
        elif task == "ending":          # the end, that of another plot, the beginning
            choices = [told(lines[-1]), told(r.choice(r.choice([p for p in plots if p is not plot])[-1])), told(r.choice(plot[0]))]
        else:                           # a line, and with two neighbours exchanged
            at = r.randrange(1, len(lines))
            words = told(lines[at]).split(" ") if space else list(told(lines[at]))
            i = r.choice([i for i in range(len(words) - 1) if words[i] != words[i + 1]] or [0])
            choices = [space.join(words), space.join([*words[:i], *words[i:i + 2][::-1], *words[i + 2:]])]
        context = space.join(map(told, lines[:at]))
        if context + space + choices[0] not in corpus and len(set(choices)) == len(choices):
            order = r.sample(range(len(choices)), len(choices))
            found.append({"lang": lang, "context": context, "choices": [space + choices[i] for i in order], "label": order.index(0)})
    return found


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        sys.exit("--help" not in sys.argv and "-h" not in sys.argv)
    for spec in sys.argv[1:]:
        for item in load_items(spec)[0]:
            print(json.dumps(item, ensure_ascii=False))


if __name__ == "__main__":
    config.command(main)
