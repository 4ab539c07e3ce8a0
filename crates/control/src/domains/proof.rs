//! What the DNS says of a name: whose it is, and whether visitors who use it come here.
//!
//! An alias to a host of the tenant shows both at once: only the owner of a name can make one.
//! Otherwise a text record shows whose it is, and an address where it leads. Of a name that is
//! held only the first is asked, so that an owner can move visitors away and back.

use std::{net::IpAddr, time::Duration};

use miosa_types::{dns::Dns, host::is_at_or_below};

use super::plan::Event;

/// First label of the name of the text record.
const LABEL: &str = "_domain-proof";
/// Aliases that are followed.
const HOPS: usize = 8;
/// For one lookup.
const LOOKUP: Duration = Duration::from_secs(4);
/// For all lookups of one check.
const CHECK: Duration = Duration::from_secs(12);

/// What is to be shown.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The name.
    pub domain: &'a str,
    /// What the text record has to say.
    pub token: &'a str,
    /// Hosts of the tenant are below this.
    pub deployment_domain: &'a str,
    /// Where visitors reach edges.
    pub addresses: &'a [IpAddr],
    /// Whether it was shown before.
    pub is_held: bool,
}

/// Where the text record of a name is.
pub fn record_name(domain: &str) -> String {
    format!("{LABEL}.{domain}")
}

/// Asks the DNS, within a time limit.
pub async fn look(dns: &dyn Dns, claim: &Claim<'_>) -> Event {
    let late = || Event::Unknown("the DNS took too long to answer".to_owned());
    tokio::time::timeout(CHECK, ask(dns, claim)).await.unwrap_or_else(|_| late())
}

async fn ask(dns: &dyn Dns, claim: &Claim<'_>) -> Event {
    let record = record_name(claim.domain);
    let (alias, texts, addresses) = tokio::join!(
        is_alias(dns, claim),
        dns.texts(&record, LOOKUP),
        dns.addresses(claim.domain, LOOKUP),
    );
    let texts = texts.map(|texts| texts.iter().any(|text| text.trim() == claim.token));
    let addresses = addresses.map(|found| found.iter().any(|one| claim.addresses.contains(one)));
    let alias = match alias {
        Ok(true) => return Event::Proven,
        Ok(false) => None,
        Err(failed) => Some(failed.why),
    };
    match (texts, addresses) {
        (Ok(true), _) if claim.is_held => Event::Proven,
        (Ok(true), Ok(true)) => Event::Proven,
        // What failed might have shown it.
        _ if alias.is_some() => Event::Unknown(alias.unwrap_or_default()),
        (Err(failed), _) => Event::Unknown(failed.why),
        (Ok(true), Err(failed)) => Event::Unknown(failed.why),
        (Ok(true), Ok(false)) => Event::Missing(format!(
            "`{}` is proved to be yours, but does not point here",
            claim.domain
        )),
        (Ok(false), _) => Event::Missing(format!(
            "`{}` is no CNAME to your host, and `{}` has no TXT record with the given value",
            claim.domain, record
        )),
    }
}

async fn is_alias(dns: &dyn Dns, claim: &Claim<'_>) -> Result<bool, miosa_types::dns::Failed> {
    let mut at = claim.domain.to_owned();
    for _ in 0..HOPS {
        let Some(next) = dns.alias(&at, LOOKUP).await? else { return Ok(false) };
        if is_at_or_below(&next, claim.deployment_domain) {
            return Ok(true);
        }
        at = next;
    }
    Ok(false)
}
