"""The same model and the same local files, scored by lm-evaluation-harness and by evaluate.py.

    pip install "lm_eval[hf]==0.4.13"   # in a virtual environment of its own: it brings much
    python tools/harness.py xcopa.val.it.jsonl xcopa.val.zh.jsonl       # XCOPA's released files, *.LANG.jsonl
    python tools/harness.py xcopa.val.id.jsonl --run runs/bloom-toy     # a trained model instead

The models are a BLOOM and a LLaMA of random weights, or a run. convert.py exports them: the harness reads
them in Hugging Face's classes, evaluate.py in ours. Compared are log-probabilities, and who is right:
    multiple choice     xcopa of each language by the harness's own task definitions; piqa, hellaswag and
                        winogrande with records made of XCOPA's sentences: acc and acc_norm
                        (winogrande has no acc_norm: the same words follow either name)
    LAMBADA             the last words of the same sentences, and of our stories: whether greedy decoding
                        writes them
It prints the largest difference of each. Exit code 1 where a log-probability differs by more than 1e-4 or a
decision at all. Besides lm_eval it needs what requirements.txt lists, in the same environment.
"""
import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
import torch  # noqa: E402

import checkpoint  # noqa: E402
import config  # noqa: E402
import tokenizer as tokenizers  # noqa: E402
from corpus import pieces, recipe, sources  # noqa: E402
from evaluation import benchmark, scoring, tasks  # noqa: E402
from model import Transformer, init  # noqa: E402

CONTEXT = 64            # so small that some items of every file are cut
TOLERANCE = 1e-4        # float32 sums in another order


def random_run(name, texts, run):
    """Make the folder `run` of a small model of random weights, with deviations that tell choices apart."""
    kind = "bpe" if name == "bloom" else "sentencepiece"
    pieces.train_tokenizer(kind, texts, 2000).save(f"{run}/tokenizer")
    tokenizer = tokenizers.load(f"{run}/tokenizer")
    cfg = config.load(f"{ROOT}/configs/{name}.py").model
    cfg.layers, cfg.dim, cfg.heads, cfg.context, cfg.vocab = 2, 96, 6, CONTEXT, tokenizer.vocab + 24
    model, g = init(Transformer(cfg), 0), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    facts = {"kind": kind, "fingerprint": tokenizers.fingerprint(tokenizer)}
    origin = {"from": "random weights", "eos": [tokenizer.eos]}         # as of an import: nothing trained it
    config.write_json(f"{run}/config.json", {"size": "random", "model": dataclasses.asdict(cfg),
                                             "tokenizer": facts, "imported": origin})
    checkpoint.save(run, 0, model, torch.optim.AdamW(model.parameters()), {"tokens": 0})


def exported(run, folder):
    """Hugging Face's (model, tokenizer) of a run, by way of convert.py export."""
    import transformers
    command = [sys.executable, f"{ROOT}/convert.py", "export", run, folder]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise ValueError(f"convert.py could not export {run}; see above")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def write_lines(path, records):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def piqa(r):
    return {"goal": r["premise"], "sol1": r["choice1"], "sol2": r["choice2"], "label": r["label"]}


def hellaswag(i, a, b):
    endings = [a["choice1"], a["choice2"], b["choice1"], b["choice2"]]
    return {"activity_label": "Day", "ctx_a": a["premise"], "ctx_b": "then  [step]", "endings": endings,
            "label": str(a["label"]), "ind": i}


def winogrande(r):
    return {"sentence": f"{r['premise']} _ {r['choice1']}", "option1": r["premise"].split()[0],
            "option2": r["choice2"].split()[0], "answer": str(r["label"] + 1)}


def made_of(records):
    """{format: records} made of XCOPA's records."""
    spaced = [r for r in records if " " in r["premise"] + r["choice1"]]
    last_words = [f"{r['premise']} {r['choice1'].rstrip('.')}" for r in spaced]
    for lang in ("en", "fr", "id"):
        last_words += [i["context"].rstrip('.!"”»') for i in benchmark.story_items("what", lang)]
    return {"piqa": [piqa(r) for r in records],
            "hellaswag": [hellaswag(i, a, b) for i, (a, b) in enumerate(zip(records, records[1:]))],
            "winogrande": [winogrande(r) for r in records],
            "lambada": [{"text": text} for text in last_words]}


def comparisons(paths, folder):
    """[(the harness's task, its file, evaluate.py's task)]"""
    found, records = [], []
    for path in paths:
        lang = re.search(r"\.(\w+)\.jsonl$", path)
        if not lang:
            raise ValueError(f"{path}: its name must end with the language, as xcopa.val.it.jsonl")
        found.append((f"xcopa_{lang[1]}", path, f"xcopa.{lang[1]}={path}"))
        records += read_lines(path)
    for name, rows in made_of(records).items():
        path = f"{folder}/{name}.jsonl"
        write_lines(path, rows)
        found.append(("lambada_openai" if name == "lambada" else name, path, f"{name}={path}"))
    return found


