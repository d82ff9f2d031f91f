//! `transport` from outside: real files, and real endpoints on the loopback.

#[cfg(test)]
mod certs;
#[cfg(test)]
mod endpoint;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod renewal;
#[cfg(test)]
mod resets;
#[cfg(test)]
mod stream;
