import os
import pickle
import resource
import shutil

import pytest
import torch
from conftest import arguments, log, tiny
from safetensors.torch import load_file, save_file

import checkpoint
import config
import convert
import data
import train
from generate import Draw, generate
from hub import layouts, transfer
from model import mlp_width

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
ROWS = 512          # of the embedding; the tokenizers have 500 entries
BOTH = pytest.mark.parametrize("name", ["bloom", "llama"])
IDS = torch.randint(4, 500, (2, 23), generator=torch.Generator().manual_seed(0))
CLOSE = 5e-4        # float32 products in another order differ in the sixth digit of logits near 10
SHAPE = {
    "bloom": {"hidden_size": 48, "n_layer": 2, "n_head": 4, "layer_norm_epsilon": 1e-3, "vocab_size": ROWS},
    "llama": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
              "rms_norm_eps": 1e-3, "max_position_embeddings": 128, "vocab_size": ROWS}}


def small(name, **changes):
    """A random model. No number is at its starting value: a norm or a bias that is left out shows."""
    torch.manual_seed(0)
    cfg = transformers.AutoConfig.for_model(name, **SHAPE[name] | changes)
    model = transformers.AutoModelForCausalLM.from_config(cfg)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return model.eval()


def save(model, folder, prepared, **settings):
    """As a Hugging Face folder, with a tokenizer of the prepared corpus."""
    model.save_pretrained(folder, **settings)
    kind = "tiny" if model.config.model_type == "bloom" else "tiny-sp"
    shutil.copytree(prepared / "data" / kind / "tokenizer", folder, dirs_exist_ok=True)
    return str(folder)


@pytest.fixture(scope="module")
def originals(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    return {name: save(small(name), folder / name, prepared) for name in ("bloom", "llama")}


@pytest.fixture
def folder(originals, work):
    """Copies an original to hf."""
    return lambda name="llama": shutil.copytree(originals[name], "hf")


@pytest.fixture
def trained(work, runs):
    """runs/bloom and runs/llama: 100 steps, checkpoints of 50 and 100, validation at 0 and 100."""
    shutil.copytree(runs, "runs")


def edit(path, **changes):
    """Change keys of a JSON file; None takes one out."""
    facts = config.read_json(path) | changes
    config.write_json(path, {k: v for k, v in facts.items() if v is not None})


def come_in(folder, run="runs/in"):
    transfer.import_folder(folder, run)
    return checkpoint.open_run(run)


def read_card(path, out, **more):
    transfer.export_run(path, out, **more)
    with open(f"{out}/README.md", encoding="utf-8") as f:
        return f.read()


def weights(folder):
    files = [f for f in os.listdir(folder) if f.endswith(".safetensors")]
    return {name: t for f in files for name, t in load_file(f"{folder}/{f}").items()}


def equal(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def overwrite(path, content):
    with open(path, "wb") as f:
        f.write(content)


# ---- the laws ----

NEW_THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
OLD_THETA = {"rope_parameters": None, "rope_theta": 500_000}
LINEAR = {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}
OLD_LINEAR = {"rope_parameters": None, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}}
FACTORS = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 64}
LLAMA3 = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **FACTORS}}
OLD_LLAMA3 = {"rope_parameters": None, "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **FACTORS}}


@pytest.mark.parametrize("name, changes, edits", [
    ("bloom", {"n_head": 1}, {}), ("bloom", {"n_head": 6}, {}), ("bloom", {"tie_word_embeddings": False}, {}),
    ("llama", {"num_key_value_heads": 2, "intermediate_size": 256}, {}), ("llama", NEW_THETA, {}),
    ("llama", NEW_THETA | {"tie_word_embeddings": True, "num_attention_heads": 6}, OLD_THETA),
    ("llama", LINEAR, {}), ("llama", LINEAR, OLD_LINEAR), ("llama", LLAMA3, {}),
    ("llama", LLAMA3 | {"num_key_value_heads": 2, "tie_word_embeddings": True}, OLD_LLAMA3)])
def test_an_imported_model_has_the_logits_of_transformers(name, changes, edits, work, prepared):
    hf = small(name, **changes)
    save(hf, "hf", prepared, max_shard_size="30KB")
    edit("hf/config.json", **edits)
    model, _ = come_in("hf").load()
    assert (model(IDS) - hf(IDS).logits).abs().max() < CLOSE


@BOTH
def test_training_goes_on_from_an_import_as_in_transformers_with_adamw(name, work, prepared):
    hf = small(name).train()
    come_in(save(hf, "hf", prepared))
    path, *settings = arguments(name, "on", "init_from=runs/in", "run.tokens=640", "run.eval_every=100",
                                "optim.warmup=256", "optim.lr=1e-3", "machine.save_every=100")
    shape = ("model.layers", "model.dim", "model.heads")
    cfg = train.load_config(path, [s for s in settings if not s.startswith(shape)])
    train.train(cfg)
    rows, o, theirs = data.Rows(cfg), cfg.optim, []
    matrices = {"params": [p for p in hf.parameters() if p.dim() > 1], "weight_decay": o.weight_decay}
    vectors = {"params": [p for p in hf.parameters() if p.dim() == 1], "weight_decay": 0.0}
    adamw = torch.optim.AdamW([matrices, vectors], betas=(o.beta1, o.beta2), eps=o.eps)
    for step in range(5):
        x, y, _, valid = rows.rows(step)
        logits, targets = hf(torch.from_numpy(x)).logits.flatten(0, 1), torch.from_numpy(y).flatten()
        loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum") / valid
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), o.clip)
        for group in adamw.param_groups:
            group["lr"] = train.lr_at((step + 1) * cfg.run.batch * cfg.model.context, o, cfg.run.tokens)
        adamw.step()
        adamw.zero_grad()
        theirs.append(loss.item())
    ours = [r["loss"] for r in log("on") if "loss" in r]
    assert ours == pytest.approx(theirs, abs=1e-4) and len(ours) == 5 and abs(ours[0] - ours[4]) > 0.01


