//! Authorities and nodes' folders on disk.

use crate::fixture::{Run, Shown, from_day, node, now, roles};
use proto::Role;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use transport::certs::{Authority, CertError, Credentials, Validity, identity_of};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn open_to_others(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap();
}

/// The error and its causes.
fn said(error: &CertError) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

#[test]
fn a_node_is_who_its_certificate_says() {
    let run = Run::new();
    let folder = run.issue("gpu-1", &[Role::Tool, Role::Sampler], now());
    let credentials = Credentials::load(&folder).unwrap();
    let identity = credentials.identity();
    assert_eq!(identity.to_string(), "gpu-1 (sampler, tool)");
    let certificate = CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap();
    assert_eq!(identity_of(&certificate).as_ref(), Ok(identity));
    assert_eq!(
        fs::read(folder.join("ca.pem")).unwrap(),
        fs::read(run.dir.path().join("ca.pem")).unwrap()
    );
    // An authority that is opened again issues what fits the first one's.
    let again = Authority::open(run.dir.path()).unwrap();
    again
        .issue(&node("b"), &roles(&[Role::Judge]), now())
        .unwrap();
    Credentials::load(&again.node_folder(&node("b"))).unwrap();
}

#[test]
fn ce_2_keys_are_private() {
    let run = Run::new();
    let key = run.dir.path().join("ca-key.pem");
    let folder = run.issue("a", &[Role::Tool], now());
    assert_eq!(mode(&key), 0o600);
    assert_eq!(mode(&folder.join("key.pem")), 0o600);
    run.authority.renew(&node("a"), now()).unwrap();
    assert_eq!(mode(&folder.join("key.pem")), 0o600);

    open_to_others(&key);
    let error = Authority::open(run.dir.path()).unwrap_err();
    assert!(said(&error).contains("(mode 640): `chmod 600 "), "{error}");
    open_to_others(&folder.join("key.pem"));
    let error = Credentials::load(&folder).unwrap_err();
    assert!(said(&error).contains("(mode 640): `chmod 600 "), "{error}");
}

#[test]
fn nothing_is_overwritten() {
    let run = Run::new();
    let error = Authority::create(run.dir.path(), now()).unwrap_err();
    assert!(said(&error).contains("is there already"), "{error}");
    // Half of an authority counts: certificates may have been made with it.
    fs::remove_file(run.dir.path().join("ca.pem")).unwrap();
    let error = Authority::create(run.dir.path(), now()).unwrap_err();
    assert!(said(&error).contains("ca-key.pem is there"), "{error}");

    let folder = run.issue("a", &[Role::Tool], now());
    let before = fs::read(folder.join("key.pem")).unwrap();
    let again = run
        .authority
        .issue(&node("a"), &roles(&[Role::Tool]), now());
    let error = again.unwrap_err();
    assert!(said(&error).contains("`swirl certs renew a`"), "{error}");
    assert_eq!(fs::read(folder.join("key.pem")).unwrap(), before);
}

#[test]
fn a_renewal_keeps_name_and_roles() {
    let run = Run::new();
    // Also where the old one has expired.
    let folder = run.issue("a", &[Role::Tool, Role::Judge], from_day(-40));
    let before = Shown::of_folder(&folder);
    run.authority.renew(&node("a"), now()).unwrap();
    let after = Shown::of_folder(&folder);
    assert_ne!(before.certificate_pem, after.certificate_pem);
    assert_ne!(before.key_pem, after.key_pem);
    let credentials = Credentials::load(&folder).unwrap();
    assert_eq!(credentials.identity().to_string(), "a (tool, judge)");
}

#[test]
fn what_cannot_be_renewed_stays_as_it_was() {
    let (run, other) = (Run::new(), Run::new());
    let folder = run.issue("a", &[Role::Tool], now());
    let error = run.authority.renew(&node("b"), now()).unwrap_err();
    assert!(said(&error).contains("b/cert.pem is missing"), "{error}");

    let foreign = other.issue("a", &[Role::Controller], now());
    fs::copy(foreign.join("cert.pem"), folder.join("cert.pem")).unwrap();
    let error = run.authority.renew(&node("a"), now()).unwrap_err();
    assert!(said(&error).contains("was not signed by"), "{error}");

    let b = run.issue("b", &[Role::Controller], now());
    fs::copy(b.join("cert.pem"), folder.join("cert.pem")).unwrap();
    let error = run.authority.renew(&node("a"), now()).unwrap_err();
    assert!(said(&error).contains("of b, not of a"), "{error}");
    assert_eq!(
        fs::read(folder.join("cert.pem")).unwrap(),
        fs::read(b.join("cert.pem")).unwrap()
    );
}

#[test]
fn a_node_needs_a_role() {
    let run = Run::new();
    let error = run.authority.issue(&node("a"), &roles(&[]), now());
    assert!(matches!(error, Err(CertError::NoRoles)));
    assert!(!run.authority.node_folder(&node("a")).exists());
}

