"""Plausible wrong versions of what students write. Each must fail at least one graded test (sweep.py).

(assignment, function, the mistake, what the text of the function has, what it has instead). If the last is
None, the text before it is the whole function.
"""
WRONG = [
    # ---- byte-level BPE ----
    (1, "tokenizer.py:merge_most_frequent", "a piece counts once, however often it occurs",
     "pairs[pair] += times", "pairs[pair] += 1"),
    (1, "tokenizer.py:merge_most_frequent", "ties go to what was counted first",
     "min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)",
     "max(pairs, key=pairs.get, default=None)"),
    (1, "tokenizer.py:merge_most_frequent", "the age of a byte is its value", "list(BYTES)", "sorted(BYTES)"),
    (1, "tokenizer.py:merge_most_frequent", "pairs are joined from the right",
     "for i in range(len(ids)):", "for i in reversed(range(len(ids))):"),
    (1, "course/parts.py:encode_piece", "from the left, the longest entry first", """
def encode_piece(piece, ranks):
    ids = []
    while piece:
        n = max(n for n in range(1, len(piece) + 1) if piece[:n] in ranks)
        ids.append(ranks[piece[:n]])
        piece = piece[n:]
    return ids""", None),
    (1, "course/parts.py:encode_piece", "the first pair that is an entry",
     "best = min(joined)", "best = next((n for n in joined if n < math.inf), math.inf)"),
    (1, "course/parts.py:split_specials", "in the order they are given",
     "sorted(specials, key=len, reverse=True)", "specials"),
    (1, "course/parts.py:split_specials", "their signs are read as a pattern",
     "re.escape(special)", "special"),
    (1, "tokenizer.py:Tokenizer.decode", "each token is decoded alone",
     'b"".join(self.entries[i] for i in ids).decode("utf-8", "replace")',
     '"".join(self.entries[i].decode("utf-8", "replace") for i in ids)'),
    (1, "tokenizer.py:Tokenizer.decode", "broken bytes are an error", '"replace"', '"strict"'),

    # ---- SentencePiece and fertility ----
    (2, "corpus/pieces.py:shares", "a small language is repeated",
     "min(1.0, budget * n ** alpha / whole / n)", "budget * n ** alpha / whole / n"),
    (2, "corpus/pieces.py:shares", "the share of the budget, not of the text", "/ whole / n)", "/ whole)"),
    (2, "corpus/pieces.py:short_lines", "what is longer is lost",
     "for i in range(0, len(line), 1000):", "for i in range(0, min(len(line), 1000), 1000):"),
    (2, "corpus/pieces.py:short_lines", "empty lines are handed on",
     "range(0, len(line), 1000)", "range(0, max(1, len(line)), 1000)"),
    (2, "vocabulary.py:piece_bytes", "bytes are text",
     'if re.fullmatch("<0x[0-9A-F]{2}>", piece):', "if False:"),
    (2, "vocabulary.py:piece_bytes", "match for fullmatch", "re.fullmatch(", "re.match("),
    (2, "corpus/fertility.py:figures", "each different word counts once",
     "pieces += len(ids) * times", "pieces += len(ids)"),
    (2, "corpus/fertility.py:figures", "words in lower case",
     "words(text, lang, False)", "words(text, lang)"),
    (2, "corpus/fertility.py:figures", "tokens of the text by its words",
     '"fertility": pieces / max(1, n)', '"fertility": tokens / max(1, n)'),
    (2, "corpus/fertility.py:monolingual", "trained on what is measured", "if i % HELD_OUT]", "if True]"),
    (2, "corpus/fertility.py:monolingual", "measured on everything", "texts[::HELD_OUT], lang", "rest, lang"),

    # ---- parts of the decoder ----
    (3, "model.py:layer_norm", "eps outside the root",
     "return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps).type_as(weight)",
     "y = x.float() - x.float().mean(-1, keepdim=True)\n"
     "    y = y / (y.square().mean(-1, keepdim=True).sqrt() + eps)\n"
     "    return (y * weight.float() + bias.float()).type_as(weight)"),
    (3, "model.py:layer_norm", "variance divided by n - 1",
     "return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps).type_as(weight)",
     "y = x.float()\n"
     "    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True) + eps).sqrt()\n"
     "    return (y * weight.float() + bias.float()).type_as(weight)"),
    (3, "model.py:rms_norm", "eps outside the root",
     "torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)",
     "1 / (y.square().mean(-1, keepdim=True).sqrt() + eps)"),
    (3, "model.py:rms_norm", "the mean is taken away, as in LayerNorm",
     "y = x.float() ", "y = x.float() - x.float().mean(-1, keepdim=True) "),
    (3, "model.py:rms_norm", "computed in half precision", "y = x.float() ", "y = x "),
    (3, "model.py:gelu", "the exact form", '"tanh"', '"none"'),
    (3, "model.py:swiglu", "sigmoid for SiLU", "F.silu(gate)", "torch.sigmoid(gate)"),
    (3, "model.py:swiglu", "the other half is gated", "F.silu(gate) * x", "F.silu(x) * gate"),
    (3, "model.py:rope", "neighbours (2i, 2i+1) are the pairs",
     "a, b = x.float().chunk(2, -1)\n"
     "    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).type_as(x)",
     "a, b = x.float()[..., ::2], x.float()[..., 1::2]\n"
     "    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).type_as(x)"),
    (3, "model.py:rope_angles", "the exponent lacks its 2",
     "torch.arange(0, D, 2, device=pos.device).float() / D",
     "torch.arange(0, D // 2, device=pos.device).float() / D"),
    (3, "model.py:rope", "turned to the other side",
     "(a * cos - b * sin, b * cos + a * sin)", "(a * cos + b * sin, b * cos - a * sin)"),
    (3, "model.py:rope_angles", "never scaled", "if scaling:", "if False:"),
    (3, "model.py:rope_angles", "always through linear_scaling()",
     "(linear_scaling if len(scaling) == 1 else llama3_scaling)(frequency, **scaling)",
     'linear_scaling(frequency, scaling["factor"])'),
    (3, "model.py:alibi_slopes", "made for powers of two only",
     "return 2 ** (-8 / p * powers)", "return 2 ** (-8 / H * (torch.arange(H, device=device) + 1.0))"),
    (3, "model.py:alibi_slopes", "the next slopes of the same sequence for the heads left over",
     "torch.arange(H - p, device=device) + 0.5", "torch.arange(p, H, device=device) + 1.0"),
    (3, "model.py:attention", "a token does not see itself", "key <= key", "key < key"),
    (3, "model.py:attention", "a token sees the next one",
     "key <= key[S - T:].unsqueeze(1)", "key <= key[S - T:].unsqueeze(1) + 1"),
    (3, "model.py:attention", "the queries are the first T of S", "key[S - T:]", "key[:T]"),
    (3, "model.py:attention", "divided by D, not by its root", "math.sqrt(q.shape[-1])", "q.shape[-1]"),
    (3, "model.py:attention", "key heads in turn, not in groups",
     "k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)",
     "k.repeat(1, shared, 1, 1), v.repeat(1, shared, 1, 1)"),
    (3, "model.py:attention", "the mask is 0 before the softmax, not -inf", "-math.inf", "0.0"),
    (3, "model.py:attention", "ALiBi's bias has the wrong sign", "scores + slopes", "scores - slopes"),
    (3, "model.py:Attention.forward", "heads are not moved back before they are joined",
     "y.transpose(1, 2).reshape(B, T, C)", "y.reshape(B, T, C)"),
    (3, "model.py:Attention.forward", "only q is turned",
     "q, k = rope(q, at.angles), rope(k, at.angles)", "q = rope(q, at.angles)"),
    (3, "model.py:Attention.forward", "nothing is turned behind a cache",
     "if at.angles is not None:", "if at.angles is not None and past is None:"),
    (3, "model.py:Attention.forward", "what is new goes to the beginning of the memory",
     "index_copy_(2, columns, ", "index_copy_(2, columns - columns[0], "),
    (3, "model.py:places", "positions of padding are 0",
     "pos - pad.unsqueeze(1)", "(pos - pad.unsqueeze(1)).clamp(min=0)"),
    (3, "model.py:places", "padding sees nothing", " | (key == query)", ""),
    (3, "model.py:places", "positions count the padding", "pos = pos - pad.unsqueeze(1)", "pos = pos"),
    (3, "model.py:places", "the padding is seen",
     "key >= pad.view(-1, 1, 1)", "key >= 0 * pad.view(-1, 1, 1)"),

    # ---- loss, optimizer and schedule ----
    (4, "model.py:cross_entropy", "the mean, not the sum", '"sum"', '"mean"'),
    (4, "model.py:cross_entropy", "softmax without taking the maximum away",
     'return F.cross_entropy(F.linear(x, weight).float(), targets, reduction="sum")',
     "p = F.linear(x, weight).float().exp()\n"
     "    p = p / p.sum(-1, keepdim=True)\n"
     "    scored = targets != -100\n"
     "    return -(p.gather(1, targets.clamp(min=0).unsqueeze(1)).log().squeeze(1) * scored).sum()"),
    (4, "train.py:lr_at", "the warmup begins one step up",
     "o.lr * tokens / o.warmup", "o.lr * (tokens + 1) / o.warmup"),
    (4, "train.py:lr_at", "the warmup comes twice: the cosine counts from token 0",
     "(tokens - o.warmup) / max(1, end - o.warmup)", "tokens / end"),
    (4, "train.py:lr_at", "a line for a cosine",
     "0.5 * (o.lr - o.min_lr) * (1 + math.cos(math.pi * done))", "(o.lr - o.min_lr) * (1 - done)"),
    (4, "train.py:adamw", "norms and biases decay too",
     '"params": vectors, "weight_decay": 0.0', '"params": vectors, "weight_decay": o.weight_decay'),
    (4, "train.py:adamw", "the embedding does not decay",
     "matrices = [p for p in model.parameters() if p.dim() > 1]\n"
     "    vectors = [p for p in model.parameters() if p.dim() < 2]",
     "embedding = [p for name, p in model.named_parameters() if name == 'embed.weight']\n"
     "    matrices = [p for name, p in model.named_parameters() if p.dim() > 1 and name != "
     "'embed.weight']\n"
     "    vectors = embedding + [p for p in model.parameters() if p.dim() < 2]"),
    (4, "train.py:gradients", "the mean of the means of the parts",
     "model(a, b) / valid", "model(a, b) / (b != -100).sum() / len(pieces)"),
    (4, "train.py:gradients", "gradients of the last part only",
     "loss.backward()",
     "model.zero_grad()\n"
     "        loss.backward()"),
    (4, "course/parts.py:adamw_step", "no correction in the first steps",
     "m / (1 - beta1 ** step), v / (1 - beta2 ** step)", "m, v"),
    (4, "course/parts.py:adamw_step", "the correction of step 1 in every step", "** step", "** 1"),
    (4, "course/parts.py:adamw_step", "eps under the root", "(square.sqrt() + eps)", "(square + eps).sqrt()"),
    (4, "course/parts.py:clip_gradients", "each gradient by its own norm",
     "g.mul_(most / norm)", "g.mul_(most / g.norm())"),
    (4, "course/parts.py:clip_gradients", "always scaled to the limit", "if norm > most:", "if norm > 0:"),

    # ---- rows and resume ----
    (5, "data.py:permuted", "a random list, kept whole", """
def permuted(i, n, key):
    return np.random.default_rng(key).permutation(n)[np.atleast_1d(np.asarray(i))]""", None),
    (5, "data.py:permuted", "numbers outside are cut by the remainder",
     "    x = once(x)\n"
     "    while (outside := x >= n).any():\n"
     "        x[outside] = once(x[outside])\n"
     "    return x.astype(np.int64)",
     "    return (once(x) % np.uint64(n)).astype(np.int64)"),
    (5, "data.py:permuted", "unseeded", "np.random.SeedSequence(key)", "np.random.SeedSequence()"),
    (5, "data.py:batch_at", "rounded to the next size", "int(seen / per)", "round(seen / per)"),
    (5, "data.py:batch_at", "grows for ever", " or seen > run.ramp[2]", ""),
    (5, "data.py:rows_before", "the full batch from the beginning", """
def rows_before(step, run):
    return step * run.batch""", None),
    (5, "data.py:rows_before", "a walk over all steps", """
def rows_before(step, run):
    seen = 0
    for _ in range(step):
        seen += batch_at(seen, run)
    return seen""", None),
    (5, "data.py:Split.window", "windows share their first token: they overlap by one",
     "self.tokens[w * self.T:(w + 1) * self.T + 1]",
     "self.tokens[w * (self.T - 1):w * (self.T - 1) + self.T + 1]"),
    (5, "data.py:Split.window", "the target is the token itself", "row[:-1], row[1:]", "row[:-1], row[:-1]"),
    (5, "data.py:quotas", "rounded down, so that rows are missing", """
def quotas(weights):
    return (weights * CYCLE).astype(int)""", None),
    (5, "data.py:quotas", "a small source gets nothing",
     "np.maximum(exact.astype(int), weights > 0)", "exact.astype(int)"),
    (5, "data.py:Rows.cycle", "unseeded order", "default_rng([self.run.seed, c])", "default_rng()"),
    (5, "data.py:Rows.cycle", "each cycle in the same order",
     "default_rng([self.run.seed, c])", "default_rng([self.run.seed])"),
    (5, "data.py:Rows.where", "each cycle begins at number 0", "c * self.quota[source[at]] + nth", "nth"),
    (5, "data.py:Rows.where", "the number of the row in its cycle", "nth[slot[at]]", "slot[at]"),
    (5, "data.py:Rows.windows", "every epoch in the same order",
     "(self.run.seed, 2, s, e)", "(self.run.seed, 2, s)"),
    (5, "data.py:Rows.windows", "drawn anew each time: some twice, some never",
     "permuted(window[at], self.train[s].windows, (self.run.seed, 2, s, e))",
     "np.random.default_rng([self.run.seed, s, e]).integers(self.train[s].windows, size=at.sum())"),
    (5, "data.py:Rows.rows", "every process reads the same rows",
     "slice(rank * B, (rank + 1) * B)", "slice(0, B)"),
    (5, "data.py:Rows.rows", "targets of this process for those of the step",
     "int(np.minimum(self.T, tokens[source] - 1 - window * self.T).sum())", "int((y != IGNORE).sum())"),
    (5, "course/parts.py:save_state", "weights without the moments",
     'for i, values in state["state"].items():', "for i, values in ():"),
    (5, "course/parts.py:save_state", "Adam's count of steps is lost",
     "if torch.is_tensor(value):", "if torch.is_tensor(value) and key != 'step':"),
    (5, "course/parts.py:load_state", "the optimizer begins anew", "optimizer.load_state_dict({", "_ = ({"),
    (5, "course/parts.py:load_state", "moments without the settings",
     '"param_groups": facts["groups"]', '"param_groups": optimizer.state_dict()["param_groups"]'),

    # ---- filters ----
    (6, "corpus/clean.py:word_repetition", "different n-grams are counted, not their places",
     "counts[counts > 1].sum() / max(1, counts.sum())", "(counts > 1).sum() / max(1, len(counts))"),
    (6, "corpus/clean.py:word_repetition", "words as they stand", "words(text, row.lang)", "text.split()"),
    (6, "corpus/clean.py:character_repetition", "the most frequent one only", "int(len(counts) ** 0.5)", "1"),
    (6, "corpus/clean.py:character_repetition", "all that repeat",
     "min(int(len(counts) ** 0.5), int((counts > 1).sum()))", "int((counts > 1).sum())"),
    (6, "corpus/clean.py:special_characters", "vowel signs of Indic scripts are special",
     "specials(codes(text)).mean()", "(sum(not c.isalpha() for c in text) / len(text))"),
    (6, "corpus/clean.py:share_of", "words as they stand", "words(text, row.lang)", "text.split()"),
    (6, "corpus/clean.py:share_of", "different words",
     "sum(w in known for w in found)", "len({w for w in found if w in known})"),
    (6, "corpus/clean.py:c4_lines", "marks of citations stay",
     'lines_where(re.sub(r"\\[\\d{1,4}\\]|\\[edit\\]|\\[citation needed\\]", "", text), wanted)',
     "lines_where(text, wanted)"),
    (6, "corpus/clean.py:c4_document", "every sign ends a sentence",
     'sentences = len(re.findall(r"[.?!]+[\\"\')\\]]*(?=\\s|$)", text))',
     "sentences = sum(text.count(c) for c in '.?!')"),
    (6, "corpus/clean.py:c4_document", "quotation marks hide an end", '[.?!]+[\\"\')\\]]*(?=', "[.?!]+(?="),
    (6, "corpus/personal.py:pii_email", "a pattern from the web",
     'EMAIL.sub("PI:EMAIL", text) if "@" in text else text',
     "re.sub(r'[A-Za-z0-9._%-]+@[A-Za-z0-9.-]+\\.[A-Za-z]{2,}', 'PI:EMAIL', text)"),
    (6, "corpus/personal.py:pii_user", "inside words too",
     'USER.sub("PI:USER", text)', "re.sub(r'@\\w{3,64}', 'PI:USER', text)"),
    (6, "corpus/personal.py:pii_ip", "numbers above 255, and versions",
     "IP.sub(address, text)", "re.sub(r'\\d{1,3}(?:\\.\\d{1,3}){3}', 'PI:IP_ADDRESS', text)"),
    (6, "corpus/personal.py:address", "nobody asks whether it is one",
     "        return match[0]\n"
     "    meant",
     "        pass\n"
     "    meant"),
    (6, "corpus/personal.py:address", "idioms of programmers are addresses",
     "if meant else match[0]", "if True else match[0]"),
    (6, "corpus/dedup.py:shingles", "spaces and signs count", "if not signs.all():", "if False:"),
    (6, "corpus/dedup.py:shingles", "pieces of 8, not runs",
     "return ngrams(ids, min(SHINGLE, max(1, len(ids))))",
     "return ngrams(ids, min(SHINGLE, max(1, len(ids))))[::SHINGLE]"),
    (6, "corpus/dedup.py:signature", "one seed for all entries", """
def signature(found):
    return np.full(HASHES, mixed(found).min()).astype(np.uint16)""", None),
    (6, "corpus/dedup.py:signature", "empty entries stay empty",
     "while full.any() and not full[source].all():", "while False:"),
    (6, "corpus/dedup.py:meeting", "all bands must agree", "1 - (1 - j ** r) ** b", "(j ** r) ** b"),
    (6, "corpus/dedup.py:bands", "the shortest bands", "(32, 16, 8, 4)", "(4, 8, 16, 32)"),

    # ---- sharding ----
    (7, "parallel.py:total", "the mean over the processes", "    return x", "    return x / place()[1]"),
    (7, "parallel.py:total", "the tensor that is given changes",
     'x.detach().to("cpu", copy=True)', "x.detach()"),
    (7, "course/parts.py:rows_of", "rounded down: the last rows belong to nobody",
     "math.ceil(n / world)", "n // world"),
    (7, "course/parts.py:rows_of", "the rest goes to the first processes",
     "each = math.ceil(n / world)\n"
     "    return min(n, rank * each), min(n, (rank + 1) * each)",
     "each, rest = divmod(n, world)\n"
     "    first = rank * each + min(rank, rest)\n"
     "    return first, first + each + (rank < rest)"),
    (7, "course/parts.py:sum_of_gradients", "the mean of the means",
     "loss = model(x, y) / valid",
     "loss = model(x, y) / max(1, int((y != -100).sum())) / parallel.place()[1]"),
    (7, "course/parts.py:sum_of_gradients", "divided by the processes too",
     "all_reduce(p.grad)",
     "all_reduce(p.grad)\n"
     "        p.grad.div_(parallel.place()[1])"),
    (7, "course/parts.py:sum_of_gradients", "each process has its own gradient",
     "all_reduce(p.grad)", "pass"),
    (7, "course/parts.py:reduce_scatter", "the mean of the gradients",
     "return whole[first:end]", "return whole[first:end] / parallel.place()[1]"),
    (7, "course/parts.py:reduce_scatter", "rows of its own gradient", "all_reduce(whole)", "pass"),
    (7, "course/parts.py:norm_of_rows", "the norm of what is here", "    all_reduce(squares)\n", ""),
    (7, "course/parts.py:norm_of_rows", "the mean of the squares",
     "squares.sqrt()", "(squares / parallel.place()[1]).sqrt()"),
    (7, "course/parts.py:gather", "the filling stays", "torch.cat(parts)[:n]", "torch.cat(parts)"),
    (7, "course/parts.py:gather", "parts of unequal size are sent as they are",
     "padded[:len(rows)] = rows", "padded = rows"),

    # ---- scores and drawing ----
    (8, "evaluation/scoring.py:encode", "context and continuation are encoded apart",
     "zip(contexts, wholes)",
     "zip(contexts, [c + tokenizer.encode_batch([k])[0] for c, (_, k) in zip(contexts, pairs)])"),
    (8, "evaluation/scoring.py:encode", "a space at the end stays with the context",
     "context.rstrip() for", "context for"),
    (8, "evaluation/scoring.py:fit", "cut on the right",
     "context[max(0, over):]", "context[:len(context) - max(0, over)]"),
    (8, "evaluation/scoring.py:fit", "the last token counts as read",
     "len(context) + n - 1 - T", "len(context) + n - T"),
    (8, "evaluation/scoring.py:row_scores", "logits for log-probabilities",
     'p.append(-F.cross_entropy(logits.transpose(1, 2), y, ignore_index=IGNORE, reduction="none"))',
     "p.append(logits.gather(2, y.clamp(min=0).unsqueeze(2)).squeeze(2))"),
    (8, "evaluation/scoring.py:row_scores", "padding is scored",
     "logits.transpose(1, 2), y, ignore_index", "logits.transpose(1, 2), y.clamp(min=0), ignore_index"),
    (8, "evaluation/scoring.py:mean", "biased variance", "(n - 1) / n", "n / n"),
    (8, "evaluation/scoring.py:rule_scores", "the space counts as a character",
     "len(choice.strip())", "len(choice)"),
    (8, "evaluation/scoring.py:normal", "articles inside words go too", "\\b(a|an|the)\\b", "(a|an|the)"),
    (8, "evaluation/scoring.py:normal", "the first number", "found[-1]", "found[0]"),
    (8, "evaluation/scoring.py:judge", "the lowest score is chosen", "np.argmax", "np.argmin"),
    (8, "course/parts.py:bits_per_byte", "perplexity per token, of other tokenizers",
     "return nats / math.log(2) / len(text.encode())", "return math.exp(nats / len(text.split()))"),
    (8, "course/parts.py:bits_per_byte", "characters for bytes", "len(text.encode())", "len(text)"),
    (8, "generate.py:candidates", "top-p drops the token that crosses the border, and so the first",
     "(p.cumsum(-1) - p < draw.top_p)", "(p.cumsum(-1) < draw.top_p)"),
    (8, "generate.py:candidates", "top-p looks at what was before top-k",
     "        p = p / p.sum(-1, keepdim=True)\n", "        pass\n"),
    (8, "generate.py:candidates", "the temperature after the softmax",
     "all_p = ((logits - logits.amax(-1, keepdim=True)) / draw.temperature).softmax(-1)",
     "all_p = logits.softmax(-1) / draw.temperature"),
    (8, "generate.py:choose", "u is not scaled to what is left", "(u * reach[:, -1])", "u"),
    (8, "generate.py:choose", "u = 0 chooses what cannot follow", """
def choose(logits, draw, u, seen=None):
    p, ids = candidates(logits, draw, seen)
    p = torch.zeros(logits.shape, dtype=torch.float64).scatter(1, ids, p.double())
    reach = p.cumsum(-1)
    at = torch.searchsorted(reach, (u * reach[:, -1]).unsqueeze(1))
    return at.clamp(max=logits.shape[1] - 1).squeeze(1)""", None),

    # ---- decisions ----
    (9, "planning/law.py:predict", "powers that grow", "/ N ** law", "* N ** law"),
    (9, "planning/law.py:predict", "alpha for both", 'D ** law["beta"]', 'D ** law["alpha"]'),
    (9, "planning/law.py:compute_optimal", "20 tokens for each parameter, whatever the law", """
def compute_optimal(law, C):
    N = (C / 120) ** 0.5
    return N, 20 * N""", None),
    (9, "planning/law.py:compute_optimal", "the powers are exchanged",
     'law["alpha"], law["beta"]', 'law["beta"], law["alpha"]'),
    (9, "planning/law.py:cheapest", "inference is free", "6 * D + 2 * served", "6 * D"),
    (9, "planning/law.py:cheapest", "an answer below E", "if room <= 0:", "if False:"),
    (9, "planning/law.py:smooth", "a window of one size", "i // 5", "10"),
    (9, "planning/law.py:smooth", "a fifth of all, so the beginning is smeared", "i // 5", "(len(y) // 5)"),
    (9, "planning/law.py:fit", "losses, not their logarithms",
     "np.log(N), np.log(D), np.log(L)", "np.log(N), np.log(D), np.asarray(L)"),
    (9, "planning/law.py:fit", "squares for Huber's loss", 'loss="huber"', 'loss="linear"'),
    (9, "planning/ablate.py:differences", "biased variance", "ddof=1", "ddof=0"),
    (9, "planning/ablate.py:differences", "two standard errors, however few seeds",
     "T95[min(len(T95), freedom) - 1]", "1.96"),
    (9, "planning/ablate.py:differences", "the variance of all cells together",
     "change.var(0, ddof=1).mean()", "change.var(ddof=1)"),
    (9, "train.py:flops_per_token", "a lookup multiplies",
     "parameters if m.tied else parameters - m.vocab * m.dim", "parameters"),
    (9, "train.py:flops_per_token", "forward only", "6 * multiplied", "2 * multiplied"),
]
