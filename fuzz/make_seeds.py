"""Writes seeds/: small inputs that every target accepts, to begin from.

Standard library only.
"""

import hashlib
import json
import pathlib
import zlib

SEEDS = pathlib.Path(__file__).with_name("seeds")
DIGEST = "sha256:" + "0" * 64


def seed(target, name, content):
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


canary = {"prompt": [1], "continuation": [2], "logits": [0.5], "tolerance": 0.1}
files = {"model.onnx": b"graph", "tokenizer.json": b"{}", "variants/g/model.onnx": b""}
manifest = {
    "schema": 1,
    "name": "seed",
    "model": {
        "graph": "model.onnx", "tokenizer": "tokenizer.json", "architecture": "llama", "quantization": "f32",
        "vocabulary_size": 8, "context_length": 8, "layers": 1, "key_value_heads": 1, "head_size": 4,
        "flops_per_token": 1, "parameters": 1,
    },
    "prompt": {"chat_template": "{{ messages }}", "special_tokens": {"eos_token": "e"}, "stop_tokens": [3]},
    "canary": canary,
    "golden": [{"text": "a", "ids": [1, 2], "positions": [{"position": 1, "top": [[3, 0.5]]}], "tolerance": 0.1,
                "greedy": {"ids": [3], "text": "b"}}],
    "measurements": [{"quantity": "perplexity", "data": "d", "sample_size": 1, "before": 2.0, "after": 2.5}],
    "variants": [{
        "name": "g", "device": "gpu", "providers": ["webgpu"], "requires": {"soc": "x"},
        "graph": "variants/g/model.onnx", "quantization": "f16", "canary": canary,
    }],
    "files": [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in sorted(files.items())
    ],
    "licence": "MIT",
    "provenance": {"made-by": "hand"},
}
written = json.dumps(manifest, separators=(",", ":")).encode()
seed("manifest", "whole.json", written)

# RFC 8032, test 1: a key and a signature of the empty message, so a wrong one here.
key = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
seed("signatures", "one.json", json.dumps({"schema": 1, "signatures": [{"key": key, "signature": "0" * 128}]}))


def entry(path, content):
    header = bytearray(512)
    fields = [
        (0, path.encode()), (100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"),
        (124, b"%011o\0" % len(content)), (136, b"%011o\0" % 0), (148, b" " * 8), (156, b"0"), (257, b"ustar\x0000"),
    ]
    for at, field in fields:
        header[at : at + len(field)] = field
    header[148:156] = b"%07o\0" % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


archive = entry("manifest.json", written)
for path, content in sorted(files.items()):
    archive += entry(path, content)
seed("archive", "whole.margay", archive + bytes(1024))

certificate = {
    "method": "learn-then-test-binomial", "target": {"of": "risk", "risk": "worse-among-kept", "at_most": 0.05},
    "level": 0.95, "measured": 0.02, "sample_size": 100, "joint": 1, "assumptions": "a", "model_digest": DIGEST,
}
seed("policy", "whole.json", json.dumps({
    "model_digest": DIGEST,
    "policy": {"rule": "chow-average", "default": -0.5, "tasks": {"alarm": "inf"}},
    "calibration": {"method": "m", "target": 0.3, "data": "d", "sample_size": 100, "guarantee": "g"},
    "certificates": [
        {"threshold": -0.5, "deferral_rate": 0.3, "certificate": certificate},
        {"task": "alarm", "threshold": "inf", "deferral_rate": 1.0, "certificate": certificate},
    ],
}))

columns = "query,model,quality,task,split,score,signal.entropy,tokens_in,tokens_out,cost,latency_ms,flops,answer_digest"
seed("outcomes_csv", "whole.csv", f'{columns}\nq1,small,1,t,test,-0.5,0.25,3,4,0.001,2.5,100,abc\n"q,2",large,0,,,,,,,,,,\n')
row = {"query": "q1", "model": "small", "quality": 1.0, "task": "t", "score": -0.5, "signal.entropy": 0.25, "tokens_in": 3}
seed("outcomes_json_lines", "whole.jsonl", json.dumps(row) + "\n" + json.dumps({"query": "q", "model": "m", "quality": 0}) + "\n")

example = SEEDS.parent.parent / "runtime" / "margay.example.toml"
seed("configuration", "example.toml", example.read_bytes())

chunk = json.dumps({"choices": [{"delta": {"content": "a"}}]})
seed("events", "stream.sse", f"\ufeff: hello\nevent: message\ndata: {chunk}\r\n\r\ndata: [DONE]\n\n")

seed("policy_compact", "one.bin", bytes([1, 4, 10, 0, 0, 0, 0xBF, 1, 2]) + b"tv" + bytes([0, 0, 0x80, 0xFF, 0]))


def stuffed(content):
    """COBS, for content of at most 254 bytes."""
    return b"".join(bytes([len(part) + 1]) + part for part in content.split(b"\0")) + b"\0"


def frame(message):
    content = b"\x01" + message
    return stuffed(content + zlib.crc32(content).to_bytes(4, "little"))


messages = [b"\0\x05\x07\x01\x02tv\x03on?", b"\x01\x05\x07", b"\x02\x05\x07\x01\x02ok\x01", b"\x03\x05\x07", b"\x04"]
seed("frames", "each.bin", b"".join(map(frame, messages)))