def theirs(lm, manager, name, path, folder):
    """The harness's (samples, results) of one task on a local file: its own definition, with the file in
    place of the data set."""
    import lm_eval
    task = {"task": f"{name}_here", "include": str(manager.task_index[name].yaml_path),
            "dataset_path": "json", "dataset_name": None,
            "dataset_kwargs": {"data_files": {"validation": path}},
            "training_split": None, "test_split": None, "validation_split": "validation"}
    if "lambada" not in name:
        metrics = ["acc"] if name == "winogrande" else ["acc", "acc_norm"]
        task["metric_list"] = [{"metric": m} for m in metrics]
    config.write_json(f"{folder}/task.yaml", task)          # JSON is YAML
    found = lm_eval.simple_evaluate(model=lm, tasks=[f"{folder}/task.yaml"], task_manager=manager,
                                    log_samples=True, bootstrap_iters=0)
    (name, samples), = found["samples"].items()
    return sorted(samples, key=lambda s: s["doc_id"]), found["results"][name]


def compare(samples, results, ours):
    """(whether both are equal, a line that says how far they are apart)."""
    mine = [e["scores"] if isinstance(e["scores"], list) else [e["scores"]] for e in ours["each"]]
    if len(samples) != len(mine):
        return False, f"{len(samples)} items there, {len(mine)} here"
    far = 0.0
    for sample, scores in zip(samples, mine):
        p = [float(response[0][0]) for response in sample["resps"]]
        far = max(far, *(abs(a - b) for a, b in zip(p, scores, strict=True)))
    figures, differ = [], 0
    rules = {"acc": "greedy" if ours["rule"] == "greedy" else "sum", "acc_norm": "char"}
    for metric, rule in rules.items():
        if metric in samples[0]:
            n = sum(bool(s[metric]) != e["right"][rule] for s, e in zip(samples, ours["each"]))
            differ += n
            figures.append(f"{metric} {results[f'{metric},none']:.4f} and {ours[rule][0]:.4f}, "
                           f"{n} of {len(mine)} items differ")
    line = (f"{len(mine):4} items, {sum(map(len, mine)):4} log-probabilities differ by at most {far:.1e}; "
            f"{', '.join(figures)}; {ours['cut']} contexts cut")
    return far <= TOLERANCE and not differ, line


def random_runs(paths, folder):
    """{name: run folder} of a BLOOM and a LLaMA of random weights, with tokenizers made from these files."""
    texts = []
    for path in paths:
        for r in read_lines(path):
            texts += [r["premise"], r["choice1"], r["choice2"]]
    samples = recipe.Source("samples", f"{ROOT}/samples/*.txt", reader="samples")
    texts += [d["text"] for d in sources.read_documents(samples)]
    runs = {name: f"{folder}/{name}" for name in ("bloom", "llama")}
    for name, run in runs.items():
        random_run(name, texts, run)
    return runs


def compare_run(name, run, every, folder):
    """Print a line for each of the comparisons `every`; returns how many differ."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    model, _ = checkpoint.open_run(run).load()
    out = f"{folder}/exported-{os.path.basename(run)}"
    hf, hf_tokenizer = exported(run, out)
    tokenizer = tokenizers.load(out, imported=True)
    # float64: in float32 the harness's sums over a long text are rounded by 1e-4
    lm = HFLM(pretrained=hf, tokenizer=hf_tokenizer, max_length=CONTEXT, batch_size=5,
              softmax_dtype="float64")
    manager, wrong = TaskManager(), 0
    for task, path, spec in every:
        samples, results = theirs(lm, manager, task, path, folder)
        items, _, form = tasks.load_items(spec, shots=0)
        equal, line = compare(samples, results, scoring.score_items(model, tokenizer, items, form, T=CONTEXT))
        wrong += not equal
        print(f"{name}  {task:15} {line}", flush=True)
    return wrong


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("files", nargs="+", metavar="xcopa.val.LANG.jsonl")
    ap.add_argument("--run", metavar="runs/NAME", help="a BLOOM or LLaMA, trained or imported")
    args = ap.parse_args()
    if not importlib.util.find_spec("lm_eval"):
        raise ValueError("pip install 'lm_eval[hf]==0.4.13', in an environment of its own")
    paths, wrong = [os.path.abspath(p) for p in args.files], 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_HOME": folder, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
                       "TOKENIZERS_PARALLELISM": "false"}
        every = comparisons(paths, folder)
        runs = {args.run: args.run} if args.run else random_runs(paths, folder)
        for name, run in runs.items():
            wrong += compare_run(name, run, every, folder)
    print("all equal" if not wrong else f"{wrong} comparisons differ")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    config.command(main)
