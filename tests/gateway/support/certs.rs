//! A certificate authority and certificates below it, made once per test process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;

/// The authority that every test client trusts.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub pem: String,
    /// Its certificate, DER.
    pub der: CertificateDer<'static>,
}

/// One certificate and its key, PEM.
pub struct Leaf {
    /// The chain.
    pub certificate: String,
    /// The private key.
    pub private_key: String,
}

/// The authority of this process.
pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "Test Authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Authority {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    })
}

/// A fresh certificate for these names, signed by the authority.
pub fn leaf(names: &[&str]) -> Leaf {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, names[0].clone());
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority().issuer).unwrap();
    Leaf {
        certificate: certificate.pem(),
        private_key: key.serialize_pem(),
    }
}

/// The same, but its time was over long ago.
pub fn expired(names: &[&str]) -> Leaf {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority().issuer).unwrap();
    Leaf {
        certificate: certificate.pem(),
        private_key: key.serialize_pem(),
    }
}

/// The same, but its time is over in so many days, at midnight.
pub fn ending(names: &[&str], days: i64) -> Leaf {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
    let end = end.to_string();
    let part = |range: std::ops::Range<usize>| end[range].parse::<u8>().unwrap();
    params.not_after = rcgen::date_time_ymd(end[..4].parse().unwrap(), part(5..7), part(8..10));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority().issuer).unwrap();
    Leaf {
        certificate: certificate.pem(),
        private_key: key.serialize_pem(),
    }
}

/// The certificate most gateways serve: `localhost`, `api.test`, 127.0.0.1. Made once.
pub fn usual() -> &'static Leaf {
    static LEAF: OnceLock<Leaf> = OnceLock::new();
    LEAF.get_or_init(|| leaf(&["localhost", "api.test", "127.0.0.1"]))
}

impl Leaf {
    /// Writes `NAME.pem` and `NAME.key` (0600) into `directory`.
    pub fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let certificate = directory.join(format!("{name}.pem"));
        let private_key = directory.join(format!("{name}.key"));
        fs::write(&certificate, &self.certificate).unwrap();
        fs::write(&private_key, &self.private_key).unwrap();
        fs::set_permissions(&private_key, fs::Permissions::from_mode(0o600)).unwrap();
        (certificate, private_key)
    }
}
