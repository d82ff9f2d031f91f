//! The actors from outside, with engines that do what a test plans.

#[cfg(test)]
mod ending;
#[cfg(test)]
mod judging;
#[cfg(test)]
mod rollouts;
#[cfg(test)]
mod sick;
#[cfg(test)]
mod support;
#[cfg(test)]
mod training;
