#!/usr/bin/env python3
"""Load time and anonymous memory of a checkpoint of llama-3.2-1b's shape, in each format.

For each format a checkpoint of random but valid contents is written into a temporary folder (the
embedding, which is the head too, in bf16 as most writers leave it), loaded by `nibble serve` twice,
asked for one token, and deleted. One row a format:

    file      MB of weights files (MB, GB: powers of ten)
    resident  MB that the weights take as they are kept, those mapped from the file included
    anon      MB of that which are anonymous memory (`nibble inspect --json`)
    first s   from fork to a good /ready, the file's pages dropped from the page cache before
    again s   the same once more, the file in the page cache; GB/s beside each: file over seconds
    cpu s     what that load took of all threads: says more than seconds where others compute, too
    over      highest RssAnon in either load less `anon`: everything beside weights, so buffers of
              the loader, but also KV pages, activations and tables; limit 200 MB
    gap       longest time in ms between two looks at RssAnon (a look each 5 ms is intended)

Weights that stay mapped (bf16, and the embedding of every format) are not read by a load; where that
is all (anonymous: under 1 % of the file) there is no rate.
Exit status 1 when a format is over the limit or does not answer. Needs build/release/nibble, up to
2.5 GB of disk and as much memory.
Usage: tests/bench/bench_load.py [--layers 16] [--formats NAME,NAME] [--folder DIR] [--list]
"""
import argparse
import array
import http.client
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "build/release/nibble"
LIMIT_MB = 200
LOOK_S = 0.005
VOCAB, HIDDEN, WIDTH, HEADS, KV_HEADS, HEAD_DIM = 128256, 2048, 8192, 32, 8, 64
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": VOCAB,
    "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}
