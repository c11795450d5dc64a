"""docs/pictures: what is drawn is what the program does."""
import math
import sys
import types
import xml.etree.ElementTree as ET

import pytest
import torch
from conftest import ROOT

import parallel
from model import alibi_slopes, attention
from planning import cost, memory

sys.path.append(f"{ROOT}/tools")
import diagrams
import pictures

DRAWN = ["decoders", "data", "mask", "tokens", "shards"]         # not by matplotlib, whose bytes may change


def committed(name):
    with open(f"{ROOT}/docs/pictures/{name}.svg", encoding="utf-8") as f:
        return f.read()


@pytest.mark.parametrize("name", DRAWN)
def test_a_committed_picture_is_what_the_program_draws_now(name):
    assert pictures.PICTURES[name]() == committed(name), "make pictures, and look at what has changed"


@pytest.mark.parametrize("name", [*pictures.PICTURES, "toy"])
def test_a_picture_is_small_enough_to_review_and_needs_nothing(name):
    text = committed(name)
    root = ET.fromstring(text)
    assert root.tag.endswith("svg") and len(text.encode()) <= 25_000
    for word in ("<image", "@font-face", "http://", "https://", "dc:date"):
        assert word not in text.replace("http://www.w3.org/", ""), f"{name}.svg has {word}"


def test_the_drawn_bias_is_what_attention_adds():
    """Without scores, log-probabilities of keys differ by the bias alone."""
    T, distances = 7, [0, 1, 5, 6]
    q, v = torch.zeros(1, 8, T, T), torch.eye(T).expand(1, 8, T, T)
    p = attention(q, q, v, torch.arange(T).unsqueeze(0), slopes=alibi_slopes(8))[0, :, -1].log()
    found = torch.stack([p[:, T - 1 - d] - p[:, T - 1] for d in distances], 1)
    torch.testing.assert_close(pictures.alibi_bias(8, distances), found, atol=1e-5, rtol=0)
    assert pictures.alibi_bias(8, [0, 64])[0].tolist() == [0, -32]


def test_the_drawn_turns_are_cosines_of_the_papers_angles():
    turns = pictures.rope_turns(32, range(65), 10_000.0)
    for pair in (0, 2, 15):
        assert turns[pair, 50] == pytest.approx(math.cos(50 * 10_000 ** (-2 * pair / 32)), abs=1e-4)


class Sharded:
    """A parameter of ROWS rows, as far as parallel.local_rows() asks: it is its own device mesh."""
    def __init__(self, rank):
        self.device_mesh, self.rank = self, rank

    def __len__(self):
        return diagrams.ROWS

    def __getitem__(self, axis):
        return types.SimpleNamespace(size=lambda: diagrams.PROCESSES)

    def get_local_rank(self, axis):
        return self.rank

    def to_local(self):
        return None


def test_the_drawn_rows_begin_where_parallel_says():
    for rank, rows in enumerate(diagrams.kept_rows()):
        assert parallel.local_rows(Sharded(rank))[1] == rows[0]


def test_the_drawn_memory_is_the_planners():
    cfg = diagrams.settings("bloom", "7b1")
    found, planned = diagrams.by_moment(cfg), memory.memory(cfg, diagrams.PROCESSES)
    assert max(sum(found.values())) == pytest.approx(planned["peak"] / 1e9)
    for line in found.keys() - {""}:
        assert max(found[line]) == pytest.approx(planned[line] / 1e9)


def test_what_is_drawn_as_sent_is_the_planners():
    cfg = diagrams.settings("bloom", "7b1")
    cfg.run.batch = diagrams.PROCESSES                      # one micro-batch on each process
    planned, _ = cost.sent_bytes(cfg, diagrams.PROCESSES)
    sent = sum(diagrams.travels(cfg.model).values()) * 1e9
    assert sent == pytest.approx(planned)


def test_a_token_is_shown_to_the_byte():
    assert diagrams.shown("_é ".encode()[:-1] + b" \xe0\xa4") == "_é_e0a4"
    assert diagrams.columns("e\u0301市") == 3
