"""Items of evaluation/tasks.py: released files, files of one's own, examples, the laptop benchmark."""
import collections
import json

import pytest
from conftest import ROOT

from corpus import recipe, sources
from evaluation import benchmark, tasks

ARC = {"id": "x", "answerKey": "B", "question": {
    "stem": "What is hot?", "choices": [{"text": "ice", "label": "A"}, {"text": "fire", "label": "B"}]}}
STORY = ("InputStoryid\tInputSentence1\tInputSentence2\tInputSentence3\tInputSentence4\t"
         "RandomFifthSentenceQuiz1\tRandomFifthSentenceQuiz2\tAnswerRightEnding\n"
         "1\tA.\tB.\tC.\tD.\tE.\tF.\t2\n")
XNLI = ("language\tgold_label\tsentence1\tsentence2\n"
        'en\tneutral\tA\tB\nfr\tcontradiction\t"Dort" dit-il\tIl court\n')
OPEN = "Answer these questions:\n\n"
TRIVIA_STOPS = ("\n", ".", ",")

# one record of each released format as it stands in the file, and the item that its first prompt makes of it
RELEASED = {
    "hellaswag": ("jsonl", {"activity_label": "Baking", "ctx_a": "A man mixes.", "ctx_b": "he", "label": "1",
                            "endings": ["eats [step] it.", "flies."]},
                  {"context": "Baking: A man mixes. He", "choices": [" eats it.", " flies."], "label": 1}),
    "piqa": ("jsonl", {"goal": "Open a jar", "sol1": "twist {it}", "sol2": "sing", "label": 0},
             {"context": "Question: Open a jar\nAnswer:", "choices": [" twist {it}", " sing"], "label": 0}),
    "copa": ("jsonl", {"premise": "It rained.", "choice1": "I got wet.", "choice2": "I slept.",
                       "question": "effect", "label": 0},
             {"context": "It rained therefore", "choices": [" i got wet.", " i slept."], "label": 0}),
    "xcopa.it": ("jsonl", {"premise": "Piove.", "choice1": "Dormo.", "choice2": "Nuvole.",
                           "question": "cause", "label": 1},
                 {"context": "Piove perché", "choices": [" dormo.", " nuvole."], "label": 1}),
    "winogrande": ("jsonl", {"sentence": "The cup and the bag: _ is full.", "answer": "2",
                             "option1": "cup", "option2": "bag"},
                   {"context": ["The cup and the bag: cup", "The cup and the bag: bag"],
                    "choices": [" is full.", " is full."], "label": 1}),
    "arc": ("jsonl", ARC,
            {"context": "Question: What is hot?\nAnswer:", "choices": [" ice", " fire"], "label": 1}),
    "openbookqa": ("jsonl", ARC, {"context": "What is hot?", "choices": [" ice", " fire"], "label": 1}),
    "boolq": ("jsonl", {"question": "is it so", "title": "T", "answer": True, "passage": "It is."},
              {"context": "It is.\nQuestion: is it so?\nAnswer:", "choices": [" no", " yes"], "label": 1}),
    "lambada": ("txt", "she went to the market\n", {"context": "she went to the", "target": " market"}),
    "siqa": ("jsonl", {"context": "Al ran.", "question": "Why?", "answerA": "fun", "answerB": "fear",
                       "answerC": "food", "label": "3"},
             {"context": "Q: Al ran. Why?\nA:", "choices": [" fun", " fear", " food"], "label": 2}),
    "race": ("txt", {"article": "Long.", "questions": ["Who?", "What?"], "answers": ["C", "A"],
                     "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"]]},
             {"context": "Article: Long.\n\nQuestion: Who?\nAnswer:", "choices": [" a", " b", " c", " d"],
              "label": 2}),
    "xnli.fr": ("tsv", XNLI, {"context": "", "label": 2, "choices": [
        f'"Dort" dit-il, right? {word}, Il court' for word in ("Yes", "Also", "No")]}),
    "xstorycloze": ("tsv", STORY, {"context": "A. B. C. D.", "choices": [" E.", " F."], "label": 1}),
    "triviaqa": ("json", {"Data": [{"Question": "Which city has the Louvre?",
                                    "Answer": {"Value": "Paris", "Aliases": ["Paris", "Lutetia"]}}]},
                 {"context": f"{OPEN}Q: Which city has the Louvre?\nA:", "answer": ["Paris", "Lutetia"],
                  "stop": TRIVIA_STOPS}),
    "nq": ("jsonl", {"question": "who wrote it", "answer": ["Ada", "A."]},
           {"context": f"{OPEN}Q: who wrote it?\nA:", "answer": ["Ada", "A."], "stop": TRIVIA_STOPS}),
    "gsm8k": ("jsonl", {"question": "1+1?", "answer": "It is 2.\n#### 2"},
              {"context": "Question: 1+1?\nAnswer:", "answer": "2", "stop": ("Question:",), "number": True,
               "shot": " It is 2.\n#### 2"}),
    "mmlu": ("csv", 'What is it?,one,"two, or",three,four,B\n',
             {"context": "The following are multiple choice questions (with answers) about x y.\n\n"
                         "What is it?\nA. one\nB. two, or\nC. three\nD. four\nAnswer:",
              "choices": [" A", " B", " C", " D"], "label": 1, "subject": "x y"}),
}