@pytest.mark.parametrize("name, dtype, changes", [
    ("bloom", torch.float32, {}), ("llama", torch.bfloat16, LLAMA3 | {"num_key_value_heads": 2}),
    ("llama", torch.float16, LINEAR)])
def test_import_then_export_gives_the_same_tensors_names_and_dtypes(name, dtype, changes, work, prepared,
                                                                    monkeypatch):
    hf = small(name, **changes).to(dtype)
    save(hf, "hf", prepared, max_shard_size="30KB")
    monkeypatch.setattr(transfer, "SHARD", 20_000)
    come_in("hf")
    folder = "runs/in/checkpoints/0000000/model"
    files = [load_file(f"{folder}/{file}") for file in os.listdir(folder)]
    assert len(files) > 3
    assert all(sum(t.nbytes for t in tensors.values()) <= 20_000 or len(tensors) == 1 for tensors in files)
    transfer.export_run("runs/in", "out")
    assert equal(weights("hf"), weights("out"))
    assert all(os.stat(f"out/{f}").st_mode & 0o044 for f in os.listdir("out")), "others may read it"
    facts, written = config.read_json("hf/config.json"), config.read_json("out/config.json")
    for key in facts.keys() & written.keys() - {"bos_token_id", "pad_token_id"}:
        assert facts[key] == written[key], key
    loaded, about = transformers.AutoModelForCausalLM.from_pretrained("out", output_loading_info=True)
    assert loaded.dtype == dtype and not any(about.values())
    before = transformers.AutoModelForCausalLM.from_pretrained("hf")
    assert torch.equal(loaded(IDS).logits, before(IDS).logits)


