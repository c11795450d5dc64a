"""Models of Hugging Face in and out: weights, settings and tokenizer of BLOOM and LLaMA.

    python convert.py import HF_DIR runs/NAME     # sample.py, evaluate.py, train.py init_from=runs/NAME go on
    python convert.py export runs/bloom-toy OUT --licence cc-by-4.0     # opens with AutoModelForCausalLM
    python convert.py export runs/bloom-toy toy.gguf --gguf             # one file for llama.cpp

What is not exactly one of the two models is refused by name, and nothing in a folder is run. OUT/README.md
is the model card. The work is done by hub/transfer.py and hub/gguf.py.
"""
import config


def main():
    ap = config.Parser(__doc__)
    acts = ap.add_subparsers(required=True, dest="act", metavar="import|export")
    come = acts.add_parser("import", help="a folder of Hugging Face becomes runs/NAME", doc=__doc__)
    come.add_argument("folder", metavar="HF_DIR")
    come.add_argument("run", metavar="runs/NAME")
    go = acts.add_parser("export", doc=__doc__,
                         help="runs/NAME becomes a folder for transformers, or a file for llama.cpp")
    go.add_argument("run", metavar="runs/NAME")
    go.add_argument("out", metavar="OUT")
    go.add_argument("--step", type=config.number(0, 1e12), help="default: the newest checkpoint")
    go.add_argument("--licence", metavar="TEXT",
                    help="the model's, for its card: a name that Hugging Face knows, such as cc-by-4.0")
    go.add_argument("--gguf", action="store_true", help="OUT is a file for llama.cpp")
    go.add_argument("--dtype", choices=("float32", "float16"),
                    help="with --gguf (default: float32); a folder keeps the dtype of the run")
    a = ap.parse_args()
    from hub import gguf, transfer  # here: PyTorch takes seconds to load, and --help does not need it
    run = a.run.rstrip("/")
    if a.act == "import":
        transfer.import_folder(a.folder.rstrip("/"), run)
    elif a.gguf:
        gguf.export_run(run, a.out, a.step, a.licence, a.dtype or "float32")
    elif a.dtype:
        raise ValueError("--dtype is for --gguf; a folder keeps the dtype of the run")
    else:
        transfer.export_run(run, a.out.rstrip("/"), a.step, a.licence)


if __name__ == "__main__":
    config.command(main)
