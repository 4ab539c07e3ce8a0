//! What all calls share.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tokio::sync::{Notify, Semaphore};

use crate::{
    command::Tail,
    config::Config,
    error::{Code, Error},
    process::Processes,
    sys,
    users::{Accounts, User},
};

/// File and archive calls that may run at once; each may hold a thread.
const FILE_CALLS: usize = 16;

/// One per guest.
#[derive(Debug)]
pub(crate) struct State {
    /// Needed on every call.
    pub token: String,
    /// Port we listen on ourselves.
    pub own_port: u16,
    /// User for calls that name none.
    pub default_user: String,
    /// What PID 1 passes on to its children.
    base_env: BTreeMap<String, String>,
    settings: Mutex<Settings>,
    /// Everything that was started and still runs.
    pub processes: Processes,
    /// The last output of the command, if there is one.
    pub tail: Mutex<Tail>,
    /// Bound on file calls.
    pub file_calls: Semaphore,
    /// Set off by the first `/shutdown`.
    pub shutdown: Shutdown,
}

/// Asked once to end everything.
#[derive(Debug, Default)]
pub(crate) struct Shutdown {
    /// Wakes the main task.
    pub wake: Notify,
    /// How long processes may take to end by themselves.
    pub grace_ms: std::sync::atomic::AtomicU64,
}

/// What `/init` changes.
#[derive(Debug, Default)]
struct Settings {
    env: BTreeMap<String, String>,
    workdir: PathBuf,
}

impl State {
    /// Splits the configuration.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            token: config.token.clone(),
            own_port: config.port,
            default_user: config.user.clone(),
            base_env: config.env.clone(),
            settings: Mutex::new(Settings {
                env: BTreeMap::new(),
                workdir: PathBuf::from(&config.workdir),
            }),
            processes: Processes::default(),
            tail: Mutex::default(),
            file_calls: Semaphore::new(FILE_CALLS),
            shutdown: Shutdown::default(),
        }
    }

    /// Takes over what `/init` said; what it did not name stays.
    pub(crate) fn init(&self, env: Option<BTreeMap<String, String>>, workdir: Option<String>) {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(env) = env {
            settings.env = env;
        }
        if let Some(workdir) = workdir {
            settings.workdir = workdir.into();
        }
    }

    /// The default working folder.
    pub(crate) fn workdir(&self) -> PathBuf {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).workdir.clone()
    }

    /// The named user, or the default one.
    pub(crate) fn user(&self, name: Option<&str>) -> Result<User, Error> {
        let name = name.filter(|name| !name.is_empty()).unwrap_or(&self.default_user);
        Accounts::read().user(name)
    }

    /// The environment of a process of `user`; `extra` wins.
    pub(crate) fn env_for(
        &self,
        user: &User,
        extra: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut env = self.base_env.clone();
        env.entry("PATH".into())
            .or_insert("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        for (name, value) in [
            ("HOME", &user.home),
            ("USER", &user.name),
            ("LOGNAME", &user.name),
            ("SHELL", &user.shell),
        ] {
            env.insert(name.into(), value.clone());
        }
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        env.extend(settings.env.clone());
        env.extend(extra.clone());
        env
    }

    /// An absolute path: `~` is the user's home, relative paths begin in the working folder.
    pub(crate) fn resolve(&self, path: &str, user: &User) -> PathBuf {
        let home = Path::new(&user.home);
        match path.strip_prefix('~') {
            Some("") => home.to_owned(),
            Some(rest) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
            _ => self.workdir().join(path),
        }
    }

    /// Runs `work` on a thread with the rights of `user`.
    pub(crate) async fn on_files<T: Send + 'static>(
        &self,
        user: &User,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _permit = self.file_calls.acquire().await.map_err(|_| closing())?;
        run_as(user, work)?.await.map_err(|_| closing())?
    }
}

/// Starts `work` on a thread with the rights of `user`, without a bound on the number.
pub(crate) fn run_as<T: Send + 'static>(
    user: &User,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<tokio::task::JoinHandle<Result<T, Error>>, Error> {
    let identity = user.switch()?.cloned();
    Ok(tokio::task::spawn_blocking(move || {
        sys::as_identity(identity.as_ref(), || Ok(work()))
            .map_err(|e| Error::io("changing the user", &e))?
    }))
}

fn closing() -> Error {
    Error::new(Code::Internal, "the guest is ending")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_where_users_expect() {
        let variables = [("GUEST_WORKDIR", "/workspace"), ("A", "base"), ("B", "base")];
        let config = Config::from_env(variables.map(|(k, v)| (k.into(), v.into())).into_iter());
        let state = State::new(&config.unwrap());
        let root = state.user(Some("root")).unwrap();
        for (path, expected) in [
            ("a/b", "/workspace/a/b"),
            ("/a", "/a"),
            ("~", "/root"),
            ("~/x", "/root/x"),
            ("~x", "/workspace/~x"),
            ("", "/workspace/"),
        ] {
            assert_eq!(state.resolve(path, &root), Path::new(expected), "{path}");
        }
        state.init(Some(BTreeMap::from([("B".into(), "init".into())])), Some("/srv".into()));
        assert_eq!(state.resolve("a", &root), Path::new("/srv/a"));
        let env = state.env_for(&root, &BTreeMap::from([("C".into(), "own".into())]));
        let got = ["A", "B", "C", "HOME"].map(|name| env[name].as_str());
        assert_eq!(got, ["base", "init", "own", "/root"]);
    }
}