@BOTH
def test_an_exported_run_opens_in_transformers_with_the_same_logits_and_greedy_text(name, trained):
    run = checkpoint.open_run(f"runs/{name}")
    transfer.export_run(run.path, "out")
    (model, _), tokenizer = run.load(), run.tokenizer()
    hf, about = transformers.AutoModelForCausalLM.from_pretrained("out", output_loading_info=True)
    assert not any(about.values()), "no weight is missing, unexpected or of another shape"
    prompt = [*tokenizer.begin, *tokenizer.encode("The cat")]
    ids = torch.tensor([prompt])
    assert (model(ids) - hf(ids).logits).abs().max() < CLOSE
    ours = [i for _, i, _ in generate(model, tokenizer, [prompt], 20, Draw(temperature=0))]
    greedy = hf.generate(ids, do_sample=False, max_new_tokens=20)[0, len(prompt):].tolist()
    assert [*ours, tokenizer.eos][:20] == greedy
    g = hf.generation_config
    assert (g.do_sample, g.temperature, g.top_p, g.top_k) == (True, 0.8, 0.95, 0), "as sample.py draws"
    assert g.suppress_tokens == list(range(tokenizer.vocab, model.cfg.vocab)), "rows without an entry"
    back, m = come_in("out", "runs/back"), model.cfg
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), back.load()[0].parameters()))
    written = {"kv_heads": m.kv_heads or m.heads, "mlp_dim": m.mlp_dim or mlp_width(m.mlp, m.dim)}
    assert vars(back.shape) == vars(m) | (written if name == "llama" else {})
    assert back.imported == {"from": "out", "eos": [tokenizer.eos], "dtype": "float32"}


# ---- what is understood ----

@BOTH
def test_names_without_prefix_buffers_a_tied_head_twice_and_mixed_dtypes_are_understood(name, work, prepared):
    save(small(name, tie_word_embeddings=True), "hf", prepared)
    mixed = {k: t.bfloat16() if "norm" in k else t.half() for k, t in weights("hf").items()}
    embed, = layouts.names(name, "embed.weight")
    buffer = "h.0.self_attention.masked_bias" if name == "bloom" else "layers.0.self_attn.rotary_emb.inv_freq"
    bare = {k.removeprefix(layouts.PREFIX[name]): t for k, t in mixed.items()}
    more = {buffer: torch.ones(6), "lm_head.weight": mixed[embed].clone()}
    save_file(bare | more, "hf/model.safetensors")
    facts = come_in("hf").imported
    assert facts.pop("dtype") == "float32", "it loses nothing"
    edit("runs/in/config.json", imported=facts)             # as older imports are
    transfer.export_run("runs/in", "out")
    assert equal(weights("out"), {k: t.float() for k, t in mixed.items()})


@pytest.mark.parametrize("generation, eos, want", [
    ({"eos_token_id": [2, 7]}, 5, [2, 7]), ({}, 5, [5]), ({}, None, [2])])
def test_ids_that_end_a_text_come_from_the_generation_settings_first(generation, eos, want, folder):
    config.write_json(f"{folder()}/generation_config.json", generation)
    edit("hf/config.json", eos_token_id=eos)
    tokenizer = come_in("hf").tokenizer()
    assert tokenizer.ends == {*want} and tokenizer.begin == [tokenizer.bos]
    transfer.export_run("runs/in", "out")
    written = config.read_json("out/generation_config.json")["eos_token_id"]
    assert written == (want if len(want) > 1 else want[0])
    config.write_json("hf/generation_config.json", {"eos_token_id": ["x"]})
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id=.'x'. must be whole"):
        come_in("hf", "runs/wrong")


# ---- what is refused ----

def refused(words):
    """What is refused leaves nothing, and nothing of it was run."""
    with pytest.raises(ValueError, match=words) as e:
        come_in("hf")
    assert len(str(e.value)) < 600
    left = os.listdir("runs") if os.path.exists("runs") else []
    assert not left and not os.path.exists("ran")


NORM = torch.ones(48)


