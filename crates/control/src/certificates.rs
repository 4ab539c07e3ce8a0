//! The installation's own certificate authority, and which names need a certificate.
//!
//! Promises: the authority's key never leaves `<data_dir>/ca` (mode 0600); nothing in a
//! certificate names the platform; a certificate is replaced [`RENEW_BEFORE`] its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use miosa_store::{
    certificates::Certificate, deployments::Deployment, domains::Domain, tenants::Tenant,
};
use miosa_types::{Digest, Env, host::Domains, link};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber, date_time_ymd,
};

/// A certificate is replaced this long before its end.
pub const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// Clocks of clients may be behind.
const BACKDATE: SignedDuration = SignedDuration::from_hours(24);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The authority's folder cannot be used.
    #[error("cannot use {path}")]
    Folder {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The authority's files are no key and certificate, or a name cannot be certified.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
}

/// Signs certificates that only this installation's clients trust.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    env: Env,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Path of the authority's certificate: what clients shall trust.
pub fn authority_pem(data_dir: &Path) -> PathBuf {
    data_dir.join("ca/ca.pem")
}

impl Authority {
    /// Opens the authority of this data folder, and makes it at first.
    pub fn open(data_dir: &Path, env: &Env) -> Result<Self, Error> {
        let certificate = authority_pem(data_dir);
        let key = data_dir.join("ca/ca.key");
        if !certificate.exists() {
            Self::make(&certificate, &key, env)?;
        }
        let read = |path: &Path| {
            fs_err::read_to_string(path)
                .map_err(|source| Error::Folder { path: path.to_owned(), source })
        };
        let pair = KeyPair::from_pem(&read(&key)?)?;
        let issuer = Issuer::from_ca_cert_pem(&read(&certificate)?, pair)?;
        Ok(Self { issuer, env: env.clone() })
    }

    /// The key is written first: a certificate without a key would never be made again.
    fn make(certificate: &Path, key: &Path, env: &Env) -> Result<(), Error> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(env, "Internal certificate authority", AUTHORITY_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&pair)?.pem();
        write(key, &pair.serialize_pem(), 0o600)?;
        write(certificate, &pem, 0o644)
    }

    /// A certificate for `names`, with a key of its own.
    pub fn issue(&self, names: &[String]) -> Result<Certificate, Error> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let subject = names.first().map_or("", String::as_str);
        // A common name has at most 64 characters (RFC 5280); the names that count are below it.
        let subject = if subject.len() > 64 { "host" } else { subject };
        let mut params = params(&self.env, subject, LEAF_LIFE);
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&pair, &self.issuer)?;
        let now = self.env.now();
        Ok(Certificate {
            names: names.to_vec(),
            chain_pem: certificate.pem(),
            key_pem: pair.serialize_pem(),
            not_after: midnight(now + LEAF_LIFE),
            created_at: now,
        })
    }
}

