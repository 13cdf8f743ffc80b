"""What Hugging Face transformers computes: of a GGUF file, and of small random checkpoints that it writes itself.

    python reference.py REQUEST.json
    # {"out": "folder", "gguf": {"path": "model.gguf", "ids": [[...], ...]}, "families": ["llama", ...],
    #  "prompts": 20, "positions": 256, "begin": 32, "greedy": 64}

For each model, `out/NAME/reference` holds `ids.json`, `greedy.json` (continuations of the first `begin` ids) and
`logits-N.f32`, little-endian `[positions, vocabulary]`; random checkpoints are in `out/NAME/checkpoint`.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config,
                          Qwen3Config)

SMALL = dict(vocab_size=320, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=2, pad_token_id=None)
STRETCH = dict(rope_type="llama3", rope_theta=50000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
               original_max_position_embeddings=64)
BASES = {"full_attention": dict(rope_type="default", rope_theta=100000.0), "sliding_attention": dict(rope_type="default", rope_theta=1000.0)}
LAYERS = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
CONFIGS = {
    "llama": lambda: LlamaConfig(**SMALL, rope_parameters=STRETCH, tie_word_embeddings=False),
    "qwen2": lambda: Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**SMALL, head_dim=48, tie_word_embeddings=True),
    "gemma3": lambda: Gemma3TextConfig(**SMALL, head_dim=64, query_pre_attn_scalar=48, sliding_window=40, layer_types=LAYERS,
                                       rope_parameters=BASES),
}


def checkpoint(name, folder):
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32)
    with torch.no_grad():
        for key, value in model.named_parameters():
            deviation = 0.3 if value.dim() == 1 else value.shape[-1] ** -0.5
            # Gemma's norms scale by one plus their weight.
            value.normal_(1.0 if "norm" in key and name != "gemma3" else 0.0, deviation)
    model.save_pretrained(folder)
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=marks, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator(["the margay is a small wild cat", "what is the name of the cat"], trainer)
    words = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=marks[0], eos_token=marks[2])
    words.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@torch.no_grad()
def reference(model, ids, request, out):
    out.mkdir(parents=True)
    model.eval()
    greedy = []
    for number, row in enumerate(ids):
        logits = model(torch.tensor([row])).logits[0].contiguous()
        (out / f"logits-{number}.f32").write_bytes(logits.numpy().astype("<f4").tobytes())
        begin = torch.tensor([row[:request["begin"]]])
        continued = model.generate(begin, attention_mask=torch.ones_like(begin), do_sample=False, eos_token_id=None, pad_token_id=0,
                                   min_new_tokens=request["greedy"], max_new_tokens=request["greedy"])
        greedy.append(continued[0, begin.shape[1]:].tolist())
    (out / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
    (out / "greedy.json").write_text(json.dumps(greedy), encoding="utf-8")


def main(request):
    out = Path(request["out"])
    if gguf := request.get("gguf"):
        path = Path(gguf["path"])
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        reference(model, gguf["ids"], request, out / "gguf/reference")
    for name in request["families"]:
        model = checkpoint(name, out / name / "checkpoint")
        ids = torch.randint(3, SMALL["vocab_size"], (request["prompts"], request["positions"]))
        reference(model, ids.tolist(), request, out / name / "reference")


main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