@pytest.mark.parametrize("changes, words", [
    # keys of config.json
    ({"model_type": "mistral"}, "config.json: model_type 'mistral' is not supported; bloom and llama are"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2}}, "RoPE of kind 'yarn'"),
    ({"rope_parameters": {"rope_type": "llama3", "factor": 2}}, "RoPE of kind 'llama3' with {'factor': 2}"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "kind 'default' with {'partial_rotary_factor'"),
    ({"rope_parameters": {"rope_type": "llama3", **FACTORS, "high_freq_factor": 1}}, "low_freq_factor below"),
    ({"rope_theta": 5e5}, "rope_theta, rope_parameters and rope_scaling say different things"),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_parameters and rope_scaling say different"),
    ({"rope_scaling": "linear"}, "config.json: "),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    ({"attention_bias": True}, "attention_bias=True .* must be false"), ({"mlp_bias": True}, "mlp_bias=True"),
    ({"sliding_window": 8}, "sliding_window=8 is not supported; it must be null"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config={.* must be null"),
    ({"original_max_position_embeddings": 64}, "original_max_position_embeddings=64"),
    ({"head_dim": 24}, "head_dim=24 is not supported; it must be .* 48 / 4"),
    ({"num_attention_heads": 0}, "model.heads=0: it must be above 0"),
    ({"num_attention_heads": 5}, "model.dim=48 must be a multiple"),
    ({"hidden_act": "gelu"}, "hidden_act=.* must be \"silu\""), ({"hidden_size": "48"}, "dim='48' must be"),
    ({"hidden_size": None}, "config.json: 'hidden_size' is missing"), ({"vocab_size": 511}, "embed_tokens"),
    ({"num_hidden_layers": 3}, "layers.2.* is missing"), ({"num_key_value_heads": 2}, "k_proj.weight is"),
    ({"tie_word_embeddings": True}, "lm_head.weight is not the embed"),
    ({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}, "apply_residual"),
    ({"model_type": "bloom", "slow_but_exact": True}, "slow_but_exact=True"),
    ({"model_type": "bloom", "num_attention_heads": 2}, "num_attention_heads': 2. say different"),
    # tensors
    ({"model.norm.weight": None}, "hf: the tensor model.norm.weight is missing"),
    ({"model.layers.0.self_attn.q_proj.bias": NORM}, "tensor .*q_proj.bias is not of this model"),
    ({"model.norm.weight": NORM[:47]}, "model.norm.weight is .47.*with these settings it must be .48."),
    ({"model.norm.weight": NORM.to(torch.float8_e4m3fn)}, "model.norm.weight is .*float8_e4m3fn; .* must be"),
    ({"norm.weight": NORM}, "the tensor norm.weight is .* too")])
def test_what_this_model_is_not_is_refused_by_name(changes, words, folder):
    folder("bloom" if changes.get("model_type") == "bloom" else "llama")
    edit("hf/config.json", **{k: v for k, v in changes.items() if "." not in k})
    tensors = weights("hf") | {k: v for k, v in changes.items() if "." in k}
    save_file({k: v for k, v in tensors.items() if v is not None}, "hf/model.safetensors")
    refused(words)


class Trap:
    """Opened as a pickle, it makes a file."""
    def __reduce__(self):
        return open, ("ran", "w")


def test_folders_made_to_harm_are_refused_in_one_line_and_nothing_in_them_runs(folder):
    file = f"{folder()}/model.safetensors"
    with open(file, "rb") as f:
        whole = f.read()
    for content in pickle.dumps(Trap()), whole[:-1], b"", (2 ** 60).to_bytes(8, "little") + b"{}":
        overwrite(file, content)
        refused("model.safetensors is damaged")
    os.rename(file, "hf/pytorch_model.bin")
    refused("no .safetensors files.*pytorch_model.bin.*save_pretrained")
    for content in b"[1]", b"{", b'{"a":' * 100_000:
        overwrite("hf/config.json", content)
        refused("^hf/config.json")


def test_a_tokenizer_that_is_missing_or_too_large_is_refused(work, prepared):
    save(small("llama", vocab_size=400), "hf", prepared)
    refused("500 entries.*400 rows")
    os.remove("hf/tokenizer.model")
    refused("no tokenizer in hf")


def test_a_mixture_that_neither_model_has_is_refused_by_name(work):
    for name, *settings in [("bloom", "model.position=rope"), ("llama", "model.norm=layer"),
                            ("bloom", "model.kv_heads=1", "model.mlp_dim=64"),
                            ("llama", "model.bias=True", "model.embed_norm=True")]:
        with pytest.raises(ValueError, match=f"runs/mixed .* has no {', '.join(settings)}"):
            layouts.family_of(tiny(name, "mixed", *settings).model, "runs/mixed")
    for free in "model.tied=false", "model.tied=true", "model.eps=1e-3", "model.kv_heads=3":
        assert layouts.family_of(tiny("bloom", "mixed", free).model, "runs/mixed") == "bloom"


