"""Cases for the samplers that tests/oracle/sampling/cases.jsonl lacks: writes sampling/chain.jsonl.

Plain loops over sorted lists, in float64, from the definitions: llama.cpp's order of samplers and formulas (its
server's README, common_sampler_init and llama-sampling.cpp as of 2026), top-n-sigma (arXiv 2411.07641), entropy-based
temperature (2403.14541), mirostat (2007.14966), DRY and XTC (their author's descriptions in text-generation-webui
pull requests 5677 and 6335), and vLLM's bad_words. Shares nothing with host/backend. XTC's probabilities are those of
both outcomes of its coin, weighted. Cases whose filters decide by less than 1e-5 are drawn again.

    python3 tests/oracle/make_sampling_chain.py > tests/oracle/sampling/chain.jsonl
"""
import json
import math
import random
import statistics
import struct

GAP = 1e-5


class Close(Exception):
    pass


def apart(a, b):
    if abs(a - b) < GAP:
        raise Close


def softmax(cands):
    top = max(x for _, x in cands)
    w = [math.exp(x - top) for _, x in cands]
    total = sum(w)
    return [v / total for v in w]


def ranked(cands):
    """[(id, x, p)], likeliest first."""
    p = softmax(cands)
    return sorted(((i, x, q) for (i, x), q in zip(cands, p)), key=lambda c: (-c[1], c[0]))


def keep(cands, ids):
    return [c for c in cands if c[0] in ids]


def penalties(cands, q, prompt, output):
    window = (prompt + output) if "repeat_last_n" not in q else (
        (prompt + output)[-q["repeat_last_n"]:] if q["repeat_last_n"] > 0 else
        (prompt + output) if q["repeat_last_n"] < 0 else [])
    counted = window if "repeat_last_n" in q else output
    r, f, pr = q.get("repetition_penalty", 1), q.get("frequency_penalty", 0), q.get("presence_penalty", 0)
    out = []
    for i, x in cands:
        if i in window:
            x = x / r if x > 0 else x * r
        n = counted.count(i)
        x -= f * n + (pr if n else 0)
        out.append((i, x))
    return out


def dry(cands, q, prompt, output):
    """For every earlier place, the length of the run before it that also ends the context, cut at the last breaker."""
    m, base, allowed = q.get("dry_multiplier", 0), q.get("dry_base", 1.75), q.get("dry_allowed_length", 2)
    last = q.get("dry_penalty_last_n", -1)
    t = prompt + output
    if last >= 0:
        t = t[len(t) - last:] if last < len(t) else t
    if not m or len(t) <= allowed:
        return cands
    limit = len(t)
    breakers = [tuple(b) for b in q.get("dry_breaks", [])]
    for back in range(len(t)):  # the place of the last breaker's first token
        at = len(t) - 1 - back
        fits = [b for b in breakers if tuple(t[at:at + len(b)]) == b]
        if fits:
            limit = back - (max(len(b) for b in fits) - 1)
            break
    if limit < allowed:
        return cands
    longest = {}
    for place in range(1, len(t)):  # t[place] followed t[:place]
        n = 0
        while n < place and t[place - 1 - n] == t[len(t) - 1 - n]:
            n += 1
        n = min(n, limit)
        if n >= allowed:
            longest[t[place]] = max(longest.get(t[place], 0), n)
    most = int(88.7228391 / math.log(base)) if base > 1.000001 else 10**9
    return [(i, x - m * base ** min(longest[i] - allowed, most) if i in longest else x) for i, x in cands]


def temperature(cands, q, *_):
    t = q.get("temperature", 1)
    spread = q.get("dynatemp_range", 0)
    if spread > 0 and len(cands) > 1:
        p = softmax(cands)
        entropy = -sum(v * math.log(v) for v in p if v > 0)
        low, high = max(0, t - spread), t + spread
        t = low + (high - low) * (entropy / math.log(len(cands))) ** q.get("dynatemp_exponent", 1)
    if t < 1e-5:
        best = ranked(cands)[0][0]
        return keep(cands, {best})
    return [(i, x / t) for i, x in cands]


def top_n_sigma(cands, q, *_):
    n = q.get("top_n_sigma", -1)
    if n <= 0 or len(cands) < 2:
        return cands
    xs = [x for _, x in cands]
    border = max(xs) - n * statistics.pstdev(xs)
    for x in xs:
        apart(x, border)
    return [c for c in cands if c[1] >= border]


def top_k(cands, q, *_):
    k = q.get("top_k", 0)
    if k <= 0 or k >= len(cands):
        return cands
    border = ranked(cands)[k - 1][1]
    return [c for c in cands if c[1] >= border]


def until(order, target, least):
    """ids up to where the sum of p reaches the target, at least so many."""
    total, ids = 0, set()
    for i, _, p in order:
        ids.add(i)
        total += p
        apart(total, target)
        if total >= target and len(ids) >= least:
            break
    return ids


