//! Products against the same sums written down plainly, in double precision.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use margay_kernels::{Blocks, Linear, Parallel, Scratch, Serial, ShapeError};
use proptest::prelude::*;

/// A matrix that owns its parts.
#[derive(Debug)]
struct Matrix {
    rows: usize,
    columns: usize,
    size: usize,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Option<Vec<u8>>,
}

impl Matrix {
    /// Parts from a multiplicative generator.
    fn new(rows: usize, columns: usize, size: usize, symmetric: bool, state: &mut u64) -> Self {
        let blocks = columns / size;
        let codes = (0..rows * columns / 2).map(|_| next(state) as u8).collect();
        let scales = (0..rows * blocks).map(|_| 0.01 + unit(state) * 0.1).collect();
        let zeros = (!symmetric).then(|| (0..rows * blocks.div_ceil(2)).map(|_| next(state) as u8).collect());
        Self { rows, columns, size, codes, scales, zeros }
    }

    fn blocks(&self) -> Blocks<'_> {
        let shape = [self.rows, self.columns];
        Blocks::new(shape, self.size, &self.codes, &self.scales, self.zeros.as_deref()).unwrap()
    }

    fn weight(&self, row: usize, column: usize) -> f64 {
        let (block, blocks) = (column / self.size, self.columns / self.size);
        let half = |bytes: &[u8], index: usize| f64::from(bytes[index / 2] >> (4 * (index % 2)) & 15);
        let code = half(&self.codes[row * self.columns / 2..], column);
        let zero = self.zeros.as_ref().map_or(8.0, |zeros| half(&zeros[row * blocks.div_ceil(2)..], block));
        (code - zero) * f64::from(self.scales[row * blocks + block])
    }

    /// Its products with rows of activations rounded to 8 bits, `[n, rows]`.
    fn products(&self, x: &[f32]) -> Vec<f64> {
        let rounded: Vec<f64> = x
            .chunks(self.size)
            .flat_map(|block| {
                let scale = f64::from(block.iter().fold(0.0_f32, |most, value| most.max(value.abs()))) / 127.0;
                let round =
                    move |value: &f32| if scale > 0.0 { (f64::from(*value) / scale).round() * scale } else { 0.0 };
                block.iter().map(round).collect::<Vec<_>>()
            })
            .collect();
        let row = |x: &[f64], row| x.iter().enumerate().map(|(column, x)| x * self.weight(row, column)).sum();
        rounded.chunks(self.columns).flat_map(|x| (0..self.rows).map(|at| row(x, at)).collect::<Vec<f64>>()).collect()
    }
}

fn next(state: &mut u64) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as u32
}

/// In 0..1.
fn unit(state: &mut u64) -> f32 {
    (next(state) >> 7) as f32 / (1 << 24) as f32
}

fn activations(count: usize, state: &mut u64) -> Vec<f32> {
    // Some blocks are much larger than others, as a few channels of a transformer are.
    (0..count).map(|index| (unit(state) - 0.5) * if index % 192 < 64 { 20.0 } else { 1.0 }).collect()
}

/// Threads that all take what they can.
struct Threads(usize);

impl Parallel for Threads {
    fn run(&self, work: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| {
            for _ in 0..self.0 {
                scope.spawn(work);
            }
        });
    }
}