# ---- files and the command ----

def test_an_error_or_ctrl_c_leaves_nothing_and_nothing_that_is_there_is_written_over(work):
    for error in KeyboardInterrupt, OSError:
        with pytest.raises(error), transfer.new_folder("out") as new:
            overwrite(f"{new}/part", b"")
            assert not os.path.exists("out"), "the name appears last"
            raise error
        assert os.listdir() == ["data"]
    for there, error in ("mine", ValueError), ("killed.new", FileExistsError):
        os.makedirs(f"{there}/kept")
        with pytest.raises(error, match=there), transfer.new_folder(there.removesuffix(".new")):
            pass
        assert os.listdir(there) == ["kept"]


def test_a_full_disk_ends_an_import_in_one_line_and_leaves_nothing(folder):
    folder()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))         # no file may be longer
    try:
        with pytest.raises(OSError, match="cannot write runs/in.new/checkpoints.*large"):
            come_in("hf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not os.listdir("runs")


def test_the_command_says_what_it_wrote(originals, work, monkeypatch, capsys):
    def said(*words):
        monkeypatch.setattr("sys.argv", ["convert.py", *words])
        convert.main()
        return capsys.readouterr().out
    assert "wrote runs/in: " in said("import", f"{originals['bloom']}/", "runs/in/")
    assert "wrote out: " in said("export", "runs/in", "out", "--step", "0", "--licence", "mit")


# ---- the card ----

def test_the_card_says_what_the_run_knows(trained):
    os.makedirs("runs/bloom/evaluations")
    score = {"items": 9, "rule": "sum", "sum": [0.25, 0.1], "chance": 0.5}
    prompts = [{"prompt": i, "prompt_text": text, **score} for i, text in enumerate(["so", "why?"])]
    for step in 50, 100:
        record = {"step": step, "task": f"of{step}", "shots": 0, "context": 64, "prompts": prompts}
        config.write_json(f"runs/bloom/evaluations/{step}.json", record)
    card = read_card("runs/bloom", "out", licence="cc-by-4.0")
    records = checkpoint.open_run("runs/bloom").records()
    val, = [r["val"] for r in records if r["step"] == 100 and "val" in r]
    fr = val["sources"]["fr"]
    assert card.startswith('---\nlicense: "cc-by-4.0"\nlibrary_name: transformers\npipeline_tag:')
    for words in ("| validation at step 100 |", f"| all | {round(val['loss'], 4)} |", "12,800 tokens in 100",
                  f"| fr | {round(fr['loss'], 4)} | {round(fr['bits_per_byte'], 4)} |", "| optim.lr | 0.01 |",
                  "| fr | unknown (", "| model.tied | True |", "| run.seed | 42 |", "| fr | 6,", "ids `[2]`",
                  "| of100 | 1 so | 0 | 64 | 9 | sum | 0.25 | 0.5 |", "| of100 | 2 why? |",
                  "## Limits", "## Licence\n\ncc-by-4.0"):
        assert words in card, words
    assert not any(words in card for words in ("What was taken out", os.getcwd(), "of50"))
    half = read_card("runs/bloom", "half", step=50)
    for words in "6,400 tokens in 50", "| validation at step 0 |", "permits nothing":
        assert words in half, words
    come_in("out")
    again = read_card("runs/in", "again")
    assert "imported from `out`" in again
    assert not any(words in again for words in ("How a text begins", "## Training", "## Limits", "permits"))


def test_the_card_does_not_show_data_that_is_not_that_of_the_training(trained):
    sums = checkpoint.open_run("runs/bloom").facts["data_sha256"]
    edit("runs/bloom/config.json", data_sha256=sums | {"fr": "0"}, init_from="runs/before")
    os.remove("runs/bloom/log.jsonl")
    card = read_card("runs/bloom", "out")
    assert "had changed" in card and "en, fr" in card and "| fr |" not in card
    assert "began from the weights of `before`" in card
