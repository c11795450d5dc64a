"""The same model and the same local files, scored by lm-evaluation-harness and by evaluate.py: equal to the item.

    pip install lm_eval==0.4.13         # in a virtual environment of its own: it brings much
    python tools/harness.py xcopa.val.it.jsonl xcopa.val.zh.jsonl           # XCOPA's released files, named *.LANG.jsonl
    python tools/harness.py xcopa.val.id.jsonl --run runs/bloom-toy         # a trained model instead

For a BLOOM and a LLaMA of random weights, or a run that convert.py exports, in Hugging Face's classes for the harness and in ours for evaluate.py, it compares
    multiple choice     the harness's own task definitions: xcopa of each language; and piqa, hellaswag and winogrande with records made of XCOPA's sentences:
                        every log-probability, and of every item what acc and acc_norm decide
                        (winogrande scores the same words after either name: it has no acc_norm)
    LAMBADA             the last words of the same sentences, and of our stories: log-probabilities, and whether greedy decoding writes them
    rolling             texts longer than the window, and shorter
and prints the largest difference of each. Exit code 1 where a log-probability differs by more than 1e-4 or a decision at all.
"""
import argparse
import json
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import torch

import config
import convert
import evaluate
import sample
import tokenizer as tokenizers
from corpus import recipe, sources
from evaluation import tasks
from model import Transformer, init

CONTEXT = 64            # so small that some items of every file are cut
TOLERANCE = 1e-4        # float32 sums in another order


def made(name, texts, folder, run):
    """(our model, our tokenizer, Hugging Face's model, its tokenizer): random weights with deviations that tell choices apart."""
    import transformers
    from test_model import hugging_face
    if run:
        convert.export_run(run, f"{folder}/exported")
        return *sample.load(run), transformers.AutoModelForCausalLM.from_pretrained(f"{folder}/exported").eval(), transformers.AutoTokenizer.from_pretrained(f"{folder}/exported")
    tokenizer = tokenizers.train("bpe" if name == "bloom" else "sentencepiece", texts, 2000)
    tokenizer.save(f"{folder}/{name}")
    cfg = config.load(f"{tasks.HERE}/configs/{name}.py").model
    cfg.layers, cfg.dim, cfg.heads, cfg.context, cfg.vocab = 2, 96, 6, CONTEXT, tokenizer.vocab + 24
    model, g = init(Transformer(cfg), 0).eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return model, tokenizer, hugging_face(name, model).eval(), transformers.AutoTokenizer.from_pretrained(f"{folder}/{name}")