/// A half of the last step between two codes may fall to either side, and sums are in single precision.
fn assert_close(actual: &[f32], expected: &[f64], columns: usize) {
    assert_eq!(actual.len(), expected.len());
    let tolerance = 0.02 * (columns as f64).sqrt();
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(*actual) - expected).abs();
        assert!(error <= tolerance, "{index}: {actual} instead of {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn products_are_the_plain_sums(
        rows in prop::collection::vec(1..70_usize, 1..4),
        blocks in 1..8_usize,
        size in prop::sample::select(&Blocks::SIZES),
        n in prop::sample::select(&[1_usize, 1, 2, 3, 7, 20]),
        symmetric: bool,
        residual: bool,
        threads in 1..4_usize,
        seed: u64,
    ) {
        let Some(linear) = Linear::new() else { return Ok(()) };
        let (mut state, columns) = (seed, blocks * size);
        let matrices: Vec<Matrix> =
            rows.iter().map(|&rows| Matrix::new(rows, columns, size, symmetric, &mut state)).collect();
        let x = activations(n * columns, &mut state);
        let outputs: usize = rows.iter().sum();
        let residual = residual.then(|| activations(n * outputs, &mut state));
        let views: Vec<Blocks<'_>> = matrices.iter().map(Matrix::blocks).collect();
        let mut out = vec![f32::NAN; n * outputs];
        let mut scratch = Scratch::default();
        linear.multiply(&views, residual.as_deref(), &x, &mut out, &mut scratch, &Threads(threads)).unwrap();

        let products: Vec<Vec<f64>> = matrices.iter().map(|matrix| matrix.products(&x)).collect();
        let mut expected: Vec<f64> = (0..n)
            .flat_map(|at| products.iter().zip(&rows).flat_map(move |(products, rows)| products[at * rows..][..*rows].to_vec()))
            .collect();
        for (expected, residual) in expected.iter_mut().zip(residual.iter().flatten()) {
            *expected += f64::from(*residual);
        }
        assert_close(&out, &expected, columns);

        // The buffers of a call leave no trace in the next.
        let mut again = vec![f32::NAN; out.len()];
        linear.multiply(&views, residual.as_deref(), &x, &mut again, &mut scratch, &Serial).unwrap();
        prop_assert_eq!(again, out);
    }

    #[test]
    fn the_gate_is_silu(rows in 1..70_usize, blocks in 1..5_usize, n in 1..9_usize, seed: u64) {
        let Some(linear) = Linear::new() else { return Ok(()) };
        let (mut state, columns) = (seed, 32 * blocks);
        let [gate, up] = [(); 2].map(|()| Matrix::new(rows, columns, 32, false, &mut state));
        let x = activations(n * columns, &mut state);
        let mut out = vec![f32::NAN; n * rows];
        let views = [gate.blocks(), up.blocks()];
        linear.multiply_gated(views, &x, &mut out, &mut Scratch::default(), &Serial).unwrap();
        let silu = |v: f64| v / (1.0 + (-v).exp());
        for ((out, gate), up) in out.iter().zip(gate.products(&x)).zip(up.products(&x)) {
            let expected = silu(gate) * up;
            prop_assert!((f64::from(*out) - expected).abs() <= 0.01 * (1.0 + gate.abs() + up.abs()), "{} {}", out, expected);
        }
    }
}

#[test]
fn shapes_that_do_not_go_together_are_refused() {
    let (codes, scales) = ([0; 64], [1.0; 4]);
    let new = |shape, size, zeros| Blocks::new(shape, size, &codes, &scales, zeros).map(drop);
    assert_eq!(new([4, 32], 32, None), Ok(()));
    for (shape, size, zeros) in [
        ([4, 32], 16, None),
        ([4, 48], 32, None),
        ([4, 0], 32, None),
        ([3, 32], 32, None),
        ([2, 64], 64, None),
        ([usize::MAX, 32], 32, None),
        ([4, 32], 32, Some(&codes[..3])),
    ] {
        assert!(new(shape, size, zeros).is_err(), "{shape:?} {size}");
    }
    let Some(linear) = Linear::new() else { return };
    let weights = [Blocks::new([4, 32], 32, &codes, &scales, None).unwrap()];
    let multiply = |weights: &[Blocks<'_>], x: usize, out: usize| {
        linear.multiply(weights, None, &vec![0.0; x], &mut vec![0.0; out], &mut Scratch::default(), &Serial)
    };
    assert_eq!(multiply(&weights, 64, 8), Ok(()));
    assert_eq!(multiply(&weights, 0, 0), Ok(()));
    let wrong: [Result<(), ShapeError>; 3] =
        [multiply(&[], 32, 4), multiply(&weights, 33, 4), multiply(&weights, 32, 5)];
    assert!(wrong.iter().all(Result::is_err));
}
