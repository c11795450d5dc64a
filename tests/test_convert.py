import json
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
import tokenizer as tokenizers
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
LLAMA = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
         "rms_norm_eps": 1e-3, "max_position_embeddings": 128, "vocab_size": ROWS}
BLOOM = {"hidden_size": 48, "n_layer": 2, "n_head": 4, "layer_norm_epsilon": 1e-3, "vocab_size": ROWS}


def small(name, **changes):
    """A random model. No number is at its starting value: a norm or a bias that is left out shows."""
    torch.manual_seed(0)
    if name == "bloom":
        model = transformers.BloomForCausalLM(transformers.BloomConfig(**BLOOM | changes))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA | changes))
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
    """Copies an original to hf. What is refused afterwards must leave nothing."""
    yield lambda name="llama": shutil.copytree(originals[name], "hf")
    left = os.listdir("runs") if os.path.exists("runs") else []
    assert not left and not os.path.exists("ran"), "a refused folder leaves something, or was run"


@pytest.fixture
def trained(work, runs):
    """runs/bloom and runs/llama: 100 steps, checkpoints of 50 and 100, validation at 0 and 100."""
    shutil.copytree(runs, "runs")


def edit(path, **changes):
    """Change keys of a JSON file; None takes one out."""
    facts = config.read_json(path) | changes
    config.write_json(path, {k: v for k, v in facts.items() if v is not None})


def come_in(folder, name="runs/in", **more):
    transfer.import_folder(str(folder), name, **more)
    return checkpoint.open_run(name)


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

THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
OLD_THETA = {"rope_parameters": None, "rope_theta": 500_000}


@pytest.mark.parametrize("name, changes, edits", [
    ("bloom", {"n_head": 1}, {}), ("bloom", {"n_head": 6}, {}), ("bloom", {"tie_word_embeddings": False}, {}),
    ("llama", {}, {}), ("llama", {"num_key_value_heads": 2}, {}), ("llama", {"intermediate_size": 256}, {}),
    ("llama", {"tie_word_embeddings": True, "num_attention_heads": 6}, {}),
    ("llama", THETA, {}), ("llama", THETA, OLD_THETA)])
def test_an_imported_model_has_the_logits_of_transformers(name, changes, edits, work, prepared):
    hf = small(name, **changes)
    save(hf, "hf", prepared, max_shard_size="30KB")
    edit("hf/config.json", **edits)
    model, _ = come_in("hf").load()
    assert (model(IDS) - hf(IDS).logits).abs().max() < CLOSE


@BOTH
def test_greedy_texts_are_those_of_transformers_for_100_tokens(name, work, prepared):
    hf = small(name, tie_word_embeddings=False)         # tied, a random model repeats itself
    run = come_in(save(hf, "hf", prepared))
    (model, _), tokenizer = run.load(), run.tokenizer()
    tokenizer.ends, prompts = set(), [IDS[0, :n].tolist() for n in (4, 11, 1)]
    ours = [[] for _ in prompts]
    for r, i, _ in generate(model, tokenizer, prompts, 100, Draw(temperature=0)):
        ours[r].append(i)
    for prompt, text in zip(prompts, ours):
        theirs = hf.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=100, eos_token_id=None,
                             pad_token_id=0, suppress_tokens=list(range(tokenizer.vocab, ROWS)))
        assert text == theirs[0, len(prompt):].tolist() and len(set(text)) > 3


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


@pytest.mark.parametrize("name, dtype", [("bloom", torch.float32), ("bloom", torch.bfloat16),
                                         ("llama", torch.bfloat16), ("llama", torch.float16)])
