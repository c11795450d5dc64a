import platform
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, log, tiny

import checkpoint
import config
import train
from fast import forms
from fast import loss as fast_loss
from model import Transformer, init

BOTH = pytest.mark.parametrize("name", ["bloom", "llama"])


@BOTH
def test_what_is_computed_again_changes_no_gradient(name):
    cfg = tiny(name, "r").model
    cfg.vocab, found = 131, {}
    ids = torch.randint(0, 131, (2, 33), generator=torch.Generator().manual_seed(0))
    for kind, block in forms.BLOCKS.items():
        model, kept = init(Transformer(cfg, block=block), 0), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        found[kind] = sum(kept), [p.grad for p in model.parameters()]
    assert found[True][0] < found[False][0], "less is kept"
    for kind in (True, "cheap"):
        assert all(torch.equal(a, b) for a, b in zip(found[kind][1], found[False][1]))


def test_only_a_long_run_is_compiled_by_itself(monkeypatch):
    monkeypatch.setattr(forms, "can_compile", lambda device: True)

    def compiled(*settings):
        cfg = tiny("llama", "r", "model.vocab=512", *settings)
        return forms.of_training(cfg, "cpu", None, train.flops_per_token)[1]
    assert not compiled("run.tokens=1e6") and compiled("run.tokens=1e10")
    assert compiled("machine.compile=true") and not compiled("run.tokens=1e10", "machine.compile=false")


def test_a_gpu_is_asked_for_the_same_bits_unless_a_setting_says_no(monkeypatch):
    asked = []
    monkeypatch.setattr(forms, "repeatable", asked.append)
    for device, *settings in [("cpu",), ("cuda",), ("cuda", "machine.deterministic=false")]:
        cfg = tiny("llama", "r", "model.vocab=512", "machine.compile=false", *settings)
        forms.of_training(cfg, device, None, train.flops_per_token)
    assert asked == [True, False]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc only")
def test_memory_that_is_freed_is_kept_for_the_next_step():
    """A page that the system gives is a fault, here 64 MiB ten times."""
    program = """if True:
        import resource, torch
        from fast import forms

        def faults():
            torch.ones(2 ** 24)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(10):
                torch.ones(2 ** 24)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        first = faults()
        forms.keep_memory()
        faults()                    # the first pieces find their places
        print(first, faults())"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    assert before > 300 and after < before / 10


def test_memory_is_kept_on_a_cpu_by_whoever_trains_or_reads(monkeypatch):
    kept = []
    monkeypatch.setattr(forms, "keep_memory", lambda: kept.append(device))
    monkeypatch.setattr(forms, "repeatable", lambda wanted: None)
    cfg = tiny("llama", "r", "model.vocab=512", "machine.compile=false")
    for device in ("cpu", "cuda"):
        forms.of_training(cfg, device, None, train.flops_per_token)
        forms.of_writing(cfg.model, device, torch.float32)
    assert kept == ["cpu", "cpu"]


@BOTH
def test_the_equations_alone_train_as_the_fast_forms_do(name, work, monkeypatch):
    train.train(tiny(name, "fast"))
    monkeypatch.setattr(forms, "of_training", lambda *args: ({}, False))
    train.train(tiny(name, "plain"))
    pairs = [(a["loss"], b["loss"]) for a, b in zip(log("fast"), log("plain"), strict=True) if "loss" in a]
    assert len(pairs) == 20 and all(a == pytest.approx(b, abs=1e-5) for a, b in pairs)


@BOTH
def test_the_residual_stream_may_be_bfloat16(name, work):
    """Rounding a stream to 8 bits changes a loss in its third digit, at most."""
    model, seen = init(Transformer(tiny(name, "r", "model.vocab=131").model, stream=torch.bfloat16), 0), []
    model.blocks[1].register_forward_hook(lambda block, args, out: seen.append((args[0].dtype, out.dtype)))
    model(torch.arange(8).view(1, 8))
    assert seen == [(torch.bfloat16, torch.bfloat16)], "in every block"
    train.train(tiny(name, "r"))
    train.train(tiny(name, "s", "machine.stream=bfloat16"))
    pairs = [(a["loss"], b["loss"]) for a, b in zip(log("r"), log("s"), strict=True) if "loss" in a]
    assert any(a != b for a, b in pairs) and all(a == pytest.approx(b, rel=1e-2) for a, b in pairs)


def test_a_model_that_is_loaded_holds_a_chunk_of_logits_too(runs):
    """plan.py ablate measures the loss of finished runs, at four times their context."""
    assert checkpoint.open_run(str(runs / "bloom")).load()[0].cross_entropy is fast_loss.cross_entropy


def test_a_setting_must_be_one_of_its_words():
    with pytest.raises(ValueError, match="machine.recompute=0: it must be one of False, cheap, True"):
        config.override(tiny("bloom", "r"), "machine.recompute", "0")
