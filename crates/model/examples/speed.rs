//! Tokens a second of prefill and of forward with backward:
//! `cargo run --release -p model --example speed -- FOLDER [THREADS]`.

use model::{Decoder, FullAttention, Visibility};
use std::path::Path;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const BATCH: i64 = 4;
const LENGTH: i64 = 256;

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: speed FOLDER [THREADS]")?;
    if let Some(threads) = arguments.next() {
        tch::set_num_threads(threads.parse().map_err(|_| "THREADS is a number")?);
    }
    let decoder = model::load(Path::new(&folder), Device::Cpu, Kind::BFloat16)
        .map_err(|error| error.to_string())?;
    let prefill = best_of(4, || {
        let _ = tch::no_grad(|| hidden(&decoder));
    });
    for parameter in decoder.parameters() {
        let _ = parameter.tensor.set_requires_grad(true);
    }
    let training = best_of(4, || {
        decoder
            .logits(&hidden(&decoder))
            .logsumexp([-1i64].as_slice(), false)
            .mean(Kind::Float)
            .backward();
    });
    println!("prefill {prefill:.0} tokens/s, forward and backward {training:.0} tokens/s");
    Ok(())
}

fn hidden(decoder: &Decoder) -> Tensor {
    let ids = Tensor::arange(BATCH * LENGTH, (Kind::Int64, Device::Cpu)).view([BATCH, LENGTH]);
    let positions =
        Tensor::arange(LENGTH, (Kind::Int64, Device::Cpu)).expand([BATCH, LENGTH], false);
    let mut attention = FullAttention::new(Visibility::Causal, &positions);
    decoder.forward(&ids, &positions, &mut attention)
}

/// Tokens a second of the fastest of several runs: the others were disturbed.
fn best_of(runs: usize, work: impl Fn()) -> f64 {
    let seconds = (0..runs).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    });
    (BATCH * LENGTH) as f64 / seconds.fold(f64::INFINITY, f64::min)
}
