//! Users and groups from `/etc/passwd` and `/etc/group`, read by ourselves: a static program
//! cannot load the C library's name services.

use std::{collections::HashMap, io::Read};

use crate::{error::Error, sys::Identity};

/// Longer account files are cut; a sandbox cannot make us read without end.
const MAX_BYTES: u64 = 1 << 20;

/// A user as the account files have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// Login name.
    pub name: String,
    /// Home folder.
    pub home: String,
    /// Login shell.
    pub shell: String,
    /// Numbers.
    pub identity: Identity,
}

impl User {
    /// What to switch to for this user: nothing if we are that user already.
    ///
    /// Without privileges we can be nobody but ourselves.
    pub(crate) fn switch(&self) -> Result<Option<&Identity>, Error> {
        let me = rustix::process::geteuid().as_raw();
        if me == 0 && self.identity.uid == 0 || me == self.identity.uid {
            Ok(None)
        } else if me == 0 {
            Ok(Some(&self.identity))
        } else {
            Err(Error::denied(format!("this sandbox runs nothing as user '{}'", self.name)))
        }
    }
}

/// Both files as they are now. They are small, and users may change them at any time.
#[derive(Debug)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads both files; a missing one counts as empty.
    pub(crate) fn read() -> Self {
        Self { passwd: read("/etc/passwd"), group: read("/etc/group") }
    }

    /// The user of that name, or number.
    pub(crate) fn user(&self, name: &str) -> Result<User, Error> {
        self.find(name)
            .or_else(|| self.built_in(name))
            .ok_or_else(|| Error::unauthenticated(format!("user '{name}' does not exist")))
    }

    /// Names by number: users, groups.
    pub(crate) fn names(&self) -> (HashMap<u32, &str>, HashMap<u32, &str>) {
        fn pairs(text: &str) -> HashMap<u32, &str> {
            text.lines()
                .filter_map(|line| {
                    let mut fields = line.split(':');
                    let name = fields.next()?;
                    Some((fields.nth(1)?.parse().ok()?, name))
                })
                .collect::<Vec<_>>()
                .into_iter()
                // The first line of a number wins, as in the C library.
                .rev()
                .collect()
        }
        (pairs(&self.passwd), pairs(&self.group))
    }

    fn find(&self, wanted: &str) -> Option<User> {
        let lines = || self.passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let fields = lines()
            .find(|fields| fields.len() >= 7 && fields[0] == wanted)
            .or_else(|| lines().find(|fields| fields.len() >= 7 && fields[2] == wanted))?;
        let gid = fields[3].parse().ok()?;
        Some(User {
            name: fields[0].to_owned(),
            home: fields[5].to_owned(),
            shell: fields[6].to_owned(),
            identity: Identity {
                uid: fields[2].parse().ok()?,
                gid,
                groups: self.groups_of(fields[0], gid),
            },
        })
    }

    fn groups_of(&self, user: &str, primary: u32) -> Vec<u32> {
        let mut groups = vec![primary];
        for line in self.group.lines() {
            let fields: Vec<_> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else { continue };
            let Ok(gid) = gid.parse() else { continue };
            // 64 is plenty; the kernel's bound is 65,536.
            if groups.len() < 64 && !groups.contains(&gid) && members.split(',').any(|m| m == user)
            {
                groups.push(gid);
            }
        }
        groups
    }

    /// A root file system without account files still has a superuser and the platform's user.
    fn built_in(&self, name: &str) -> Option<User> {
        let (id, home) = match name {
            "root" => (0, "/root"),
            "user" if self.passwd.is_empty() => (1000, "/home/user"),
            _ => return None,
        };
        Some(User {
            name: name.to_owned(),
            home: home.to_owned(),
            shell: "/bin/sh".to_owned(),
            identity: Identity { uid: id, gid: id, groups: vec![id] },
        })
    }
}

fn read(path: &str) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // What could be read before an error is used.
        let _ = file.take(MAX_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\nbroken\n\
                     user:x:1000:1000::/home/user:/bin/bash\nuser2:x:1000:5::/x:/bin/sh\n"
                .into(),
            group: "root:x:0:\nuser:x:1000:\nsudo:x:27:other,user\nodd\nbad:x:y:user\n".into(),
        }
    }

    #[test]
    fn finds_users_by_name_and_number() {
        let user = accounts().user("user").unwrap();
        assert_eq!((user.identity.uid, user.identity.gid), (1000, 1000));
        assert_eq!(user.identity.groups, [1000, 27]);
        assert_eq!(accounts().user("1000").unwrap().name, "user");
        assert!(accounts().user("nobody").is_err());
        let none = Accounts { passwd: String::new(), group: String::new() };
        assert_eq!(none.user("user").unwrap().identity.uid, 1000);
    }

    #[test]
    fn the_first_name_of_a_number_wins() {
        let accounts = accounts();
        let (users, groups) = accounts.names();
        assert_eq!(users[&1000], "user");
        assert_eq!(groups[&27], "sudo");
    }
}
