#!/usr/bin/env python3
"""Small random models of families that the reference set lacks, with expectations in float64.

    make_families.py OUT            writes OUT/{smollm3,glm4,cohere2}/{config,config_v5}.json,
                                    model.safetensors, expect.safetensors (numpy needed)
    make_families.py --check DIR    the same forward pass on DIR/{llama_untied,qwen3}, whose
                                    expectations transformers computed; prints the differences

Written from the families' published descriptions, apart from nibble's own code: one loop over plain
matrices, no cache, whole sequences at every step. The settings differ from every default that
matters, and each of them was seen to move the logits (the last lines that are printed)."""
import json, math, os, struct, sys
import numpy as np

VOCAB, HIDDEN, HEADS, KV, DIM, MLP, LAYERS, GREEDY = 160, 64, 4, 2, 32, 96, 3, 24
COMMON = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_attention_heads": HEADS,
          "num_key_value_heads": KV, "head_dim": DIM, "intermediate_size": MLP,
          "num_hidden_layers": LAYERS, "hidden_act": "silu", "max_position_embeddings": 512,
          "bos_token_id": 1, "eos_token_id": 2, "use_cache": True}
FAMILIES = {
    "smollm3": dict(COMMON, architectures=["SmolLM3ForCausalLM"], model_type="smollm3",
                    rms_norm_eps=1e-6, tie_word_embeddings=True, attention_bias=False,
                    mlp_bias=False, no_rope_layers=[1, 0, 1], no_rope_layer_interval=2,
                    use_sliding_window=False, sliding_window=None),
    "glm4": dict(COMMON, architectures=["Glm4ForCausalLM"], model_type="glm4",
                 rms_norm_eps=1e-5, tie_word_embeddings=False, attention_bias=True),
    "cohere2": dict(COMMON, architectures=["Cohere2ForCausalLM"], model_type="cohere2",
                    layer_norm_eps=1e-5, tie_word_embeddings=True, attention_bias=False,
                    logit_scale=0.25, sliding_window=16),
}
THETA = {"smollm3": 50000.0, "glm4": 10000.0, "cohere2": 50000.0}


# ---- files ------------------------------------------------------------------------------------

def to_bf16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors):
    """name -> (dtype name, array)"""
    header, blob = {}, b""
    for name in sorted(tensors):
        dtype, array = tensors[name]
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape),
                        "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + blob)