LINEARS = (  # of a layer: Hugging Face's name, GGUF's, outputs, inputs
    ("self_attn.q_proj", "attn_q", HEADS * HEAD_DIM, HIDDEN),
    ("self_attn.k_proj", "attn_k", KV_HEADS * HEAD_DIM, HIDDEN),
    ("self_attn.v_proj", "attn_v", KV_HEADS * HEAD_DIM, HIDDEN),
    ("self_attn.o_proj", "attn_output", HIDDEN, HEADS * HEAD_DIM),
    ("mlp.gate_proj", "ffn_gate", WIDTH, HIDDEN),
    ("mlp.up_proj", "ffn_up", WIDTH, HIDDEN),
    ("mlp.down_proj", "ffn_down", HIDDEN, WIDTH),
)
GROUP = 128
SIZES = {"F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "I8": 1, "F8_E4M3": 1}


# ---- contents: blocks of a few MB that are repeated to the size of a tensor -------------------------

RAW = os.urandom(4 << 20)


def with_high_bytes(table):
    """16-bit floats: random low bytes, high bytes out of the table."""
    block = bytearray(RAW)
    block[1::2] = RAW[1::2].translate(table)
    return bytes(block)


FLOATS = random.Random(1)
BF16_SMALL = with_high_bytes(bytes(0x3c | byte & 0x80 for byte in range(256)))  # +-2^-7 .. 2^-5
BF16_SCALE = with_high_bytes(bytes([0x3b] * 256))                               # 2^-9 .. 2^-7
F16_SCALE = with_high_bytes(bytes(0x18 | byte & 3 for byte in range(256)))      # 2^-9 .. 2^-8
F32_SCALE = array.array("f", (FLOATS.uniform(0.001, 0.01) for _ in range(1 << 16))).tobytes()
F32_ZERO = array.array("f", (FLOATS.uniform(6, 9) for _ in range(1 << 16))).tobytes()
E4M3 = RAW.translate(bytes(byte & 0xfe if byte & 0x7f == 0x7f else byte for byte in range(256)))
E4M3_SCALE = RAW.translate(bytes(0x30 | byte & 15 for byte in range(256)))      # 0.5 .. 1.875
TERNARY = RAW.translate(bytes(sum((byte >> shift & 3) % 3 << shift for shift in (0, 2, 4, 6))
                              for byte in range(256)))
BF16_ONES = struct.pack("<H", 0x3f80)
F32_ONES = struct.pack("<f", 1)


def blocks(size, *scales):
    """Blocks of GGUF: random, with an fp16 number near 2^-9 at each offset of `scales`."""
    block = bytearray(RAW[:len(RAW) // size * size])
    for at in scales:
        block[at + 1::size] = bytes([0x18]) * (len(block) // size)
    return bytes(block)


GGUF_TYPES = {  # name: number, weights a block, contents
    "Q4_0": (2, 32, 18, blocks(18, 0)), "Q8_0": (8, 32, 34, blocks(34, 0)),
    "Q4_K": (12, 256, 144, blocks(144, 0, 2)), "Q6_K": (14, 256, 210, blocks(210, 208)),
}


def repeat(file, block, size):
    view = memoryview(block)
    while size > 0:
        size -= file.write(view[:min(size, len(view))])


# ---- one linear in each format: (suffix, dtype, shape, contents) ------------------------------------

def bf16(n, k):
    return [("weight", "BF16", (n, k), BF16_SMALL)]


def gptq(n, k, order=False):
    groups = [i // GROUP for i in range(k)]
    if order:
        random.Random(k).shuffle(groups)
    return [("qweight", "I32", (k // 8, n), RAW), ("qzeros", "I32", (k // GROUP, n // 8), b"\x77" * 4096),
            ("scales", "F16", (k // GROUP, n), F16_SCALE), ("g_idx", "I32", (k,), array.array("i", groups).tobytes())]


def awq(n, k):
    return [("qweight", "I32", (k, n // 8), RAW), ("qzeros", "I32", (k // GROUP, n // 8), RAW),
            ("scales", "F16", (k // GROUP, n), F16_SCALE)]


def ct_pack(n, k):
    return [("weight_packed", "I32", (n, k // 8), RAW), ("weight_scale", "BF16", (n, k // GROUP), BF16_SCALE),
            ("weight_shape", "I64", (2,), struct.pack("<qq", n, k))]


def ct_int8(n, k):
    return [("weight", "I8", (n, k), RAW), ("weight_scale", "BF16", (n, 1), BF16_SCALE)]


def ct_fp8(n, k):
    return [("weight", "F8_E4M3", (n, k), E4M3), ("weight_scale", "BF16", (n, 1), BF16_SCALE)]


def ct_nvfp4(n, k):
    return [("weight_packed", "U8", (n, k // 2), RAW), ("weight_scale", "F8_E4M3", (n, k // 16), E4M3_SCALE),
            ("weight_global_scale", "F32", (1,), struct.pack("<f", 256)),
            ("input_global_scale", "F32", (1,), struct.pack("<f", 256))]


def fp8_block(n, k):
    return [("weight", "F8_E4M3", (n, k), E4M3), ("weight_scale_inv", "F32", (n // 128, k // 128), F32_SCALE)]


def bnb_nf4(n, k):
    # Values of the table: any 16 finite numbers do, for the reader takes the file's.
    table = struct.pack("<16f", *[(i - 7.5) / 7.5 for i in range(16)])
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [n, k]}).encode()
    return [("weight", "U8", (n * k // 2, 1), RAW), ("weight.absmax", "F32", (n * k // 64,), F32_SCALE),
            ("weight.quant_map", "F32", (16,), table),
            ("weight.quant_state.bitsandbytes__nf4", "U8", (len(state),), state)]


def bnb_int8(n, k):
    return [("weight", "I8", (n, k), RAW), ("SCB", "F32", (n,), F32_SCALE), ("weight_format", "U8", (), b"\0")]


def hqq(n, k):
    rows = n * k // 64
    scalars = [(name, "I32", (), struct.pack("<i", value))
               for name, value in (("nbits", 4), ("group_size", 64), ("axis", 1))]
    return [("W_q", "U8", (rows // 2, 64), RAW), ("scale", "F16", (rows, 1), F16_SCALE),
            ("zero", "F32", (rows, 1), F32_ZERO), ("shape", "I64", (2,), struct.pack("<qq", n, k))] + scalars


def bitnet(n, k):
    return [("weight", "U8", (n // 4, k), TERNARY), ("weight_scale", "BF16", (1,), struct.pack("<H", 0x3d00))]


def ct_config(form, bits, kind, strategy, group=None, inputs=None):
    weights = {"num_bits": bits, "type": kind, "symmetric": True, "strategy": strategy, "group_size": group,
               "dynamic": False}
    group_0 = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "format": form}
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
            "config_groups": {"group_0": group_0}, "ignore": ["lm_head"]}


def per_token(kind):
    return {"num_bits": 8, "type": kind, "symmetric": True, "strategy": "token", "dynamic": True}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "checkpoint_format": "gptq"}
LOCAL_FP4 = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16,
             "dynamic": "local"}
FORMATS = {  # name: quantization_config, tensors of a linear; GGUF: its type
    "bf16": (None, bf16),
    "gptq-4-g128": ({**GPTQ, "desc_act": False}, gptq),
    "gptq-4-g128-desc_act": ({**GPTQ, "desc_act": True}, lambda n, k: gptq(n, k, True)),
    "awq-gemm-g128": ({"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True,
                       "version": "gemm"}, awq),
    "ct-pack-4-g128": (ct_config("pack-quantized", 4, "int", "group", GROUP), ct_pack),
    "ct-int8-w8a8": (ct_config("int-quantized", 8, "int", "channel", None, per_token("int")), ct_int8),
    "ct-fp8": (ct_config("float-quantized", 8, "float", "channel", None, per_token("float")), ct_fp8),
    "ct-nvfp4": (ct_config("nvfp4-pack-quantized", 4, "float", "tensor_group", 16, LOCAL_FP4), ct_nvfp4),
    "fp8-block128": ({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
                     fp8_block),
    "bnb-nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
                 "bnb_4bit_quant_type": "nf4"}, bnb_nf4),
    "bnb-int8": ({"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True,
                  "llm_int8_threshold": 6.0}, bnb_int8),
    "hqq-4-g64": ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
                  hqq),
    "bitnet": ({"quant_method": "bitnet"}, bitnet),
    "gguf-q4_0": "Q4_0", "gguf-q8_0": "Q8_0", "gguf-q4_k": "Q4_K", "gguf-q6_k": "Q6_K",
}


# ---- files ------------------------------------------------------------------------------------------

def count(shape):
    n = 1
    for side in shape:
        n *= side
    return n


def write_safetensors(folder, layers, quantization, linear):
    tensors = [("model.embed_tokens.weight", "BF16", (VOCAB, HIDDEN), BF16_SMALL),
               ("model.norm.weight", "BF16", (HIDDEN,), BF16_ONES)]
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors.append((f"{prefix}{name}.weight", "BF16", (HIDDEN,), BF16_ONES))
        for name, _, n, k in LINEARS:
            tensors += [(f"{prefix}{name}.{part[0]}",) + part[1:] for part in linear(n, k)]
    tensors.sort(key=lambda tensor: -SIZES[tensor[1]])  # as the library does: alignment
    header, at = {}, 0
    for name, dtype, shape, _ in tensors:
        end = at + count(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, shape, block in tensors:
            repeat(file, block, count(shape) * SIZES[dtype])
    config = {**CONFIG, "num_hidden_layers": layers}
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def gguf_text(text):
    return struct.pack("<Q", len(text)) + text.encode()


def write_gguf(folder, layers, kind):
    whole = {"embedding_length": HIDDEN, "block_count": layers, "feed_forward_length": WIDTH,
             "context_length": 8192, "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS,
             "attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM,
             "rope.dimension_count": HEAD_DIM}
    real = {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 500000.0}
    values = [gguf_text("general.architecture") + struct.pack("<I", 8) + gguf_text("llama")]
    values += [gguf_text(f"llama.{key}") + struct.pack("<II", 4, value) for key, value in whole.items()]
    values += [gguf_text(f"llama.{key}") + struct.pack("<If", 6, value) for key, value in real.items()]
    number, weights, size, contents = GGUF_TYPES[kind]
    tensors = [("token_embd.weight", (HIDDEN, VOCAB), 30, 2 * VOCAB * HIDDEN, BF16_SMALL),
               ("output_norm.weight", (HIDDEN,), 0, 4 * HIDDEN, F32_ONES)]
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            tensors.append((f"blk.{layer}.{name}.weight", (HIDDEN,), 0, 4 * HIDDEN, F32_ONES))
        for _, name, n, k in LINEARS:
            tensors.append((f"blk.{layer}.{name}.weight", (k, n), number, n * k // weights * size, contents))
    head, at = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join(values), 0
    for name, dims, type_number, n_bytes, _ in tensors:  # every size here is a multiple of 32
        head += gguf_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_number, at)
        at += n_bytes
    with open(folder / "model.gguf", "wb", buffering=0) as file:
        file.write(head + bytes(-len(head) % 32))
        for _, _, _, n_bytes, block in tensors:
            repeat(file, block, n_bytes)
    return folder / "model.gguf"


def write(folder, layers, form):
    if isinstance(form, str):
        return write_gguf(folder, layers, form)
    return write_safetensors(folder, layers, *form)


def drop_pages(folder):
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- loads ------------------------------------------------------------------------------------------

# Small, so that what is over the weights is the loader's; it is counted all the same.
OPTIONS = ["--device", "cpu", "--ctx", "128", "--step-tokens", "16"]


class Watch(threading.Thread):
    """The highest RssAnon of a process, and the longest time between two looks."""

    def __init__(self, pid):
        super().__init__()
        self.path = f"/proc/{pid}/status"
        self.peak, self.gap, self.done = 0, 0.0, threading.Event()

    def run(self):
        last = time.perf_counter()
        while True:
            with open(self.path, "rb") as file:
                found = re.search(rb"RssAnon:\s+(\d+) kB", file.read())
            now = time.perf_counter()
            self.peak = max(self.peak, int(found.group(1)) * 1024 if found else 0)
            self.gap, last = max(self.gap, now - last), now
            if self.done.wait(LOOK_S):
                return


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(port, method, path, body=None, timeout=60):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def load(model, folder, prove):
    """Seconds to /ready, those of CPU, the watch; with `prove`, a token of an answer is wanted, too."""
    log = folder / "log"
    with open(log, "wb") as out:
        began = time.perf_counter()
        process = subprocess.Popen([BINARY, "serve", model, "--port", "0", "--max-seqs", "1"] + OPTIONS,
                                   stdout=out, stderr=subprocess.STDOUT)
    watch = Watch(process.pid)
    watch.start()
    port = None
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"ended with status {process.returncode}: {log.read_text()[-2000:]}")
            if port is None:
                found = re.search(rb"listening on http://[^:\s]+:(\d+)", log.read_bytes())
                port = int(found.group(1)) if found else None
            if port is not None and ask(port, "GET", "/ready")[0] == 200:
                break
            time.sleep(LOOK_S)
        took = time.perf_counter() - began
        cpu = cpu_seconds(process.pid)
        watch.done.set()
        watch.join()
        if prove:
            body = json.dumps({"prompt": [1, 2, 3], "max_tokens": 1, "temperature": 0, "ignore_eos": True,
                               "return_token_ids": True})
            status, reply = ask(port, "POST", "/v1/completions", body)
            if status != 200 or json.loads(reply)["usage"]["completion_tokens"] != 1:
                raise RuntimeError(f"no token: {status} {reply[:400]}")
        process.send_signal(signal.SIGTERM)
        if process.wait() != 0:
            raise RuntimeError(f"exit status {process.returncode} after SIGTERM")
        return took, cpu, watch
    finally:
        watch.done.set()
        watch.join()
        if process.poll() is None:
            process.kill()
            process.wait()


def measure(name, layers, parent):
    folder = Path(tempfile.mkdtemp(prefix="nibble-load-", dir=parent))
    try:
        model = write(folder, layers, FORMATS[name])
        file_mb = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        drop_pages(folder)
        first, _, watch_1 = load(model, folder, False)
        again, cpu, watch_2 = load(model, folder, True)
        text = subprocess.run([BINARY, "inspect", model, "--json"] + OPTIONS, capture_output=True, check=True).stdout
        weights = json.loads(text)
    finally:
        shutil.rmtree(folder)
    anonymous = weights["weight_anonymous_bytes"]
    over = (max(watch_1.peak, watch_2.peak) - anonymous) / 1e6
    if over < 0:
        raise RuntimeError(f"RssAnon was {-over:.1f} MB below the weights: the watch saw no load")
    good = over <= LIMIT_MB
    rates = [f"{file_mb / 1e3 / took:7.2f}" if anonymous > 1e4 * file_mb else f"{'mapped':>7s}"
             for took in (first, again)]
    print(f"{name:22s}{file_mb:9.1f}{weights['weight_bytes'] / 1e6:10.1f}{anonymous / 1e6:9.1f}{first:9.2f}"
          f"{rates[0]}{again:9.2f}{rates[1]}{cpu:7.2f}{over:8.1f}"
          f"  limit <= {LIMIT_MB}  {'ok' if good else 'OVER'}  {max(watch_1.gap, watch_2.gap) * 1e3:6.0f}",
          flush=True)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--folder", help="where the temporary folders are made")
    parser.add_argument("--list", action="store_true", help="print the formats' names")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that server and files go, too
    names = arguments.formats.split(",")
    if arguments.list:
        print("\n".join(FORMATS))
        return 0
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        parser.error(f"no such format: {', '.join(unknown)}")
    print(f"{'format':22s}{'file MB':>9s}{'resident':>10s}{'anon':>9s}{'first s':>9s}{'GB/s':>7s}{'again s':>9s}"
          f"{'GB/s':>7s}{'cpu s':>7s}{'over MB':>8s}  {'':18s}{'gap ms':>7s}")
    failures = 0
    for name in names:
        try:
            failures += not measure(name, arguments.layers, arguments.folder)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            failures += 1
            print(f"{name:22s} FAILED: {error}", flush=True)
    print(f"{failures} failed")
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