def test_every_format_has_an_example_here():
    assert {name.partition(".")[0] for name in RELEASED} == set(tasks.FORMATS)


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_are_read_as_they_are(name, tmp_path):
    end, record, want = RELEASED[name]
    path = tmp_path / f"x_y_test.{end}"
    path.write_text(record if isinstance(record, str) else json.dumps(record) + "\n")
    for prompt in range(len(tasks.parse(f"{name}=x")[0].prompts)):
        items, text, form = tasks.load_items(f"{name}={path}", prompt, shots=0)
        item = {k: v for k, v in items[0].items() if k != "where"}
        assert prompt or item == want
        assert len(items) == (2 if name == "race" else 1) and text == "".join(form.prompts[prompt])
        assert "{" not in str(item).replace("{it}", "")[1:-1], "every template is filled"


def test_labels_in_a_file_of_their_own(tmp_path):
    (tmp_path / "valid.jsonl").write_text('{"goal": "g", "sol1": "a", "sol2": "b"}\n' * 2)
    (tmp_path / "valid-labels.lst").write_text("1\n0\n")
    assert [i["label"] for i in tasks.load_items(f"piqa={tmp_path}/valid.jsonl")[0]] == [1, 0]


def test_examples_are_drawn_from_the_other_items_by_the_seed(tmp_path):
    own, more = tmp_path / "own.jsonl", tmp_path / "more.jsonl"
    lines = [{"context": f"item {i} is", "choices": [f" yes{i}", " no"], "label": 0} for i in range(9)]
    own.write_text("".join(json.dumps(line) + "\n" for line in lines))
    more.write_text('{"context": "first", "answer": ["one", "1"]}\n{"context": "second", "answer": "two"}\n')
    two = tasks.load_items(str(own), shots=2)[0]
    for item, line in zip(two, lines, strict=True):
        *examples, rest = item["context"].split("\n\n")
        assert rest == line["context"] and len({*examples, rest}) == 3
        for example in examples:
            assert example.endswith(f" is yes{example.split()[1]}"), "with the right answer"
            assert not example.startswith(rest), "not the item itself"
    assert tasks.load_items(str(own), shots=2)[0] == two != tasks.load_items(str(own), shots=2, seed=1)[0]
    item = tasks.load_items(str(own), shots=1, shots_file=str(more))[0][0]
    assert item["context"] == "first one\n\nitem 0 is"


def test_mmlu_takes_five_of_its_subjects_own_examples(tmp_path):
    for part, n in (("test", 2), ("dev", 5)):
        (tmp_path / part).mkdir()
        for s in "ab":
            lines = "".join(f"{part} {s}{i}?,1,2,3,4,C\n" for i in range(n))
            (tmp_path / part / f"{s}_x_{part}.csv").write_text(lines)
    items = tasks.load_items(f"mmlu={tmp_path}/test")[0]
    context, options = items[3]["context"], "\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    assert len(items) == 4 and context.count("Answer:") == 6
    assert context.startswith("The following are multiple choice questions (with answers) about b x.\n\n"
                              f"dev b0?{options} C\n\ndev b1?") and context.endswith(f"test b1?{options}")
    (tmp_path / "dev/a_x_dev.csv").unlink()
    with pytest.raises(OSError, match="a_x_dev.csv"):
        tasks.load_items(f"mmlu={tmp_path}/test")


BROKEN = ['{"context": "a", "choices": ["b"], "label": 0}',
          '{"context": "a", "choices": ["b", "c"], "label": 2}',
          '{"context": "a", "choices": ["b", " "], "label": 0}',
          '{"context": "a", "choices": ["b", "c"], "label": true}',
          '{"context": ["a"], "choices": ["b", "c"], "label": 0}', '{"context": ["a"], "answer": "b"}',
          '{"context": "a", "answer": "b", "stop": 5}', '{"context": "a", "answer": "b", "lang": ["en"]}',
          '{"context": "a"}', '{"answer": "b"}', '[1]', '{"context": 3, "answer": "b"}', 'null', '']


def test_a_malformed_item_is_named_and_may_be_left_out(tmp_path, capsys):
    path, good = tmp_path / "own.jsonl", '{"context": "a", "choices": ["b", "c"], "label": 0}'
    for line in BROKEN:
        path.write_text(f"{good}\n{line}\n{good}\n")
        with pytest.raises(ValueError, match="own.jsonl, record 2 is no such item"):
            tasks.load_items(str(path))
        assert len(tasks.load_items(str(path), skip_bad=True)[0]) == 2
        assert "left out: " in (said := capsys.readouterr().err) and "record 2" in said


def test_no_task_of_the_benchmark_stands_in_the_corpus():
    """What the model reads with the right answer, in any document that prepare.py can make of samples/."""
    corpus = collections.defaultdict(str)
    for reader, path in (("stories", "samples/stories/*.txt"), ("samples", "samples/*.txt")):
        for d in sources.read_documents(recipe.Source(reader, f"{ROOT}/{path}", reader=reader)):
            corpus[d["lang"]] += d["text"] + "\n"
    assert sum(map(len, corpus.values())) > 500_000
    for name in tasks.BENCHMARK:
        items = tasks.load_items(name)[0]
        assert len(items) >= 60 and {i["lang"] for i in items} == set(benchmark.languages())
        for i in items:
            assert i["context"] + i["choices"][i["label"]] not in corpus[i["lang"]], (name, i)
        share = [sum(i["label"] == k for i in items) / len(items) for k in range(len(items[0]["choices"]))]
        assert max(share) < 1.4 * min(share) + 0.05, "the right choice is at every place as often"
