"""LLaMA (arXiv 2302.13971): the table of sizes and the recipe. Read it beside bloom.py.

    python train.py configs/llama.py                  # toy: minutes on a laptop
    python train.py configs/llama.py size=7b data.name=llama
"""
from config import Config, Data, Machine, Model, Optim, Run

STEP = 2048 * 2048              # tokens per step: the paper says 4M

# size   layers  width  heads  peak lr     eps    tokens   (Table 2)
SIZES = {
    "toy":  (4,    128,     4,   4e-3,    1e-6,    1.0e6),
    "7b":   (32,  4096,    32,  3.0e-4,   1e-6,    1.0e12),
    "13b":  (40,  5120,    40,  3.0e-4,   1e-6,    1.0e12),
    "33b":  (60,  6656,    52,  1.5e-4,   1e-6,    1.4e12),
    "65b":  (80,  8192,    64,  1.5e-4,   1e-5,    1.4e12),
}


def config(size="toy"):
    layers, dim, heads, lr, eps, tokens = SIZES[size]
    model = Model(
        layers=layers, dim=dim, heads=heads,
        position="rope", norm="rms", mlp="swiglu", bias=False, embed_norm=False, tied=False,
        eps=eps,
        init_std=0.02,          # the paper prints no initialisation: our choice, scaled as in BLOOM
        vocab=32_000,
    )
    optim = Optim(lr=lr, min_lr=lr / 10, warmup=2000 * STEP)    # cosine over the whole run, to 10%
    run = Run(name=f"llama-{size}", tokens=int(tokens), batch=2048)
    data = Data(name="llama")
    machine = Machine(recompute=True)
    if size == "toy":           # the same program, small: what is not set here is as above
        model.context, model.vocab = 256, None
        run = Run(name="llama-toy", tokens=int(tokens), batch=16, eval_every=100)
        optim.warmup = 40 * run.batch * model.context
        data = Data(name="sample-sentencepiece")
        prepare = "configs/data/sample.py name=sample-sentencepiece tokenizer.kind=sentencepiece"
        machine = Machine(micro=run.batch, prepare=prepare)
    return Config(size, model, optim, run, data, machine)