def read_safetensors(path):
    raw = open(path, "rb").read()
    n = struct.unpack("<Q", raw[:8])[0]
    out = {}
    for name, t in json.loads(raw[8:8 + n]).items():
        if name == "__metadata__":
            continue
        data = raw[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            a = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            a = np.frombuffer(data, {"F32": np.float32, "I32": np.int32, "F16": np.float16}[t["dtype"]])
        out[name] = a.reshape(t["shape"])
    return out


# ---- the forward pass -------------------------------------------------------------------------

def rms_norm(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def layer_norm(x, w, eps):
    d = x - x.mean(-1, keepdims=True)
    return d / np.sqrt((d * d).mean(-1, keepdims=True) + eps) * w


def rotate(x, theta, n_rotated, interleaved):
    """x [T, heads, dim]: pairs of the first n_rotated features turn by position * theta^(-2i/n)."""
    half = n_rotated // 2
    angle = np.arange(len(x))[:, None, None] * theta ** (-np.arange(half) * 2.0 / n_rotated)
    cos, sin = np.cos(angle), np.sin(angle)
    low = slice(0, n_rotated, 2) if interleaved else slice(0, half)
    high = slice(1, n_rotated, 2) if interleaved else slice(half, n_rotated)
    out = x.copy()
    out[..., low] = x[..., low] * cos - x[..., high] * sin
    out[..., high] = x[..., high] * cos + x[..., low] * sin
    return out


def attend(q, k, v, window):
    t, heads, dim = q.shape
    group = heads // k.shape[1]
    out = np.zeros_like(q)
    i, j = np.arange(t)[:, None], np.arange(t)[None, :]
    seen = (j <= i) & ((i - j < window) if window else True)
    for h in range(heads):
        s = q[:, h] @ k[:, h // group].T / math.sqrt(dim)
        s = np.where(seen, s, -np.inf)
        p = np.exp(s - s.max(-1, keepdims=True))
        out[:, h] = p / p.sum(-1, keepdims=True) @ v[:, h // group]
    return out.reshape(t, heads * dim)


def silu(x):
    return x / (1 + np.exp(-x))


class Model:
    def __init__(self, config, weights, settings):
        self.c, self.s = config, settings
        self.w = {k: v.astype(np.float64) for k, v in weights.items()}

    def linear(self, name, x):
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def attention(self, l, x):
        c, s, p = self.c, self.s, f"model.layers.{l}.self_attn."
        q = self.linear(p + "q_proj", x).reshape(len(x), -1, c["head_dim"])
        k = self.linear(p + "k_proj", x).reshape(len(x), -1, c["head_dim"])
        v = self.linear(p + "v_proj", x).reshape(len(x), -1, c["head_dim"])
        if s.get("qk_norm"):
            q = rms_norm(q, self.w[p + "q_norm.weight"], c["rms_norm_eps"])
            k = rms_norm(k, self.w[p + "k_norm.weight"], c["rms_norm_eps"])
        if s["rope"][l]:
            q, k = (rotate(y, s["theta"], s["n_rotated"], s["interleaved"]) for y in (q, k))
        return self.linear(p + "o_proj", attend(q, k, v, s["window"][l]))

    def mlp(self, l, x):
        p = f"model.layers.{l}.mlp."
        if p + "gate_up_proj.weight" in self.w:
            gate, up = np.split(self.linear(p + "gate_up_proj", x), 2, -1)
        else:
            gate, up = self.linear(p + "gate_proj", x), self.linear(p + "up_proj", x)
        return self.linear(p + "down_proj", silu(gate) * up)

    def norm(self, name, x):
        if self.c["model_type"] == "cohere2":
            return layer_norm(x, self.w[name + ".weight"], self.c["layer_norm_eps"])
        return rms_norm(x, self.w[name + ".weight"], self.c["rms_norm_eps"])

    def layer(self, l, x):
        p, kind = f"model.layers.{l}.", self.c["model_type"]
        if kind == "cohere2":  # one norm, both branches beside each other
            h = self.norm(p + "input_layernorm", x)
            return x + self.attention(l, h) + self.mlp(l, h)
        h = self.attention(l, self.norm(p + "input_layernorm", x))
        if kind == "glm4":
            h = self.norm(p + "post_self_attn_layernorm", h)
        x = x + h
        h = self.mlp(l, self.norm(p + "post_attention_layernorm", x))
        if kind == "glm4":
            h = self.norm(p + "post_mlp_layernorm", h)
        return x + h

    def forward(self, ids):
        """logits [T, vocab], and the residual stream before each layer and behind the last"""
        x = self.w["model.embed_tokens.weight"][ids]
        hidden = [x]
        for l in range(self.c["num_hidden_layers"]):
            x = self.layer(l, x)
            hidden.append(x)
        x = self.norm("model.norm", x)
        head = "model.embed_tokens" if self.c["tie_word_embeddings"] else "lm_head"
        logits = x @ self.w[head + ".weight"].T * self.s.get("logit_scale", 1)
        return logits, hidden, x


# ---- the three models -------------------------------------------------------------------------

def settings_of(c):
    kind, n = c["model_type"], c["num_hidden_layers"]
    s = {"rope": [1] * n, "window": [0] * n, "theta": THETA[kind], "interleaved": kind != "smollm3",
         "n_rotated": c["head_dim"]}
    if kind == "smollm3":
        s["rope"] = c["no_rope_layers"]
    if kind == "glm4":
        s["n_rotated"] = c["head_dim"] // 2
    if kind == "cohere2":
        s["window"] = [0 if (l + 1) % 3 == 0 else c["sliding_window"] for l in range(n)]
        s["rope"] = [int(w > 0) for w in s["window"]]
        s["logit_scale"] = c["logit_scale"]
    return s


def configs_of(c):
    """Both spellings: before transformers 5, and since."""
    kind = c["model_type"]
    old = dict(c, torch_dtype="bfloat16", rope_theta=THETA[kind])
    new = dict(c, dtype="bfloat16",
               rope_parameters={"rope_type": "default", "rope_theta": THETA[kind]})
    if kind == "glm4":
        old["partial_rotary_factor"] = new["rope_parameters"]["partial_rotary_factor"] = 0.5
    if kind == "cohere2":
        old["sliding_window_pattern"] = 3
        new["layer_types"] = ["sliding_attention", "sliding_attention", "full_attention"]
    if kind == "smollm3":
        new["layer_types"] = ["full_attention"] * LAYERS
    return old, new


def weights_of(c, rng):
    kind, w = c["model_type"], {}

    def matrix(name, n_out, n_in, size=1.0):
        w[name + ".weight"] = rng.normal(0, size / math.sqrt(n_in), (n_out, n_in))

    def gain(name):
        w[name + ".weight"] = rng.uniform(0.6, 1.4, HIDDEN)

    matrix("model.embed_tokens", VOCAB, HIDDEN, 4.0)
    gain("model.norm")
    if not c["tie_word_embeddings"]:
        matrix("lm_head", VOCAB, HIDDEN, 2.0)
    for l in range(LAYERS):
        p = f"model.layers.{l}."
        norms = {"smollm3": ["input", "post_attention"], "cohere2": ["input"],
                 "glm4": ["input", "post_self_attn", "post_attention", "post_mlp"]}[kind]
        for norm in norms:
            gain(p + norm + "_layernorm")
        for part, n in ("q", HEADS), ("k", KV), ("v", KV):
            matrix(p + f"self_attn.{part}_proj", n * DIM, HIDDEN, 1.5)
            if c["attention_bias"]:
                w[p + f"self_attn.{part}_proj.bias"] = rng.normal(0, 0.5, n * DIM)
        matrix(p + "self_attn.o_proj", HIDDEN, HEADS * DIM, 1.5)
        if kind == "glm4":
            matrix(p + "mlp.gate_up_proj", 2 * MLP, HIDDEN, 1.5)
        else:
            matrix(p + "mlp.gate_proj", MLP, HIDDEN, 1.5)
            matrix(p + "mlp.up_proj", MLP, HIDDEN, 1.5)
        matrix(p + "mlp.down_proj", HIDDEN, MLP, 1.5)
    return {k: to_bf16(v) for k, v in w.items()}


def greedy_of(model, prompt):
    ids, margins = list(prompt), []
    for _ in range(GREEDY):
        last = model.forward(ids)[0][-1]
        top = np.argsort(last)[-2:]
        margins.append(last[top[1]] - last[top[0]])
        ids.append(int(top[1]))
    return ids[len(prompt):], margins


def expect_of(model, rng):
    out = {}
    for i, n in enumerate((1, 7, 60)):
        for _ in range(200):  # near ties teach nothing
            prompt = rng.integers(3, VOCAB, n)
            ids, margins = greedy_of(model, prompt)
            if min(margins) > 0.02:
                break
        logits, hidden, final = model.forward(prompt)
        out[f"input_ids_{i}"] = ("I32", prompt.astype(np.int32))
        out[f"logits_{i}"] = ("F32", logits.astype(np.float32))
        out[f"ids_greedy_{i}"] = ("I32", np.array(ids, np.int32))
        out[f"margin_{i}"] = ("F32", np.array(margins, np.float32))
        if i == 1:
            out["hidden_input"] = ("F32", hidden[0].astype(np.float32))
            for l in range(LAYERS):
                out[f"hidden_layer_{l}"] = ("F32", hidden[l + 1].astype(np.float32))
            out["hidden_final_norm"] = ("F32", final.astype(np.float32))
        print(f"  prompt {i}: logits std {logits.std():.2f}, smallest margin {min(margins):.3f}")
    return out


def widen(weights):
    return {k: (v.astype(np.uint32) << 16).view(np.float32) for k, v in weights.items()}


def options_matter(c, weights, settings, prompt):
    """Each setting switched off moves the logits."""
    right = Model(c, widen(weights), settings).forward(prompt)[0]
    others = {"rope everywhere": {"rope": [1] * LAYERS}, "rope nowhere": {"rope": [0] * LAYERS},
              "no window": {"window": [0] * LAYERS}, "whole heads": {"n_rotated": DIM},
              "other pairs": {"interleaved": not settings["interleaved"]},
              "theta": {"theta": 12345.0}}
    for name, change in others.items():
        wrong = dict(settings, **change)
        if wrong == settings:
            continue
        moved = np.abs(Model(c, widen(weights), wrong).forward(prompt)[0] - right).max()
        print(f"  {name}: {moved:.3f}")
        assert moved > 0.02, name


def make(out):
    for number, (name, c) in enumerate(FAMILIES.items()):
        print(name)
        rng = np.random.default_rng(1000 + number)
        weights = weights_of(c, rng)
        model = Model(c, widen(weights), settings_of(c))
        expect = expect_of(model, rng)
        options_matter(c, weights, settings_of(c), expect["input_ids_2"][1])
        folder = os.path.join(out, name)
        os.makedirs(folder, exist_ok=True)
        for file, config in zip(("config.json", "config_v5.json"), configs_of(c)):
            with open(os.path.join(folder, file), "w") as f:
                json.dump(config, f, indent=1)
                f.write("\n")
        write_safetensors(os.path.join(folder, "model.safetensors"),
                          {k: ("BF16", v) for k, v in weights.items()})
        write_safetensors(os.path.join(folder, "expect.safetensors"), expect)


def check(models):
    for name in ("llama_untied", "qwen3"):
        folder = os.path.join(models, name)
        c = json.load(open(os.path.join(folder, "config.json")))
        n = c["num_hidden_layers"]
        model = Model(c, read_safetensors(os.path.join(folder, "model.safetensors")),
                      {"rope": [1] * n, "window": [0] * n, "theta": c["rope_theta"],
                       "interleaved": False, "n_rotated": c["head_dim"],
                       "qk_norm": name == "qwen3"})
        expect = read_safetensors(os.path.join(folder, "expect.safetensors"))
        for i in range(3):
            found = model.forward(expect[f"input_ids_{i}"])[0]
            print(f"{name}, prompt {i}: {np.abs(found - expect[f'logits_{i}']).max():.2e}")
            assert np.abs(found - expect[f"logits_{i}"]).max() < 1e-3


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--check":
        check(sys.argv[2])
    elif len(sys.argv) == 2:
        make(sys.argv[1])
    else:
        sys.exit(__doc__)
