//! Who a certificate says it is: any bytes name a node with its roles, or are refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use transport::certs::identity_of;

fuzz_target!(|data: &[u8]| {
    let certificate = CertificateDer::from(data);
    if let Ok(identity) = identity_of(&certificate) {
        let name = identity.name.as_str();
        assert_eq!(name.parse().as_ref(), Ok(&identity.name));
    }
});
