"""The papers' tasks as their authors released them: what a record of a file becomes before a model reads it.

A function turns one record `r` into the fields of an item (tasks.py), or a list of them. Read FORMATS first.
"""
import dataclasses
import re
from typing import Callable


@dataclasses.dataclass
class Format:
    """A prompt is (context, continuation), templates of the record's fields, the item's, and `choice`."""
    item: Callable              # (record, language) to fields
    prompts: list
    rule: str = "char"          # the score that decides (scoring.py)
    head: str = ""              # before the first example
    between: str = "\n\n"       # after each example
    shots: int = 0              # where --shots is not given
    tokens: int = 32            # of a written answer, at most


def hellaswag(r, lang):
    query = f"{r['activity_label']}: {r['ctx_a']} {r['ctx_b'].capitalize()}"
    choices = [no_marks(ending) for ending in r["endings"]]
    return {"query": no_marks(query), "choices": choices, "label": int(r["label"])}


def no_marks(text):
    """Without WikiHow's marks: [title], [step], ..."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def piqa(r, lang):
    return {"choices": [r["sol1"], r["sol2"]], "label": int(r["label"])}


# "because" and "so" in the languages of XCOPA
LINKS = {"en": ("because", "therefore"), "et": ("sest", "seetõttu"), "ht": ("poukisa", "donk sa"),
         "id": ("karena", "maka"), "it": ("perché", "quindi"), "qu": ("imataq", "chaymi"),
         "sw": ("kwa sababu", "kwa hiyo"), "ta": ("காரணமாக", "எனவே"), "th": ("เพราะ", "ดังนั้น"),
         "tr": ("çünkü", "bu yüzden"), "vi": ("bởi vì", "vì vậy"), "zh": ("因为", "所以")}


def copa(r, lang):
    effect = ("cause", "effect").index(r["question"])
    return {"start": r["premise"].strip()[:-1], "link": LINKS[lang or "en"][effect],
            "asked": ("What was the cause?", "What happened then?")[effect],
            "choices": [c[0].lower() + c[1:] for c in (r["choice1"], r["choice2"])], "label": int(r["label"])}


def winogrande(r, lang):
    before, after = r["sentence"].split("_")
    label = int(r.get("answer") or r["label"]) - 1
    return {"before": before, "after": after.strip(), "choices": [r["option1"], r["option2"]], "label": label}


def arc(r, lang):
    choices = {c["label"]: c["text"] for c in r["question"]["choices"]}
    return {"question": r["question"]["stem"], "choices": [*choices.values()],
            "label": [*choices].index(r["answerKey"].strip())}


def boolq(r, lang):
    label = int(r["answer"] if "answer" in r else r["label"])
    return {"question": r["question"].rstrip("?"), "choices": ["no", "yes"], "label": label}


def lambada(r, lang):
    before, last = r["text"].strip().rsplit(" ", 1)
    return {"before": before, "target": last}


def siqa(r, lang):
    return {"choices": [r["answerA"], r["answerB"], r["answerC"]], "label": int(r["label"]) - 1}


def race(r, lang):
    asked = zip(r["questions"], r["options"], r["answers"], strict=True)
    return [{"question": q, "choices": options, "label": "ABCD".index(a)} for q, options, a in asked]


def xnli(r, lang):
    if r.get("language", lang) != (lang or "en"):       # one file has all the languages
        return []
    label = ["entailment", "neutral", "contradiction"].index(r["gold_label"])
    return {"choices": ["Yes", "Also", "No"], "label": label}


def xstorycloze(r, lang):
    choices = [r["RandomFifthSentenceQuiz1"], r["RandomFifthSentenceQuiz2"]]
    return {"choices": choices, "label": int(r["AnswerRightEnding"]) - 1}


def trivia(r, lang):
    if "Answer" in r:                   # TriviaQA's fields; else those of NQ-open
        r = {"question": r["Question"], "answer": [*r["Answer"]["Aliases"], r["Answer"]["Value"]]}
    stops = ("\n", ".", ",")            # an answer ends at the first of these (LLaMA, section 3.2)
    question = r["question"].rstrip("? ") + "?"
    return {"question": question, "answer": list(dict.fromkeys(r["answer"])), "stop": stops}


def gsm8k(r, lang):
    number = r["answer"].split("####")[1].strip()           # an example has the whole solution
    return {"answer": number, "shot": " " + r["answer"], "stop": ("Question:",), "number": True}


def mmlu(r, lang):
    return {"choices": ["A", "B", "C", "D"], "label": "ABCD".index(r["answer"])}


QUESTION = ("Question: {question}\nAnswer:", " {choice}")
BARE = ("{question}", " {choice}")
SHORT = ("Q: {question}\nA:", " {choice}")
TRIVIA = Format(trivia, [("Q: {question}\nA:", " {answer}"), ("Question: {question}\nAnswer:", " {answer}")],
                head="Answer these questions:\n\n", between="\n")
FORMATS = {
    "hellaswag": Format(hellaswag, [("{query}", " {choice}")]),
    "piqa": Format(piqa, [("Question: {goal}\nAnswer:", " {choice}"), ("{goal}", " {choice}")]),
    "copa": Format(copa, [("{start} {link}", " {choice}"),
                          ("{premise}\nQuestion: {asked}\nAnswer:", " {choice}")], "sum"),
    # the name is in the context: the same words after it are scored
    "winogrande": Format(winogrande, [("{before}{choice}", " {after}")], "sum"),
    "arc": Format(arc, [QUESTION, BARE, SHORT]),
    "openbookqa": Format(arc, [BARE, QUESTION], "answer"),
    "boolq": Format(boolq, [("{passage}\nQuestion: {question}?\nAnswer:", " {choice}"),
                            ("{passage}\nAfter reading this, is it true: {question}?", " {choice}")],
                    "answer"),
    "lambada": Format(lambada, [("{before}", " {target}")]),
    "siqa": Format(siqa, [("Q: {context} {question}\nA:", " {choice}"),
                          ("{context}\nQuestion: {question}\nAnswer:", " {choice}")]),
    "race": Format(race, [("Article: {article}\n\nQuestion: {question}\nAnswer:", " {choice}"),
                          ("{article}\n\n{question}", " {choice}")]),
    "xnli": Format(xnli, [("", "{sentence1}, right? {choice}, {sentence2}")], "sum"),
    "xstorycloze": Format(xstorycloze, [
        ("{InputSentence1} {InputSentence2} {InputSentence3} {InputSentence4}", " {choice}")]),
    "triviaqa": TRIVIA,
    "nq": TRIVIA,
    "gsm8k": Format(gsm8k, [("Question: {question}\nAnswer:", " {answer}")], tokens=256),
    "mmlu": Format(mmlu, [("{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer:", " {choice}")],
                   "sum", shots=5,
                   head="The following are multiple choice questions (with answers) about {subject}.\n\n"),
}
FORMATS["xcopa"] = FORMATS["copa"]
OWN = Format(None, [""])            # a file of your own: items as the model reads them
