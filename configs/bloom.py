"""BLOOM (arXiv 2211.05100): the table of sizes and the recipe. Read it beside llama.py.

    python train.py configs/bloom.py                  # toy: minutes on a laptop
    python train.py configs/bloom.py size=560m data.name=roots
"""
from config import Config, Data, Machine, Model, Optim, Run

ROW = 2048                      # tokens in a row of the paper; its schedules count rows ("samples")

# the paper's table of hyper-parameters
# size   layers  width  heads  peak lr  rows per step  ramp increment    tokens
SIZES = {
    "toy":  (4,    128,     4,  4e-3,        16,            None,         1.0e6),
    "560m": (24,  1024,    16,  3.0e-4,     256,              32,         341e9),
    "1b1":  (24,  1536,    16,  2.5e-4,     256,              16,         341e9),
    "1b7":  (24,  2048,    16,  2.0e-4,     512,              16,         341e9),
    "3b":   (30,  2560,    32,  1.6e-4,     512,              32,         341e9),
    "7b1":  (30,  4096,    32,  1.2e-4,     512,              32,         341e9),
    "176b": (70, 14336,   112,  6.0e-5,    2048,              16,         366e9),
}


def config(size="toy"):
    layers, dim, heads, lr, batch, increment, tokens = SIZES[size]
    model = Model(
        layers=layers, dim=dim, heads=heads,
        position="alibi", norm="layer", mlp="gelu", bias=True, embed_norm=True, tied=True,
        eps=1e-5,
        init_std=0.0048,        # sqrt(1 / 3h) at h = 14336; the paper's runs use it at every size
        vocab=250_880,          # 250,680 entries, padded to a multiple of 4 x 128
    )
    lowest = 6e-6 if size == "176b" else 1e-5
    optim = Optim(lr=lr, min_lr=lowest, warmup=183_105 * ROW, decay=200_000_000 * ROW)
    run = Run(name=f"bloom-{size}", tokens=int(tokens), batch=batch, ramp=(192, increment, 9_765_625))
    data = Data(name="roots")
    machine = Machine(recompute=size not in ("560m", "1b1"))
    if size == "toy":           # the same program, small: what is not set here is as above
        model.context, model.vocab = 256, None
        model.init_std = round((3 * dim) ** -0.5, 4)        # the rule behind 0.0048
        optim = Optim(lr=lr, min_lr=lr / 10, warmup=40 * batch * model.context)
        run = Run(name="bloom-toy", tokens=int(tokens), batch=batch, eval_every=100)
        data = Data(name="sample")
        machine = Machine(micro=batch, prepare="configs/data/sample.py")
    return Config(size, model, optim, run, data, machine)
