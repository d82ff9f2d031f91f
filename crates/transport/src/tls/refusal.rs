//! Why TLS refused a connection, in one sentence that says what to do.

use crate::Lane;
use quinn::ConnectionError;
use rustls::AlertDescription;

/// A QUIC error code is this plus the number of TLS's alert (RFC 9001, 4.8).
const CRYPTO_ERROR: u64 = 0x100;
/// Characters of the other side's text that are shown.
const REASON_CHARS: usize = 300;

/// Who refused whom.
#[derive(Clone, Copy)]
enum Refused {
    /// This node the other.
    Other,
    /// The other node this one.
    Us,
}

/// Why the handshake was refused, by this node or by the other one. `None` where it was not: a
/// connection that was lost may come back, but one that was refused will be refused again until
/// somebody does what the sentence says. `lanes` are those that this node asked for or serves.
pub fn refusal(error: &ConnectionError, lanes: &[Lane]) -> Option<String> {
    let (refused, code, reason) = match error {
        ConnectionError::TransportError(error) => {
            (Refused::Other, error.code.into(), error.reason.clone())
        }
        ConnectionError::ConnectionClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            (Refused::Us, close.error_code.into(), reason)
        }
        _ => return None,
    };
    let alert = u8::try_from(u64::checked_sub(code, CRYPTO_ERROR)?).ok()?;
    Some(sentence(alert.into(), refused, &reason, lanes))
}

/// The same of TLS over TCP.
pub(super) fn stream_refusal(error: &rustls::Error, lane: Lane) -> Option<String> {
    use rustls::Error as E;
    let (refused, alert) = match error {
        E::AlertReceived(alert) => (Refused::Us, *alert),
        E::InvalidCertificate(wrong) => (Refused::Other, wrong.clone().into()),
        E::NoCertificatesPresented => (Refused::Other, AlertDescription::CertificateRequired),
        E::NoApplicationProtocol => (Refused::Other, AlertDescription::NoApplicationProtocol),
        _ => return None,
    };
    Some(sentence(alert, refused, &error.to_string(), &[lane]))
}

fn sentence(alert: AlertDescription, refused: Refused, reason: &str, lanes: &[Lane]) -> String {
    let why = why(alert, refused, &plain(reason), lanes);
    match refused {
        Refused::Other => format!("refused the other node: {why}"),
        Refused::Us => format!("the other node refused this one: {why}"),
    }
}

fn why(alert: AlertDescription, refused: Refused, reason: &str, lanes: &[Lane]) -> String {
    use AlertDescription as A;
    let (whose, who) = match refused {
        Refused::Other => ("its", "it"),
        Refused::Us => ("this node's", "this node"),
    };
    match alert {
        A::CertificateExpired => {
            let state = match reason {
                _ if reason.contains("not valid yet") => "is not valid yet",
                _ if reason.contains("expired") => "has expired",
                _ => "has expired or is not valid yet",
            };
            format!(
                "{whose} certificate {state}; if the clocks of both are right, `swirl certs renew` \
                 makes a new one"
            )
        }
        A::CertificateRevoked => format!(
            "{whose} certificate is shut out (`swirl certs revoke`); give the node one that is not in \
             the list `revoked`"
        ),
        A::UnknownCA => format!(
            "{whose} certificate is of another authority; give both nodes certificates of one \
             authority (`swirl certs`)"
        ),
        A::DecryptError => format!(
            "a signature is wrong: {whose} key is not that of the certificate, or another authority \
             by the same name signed that; copy the node's folder again"
        ),
        A::CertificateRequired => {
            format!("{who} showed no certificate; `swirl certs issue` makes one")
        }
        A::NoApplicationProtocol => format!(
            "they have no protocol in common, this node has {}; run the same version of swirl on \
             both, and check the port",
            protocols(lanes)
        ),
        A::CertificateUnknown => said_by_us(reason).to_owned(),
        A::BadCertificate | A::UnsupportedCertificate => {
            format!("{whose} certificate is not as `swirl certs` makes it ({reason})")
        }
        other => format!("the TLS handshake failed with {other:?} ({reason})"),
    }
}

fn protocols(lanes: &[Lane]) -> String {
    let names = lanes.iter().map(|lane| lane.alpn());
    let names: Vec<_> = names
        .map(|alpn| String::from_utf8_lossy(&alpn).into_owned())
        .collect();
    names.join(", ")
}

/// The text of `verify::WrongNode` within rustls' own.
fn said_by_us(reason: &str) -> &str {
    let text = reason.split_once("OtherError(").map(|(_, text)| text);
    text.and_then(|text| text.strip_suffix("))"))
        .unwrap_or(reason)
}

/// The other side's words are nobody's that is known: no control characters, and an end.
fn plain(reason: &str) -> String {
    let printable = reason.chars().filter(|c| !c.is_control());
    printable.take(REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u64, reason: &'static [u8]) -> ConnectionError {
        ConnectionError::ConnectionClosed(quinn::ConnectionClose {
            error_code: match code {
                0 => quinn::TransportErrorCode::NO_ERROR,
                code => quinn::TransportErrorCode::crypto(code as u8),
            },
            frame_type: None,
            reason: reason.into(),
        })
    }

    #[test]
    fn what_is_no_refusal_may_be_tried_again() {
        let cases = [
            ConnectionError::TimedOut,
            ConnectionError::Reset,
            ConnectionError::LocallyClosed,
            closed(0, b""),
        ];
        for error in cases {
            assert_eq!(refusal(&error, &Lane::ALL), None, "{error}");
        }
    }

    #[test]
    fn foreign_words_are_cut_and_cleaned() {
        let said = refusal(&closed(80, &[b'x', 27, b'\n', 0xff]), &[]).unwrap();
        assert!(said.contains("InternalError (x\u{fffd})"), "{said}");
        let said = refusal(&closed(80, &[b'y'; 5000]), &[]).unwrap();
        assert_eq!(said.matches('y').count(), REASON_CHARS, "{said}");
    }
}