def top_p(cands, q, *_):
    if q.get("top_p", 1) >= 1:
        return cands
    return keep(cands, until(ranked(cands), q["top_p"], q.get("min_keep", 0)))


def min_p(cands, q, *_):
    if q.get("min_p", 0) <= 0:
        return cands
    order = ranked(cands)
    least = order[0][2] * q["min_p"]
    for _, _, p in order[1:]:
        apart(p, least)
    return keep(cands, {i for place, (i, _, p) in enumerate(order) if p >= least or place < q.get("min_keep", 0)})


def typical(cands, q, *_):
    if q.get("typical_p", 1) >= 1 or len(cands) < 2:
        return cands
    order = ranked(cands)
    entropy = -sum(p * math.log(p) for _, _, p in order if p > 0)
    far = sorted((abs(-math.log(p) - entropy), i, p) for i, _, p in order)
    for a, b in zip(far, far[1:]):
        apart(a[0], b[0])
    return keep(cands, until([(i, 0, p) for _, i, p in far], q["typical_p"], q.get("min_keep", 0)))


def xtc(cands, q, prompt, output, coin):
    threshold = q.get("xtc_threshold", 0.1)
    if not coin or threshold > 0.5 or len(cands) < 2:
        return cands
    order = ranked(cands)
    for _, _, p in order:
        apart(p, threshold)
    over = [i for i, _, p in order if p >= threshold]
    gone = set(over[:-1])
    if not gone or len(cands) - len(gone) < q.get("min_keep", 0):
        return cands
    return [c for c in cands if c[0] not in gone]


def biases(cands, q, *_):
    out = []
    for i, x in cands:
        for token, bias in q.get("logit_bias", []):
            if token == i:
                x = -math.inf if bias is False else x + bias
        if x > -math.inf:
            out.append((i, x))
    return out


def mirostat(cands, q, vocab):
    mu = q.get("mu", 2 * q["mirostat_tau"])
    order = ranked(cands)
    if len(order) < 2:
        return cands
    if q["mirostat"] == 2:
        for _, _, p in order:
            apart(-math.log2(p), mu)
        ids = {i for i, _, p in order if -math.log2(p) <= mu}
        return keep(cands, ids or {order[0][0]})
    tb = tt = 0
    for i in range(min(99, len(order) - 1)):
        t = math.log((i + 2) / (i + 1))
        tb += t * math.log(order[i][2] / order[i + 1][2])
        tt += t * t
    s = tb / tt
    e = s - 1
    k = (e * 2 ** mu / (1 - vocab ** -e)) ** (1 / s)
    if k < len(order):
        apart(k, round(k))
    ids = {c[0] for c in order[:max(1, int(min(k, len(order))))]}
    return keep(cands, ids)


STAGES = {"penalties": penalties, "dry": dry, "biases": biases, "temperature": temperature, "top_n_sigma": top_n_sigma,
          "top_k": top_k, "top_p": top_p, "min_p": min_p, "typ_p": typical, "xtc": xtc}


def answer(case, coin):
    q, logits = case["params"], case["logits"]
    prompt, output = q.get("prompt_ids", []), q.get("output_ids", [])
    cands = list(enumerate(logits))
    if "allowed" in q:
        cands = keep(cands, set(q["allowed"]))
    for word in q.get("bad_words", []):
        n = len(word) - 1
        if len(output) >= n and output[len(output) - n:] == word[:-1]:
            cands = [c for c in cands if c[0] != word[-1]]
    for name in q["stages"]:
        cands = xtc(cands, q, prompt, output, coin) if name == "xtc" else STAGES[name](cands, q, prompt, output)
    if q.get("mirostat"):
        cands = mirostat(cands, q, len(logits))
    out = [0.0] * len(logits)
    for (i, _), p in zip(cands, softmax(cands)):
        out[i] = p
    return out


