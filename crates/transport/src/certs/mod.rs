//! Certificates: an authority of the run's own, and one certificate for each node.
//!
//! Nobody else's authority is trusted, so a node takes part if and only if somebody with the
//! authority's key made it a certificate.
//!
//! - **CE-1 (identity).** A node's name and roles stand in its certificate, as the URIs
//!   `swirl:node/NAME` and `swirl:role/ROLE` among the subject alternative names (RFC 5280,
//!   4.2.1.6). Where a node listens is not in it: nodes may move.
//! - **CE-2 (keys are private).** A private key is written with mode 0600, and one that others may
//!   read is refused.
//! - **CE-3 (pairs match).** A node's folder is replaced as a whole: a new key never lies beside an
//!   old certificate, whenever the program is stopped. For a moment there may be no folder; the next
//!   `issue` or `renew` puts that right.
//! - **CE-4 (no survivors).** No certificate is valid longer than its authority's.
//! - **CE-5 (renewed in a run).** Every new connection shows and checks what the node's folder holds
//!   ([`CurrentCredentials`]); connections that are open stay.
//! - **CE-6 (shut out).** A certificate in a node's list of [`Revoked`] ones gets no connection to it,
//!   and loses those it has.
//!
//! Not promised: that a list which was changed on one machine is known on another. It lies in each
//! node's folder, and is copied as certificates are.

mod acl;
mod authority;
mod checks;
mod credentials;
mod current;
mod error;
mod folder;
mod identity;
mod revoked;

pub use authority::Authority;
pub use credentials::Credentials;
pub use current::CurrentCredentials;
pub use error::CertError;
pub use identity::{BadIdentity, identity_of};
pub use revoked::{Revocation, Revoked, Serial};

use time::{Duration, OffsetDateTime};

/// The DNS name in every node's certificate, and the server name that a client asks for: what TLS
/// checks by itself. It says that the certificate is a node's; which node, CE-1 says.
pub const SERVER_NAME: &str = "swirl.internal";

/// The authority's certificate, in its own folder and in each node's.
const ROOT_FILE: &str = "ca.pem";
/// The authority's private key.
const ROOT_KEY_FILE: &str = "ca-key.pem";
/// A node's certificate.
const CERTIFICATE_FILE: &str = "cert.pem";
/// A node's private key.
const KEY_FILE: &str = "key.pem";
/// The list of certificates that are shut out, in the authority's folder and in each node's.
const REVOKED_FILE: &str = "revoked";

/// From when until when a certificate is valid, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: OffsetDateTime,
    /// The last moment.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// Days of an authority: longer than a run takes, short enough that a forgotten key ends.
    pub const AUTHORITY_DAYS: u16 = 365;
    /// Days of a node's certificate: one that is lost sight of ends soon.
    pub const NODE_DAYS: u16 = 90;
    /// How far other nodes' clocks may be behind: a certificate is valid from so long ago.
    pub const CLOCK_SKEW: Duration = Duration::minutes(10);

    /// From now, by this machine's clock, for so many days.
    pub fn of_days(days: u16) -> Self {
        Self::starting(OffsetDateTime::now_utc(), days)
    }

    /// From `now`, less [`Self::CLOCK_SKEW`], for so many days.
    pub fn starting(now: OffsetDateTime, days: u16) -> Self {
        Self {
            not_before: now - Self::CLOCK_SKEW,
            not_after: now + Duration::days(days.into()),
        }
    }
}

/// A moment as messages show it: `2026-02-03 14:05 UTC`.
pub fn moment(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    format!(
        "{} {:02}:{:02} UTC",
        time.date(),
        time.hour(),
        time.minute()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_shown_in_utc() {
        let hour = time::UtcOffset::from_hms(1, 0, 0).unwrap();
        let time = OffsetDateTime::from_unix_timestamp(1_770_127_500).unwrap();
        assert_eq!(moment(time.to_offset(hour)), "2026-02-03 14:05 UTC");
    }

    #[test]
    fn the_longest_validity_is_no_panic() {
        let validity = Validity::of_days(u16::MAX);
        assert!(validity.not_before < validity.not_after);
    }
}
