"""Steps of examples/step.rs in PyTorch, both in one run: seconds of a step, the most memory, and the losses of both.

    cargo build --release -p margay-trainer --example step
    python trainer/benches/peer.py target/release/examples/step small|large [STEPS]

with torch and transformers installed. Same weights (read from the checkpoint that step.rs writes), rows, objective
(cat-dist, formulas of tests/fixtures/objectives.py), optimiser and number of threads; the runs alternate.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

THREADS = 2


def peer(folder, size, steps):
    import torch
    from transformers import LlamaForCausalLM

    torch.set_num_threads(THREADS)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train()
    rows, vocabulary, length, targets, top = (8 if size == "small" else 4), model.config.vocab_size, 128, 64, 8
    id = lambda row, at: ((row * 7919 + at * 104729) * 2654435761 % 2**32 >> 8) % vocabulary
    ids = torch.tensor([[id(row, at) for at in range(length)] for row in range(rows)])
    inputs, target = ids[:, :-1], ids[:, -targets:].reshape(-1)
    top_ids = (target[:, None] + torch.arange(top)) % vocabulary
    kept = (-(torch.arange(top) + 1) * torch.log(torch.tensor(2.0))).half().float().expand(len(target), top)
    hits = torch.arange(targets).repeat(rows) % 4 != 0
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=BETAS, eps=EPSILON)
    losses, seconds = [], []
    for _ in range(steps):
        begin = time.perf_counter()
        # The head reads the positions that predict a target, as it does there.
        hidden = model.model(input_ids=inputs).last_hidden_state[:, -targets:].reshape(rows * targets, -1)
        logits = model.lm_head(hidden)
        log_p = torch.log_softmax(logits, -1)
        own = logits.argmax(-1) == target
        small = log_p.gather(-1, top_ids)
        rest = (1 - kept.exp().sum(-1)).clamp(min=0)
        other = torch.log((1 - small.exp().sum(-1)).clamp(min=1e-6))
        token = -0.5 * log_p.gather(-1, target[:, None])[:, 0] + 0.5 * (-(kept.exp() * small).sum(-1) - rest * other)
        loss = ((own | hits) * token).sum() / len(target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
        losses.append(loss.item())
    print(json.dumps({"losses": losses, "seconds": seconds}))


# The trainer's defaults, see margay_trainer::Training.
BETAS, EPSILON, CLIP = (0.9, 0.98), 1e-8, 1.0


def run(command):
    """What a process printed, and its peak memory in MB."""
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, stdout=out, env={**os.environ, "RAYON_NUM_THREADS": str(THREADS)})
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            sys.exit(f"{command[0]} failed")
        out.seek(0)
        return json.loads(out.read()), usage.ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1] == "--peer":
        peer(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        sys.exit()
    program, size, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 6
    with tempfile.TemporaryDirectory() as folder:
        best = {}
        for _ in range(3):
            for name, command in (
                ("margay", [program, size, str(steps), folder]),
                ("PyTorch", [sys.executable, __file__, "--peer", folder, size, str(steps)]),
            ):
                result, memory = run(command)
                # The first step builds what later ones reuse.
                time_of_step = statistics.median(result["seconds"][1:])
                before = best.get(name, (float("inf"), float("inf"), []))
                best[name] = (min(before[0], time_of_step), min(before[1], memory), result["losses"])
    for name, (seconds, memory, losses) in best.items():
        print(f"{name:8} {seconds:6.3f} s a step, {memory:5.0f} MB, loss {losses[0]:.5f} to {losses[-1]:.5f}")
    (own, own_memory, ours), (peers, peers_memory, theirs) = best["margay"], best["PyTorch"]
    apart = max(abs(a - b) for a, b in zip(ours, theirs))
    print(f"ratio    {own / peers:.2f} in time, {own_memory / peers_memory:.2f} in memory; losses at most {apart:.1e} apart")