def test_import_then_export_gives_the_same_tensors_names_and_dtypes(name, dtype, work, prepared):
    hf = small(name, **({} if name == "bloom" else {"num_key_value_heads": 2})).to(dtype)
    save(hf, "hf", prepared, max_shard_size="30KB")
    come_in("hf", size=20_000)
    folder = "runs/in/checkpoints/0000000/model"
    files = [load_file(f"{folder}/{file}") for file in os.listdir(folder)]
    assert len(files) > 3
    assert all(sum(t.nbytes for t in tensors.values()) <= 20_000 or len(tensors) == 1 for tensors in files)
    transfer.export_run("runs/in", "out", size=30_000)
    assert equal(weights("hf"), weights("out"))
    assert all(os.stat(f"out/{f}").st_mode & 0o044 for f in os.listdir("out")), "others may read it"
    places = config.read_json("out/model.safetensors.index.json")["weight_map"]
    assert places.keys() == weights("out").keys()
    assert all(key in load_file(f"out/{file}") for key, file in places.items())
    facts, written = config.read_json("hf/config.json"), config.read_json("out/config.json")
    for key in facts.keys() & written.keys() - {"bos_token_id", "pad_token_id"}:
        assert facts[key] == written[key], key
    loaded, about = transformers.AutoModelForCausalLM.from_pretrained("out", output_loading_info=True)
    assert loaded.dtype == dtype and not any(about.values())
    before = transformers.AutoModelForCausalLM.from_pretrained("hf")
    assert torch.equal(loaded(IDS).logits, before(IDS).logits)


@BOTH
def test_an_exported_run_opens_in_transformers_with_the_same_logits_ids_and_greedy_text(name, trained):
    run = checkpoint.open_run(f"runs/{name}")
    transfer.export_run(run.path, "out")
    (model, _), tokenizer = run.load(), run.tokenizer()
    hf, about = transformers.AutoModelForCausalLM.from_pretrained("out", output_loading_info=True)
    theirs = transformers.AutoTokenizer.from_pretrained("out")
    text = "Once upon a time, été 2024.\n\n  Two  spaces"
    assert not any(about.values()), "no weight is missing, unexpected or of another shape"
    assert theirs(text).input_ids == tokenizer.prompt + tokenizer.encode(text)
    prompt = [*tokenizer.begin, *tokenizer.encode("The cat")]
    ids = torch.tensor([prompt])
    assert (model(ids) - hf(ids).logits).abs().max() < CLOSE
    drawn = generate(model, tokenizer, [prompt], 20, Draw(temperature=0))
    ours = [i for _, i, _ in drawn if i not in tokenizer.ends]
    greedy = hf.generate(ids, do_sample=False, max_new_tokens=20)[0, len(prompt):].tolist()
    assert ours == (greedy[:greedy.index(tokenizer.eos)] if tokenizer.eos in greedy else greedy)
    g = hf.generation_config
    assert (g.do_sample, g.temperature, g.top_p, g.top_k) == (True, 0.8, 0.95, 0), "as sample.py draws"
    assert g.suppress_tokens == list(range(tokenizer.vocab, model.cfg.vocab)), "rows without an entry"
    back, m = come_in("out", "runs/back"), model.cfg
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), back.load()[0].parameters()))
    written = {"kv_heads": m.kv_heads or m.heads, "mlp_dim": m.mlp_dim or mlp_width(m.mlp, m.dim)}
    assert vars(back.shape) == vars(m) | (written if name == "llama" else {})
    assert back.imported == {"from": "out", "architecture": name, "eos": [tokenizer.eos], "dtype": "float32"}


