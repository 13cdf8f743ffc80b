//! Products against the same sums written down plainly, in double precision.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use half::f16;
use margay_kernels::{Blocks, Linear, Parallel, Scratch, Serial, ShapeError};
use proptest::prelude::*;

/// A matrix that owns its parts.
#[derive(Debug)]
struct Matrix {
    rows: usize,
    columns: usize,
    size: usize,
    /// Last columns, for the sums of the input's blocks.
    block_sums: usize,
    codes: Vec<u8>,
    scales: Vec<[u8; 2]>,
    zeros: Option<Vec<u8>>,
}

impl Matrix {
    /// Parts from a multiplicative generator.
    fn new(rows: usize, columns: usize, size: usize, symmetric: bool, state: &mut u64) -> Self {
        let blocks = columns / size;
        let codes = (0..rows * columns / 2).map(|_| next(state) as u8).collect();
        let scales = (0..rows * blocks).map(|_| f16::from_f32(0.01 + unit(state) * 0.1).to_le_bytes()).collect();
        let zeros = (!symmetric).then(|| (0..rows * blocks.div_ceil(2)).map(|_| next(state) as u8).collect());
        Self { rows, columns, size, block_sums: 0, codes, scales, zeros }
    }

    /// The same with room behind for the sums of `blocks` blocks.
    fn with_block_sums(rows: usize, blocks: usize, size: usize, state: &mut u64) -> Self {
        let block_sums = blocks.next_multiple_of(size);
        Self { block_sums, ..Self::new(rows, blocks * size + block_sums, size, false, state) }
    }