#[test]
fn ce_4_no_certificate_outlives_its_authority() {
    let dir = tempfile::tempdir().unwrap();
    let validity = Validity::of_days(10);
    let authority = Authority::create(dir.path(), validity).unwrap();
    let name = node("a");
    let long = Validity::of_days(90);
    authority.issue(&name, &roles(&[Role::Tool]), long).unwrap();
    let credentials = Credentials::load(&authority.node_folder(&name)).unwrap();
    let end = credentials.not_after().unix_timestamp();
    assert_eq!(end, validity.not_after.unix_timestamp());

    let dir = tempfile::tempdir().unwrap();
    let over = Authority::create(dir.path(), from_day(-40)).unwrap();
    let error = over.issue(&name, &roles(&[Role::Tool]), now()).unwrap_err();
    assert!(said(&error).contains("ca.pem expired on 20"), "{error}");
}

#[test]
fn an_authority_is_opened_only_with_its_key() {
    let (run, other) = (Run::new(), Run::new());
    let key = run.dir.path().join("ca-key.pem");
    fs::copy(other.dir.path().join("ca-key.pem"), &key).unwrap();
    let error = Authority::open(run.dir.path()).unwrap_err();
    assert!(said(&error).contains("is not the key of"), "{error}");
    fs::remove_file(&key).unwrap();
    let error = Authority::open(run.dir.path()).unwrap_err();
    assert!(said(&error).contains("`swirl certs init`"), "{error}");
}

/// What is done to a good folder, and what is said of it.
type Wrong = (&'static str, fn(&Run, &Path), &'static [&'static str]);

#[test]
fn a_node_with_wrong_files_does_not_start() {
    let cases: [Wrong; 12] = [
        (
            "no key",
            |_, f| fs::remove_file(f.join("key.pem")).unwrap(),
            &["key.pem is missing", "`swirl certs issue`"],
        ),
        (
            "no folder",
            |_, f| fs::remove_dir_all(f).unwrap(),
            &["ca.pem is missing"],
        ),
        (
            "no PEM",
            |_, f| fs::write(f.join("cert.pem"), "x").unwrap(),
            &["cert.pem cannot be used"],
        ),
        (
            "no DER",
            |_, f| {
                let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
                fs::write(f.join("cert.pem"), pem).unwrap();
            },
            &["cert.pem cannot be used"],
        ),
        (
            "a key that is none",
            |_, f| fs::write(f.join("key.pem"), "x").unwrap(),
            &["key.pem cannot be used"],
        ),
        (
            "the key of another",
            |run, f| {
                let other = run.issue("b", &[Role::Tool], now());
                fs::copy(other.join("key.pem"), f.join("key.pem")).unwrap();
            },
            &["key.pem is not the key of", "cert.pem"],
        ),
        (
            "an open key",
            |_, f| open_to_others(&f.join("key.pem")),
            &["others may read", "chmod 600"],
        ),
        (
            "another authority",
            |_, f| {
                let other = Run::new();
                fs::copy(other.dir.path().join("ca.pem"), f.join("ca.pem")).unwrap();
            },
            &["cert.pem was not signed by the authority", "ca.pem"],
        ),
        (
            "another authority by the same name",
            |run, f| {
                let forged = run.signed_with(&KeyPair::generate().unwrap(), &["swirl:node/a"]);
                write(f, &forged);
            },
            &["was not signed by the authority"],
        ),
        (
            "expired",
            |run, f| {
                let old = run.issue("b", &[Role::Tool], from_day(-40));
                fs::copy(old.join("cert.pem"), f.join("cert.pem")).unwrap();
                fs::copy(old.join("key.pem"), f.join("key.pem")).unwrap();
            },
            &["cert.pem expired on 20", "UTC", "`swirl certs renew`"],
        ),
        (
            "not yet valid",
            |run, f| {
                let early = run.issue("b", &[Role::Tool], from_day(2));
                fs::copy(early.join("cert.pem"), f.join("cert.pem")).unwrap();
                fs::copy(early.join("key.pem"), f.join("key.pem")).unwrap();
            },
            &["cert.pem is valid from 20", "clock"],
        ),
        (
            "nobody's",
            |run, f| write(f, &run.signed(&["swirl.internal"])),
            &["is no certificate of a node", "names no node"],
        ),
    ];
    for (what, spoil, says) in cases {
        let run = Run::new();
        let folder = run.issue("a", &[Role::Sampler], now());
        spoil(&run, &folder);
        let error = said(&Credentials::load(&folder).unwrap_err());
        for part in says {
            assert!(error.contains(part), "{what}: {error}");
        }
    }
}

/// Puts a certificate and its key into a folder. The key's mode stays as it was.
fn write(folder: &Path, shown: &Shown) {
    fs::write(folder.join("cert.pem"), &shown.certificate_pem).unwrap();
    fs::write(folder.join("key.pem"), &shown.key_pem).unwrap();
}
