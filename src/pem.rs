//! PEM files: chains of certificates and private keys, read, checked, and never quoted.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem;
use rustls_pki_types::pem::PemObject;

/// Something wrong with a file that TLS needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProblem {
    /// The file; `None` when it is about the whole.
    pub path: Option<PathBuf>,
    /// What is wrong, and the way out.
    pub text: String,
    /// Whether all that is wrong is that this user may not read it.
    pub is_denied: bool,
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        write!(f, "{}", self.text)
    }
}

impl std::error::Error for TlsProblem {}

/// The certificates of a file, at least one. Blocking.
///
/// # Errors
/// What is wrong with the file.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let text = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(problem(
            Some(path),
            "no certificate in it; a PEM file with `-----BEGIN CERTIFICATE-----` is needed",
        )),
        Ok(chain) => Ok(chain),
        Err(error) => Err(broken_pem(path, &error)),
    }
}

/// The private key of a file that others cannot read. Blocking.
///
/// # Errors
/// What is wrong with the file.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    let text = read(path)?;
    check_mode(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(problem(
            Some(path),
            "no private key in it; a PEM file with an unencrypted `-----BEGIN PRIVATE KEY-----` is needed",
        )),
        Err(error) => Err(broken_pem(path, &error)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsProblem> {
    std::fs::read(path).map_err(|error| {
        let text = format!("cannot be read: {error}; check the path and who may read the file");
        TlsProblem {
            is_denied: error.kind() == std::io::ErrorKind::PermissionDenied,
            ..problem(Some(path), text)
        }
    })
}

/// Group-readable is the Debian way (0640 root:portcullis); anything for others gives the key to every account of the machine.
fn check_mode(path: &Path) -> Result<(), TlsProblem> {
    let mode = std::fs::metadata(path).map_or(0, |data| data.permissions().mode() & 0o7777);
    if mode & 0o007 == 0 {
        return Ok(());
    }
    let text = format!(
        "the private key is open to other users (mode {mode:04o}); run `chmod o= {}`",
        path.display()
    );
    Err(problem(Some(path), text))
}

/// The error of the PEM reader may quote the file, which may be a key: only its kind is told.
fn broken_pem(path: &Path, error: &pem::Error) -> TlsProblem {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line; the file is cut short",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it is not a PEM file",
    };
    problem(Some(path), what)
}

/// Something wrong with this file, or with the whole.
pub fn problem(path: Option<&Path>, text: impl Into<String>) -> TlsProblem {
    TlsProblem {
        path: path.map(Path::to_owned),
        text: text.into(),
        is_denied: false,
    }
}