    fn blocks(&self) -> Blocks<'_> {
        let shape = [self.rows, self.columns];
        let blocks = Blocks::new(shape, self.size, &self.codes, &self.scales, self.zeros.as_deref()).unwrap();
        blocks.with_block_sums(self.block_sums).unwrap()
    }

    fn weight(&self, row: usize, column: usize) -> f64 {
        let (block, blocks) = (column / self.size, self.columns / self.size);
        let half = |bytes: &[u8], index: usize| f64::from(bytes[index / 2] >> (4 * (index % 2)) & 15);
        let code = half(&self.codes[row * self.columns / 2..], column);
        let zero = self.zeros.as_ref().map_or(8.0, |zeros| half(&zeros[row * blocks.div_ceil(2)..], block));
        (code - zero) * f16::from_le_bytes(self.scales[row * blocks + block]).to_f64()
    }

    /// Its products with rows of activations rounded to 8 bits, `[n, rows]`.
    fn products(&self, x: &[f32]) -> Vec<f64> {
        let x: Vec<f32> = x.chunks(self.columns - self.block_sums).flat_map(|row| self.with_sums(row)).collect();
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

impl Matrix {
    /// A row of activations and, as far as the matrix wants them, the sums of its blocks.
    fn with_sums(&self, row: &[f32]) -> Vec<f32> {
        let sums = row.chunks(self.size).map(|block| block.iter().sum());
        let sums: Vec<f32> = sums.chain(std::iter::repeat(0.0)).take(self.block_sums).collect();
        [row, &sums].concat()
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
        n in prop::sample::select(&[1_usize, 1, 2, 3, 7, 9, 20]),
        symmetric: bool,
        residual: bool,
        threads in 1..4_usize,
        seed: u64,
    ) {
        let (mut state, columns) = (seed, blocks * size);
        let matrices: Vec<Matrix> =
            rows.iter().map(|&rows| Matrix::new(rows, columns, size, symmetric, &mut state)).collect();
        let x = activations(n * columns, &mut state);
        let outputs: usize = rows.iter().sum();
        let residual = residual.then(|| activations(n * outputs, &mut state));
        let views: Vec<Blocks<'_>> = matrices.iter().map(Matrix::blocks).collect();
        let products: Vec<Vec<f64>> = matrices.iter().map(|matrix| matrix.products(&x)).collect();
        let mut expected: Vec<f64> = (0..n)
            .flat_map(|at| products.iter().zip(&rows).flat_map(move |(products, rows)| products[at * rows..][..*rows].to_vec()))
            .collect();
        for (expected, residual) in expected.iter_mut().zip(residual.iter().flatten()) {
            *expected += f64::from(*residual);
        }
        for linear in Linear::all() {
            let mut out = vec![f32::NAN; n * outputs];
            let mut scratch = Scratch::default();
            linear.multiply(&views, residual.as_deref(), &x, &mut out, &mut scratch, &Threads(threads)).unwrap();
            assert_close(&out, &expected, columns);

            // The buffers of a call leave no trace in the next.
            let mut again = vec![f32::NAN; out.len()];
            linear.multiply(&views, residual.as_deref(), &x, &mut again, &mut scratch, &Serial).unwrap();
            prop_assert_eq!(again, out);
        }
    }

    /// What a batch of sequences decodes is then what each decodes by itself.
    #[test]
    fn a_few_rows_are_to_the_bit_what_each_is_alone(
        rows in 1..70_usize,
        blocks in 1..8_usize,
        size in prop::sample::select(&Blocks::SIZES),
        n in 2..=8_usize,
        sums: bool,
        seed: u64,
    ) {
        let mut state = seed;
        let matrix = if sums {
            Matrix::with_block_sums(rows, blocks, size, &mut state)
        } else {
            Matrix::new(rows, blocks * size, size, false, &mut state)
        };
        let x = activations(n * blocks * size, &mut state);
        let weights = matrix.blocks();
        for linear in Linear::all() {
            let (mut scratch, mut together) = (Scratch::default(), vec![f32::NAN; n * rows]);
            linear.multiply(&[weights], None, &x, &mut together, &mut scratch, &Threads(2)).unwrap();
            let mut gated = together.clone();
            linear.multiply_gated([weights, weights], &x, &mut gated, &mut scratch, &Threads(2)).unwrap();
            let mut alone = vec![f32::NAN; rows];
            for ((x, together), gated) in
                x.chunks(blocks * size).zip(together.chunks(rows)).zip(gated.chunks(rows))
            {
                linear.multiply(&[weights], None, x, &mut alone, &mut scratch, &Serial).unwrap();
                prop_assert_eq!(&alone, together);
                linear.multiply_gated([weights, weights], x, &mut alone, &mut scratch, &Serial).unwrap();
                prop_assert_eq!(&alone, gated);
            }
        }
    }

    #[test]
    fn columns_behind_the_input_multiply_the_sums_of_its_blocks(
        rows in 1..40_usize,
        blocks in 1..40_usize,
        size in prop::sample::select(&Blocks::SIZES),
        n in prop::sample::select(&[1_usize, 2, 5]),
        seed: u64,
    ) {
        let mut state = seed;
        let matrix = Matrix::with_block_sums(rows, blocks, size, &mut state);
        let x: Vec<f32> = (0..n * blocks * size).map(|_| unit(&mut state) - 0.5).collect();
        let expected = matrix.products(&x);
        for linear in Linear::all() {
            let mut out = vec![f32::NAN; n * rows];
            linear.multiply(&[matrix.blocks()], None, &x, &mut out, &mut Scratch::default(), &Threads(2)).unwrap();
            assert_close(&out, &expected, matrix.columns);
        }
    }

    #[test]
    fn the_gate_is_silu(rows in 1..70_usize, blocks in 1..5_usize, n in 1..9_usize, seed: u64) {
        let (mut state, columns) = (seed, 32 * blocks);
        let [gate, up] = [(); 2].map(|()| Matrix::new(rows, columns, 32, false, &mut state));
        let x = activations(n * columns, &mut state);
        let views = [gate.blocks(), up.blocks()];
        let silu = |v: f64| v / (1.0 + (-v).exp());
        let (gate, up) = (gate.products(&x), up.products(&x));
        for linear in Linear::all() {
            let mut out = vec![f32::NAN; n * rows];
            linear.multiply_gated(views, &x, &mut out, &mut Scratch::default(), &Serial).unwrap();
            for ((out, gate), up) in out.iter().zip(&gate).zip(&up) {
                let error = (f64::from(*out) - silu(*gate) * up).abs();
                prop_assert!(error <= 0.01 * (1.0 + gate.abs() + up.abs()), "{} is {} off", out, error);
            }
        }
    }

    #[test]
    fn a_row_that_is_looked_up_is_its_weights(rows in 1..9_usize, blocks in 1..5_usize, symmetric: bool, seed: u64) {
        let mut state = seed;
        let matrix = Matrix::new(rows, 64 * blocks, 64, symmetric, &mut state);
        let mut out = vec![f32::NAN; matrix.columns];
        for row in 0..rows {
            matrix.blocks().row(row, &mut out).unwrap();
            for (column, weight) in out.iter().enumerate() {
                prop_assert_eq!(f64::from(*weight), matrix.weight(row, column));
            }
        }
        prop_assert!(matrix.blocks().row(rows, &mut out).is_err());
    }
}

/// Gates far from zero: the exponential is beyond single precision.
#[test]
fn a_gate_is_open_or_shut_at_the_ends() {
    let (codes, scales) = ([0x99; 16], [f16::ONE.to_le_bytes()]);
    let one = Blocks::new([1, 32], 32, &codes, &scales, None).unwrap();
    for linear in Linear::all() {
        for (x, expected) in [(10.0_f32, 320.0_f32 * 320.0), (-10.0, 0.0)] {
            let mut out = [f32::NAN];
            linear.multiply_gated([one, one], &[x; 32], &mut out, &mut Scratch::default(), &Serial).unwrap();
            assert!((out[0] - expected).abs() <= 1e-3 * expected.max(1.0), "{x}: {}", out[0]);
        }
    }
}

#[test]
fn shapes_that_do_not_go_together_are_refused() {
    let (codes, scales) = ([0; 64], [f16::ONE.to_le_bytes(); 4]);
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
    let weights = [Blocks::new([4, 32], 32, &codes, &scales, None).unwrap()];
    assert!(weights[0].with_block_sums(0).is_ok() && weights[0].with_block_sums(32).is_err());
    let wide = Blocks::new([1, 128], 32, &codes, &scales, None).unwrap();
    for (block_sums, accepted) in [(32, true), (16, false), (64, true), (128, false), (160, false)] {
        assert_eq!(wide.with_block_sums(block_sums).is_ok(), accepted, "{block_sums}");
    }
    let Some(linear) = Linear::new() else { return };
    let multiply = |weights: &[Blocks<'_>], x: usize, out: usize| {
        linear.multiply(weights, None, &vec![0.0; x], &mut vec![0.0; out], &mut Scratch::default(), &Serial)
    };
    assert_eq!(multiply(&weights, 64, 8), Ok(()));
    assert_eq!(multiply(&weights, 0, 0), Ok(()));
    let wrong: [Result<(), ShapeError>; 3] =
        [multiply(&[], 32, 4), multiply(&weights, 33, 4), multiply(&weights, 32, 5)];
    assert!(wrong.iter().all(Result::is_err));
}
