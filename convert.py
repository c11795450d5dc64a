"""Models of Hugging Face in and out: weights, settings and tokenizer of BLOOM and LLaMA.

    python convert.py import HF_DIR runs/NAME     # sample.py, evaluate.py, train.py init_from=runs/NAME go on
    python convert.py export runs/bloom-toy OUT --licence cc-by-4.0     # opens with AutoModelForCausalLM

What is not exactly one of the two models is refused by name, and nothing in a folder is run. OUT/README.md
is the model card. The work is done by hub/transfer.py.
"""
import config


def main():
    ap = config.Parser(__doc__)
    acts = ap.add_subparsers(required=True, dest="act", metavar="import|export")
    come = acts.add_parser("import", help="a folder of Hugging Face becomes runs/NAME", doc=__doc__)
    come.add_argument("folder", metavar="HF_DIR")
    come.add_argument("run", metavar="runs/NAME")
    go = acts.add_parser("export", help="runs/NAME becomes a folder for transformers", doc=__doc__)
    go.add_argument("run", metavar="runs/NAME")
    go.add_argument("out", metavar="DIR")
    go.add_argument("--step", type=config.number(0, 1e12), help="default: the newest checkpoint")
    go.add_argument("--licence", metavar="TEXT",
                    help="the model's, for its card: a name that Hugging Face knows, such as cc-by-4.0")
    a = ap.parse_args()
    from hub import transfer  # here: PyTorch takes seconds to load, and --help does not need it
    run = a.run.rstrip("/")
    if a.act == "import":
        transfer.import_folder(a.folder.rstrip("/"), run)
    else:
        transfer.export_run(run, a.out.rstrip("/"), a.step, a.licence)


if __name__ == "__main__":
    config.command(main)
