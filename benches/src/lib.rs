//! What the benchmarks share: programs that are asked by JSON lines, and how figures are shown.

pub mod figures;
pub mod program;
