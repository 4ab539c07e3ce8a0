//! Records of the DNS, as a test says.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use miosa_types::dns::{Dns, Failed};

/// Every name is unknown unless a test said otherwise.
#[derive(Debug, Default)]
pub struct FakeDns(Mutex<Records>);

#[derive(Debug, Default)]
struct Records {
    texts: BTreeMap<String, Vec<String>>,
    aliases: BTreeMap<String, String>,
    addresses: BTreeMap<String, Vec<IpAddr>>,
    is_down: bool,
}

impl FakeDns {
    /// Makes a text record.
    pub fn set_text(&self, name: &str, text: &str) {
        self.records(|all| all.texts.entry(name.to_owned()).or_default().push(text.to_owned()));
    }

    /// Makes a name an alias of another.
    pub fn set_alias(&self, name: &str, to: &str) {
        self.records(|all| all.aliases.insert(name.to_owned(), to.to_owned()));
    }

    /// Gives a name an address.
    pub fn set_address(&self, name: &str, address: IpAddr) {
        self.records(|all| all.addresses.insert(name.to_owned(), vec![address]));
    }

    /// Removes every record.
    pub fn clear(&self) {
        self.records(|all| *all = Records { is_down: all.is_down, ..Records::default() });
    }

    /// From now on every lookup fails, or none.
    pub fn set_down(&self, is_down: bool) {
        self.records(|all| all.is_down = is_down);
    }

    fn records<T>(&self, work: impl FnOnce(&mut Records) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ask<T: Clone>(
        &self,
        name: &str,
        table: impl FnOnce(&Records) -> &BTreeMap<String, T>,
    ) -> Result<Option<T>, Failed> {
        self.records(|all| {
            if all.is_down {
                return Err(Failed { why: "the resolver is down".to_owned() });
            }
            Ok(table(all).get(name).cloned())
        })
    }
}

#[async_trait]
impl Dns for FakeDns {
    async fn texts(&self, name: &str, _: Duration) -> Result<Vec<String>, Failed> {
        Ok(self.ask(name, |all| &all.texts)?.unwrap_or_default())
    }

    async fn alias(&self, name: &str, _: Duration) -> Result<Option<String>, Failed> {
        self.ask(name, |all| &all.aliases)
    }

    async fn addresses(&self, name: &str, _: Duration) -> Result<Vec<IpAddr>, Failed> {
        Ok(self.ask(name, |all| &all.addresses)?.unwrap_or_default())
    }
}