def meta(hf, folder, files, embed_side):
    """A model of transformers as Meta writes it, by hand: rows of q and k interleaved, matrices cut."""
    c, w = hf.config, {k: v.detach() for k, v in hf.state_dict().items()}
    D = c.hidden_size // c.num_attention_heads

    def interleaved(m):
        out = m.clone()
        for head in range(0, len(m), D):
            for i in range(D // 2):
                out[head + 2 * i], out[head + 2 * i + 1] = m[head + i], m[head + i + D // 2]
        return out
    whole = {"tok_embeddings.weight": w["model.embed_tokens.weight"], "norm.weight": w["model.norm.weight"],
             "output.weight": w["lm_head.weight"]}
    for n in range(c.num_hidden_layers):
        theirs, ours = f"model.layers.{n}.", f"layers.{n}."
        for x in "qkvo":
            m = w[f"{theirs}self_attn.{x}_proj.weight"]
            whole[f"{ours}attention.w{x}.weight"] = interleaved(m) if x in "qk" else m
        for a, b in ("gate", "w1"), ("down", "w2"), ("up", "w3"):
            whole[f"{ours}feed_forward.{b}.weight"] = w[f"{theirs}mlp.{a}_proj.weight"]
        whole[f"{ours}attention_norm.weight"] = w[f"{theirs}input_layernorm.weight"]
        whole[f"{ours}ffn_norm.weight"] = w[f"{theirs}post_attention_layernorm.weight"]
    os.makedirs(folder)
    for s in range(files):
        part = {"rope.freqs": torch.ones(D // 2)}
        for name, t in whole.items():
            side = embed_side if "embed" in name else int("wo" in name or "w2" in name)
            part[name] = t.chunk(files, side)[s].clone() if t.dim() == 2 else t
        torch.save(part, f"{folder}/consolidated.{s:02d}.pth")
    config.write_json(f"{folder}/params.json", {
        "dim": c.hidden_size, "n_layers": c.num_hidden_layers, "n_heads": c.num_attention_heads,
        "n_kv_heads": c.num_key_value_heads, "norm_eps": c.rms_norm_eps, "vocab_size": -1, "multiple_of": 4})


@pytest.mark.parametrize("files, embed_side, changes", [
    (1, 0, {}), (2, 1, {"intermediate_size": 96}), (2, 0, {"num_key_value_heads": 2})])
def test_metas_own_files_give_the_logits_of_the_same_model(files, embed_side, changes, work, prepared):
    hf = small("llama", **changes)
    meta(hf, "meta/7B", files, embed_side)
    shutil.copy(prepared / "data/tiny-sp/tokenizer/tokenizer.model", "meta")        # its sizes share one
    model, _ = come_in("meta/7B").load()
    assert (model(IDS) - hf(IDS).logits).abs().max() < CLOSE and model.cfg.context == 2048
    transfer.export_run("runs/in", "out")
    assert equal(weights("out"), dict(hf.state_dict()))


# ---- what is understood ----

@BOTH
def test_a_key_that_is_missing_means_the_default_of_transformers(name, work):
    os.makedirs("hf")
    sizes = {k: v for k, v in (BLOOM if name == "bloom" else LLAMA).items() if isinstance(v, int)}
    sizes.pop("max_position_embeddings", None)
    config.write_json("hf/config.json", {"model_type": name, **sizes})
    (_, cfg), hf = layouts.read_config("hf"), transformers.AutoConfig.from_pretrained("hf")
    eps = hf.layer_norm_epsilon if name == "bloom" else hf.rms_norm_eps
    assert (cfg.eps, cfg.tied, cfg.init_std) == (eps, hf.tie_word_embeddings, hf.initializer_range)
    assert cfg.context == 2048 and cfg.theta == 10_000 and cfg.kv_heads is None


@BOTH
def test_names_without_prefix_buffers_a_written_out_tied_head_and_links_are_understood(name, work, prepared):
    come_in(save(small(name, tie_word_embeddings=True), "hf", prepared))
    tensors = {}
    for key, t in load_file("hf/model.safetensors").items():
        tensors[key.removeprefix("transformer.").removeprefix("model.")] = t
    embed = tensors["word_embeddings.weight" if name == "bloom" else "embed_tokens.weight"]
    buffer = "h.0.self_attention.masked_bias" if name == "bloom" else "layers.0.self_attn.rotary_emb.inv_freq"
    save_file({**tensors, buffer: torch.ones(6), "lm_head.weight": embed.clone()}, "hf/model.safetensors")
    edit("hf/config.json", architectures=["BloomModel" if name == "bloom" else "LlamaModel"])
    os.makedirs("cache")                    # Hugging Face's cache holds links
    for f in os.listdir("hf"):
        os.symlink(f"{work}/hf/{f}", f"cache/{f}")
    come_in("cache", "runs/bare")
    assert equal(*(weights(f"runs/{run}/checkpoints/0000000/model") for run in ("in", "bare")))


@pytest.mark.parametrize("generation, eos, want", [
    ({"eos_token_id": [2, 7]}, 5, [2, 7]), ({}, 5, [5]), ({}, None, [2])])
def test_ids_that_end_a_text_come_from_the_generation_settings_first(generation, eos, want, originals, work):
    shutil.copytree(originals["llama"], "hf")
    config.write_json("hf/generation_config.json", generation)
    edit("hf/config.json", eos_token_id=eos)
    tokenizer = come_in("hf").tokenizer()
    transfer.export_run("runs/in", "out")
    written = config.read_json("out/generation_config.json")["eos_token_id"]
    assert written == (want if len(want) > 1 else want[0])
    assert tokenizer.ends == set(want) and tokenizer.begin == [tokenizer.bos]


def test_mixed_dtypes_become_one_that_loses_nothing_and_an_older_import_goes_out_in_float32(originals, work):
    shutil.copytree(originals["llama"], "hf")
    mixed = {k: t.bfloat16() if "norm" in k else t.half() for k, t in weights("hf").items()}
    save_file(mixed, "hf/model.safetensors")
    assert come_in("hf").imported["dtype"] == "float32"
    transfer.export_run("runs/in", "out")
    assert equal(weights("out"), {k: t.float() for k, t in mixed.items()})
    save_file({k: t.bfloat16() for k, t in mixed.items()}, "hf/model.safetensors")
    facts = come_in("hf", "runs/old").imported
    assert facts.pop("dtype") == "bfloat16"
    edit("runs/old/config.json", imported=facts)
    transfer.export_run("runs/old", "out2")
    assert equal(weights("out2"), {k: t.bfloat16().float() for k, t in mixed.items()})


# ---- what is refused ----

def refused(words, **more):
    with pytest.raises(ValueError, match=words) as e:
        come_in("hf", **more)
    assert len(str(e.value)) < 600


NORM = torch.ones(48)


@pytest.mark.parametrize("changes, words", [
    # keys of config.json
    ({"model_type": "mistral"}, "mistral.*BloomForCausalLM and LlamaForCausalLM are"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "SequenceClassification"),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, "RoPE as in rope_scaling=.*linear"),
    ({"rope_parameters": {"rope_type": "llama3"}}, "RoPE as in rope_parameters=.*llama3"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ({"attention_bias": True}, "attention_bias"), ({"sliding_window": 128}, "sliding_window"),
    ({"hidden_act": "gelu"}, "hidden_act=.* must be \"silu\""), ({"head_dim": 16}, "head_dim=16"),
    ({"num_hidden_layers": 3}, "no tensor model.layers.2.*is a file missing"),
    ({"num_hidden_layers": 10 ** 6}, "1000000 layers are more than its 21 tensors"),
    ({"hidden_size": "48"}, "config.json: hidden_size='48' must be"), ({"hidden_size": 10 ** 99}, "size"),
    ({"hidden_size": None}, "does not say hidden_size"), ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    ({"num_key_value_heads": 3}, "3 key heads"), ({"num_attention_heads": 7}, "7 heads"),
    ({"vocab_size": 500}, "embed_tokens"), ({"tie_word_embeddings": True}, "lm_head.weight is not the embed"),
    ({"eos_token_id": [2, 512]}, "eos_token_id=.2, 512. must be ids from 0 to 511"),
    ({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}, "apply_residual"),
    ({"model_type": "bloom", "tie_word_embeddings": False}, "no tensor lm_head.weight, and the head"),
    # tensors
    ({"model.norm.weight": None}, "hf: there is no tensor model.norm.weight; is a file missing"),
    ({"model.norm.bias": NORM}, "the tensor model.norm.bias is none of this model's"),
    ({"model.norm.weight": NORM[:47]}, "model.norm.weight is .47.; with these settings it must be .48."),
    ({"model.norm.weight": NORM * torch.nan}, "hf: model.norm.weight has values that are NaN"),
    ({"model.norm.weight": NORM.to(torch.float8_e4m3fn)}, "model.norm.weight is F8_E4M3; it must be"),
    ({"norm.weight": NORM}, "the tensor norm.weight is .* too")])
def test_what_this_model_is_not_is_refused_by_name(changes, words, folder):
    folder("bloom" if changes.get("model_type") == "bloom" else "llama")
    os.remove("hf/generation_config.json")
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
        refused("model.safetensors is not a whole safetensors file")
    os.rename(file, "elsewhere.safetensors")
    overwrite("hf/pytorch_model.bin", pickle.dumps(Trap()))
    config.write_json(f"{file}.index.json", {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}})
    refused("no weights in .safetensors files.*pytorch_model.bin.*save_pretrained")
    for content in b"[1]", b"{", b'{"a":' * 100_000:
        overwrite("hf/config.json", content)
        refused("^hf/config.json")
    os.remove("hf/config.json")
    refused("no folder with config.json")


def test_metas_files_are_refused_where_they_are_not_understood_and_never_run(folder, prepared):
    meta(small("llama"), "hf", 2, 1)
    shutil.copy(prepared / "data/tiny-sp/tokenizer/tokenizer.model", "hf")
    params = config.read_json("hf/params.json")
    table = [({"use_scaled_rope": True}, "use_scaled_rope"), ({"dim": None}, "does not say dim"),
             ({"n_layers": 3}, "no tensor layers.2.*is a file missing")]
    for changes, words in table:
        edit("hf/params.json", **changes)
        refused(words)
        config.write_json("hf/params.json", params)
    second = "hf/consolidated.01.pth"
    good = torch.load(second, weights_only=True)
    for content in pickle.dumps(Trap()), b"x" * 1000:
        overwrite(second, content)
        refused(f"{second} does not hold tensors alone")
    torch.save({"a": Trap()}, second)
    refused(f"{second} does not hold tensors alone")
    torch.save({k: t for k, t in good.items() if k != "output.weight"}, second)
    refused("'output.weight' is missing")
    os.remove(second)
    refused("with these settings it must be")


def test_a_tokenizer_that_is_missing_or_too_large_is_refused_and_one_may_be_given(folder, prepared):
    os.remove(f"{folder()}/tokenizer.model")
    refused("no tokenizer in hf.*--tokenizer DIR")
    place = str(prepared / "data/tiny-sp/tokenizer")
    given = come_in("hf", place=place).tokenizer()
    assert tokenizers.fingerprint(given) == tokenizers.fingerprint(tokenizers.load(place))
    shutil.rmtree("runs")
    save(small("llama", vocab_size=400), "hf", prepared)
    refused("500 entries and the embedding 400 rows")


@pytest.mark.parametrize("name, settings", [
    ("bloom", ["position=rope"]), ("bloom", ["kv_heads=1"]), ("bloom", ["mlp_dim=64"]),
    ("llama", ["norm=layer"]), ("llama", ["bias=True", "embed_norm=True"])])
def test_a_mixture_that_neither_model_has_is_refused_by_name(name, settings, work):
    settings = [f"model.{setting}" for setting in settings]
    with pytest.raises(ValueError, match=", ".join(settings)):
        layouts.family_of(tiny(name, "mixed", *settings).model, "runs/mixed")
    for free in "model.tied=false", "model.tied=true", "model.eps=1e-3", "model.kv_heads=3":
        assert layouts.family_of(tiny(name, "mixed", free).model, "runs/mixed") == name


# ---- files and the command ----

def test_an_error_or_ctrl_c_leaves_nothing_and_nothing_that_is_there_is_written_over(work):
    for error in KeyboardInterrupt, OSError:
        with pytest.raises(error), transfer.new_folder("out") as new:
            overwrite(f"{new}/part", b"")
            assert not os.path.exists("out"), "the name appears last"
            raise error
        assert os.listdir() == ["data"]
    for there, words in ("mine", "there and not empty"), ("killed.new", "was killed or still runs"):
        os.makedirs(f"{there}/kept")
        with pytest.raises(ValueError, match=words), transfer.new_folder(there.removesuffix(".new")):
            pass
        assert os.listdir(there) == ["kept"]


def test_a_full_disk_ends_an_import_in_one_line_and_leaves_nothing(folder):
    folder()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))         # no file may be longer
    try:
        with pytest.raises(OSError, match="cannot write to runs/in.new/checkpoints.*large"):
            come_in("hf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_command_says_what_it_wrote(originals, work, monkeypatch, capsys):
    def said(*words):
        monkeypatch.setattr("sys.argv", ["convert.py", *words])
        convert.main()
        return capsys.readouterr().out
    out = said("import", f"{originals['bloom']}/", "runs/in/", "--shard-size", "2e4", "--context", "99")
    assert "wrote runs/in: " in out and "rows of 99 tokens" in out and "now: python sample.py runs/in" in out
    out = said("export", "runs/in", "out", "--step", "0", "--licence", "mit")
    assert "wrote out: " in out and "now: read out/README.md" in out
    with pytest.raises(ValueError, match="--step: -1 must be a whole number"):
        said("export", "runs/in", "x", "--step", "-1")


# ---- the card ----

def test_the_card_says_what_the_run_knows(trained):
    card = read_card("runs/bloom", "out", licence="cc-by-4.0")
    last = [r for r in checkpoint.open_run("runs/bloom").records() if r["step"] == 100]
    loss, = [r["loss"] for r in last if "loss" in r]
    val, = [r["val"] for r in last if "val" in r]
    fr, head = val["sources"]["fr"], card.split("---")[1]
    assert 'license: "cc-by-4.0"' in head and '- "fr"' in head and "library_name: transformers" in head
    for words in (f"Training loss at step 100: {loss:.4f}", "| validation at step 100 |",
                  f"| all | {round(val['loss'], 4)} |", "Learning rate 0.01 after", "12,800 tokens in 100",
                  f"| fr | {round(fr['loss'], 4)} | {round(fr['bits_per_byte'], 4)} |",
                  "| source | licence | permission |", "| fr | unknown | public |",
                  "| tied | True |", "mixed as the training rows", "Seed 42",
                  "ids `[2]`", "## Limits", "## Licence\n\ncc-by-4.0"):
        assert words in card, words
    assert "What was taken out" not in card and os.getcwd() not in card and "has changed" not in card
    half = read_card("runs/bloom", "half", step=50)
    for words in "6,400 tokens in 50", "loss at step 50: ", "| validation at step 0 |", "permits nothing":
        assert words in half, words
    come_in("out")
    again = read_card("runs/in", "again")
    assert "imported from `out`" in again
    assert not any(words in again for words in ("How a text begins", "## Training", "## Limits", "permits"))


def test_the_card_says_what_changed_on_the_way_and_what_is_not_there_any_more(trained):
    facts, run = checkpoint.open_run("runs/bloom").facts, "runs/bloom"
    edit(f"{run}/config.json", data_sha256=facts["data_sha256"] | {"fr": "0"}, init_from="runs/before")
    changed = {"run.tokens": [64, 128], "machine.micro": [1, 2]}
    start = {"processes": 2, "hardware": "two GPUs", "changed": changed}
    with open(f"{run}/log.jsonl", "a", encoding="utf-8") as f:
        f.write(json.dumps({"step": 50, "start": start}) + "\n")
    card = read_card(run, "out")
    for words in ("It has changed since the training", "began from the weights of `before`", "2; two GPUs",
                  "After step 50 run.tokens was changed from 64 to 128"):
        assert words in card, words
    assert "machine.micro" not in card
    os.remove("data")
    os.remove(f"{run}/log.jsonl")
    card = read_card(run, "later")
    assert "was not there" in card and "en, fr" in card
    assert "## Losses" not in card and "tokens read" not in card


def test_the_card_lists_the_scores_of_the_step_by_context_and_prompt(trained):
    os.makedirs("runs/bloom/evaluations")
    score = {"items": 9, "rule": "sum", "sum": [0.25, 0.1], "chance": 0.5}
    prompts = [{"prompt": i, "prompt_text": text, **score} for i, text in enumerate(["so", "why?"])]
    record = {"step": 100, "task": "xcopa", "shots": 0, "context": 32, "prompts": prompts}
    for name, change in ("near", {}), ("far", {"context": 64}), ("old", {"step": 50, "task": "old"}):
        config.write_json(f"runs/bloom/evaluations/{name}.json", record | change)
    text = read_card("runs/bloom", "out").split("## Tasks")[1]
    parts = text.split("In windows of 64 tokens, where the training had 32")
    for part in parts:
        assert "| xcopa | 1 so | 0 | 9 | sum | 0.25 | 0.5 |" in part and "| xcopa | 2 why? | 0 | 9 |" in part
    assert "old" not in text and len(parts) == 2


def test_an_export_takes_the_whole_checkpoint_before_a_damaged_one(trained):
    folder = "runs/llama/checkpoints/0000100/model"
    os.truncate(f"{folder}/{os.listdir(folder)[0]}", 100)
    assert "6,400 tokens in 50 steps" in read_card("runs/llama", "out")
    with pytest.raises(ValueError, match="no checkpoint of step 15"):
        transfer.export_run("runs/llama", "other", step=15)
