//! Simulations of fixed seeds, and of some new ones each time.

#[cfg(test)]
mod grey;
#[cfg(test)]
mod seeds;