LLAMA = ["biases", "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
OURS = ["penalties", "dry", "biases", "temperature", "top_n_sigma", "top_k", "top_p", "min_p", "typ_p", "xtc"]
ONLY_BIASES = ["biases"]


def single(v):
    """Parameters are floats in the program: what a float holds."""
    return struct.unpack("f", struct.pack("f", v))[0]


def pick(rng, kind, vocab):
    q = {}
    u = lambda a, b: single(rng.uniform(a, b))
    if kind == "mirostat":
        q |= {"mirostat": rng.choice([1, 2]), "mirostat_tau": u(1, 5), "mirostat_eta": u(0.05, 0.3), "temperature": u(0.6, 1.5)}
        if rng.random() < 0.7:
            q["mu"] = rng.uniform(0.5, 9)
        q["stages"] = ["penalties", "dry", "biases", "temperature"]
        return q
    words = {
        "top_n_sigma": lambda: {"top_n_sigma": u(0.3, 2.5)},
        "xtc": lambda: {"xtc_probability": u(0.2, 1), "xtc_threshold": u(0.01, 0.3)},
        "dynatemp": lambda: {"temperature": u(0.3, 1.5), "dynatemp_range": u(0.1, 1), "dynatemp_exponent": u(0.5, 2)},
        "typical": lambda: {"typical_p": u(0.2, 0.95)},
        "filters": lambda: {"top_k": rng.randint(1, vocab), "top_p": u(0.3, 0.99), "min_p": u(0.01, 0.3)},
        "keep": lambda: {"min_keep": rng.randint(1, 12), "top_p": u(0.05, 0.5), "min_p": u(0.2, 0.8), "typical_p": u(0.1, 0.6)},
        "window": lambda: {"repeat_last_n": rng.choice([-1, 0, 1, 4, 9]), "repetition_penalty": u(0.7, 1.8),
                           "presence_penalty": u(-1, 1), "frequency_penalty": u(-1, 1)},
        "dry": lambda: {"dry_multiplier": u(0.2, 2), "dry_base": u(1, 2.5), "dry_allowed_length": rng.randint(0, 4),
                        "dry_penalty_last_n": rng.choice([-1, 6, 15, 40])},
        "bias": lambda: {"logit_bias": [[rng.randrange(vocab), rng.choice([False, u(-5, 5), u(-5, 5)])] for _ in range(4)]},
        "allowed": lambda: {"allowed": sorted(rng.sample(range(vocab), rng.randint(2, 8)))},
        "bad_words": lambda: {},
    }
    kinds = [kind] if kind != "mix" else rng.sample(sorted(words), rng.randint(2, 5))
    for k in kinds:
        q |= words[k]()
    if "temperature" not in q and rng.random() < 0.6:
        q["temperature"] = rng.choice([0.0, u(0.3, 2)]) if kind == "mix" else u(0.3, 2)
    base = rng.choice([LLAMA, OURS])
    stages = list(base)
    if rng.random() < 0.5:
        rest = stages[1:] if base is LLAMA else stages
        rng.shuffle(rest)
        stages = ["biases"] + [s for s in rest if s != "biases"]
        if rng.random() < 0.5:
            gone = rng.choice(stages[1:])
            stages.remove(gone)
    q["stages"] = stages
    if any(k in ("window", "dry", "bad_words") for k in kinds):
        letters = rng.sample(range(vocab), 3)
        tokens = [rng.choice(letters) for _ in range(rng.randint(2, 45))]
        cut = rng.randint(0, len(tokens))
        q["prompt_ids"], q["output_ids"] = tokens[:cut], tokens[cut:]
        if "dry" in kinds and rng.random() < 0.6:
            q["dry_breaks"] = sorted([rng.choice(letters)] if rng.random() < 0.3 else
                               [rng.choice(letters) for _ in range(rng.randint(1, 4))] for _ in range(rng.randint(1, 3)))
        if "bad_words" in kinds:
            out = q["output_ids"]
            q["bad_words"] = [out[len(out) - n:] + [rng.randrange(vocab)] if n <= len(out) else [letters[0], letters[1]]
                              for n in rng.choices([1, 2, 3], k=3)]
    return q


def main():
    rng = random.Random(20260921)
    kinds = ["top_n_sigma", "xtc", "dynatemp", "typical", "filters", "keep", "window", "dry", "bias", "allowed", "bad_words",
             "mirostat", "mix"]
    number = 0
    for kind in kinds:
        wanted = 60 if kind == "mix" else 30 if kind in ("dry", "mirostat") else 12
        while wanted:
            vocab = rng.choice([12, 40, 40, 120]) if kind in ("mirostat", "mix") else rng.choice([12, 40])
            spread = rng.uniform(0.5, 4)
            case = {"id": number, "kind": kind, "params": pick(rng, kind, vocab),
                    "logits": [single(round(rng.gauss(0, spread), 3)) for _ in range(vocab)]}
            try:
                q = case["params"]
                plain, flipped = answer(case, False), answer(case, True)
                chance = q.get("xtc_probability", 0) if "xtc" in q["stages"] and q.get("xtc_threshold", 0.1) <= 0.5 else 0
                probs = [(1 - chance) * a + chance * b for a, b in zip(plain, flipped)]
            except (Close, ValueError, ZeroDivisionError):
                continue
            case["support"] = [i for i, p in enumerate(probs) if p > 0]
            case["probs"] = [float(f"{probs[i]:.9g}") for i in case["support"]]
            case["logits"] = [round(x, 3) for x in case["logits"]]  # the same floats, shorter
            print(json.dumps(case, separators=(",", ":")))
            number += 1
            wanted -= 1


if __name__ == "__main__":
    main()
