"""The same model in weights that lie on no 4-bit grid: what quantization makes of it is what it makes of ordinary weights.

    python off_grid.py MODEL.gguf FOLDER     # with torch==2.15.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0

Inputs of a Llama's matrices are multiplied by factors around one, and what makes these inputs is divided by them: norms, and
the rows of up and value projections. What the model computes stays the same but for the last digits.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def factors(count, generator):
    return torch.exp(0.1 * torch.randn(count, generator=generator))


@torch.no_grad()
def main(source, folder):
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    ids = torch.arange(100, 228)[None]
    before = model(ids).logits
    generator = torch.Generator().manual_seed(7)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in [(layer.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj]),
                              (layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj])]:
            scale = factors(norm.weight.shape[0], generator)
            norm.weight /= scale
            for reader in readers:
                reader.weight *= scale
        scale = factors(mlp.up_proj.weight.shape[0], generator)
        mlp.up_proj.weight /= scale[:, None]
        mlp.down_proj.weight *= scale
        # Query heads of a group read the same values.
        heads = model.config.num_attention_heads // model.config.num_key_value_heads
        scale = factors(attention.v_proj.weight.shape[0], generator)
        attention.v_proj.weight /= scale[:, None]
        grouped = scale.view(model.config.num_key_value_heads, 1, -1).expand(-1, heads, -1)
        attention.o_proj.weight *= grouped.reshape(-1)
    print("largest difference of a logit:", (model(ids).logits - before).abs().max().item())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)


main(Path(sys.argv[1]), Path(sys.argv[2]))