fn params(env: &Env, subject: &str, life: SignedDuration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    let date = |at: Timestamp| {
        let date = TimeZone::UTC.to_datetime(at).date();
        let [month, day] = [date.month(), date.day()].map(|n| u8::try_from(n).unwrap_or(1));
        date_time_ymd(date.year().into(), month, day)
    };
    let now = env.now();
    params.not_before = date(now - BACKDATE);
    params.not_after = date(now + life);
    let mut serial = [0; 16];
    env.fill(&mut serial);
    // Positive and not zero (RFC 5280 §4.1.2.2).
    serial[0] = (serial[0] & 0x3f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

/// Dates in certificates made here have no time of day.
fn midnight(at: Timestamp) -> Timestamp {
    const DAY: i64 = 24 * 3600;
    let seconds = at.as_second();
    Timestamp::from_second(seconds - seconds.rem_euclid(DAY)).unwrap_or(at)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let attempt = || {
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let fresh = path.with_extension("new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs_err::rename(&fresh, path)
    };
    attempt().map_err(|source| Error::Folder { path: path.to_owned(), source })
}

/// Every set of names that needs a certificate, each sorted.
pub fn wanted(
    domains: &Domains,
    tenants: &[Tenant],
    deployments: &[Deployment],
    brought: &[Domain],
) -> BTreeSet<Vec<String>> {
    let base = &domains.base;
    let mut sets = vec![
        vec![base.clone(), format!("*.{base}"), format!("*.console.{base}")],
        vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        vec![format!("*.sandbox.{}", domains.apps)],
        vec![format!("e2b.{}", domains.apps), format!("*.e2b.{}", domains.apps)],
    ];
    for tenant in tenants {
        sets.push(vec![format!("*.{}", tenant.deployment_domain)]);
        sets.extend(tenant.preview_domain.iter().map(|domain| vec![format!("*.sandbox.{domain}")]));
        sets.extend(tenant.console_domain.iter().map(|domain| vec![domain.clone()]));
    }
    // A deployment keeps the domain that it was made on.
    sets.extend(deployments.iter().map(|d| vec![format!("*.{}", d.deployment_domain)]));
    sets.extend(brought.iter().map(|domain| vec![domain.domain.clone()]));
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        names
    };
    sets.into_iter().map(sorted).collect()
}

/// The sets of `wanted` that must be issued now.
pub fn missing(
    wanted: &BTreeSet<Vec<String>>,
    have: &BTreeMap<Vec<String>, Certificate>,
    now: Timestamp,
) -> Vec<Vec<String>> {
    let is_fresh =
        |names: &Vec<String>| have.get(names).is_some_and(|c| c.not_after - RENEW_BEFORE > now);
    wanted.iter().filter(|names| !is_fresh(names)).cloned().collect()
}

/// What an edge is told of a certificate, and the blobs that it will ask for.
pub fn entry(certificate: &Certificate) -> (link::Certificate, [(Digest, Bytes); 2]) {
    let blob = |text: &str| {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        (Digest::of(&bytes), bytes)
    };
    let (chain, key) = (blob(&certificate.chain_pem), blob(&certificate.key_pem));
    let entry = link::Certificate {
        names: certificate.names.clone(),
        chain: chain.0,
        key: key.0,
        not_after: certificate.not_after,
    };
    (entry, [chain, key])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use base64::Engine as _;
    use miosa_types::env::ManualClock;

    use super::*;

    #[test]
    fn an_authority_is_kept_and_its_certificates_name_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::fixed(ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap()), 1);
        let authority = Authority::open(folder.path(), &env).unwrap();
        let names = vec!["*.clinic.localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = authority.issue(&names).unwrap();
        assert_eq!(made.not_after.to_string(), "2026-08-30T00:00:00Z");
        let root = fs_err::read_to_string(authority_pem(folder.path())).unwrap();
        for pem in [&root, &made.chain_pem] {
            let der = base64_of(pem);
            let text = String::from_utf8_lossy(&der).to_lowercase();
            assert!(!text.contains("miosa") && !text.contains("rcgen"), "{text}");
        }
        let again = Authority::open(folder.path(), &env).unwrap();
        assert_eq!(fs_err::read_to_string(authority_pem(folder.path())).unwrap(), root);
        again.issue(&names).unwrap();
        let mode = fs_err::metadata(folder.path().join("ca/ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_certificate_is_replaced_before_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap());
        let env = Env::fixed(clock.clone(), 1);
        let authority = Authority::open(folder.path(), &env).unwrap();
        let names = vec!["*.a.localhost".to_owned()];
        let wanted = BTreeSet::from([names.clone()]);
        let mut have = BTreeMap::new();
        assert_eq!(missing(&wanted, &have, env.now()), std::slice::from_ref(&names));
        have.insert(names.clone(), authority.issue(&names).unwrap());
        assert_eq!(missing(&wanted, &have, env.now()), Vec::<Vec<String>>::new());
        clock.advance(std::time::Duration::from_hours(61 * 24));
        assert_eq!(missing(&wanted, &have, env.now()), [names]);
    }

    fn base64_of(pem: &str) -> Vec<u8> {
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        base64::engine::general_purpose::STANDARD.decode(body).unwrap()
    }
}