def files(paths, folder):
    """[(harness task, its changes, evaluate.py's task)]; what is not XCOPA is made of XCOPA's sentences, a file of each."""
    records = [json.loads(line) for path in paths for line in open(path, encoding="utf-8")]
    made = {
        "piqa": [{"goal": r["premise"], "sol1": r["choice1"], "sol2": r["choice2"], "label": r["label"]} for r in records],
        "hellaswag": [{"activity_label": "Day", "ctx_a": a["premise"], "ctx_b": "then  [step]", "endings": [a["choice1"], a["choice2"], b["choice1"], b["choice2"]], "label": str(a["label"]), "ind": i}
                      for i, (a, b) in enumerate(zip(records, records[1:]))],
        "winogrande": [{"sentence": f"{r['premise']} _ {r['choice1']}", "option1": r["premise"].split()[0], "option2": r["choice2"].split()[0], "answer": str(r["label"] + 1)} for r in records],
        "lambada": [{"text": f"{r['premise']} {r['choice1'].rstrip('.')}"} for r in records if " " in r["premise"] + r["choice1"]]
                   + [{"text": i["context"].rstrip('.!"”»')} for lang in ("en", "fr", "id") for i in tasks.story_items("what", lang)],
        "text": [{"text": " ".join(r[k] for r in records[i:i + n] for k in ("premise", "choice1", "choice2"))} for n in (1, 2, 4) for i in range(0, len(records) - n, 4 * n)]}
    for name, rows in made.items():
        with open(f"{folder}/{name}.jsonl", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    xcopa = [(f"xcopa_{lang}", path, f"xcopa.{lang}={path}") for path in paths for lang in [re.search(r"\.(\w+)\.jsonl$", path)[1]]]
    return [*xcopa, *((name, f"{folder}/{name}.jsonl", f"{name}={folder}/{name}.jsonl") for name in ("piqa", "hellaswag", "winogrande")),
            ("lambada_openai", f"{folder}/lambada.jsonl", f"lambada={folder}/lambada.jsonl"), (None, f"{folder}/text.jsonl", f"{folder}/text.jsonl")]


def theirs(lm, manager, name, path, folder):
    """The harness's (samples, results) of one task on a local file: its own definition, with the file in place of the data set."""
    import lm_eval
    task = {"task": f"{name or 'text'}_here", "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {"validation": path}}, "test_split": None,
            "training_split": None, "validation_split": "validation"}
    if name is None:
        task |= {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}", "metric_list": [{"metric": "bits_per_byte"}]}
    else:
        task |= {"include": str(manager.task_index[name].yaml_path)} | ({} if "lambada" in name else {"metric_list": [{"metric": m} for m in (("acc", "acc_norm") if name != "winogrande" else ("acc",))]})
    config.write_json(f"{folder}/task.yaml", task)          # JSON is YAML
    found = lm_eval.simple_evaluate(model=lm, tasks=[f"{folder}/task.yaml"], task_manager=manager, log_samples=True, bootstrap_iters=0)
    (name, samples), = found["samples"].items()
    return sorted(samples, key=lambda s: s["doc_id"]), found["results"][name]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("files", nargs="+", metavar="xcopa.val.LANG.jsonl")
    ap.add_argument("--run", metavar="runs/NAME", help="a trained or imported BLOOM or LLaMA, exported by convert.py, instead of random weights")
    args = ap.parse_args()
    paths = [os.path.abspath(p) for p in args.files]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_HOME": folder, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        try:
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager
        except ImportError as e:
            raise ValueError(f"{e}: pip install lm_eval==0.4.13, in a virtual environment of its own") from e
        texts = [t for p in paths for line in open(p, encoding="utf-8") for r in [json.loads(line)] for t in (r["premise"], r["choice1"], r["choice2"])]
        texts += [d["text"] for d in sources.read(recipe.Source("samples", f"{tasks.HERE}/samples/*.txt", reader="samples"))]
        every, manager = files(paths, folder), TaskManager()
        for name in ("bloom", "llama") if not args.run else ["bloom" if config.read_json(f"{args.run}/config.json")["model"]["position"] == "alibi" else "llama"]:
            model, tokenizer, hf, hf_tokenizer = made(name, texts, folder, args.run)
            lm = HFLM(pretrained=hf, tokenizer=hf_tokenizer, max_length=CONTEXT, batch_size=5, softmax_dtype="float64")    # in float32 its sums over a long text are rounded by 1e-4
            for task, path, spec in every:
                samples, results = theirs(lm, manager, task, path, folder)
                items, _, form = tasks.items(spec, shots=0)
                ours = evaluate.task(model, tokenizer, items, form, begin="harness", T=CONTEXT, batch=16)
                assert len(samples) == len(items)
                scores = [[float(r[0][0]) if isinstance(r[0], (list, tuple)) else float(r[0]) for r in s["resps"]] for s in samples]
                mine = [e["scores"] if isinstance(e["scores"], list) else [e["scores"]] for e in ours["each"]]
                far = max(abs(a - b) for s, m in zip(scores, mine) for a, b in zip(s, m, strict=True))
                decided = {"acc": "greedy" if "target" in items[0] else "sum", "acc_norm": "char"}
                other = {m: sum(bool(s[m]) != e["right"][decided[m]] for s, e in zip(samples, ours["each"])) for m in decided if m in samples[0]}
                wrong += far > TOLERANCE or any(other.values())
                figures = ", ".join(f"{m} {results[f'{m},none']:.4f} and {ours[decided[m]][0]:.4f}, {n} of {len(items)} items differ" for m, n in other.items()) \
                    or f"bits per byte {results['bits_per_byte,none']:.6f} and {ours['bits_per_byte']:.6f}"
                print(f"{name}  {task or 'rolling':15} {len(items):4} items, {sum(map(len, mine)):4} log-probabilities differ by at most {far:.1e}; {figures}; {ours['cut']} contexts cut", flush=True)
    print("all equal" if not wrong else f"{wrong} comparisons differ")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    config.command(main)
