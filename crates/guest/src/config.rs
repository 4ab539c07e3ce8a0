//! What the runtime told us in the environment, read once at start.
//!
//! Promises: variables that begin with `GUEST_` never reach a child.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;

/// TCP port of the envd protocol.
const PORT: u16 = 49_983;

/// Everything the guest is told at start.
#[derive(Debug)]
pub(crate) struct Config {
    /// Needed on every call; empty: every call but `/health` is refused.
    pub token: String,
    /// The one program of a runtime instance.
    pub command: Option<Command>,
    /// User for calls and processes that name none.
    pub user: String,
    /// Where processes start and relative paths begin.
    pub workdir: String,
    /// Address to listen on; tests use one of the loopback's.
    pub address: IpAddr,
    /// Port to listen on.
    pub port: u16,
    /// Environment that every child gets.
    pub env: BTreeMap<String, String>,
}

/// `GUEST_COMMAND`, JSON.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Working folder; empty: the default one.
    #[serde(default)]
    pub cwd: String,
    /// Added to the environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Unix user; `None`: the default one.
    #[serde(default)]
    pub user: Option<String>,
}

impl Config {
    /// Sorts the variables of PID 1 into ours and the children's.
    pub(crate) fn from_env(
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, String> {
        let mut config = Self {
            token: String::new(),
            command: None,
            user: "user".into(),
            workdir: "/workspace".into(),
            address: IpAddr::from([0, 0, 0, 0]),
            port: PORT,
            env: BTreeMap::new(),
        };
        for (name, value) in variables {
            match name.as_str() {
                "GUEST_TOKEN" => config.token = value,
                "GUEST_COMMAND" => config.command = Some(parse_command(&value)?),
                "GUEST_USER" => config.user = value,
                "GUEST_WORKDIR" => config.workdir = value,
                "GUEST_ADDRESS" => {
                    config.address = value.parse().map_err(|e| format!("GUEST_ADDRESS: {e}"))?;
                }
                "GUEST_PORT" => {
                    config.port = value.parse().map_err(|e| format!("GUEST_PORT: {e}"))?;
                }
                name if name.starts_with("GUEST_") => {}
                _ => drop(config.env.insert(name, value)),
            }
        }
        Ok(config)
    }
}

fn parse_command(json: &str) -> Result<Command, String> {
    let command: Command = serde_json::from_str(json).map_err(|e| format!("GUEST_COMMAND: {e}"))?;
    if command.argv.is_empty() {
        return Err("GUEST_COMMAND: argv is empty".into());
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Config, String> {
        Config::from_env(variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn children_do_not_see_what_is_ours() {
        let config = parse(&[("GUEST_TOKEN", "t"), ("GUEST_NEW", "x"), ("PATH", "/bin")]).unwrap();
        assert_eq!(config.token, "t");
        assert_eq!(config.env.keys().collect::<Vec<_>>(), ["PATH"]);
        assert_eq!((config.user.as_str(), config.workdir.as_str()), ("user", "/workspace"));
    }

    #[test]
    fn a_command_may_be_short_but_not_empty() {
        let command = parse(&[("GUEST_COMMAND", r#"{"argv":["node","."],"user":null}"#)]).unwrap();
        assert_eq!(command.command.unwrap().argv, ["node", "."]);
        assert!(parse(&[("GUEST_COMMAND", r#"{"argv":[]}"#)]).is_err());
        assert!(parse(&[("GUEST_COMMAND", "node")]).is_err());
    }
}
