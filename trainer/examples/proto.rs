#![allow(clippy::all, missing_docs)]
use margay_trainer::data::*;
use margay_trainer::*;
use std::ops::ControlFlow;
use std::time::Instant;
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let g = |k: &str, d: f64| -> f64 {
        a.iter().find_map(|x| x.strip_prefix(&format!("{k}=")).map(|v| v.parse().unwrap())).unwrap_or(d)
    };
    let rows = read_jsonl("cli/data/clinc150/train.jsonl.gz".as_ref()).unwrap();
    let val = read_jsonl("/tmp/val.jsonl.gz".as_ref()).unwrap();
    let s = split_by_hash(rows, 0.1);
    let tok =
        Tokenizer::train(s.train.iter().flat_map(|e| [e.input.as_str(), e.target.as_str()]), g("v", 2048.) as usize)
            .unwrap();
    let d = Device::flex();
    let arch = Architecture::llama(
        tok.vocabulary_size(),
        g("h", 128.) as usize,
        g("i", 256.) as usize,
        g("l", 4.) as usize,
        g("n", 4.) as usize,
        g("kv", 2.) as usize,
    );
    let tr = Encoded::all(&s.train, &tok, 64).unwrap();
    let va = Encoded::all(&val, &tok, 64).unwrap();
    let ins: Vec<_> = va.iter().zip(&val).filter(|(_, e)| e.target != "out of scope").map(|x| x.0.clone()).collect();
    let toks: usize = tr.iter().map(|e| e.prompt.len() + e.target.len()).sum();
    println!(
        "rows {} tokens {} targets {} params {} flops {}",
        tr.len(),
        toks,
        tr.iter().map(|e| e.target.len()).sum::<usize>(),
        arch.parameters(),
        arch.flops_per_token()
    );
    let m = CausalLm::random(&arch, 1, &d).unwrap();
    let o = TrainOptions {
        objective: Objective::Xent,
        objective_options: Default::default(),
        epochs: g("e", 4.) as u64,
        batch_size: g("b", 64.) as usize,
        learning_rate: g("lr", 2e-3),
        warm_up: 0.1,
        weight_decay: g("wd", 0.05) as f32,
        clip: 1.0,
        dropout: g("do", 0.1),
        seed: 1,
    };
    let t = Instant::now();
    let mut acc = 0.;
    let m = train(m, &tr, None, &o, &d, &mut |r| {
        acc += r.loss;
        if r.step % 100 == 0 {
            println!(
                "{}/{} loss {:.4} gn {:.2} {:.1}s",
                r.step,
                r.steps,
                acc / 100.,
                r.gradient_norm,
                t.elapsed().as_secs_f32()
            );
            acc = 0.;
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    let tt = t.elapsed().as_secs_f32();
    let t = Instant::now();
    let an = Annotations::read_off(&m, &va, 1, 128, &d, &mut |_| {}).unwrap();
    let ai = Annotations::read_off(&m, &ins, 1, 128, &d, &mut |_| {}).unwrap();
    let at = Annotations::read_off(&m, &tr[..2000], 1, 128, &d, &mut |_| {}).unwrap();
    println!(
        "RESULT {} train {:.1}s val EM {:.4} in-scope {:.4} hit {:.4} trainEM {:.4} read {:.1}s",
        a[1..].join(" "),
        tt,
        an.exact_match(),
        ai.exact_match(),
        an.hit_rate(),
        at.exact_match(),
        t.elapsed().as_secs_f32()
    );
}
