#!/usr/bin/env python3
"""make_qwen2_moe.py OUT: a small random qwen2_moe with expectations by transformers (torch 2.15.0,
transformers 5.23.0), in the form of the other models here: shared expert, weights of the chosen not
normalized, a layer without experts, heads of 64 features."""
import json
import sys

import torch
from safetensors.torch import save_file
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

VOCAB, LAYERS, GREEDY = 160, 3, 24
out = sys.argv[1]
torch.manual_seed(20260)
torch.set_num_threads(1)
config = Qwen2MoeConfig(
    vocab_size=VOCAB, hidden_size=128, intermediate_size=96, num_hidden_layers=LAYERS,
    num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512, rms_norm_eps=1e-6,
    tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    decoder_sparse_step=1, mlp_only_layers=[1], num_experts=5, num_experts_per_tok=2,
    norm_topk_prob=False, moe_intermediate_size=32, shared_expert_intermediate_size=48,
    use_sliding_window=False, bos_token_id=1, eos_token_id=2, dtype="bfloat16")
random = torch.Generator().manual_seed(7)
model = Qwen2MoeForCausalLM(config)
with torch.no_grad():
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=random)
        if name.endswith("norm.weight"):
            p.copy_(1 + 0.2 * noise)
        elif name.endswith(".bias"):
            p.copy_(0.3 * noise)
        elif "embed_tokens" in name:
            p.copy_(noise)
        else:
            p.copy_(noise * 1.6 / p.shape[-1] ** 0.5)
model.to(torch.bfloat16).save_pretrained(out)

# From the file again: a cast of the whole model would round the frequencies of rope too.
model = Qwen2MoeForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager")
model.eval()
expect, hidden = {}, {}


def logits(ids):
    with torch.no_grad():
        return model(ids, use_cache=False, output_hidden_states=True)


for i, length in enumerate((1, 7, 60)):
    ids = torch.randint(3, VOCAB, (1, length), generator=random)
    hooks = [layer.register_forward_hook(
        lambda module, args, y, l=l: hidden.__setitem__(l, y[0] if isinstance(y, tuple) else y))
        for l, layer in enumerate(model.model.layers)]
    result = logits(ids)
    for hook in hooks:
        hook.remove()
    expect[f"input_ids_{i}"] = ids[0].to(torch.int32)
    expect[f"logits_{i}"] = result.logits[0].contiguous()
    if i == 1:
        expect["hidden_input"] = result.hidden_states[0][0].contiguous()
        expect["hidden_final_norm"] = result.hidden_states[-1][0].contiguous()
        for l in range(LAYERS):
            expect[f"hidden_layer_{l}"] = hidden[l].reshape(-1, 128).clone()
    greedy, margins = [], []
    for _ in range(GREEDY):
        top = torch.topk(logits(ids).logits[0, -1], 2)
        greedy.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
        ids = torch.cat([ids, top.indices[:1].view(1, 1)], 1)
    expect[f"ids_greedy_{i}"] = torch.tensor(greedy, dtype=torch.int32)
    expect[f"margin_{i}"] = torch.tensor(margins)
    print(f"prompt {i}: standard deviation {result.logits.std():.3f}, least margin {min(margins):.4f}")
save_file(expect, f"{out}/expect.safetensors")

new = json.load(open(f"{out}/config.json"))
json.dump(new, open(f"{out}/config_v5.json", "w"), indent=2)
old = dict(new, torch_dtype=new["dtype"], rope_theta=new["rope_parameters"]["rope_theta"],
           rope_scaling=None)
for key in ("dtype", "rope_parameters", "layer_types"):
    old.pop(key, None)
json.dump(old, open(f"{out}/config.json", "w"), indent=2)
