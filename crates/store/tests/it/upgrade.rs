//! Databases as each version left them, with rows in every table, brought to the schema of today.
//!
//! `schemas/<version>.sql` holds the migrations of that version and rows that it may have written.
//! The file of the version in work follows the migrations; those of older ones never change.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use miosa_store::{
    Store, api_keys, certificates, deployments, domains, events, idempotency, installations,
    instances, platform_settings, pool_slots, preview_tokens, previews, projects, sandboxes,
    tenants, versions, workspaces,
};
use miosa_types::deployment::VersionState;
use sqlx::{AnyConnection, AssertSqlSafe, Column as _, Connection as _, Row as _, any::AnyRow};

use crate::support::Place;

const MARK: &str = "----- ";
const ROWS: &str = "rows";

/// A table's rows, each as text by column.
type Rows = Vec<BTreeMap<String, String>>;

/// One file of `schemas/`.
struct Released {
    version: String,
    /// File name and text of each migration.
    migrations: Vec<(String, String)>,
    rows: String,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The files of a folder with their texts, in order.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().extension().is_some_and(|kind| kind == "sql") {
            files.push((name, fs::read_to_string(entry.path()).unwrap()));
        }
    }
    files.sort_unstable();
    files
}

impl Released {
    fn all() -> Vec<Self> {
        let all: Vec<_> = files(&folder("schemas")).iter().map(Self::parse).collect();
        assert!(!all.is_empty(), "there is a schema of at least one version");
        all
    }

    fn parse((name, text): &(String, String)) -> Self {
        let mut parts: Vec<(String, String)> = Vec::new();
        for line in text.split_inclusive('\n') {
            if let Some(name) = line.strip_prefix(MARK) {
                parts.push((name.trim().to_owned(), String::new()));
            } else if let Some((_, part)) = parts.last_mut() {
                part.push_str(line);
            }
        }
        let (last, rows) = parts.pop().expect("it has parts");
        assert_eq!(last, ROWS, "{name} ends with its rows");
        Self { version: name.trim_end_matches(".sql").to_owned(), migrations: parts, rows }
    }

    /// Makes `place` a database that this version left.
    async fn fill(&self, place: &Place) -> BTreeMap<String, Rows> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in &self.migrations {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut db = connect(place).await;
        if db.backend_name() == "PostgreSQL" {
            sqlx::raw_sql("create domain blob as bytea").execute(&mut db).await.unwrap();
        }
        let migrator = sqlx::migrate::Migrator::new(folder.path()).await.unwrap();
        migrator.run(&mut db).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(self.rows.clone())).execute(&mut db).await.unwrap();
        let tables = dump(&mut db).await;
        db.close().await.unwrap();
        for (table, rows) in &tables {
            assert!(!rows.is_empty(), "schemas/{}.sql has no row of {table}", self.version);
        }
        tables
    }
}

async fn connect(place: &Place) -> AnyConnection {
    sqlx::any::install_default_drivers();
    AnyConnection::connect(&place.url).await.unwrap()
}

/// Every row of every table of ours.
async fn dump(db: &mut AnyConnection) -> BTreeMap<String, Rows> {
    let tables = match db.backend_name() {
        "PostgreSQL" => {
            "select cast(table_name as text) from information_schema.tables
             where table_schema = 'public'"
        }
        _ => "select name from sqlite_master where type = 'table'",
    };
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut *db).await.unwrap();
    let mut all = BTreeMap::new();
    for table in tables {
        if table.starts_with("_sqlx") || table.starts_with("sqlite_") {
            continue;
        }
        let sql = AssertSqlSafe(format!("select * from {table} order by 1"));
        let rows = sqlx::query(sql).fetch_all(&mut *db).await.unwrap();
        all.insert(table, rows.iter().map(columns).collect());
    }
    all
}

fn columns(row: &AnyRow) -> BTreeMap<String, String> {
    let value = |n: usize| {
        if let Ok(text) = row.try_get::<Option<String>, _>(n) {
            return format!("{text:?}");
        }
        if let Ok(number) = row.try_get::<Option<i64>, _>(n) {
            return format!("{number:?}");
        }
        format!("{:?}", row.try_get::<Option<Vec<u8>>, _>(n).unwrap())
    };
    row.columns().iter().map(|c| (c.name().to_owned(), value(c.ordinal()))).collect()
}

/// Tables and columns (`table.column`) that a migration removed on purpose.
const GONE: &[&str] = &[];

/// Whatever was there is still there, but for what is named in [`GONE`].
fn assert_kept(version: &str, before: &BTreeMap<String, Rows>, after: &BTreeMap<String, Rows>) {
    for (table, rows) in before {
        let Some(now) = after.get(table) else {
            assert!(GONE.contains(&table.as_str()), "{version}: the table {table} is gone");
            continue;
        };
        assert_eq!(now.len(), rows.len(), "{version}: rows of {table}");
        for (old, new) in rows.iter().zip(now) {
            for (column, value) in old {
                let name = format!("{table}.{column}");
                match new.get(column) {
                    Some(kept) => assert_eq!(kept, value, "{version}: {name}"),
                    None => assert!(GONE.contains(&name.as_str()), "{version}: {name} is gone"),
                }
            }
        }
    }
}

/// Reads each table as the platform does.
async fn assert_readable(store: &Store) {
    let db = &mut *store.conn().await.unwrap();
    let epoch = jiff::Timestamp::UNIX_EPOCH;
    assert!(installations::find(db).await.unwrap().is_some());
    let tenant = tenants::list(db).await.unwrap().remove(0).id;
    assert_eq!(api_keys::list(db, tenant).await.unwrap().len(), 1);
    assert_eq!(workspaces::list(db, tenant).await.unwrap().len(), 1);
    assert_eq!(projects::list(db, tenant, None).await.unwrap().len(), 1);
    let targets = platform_settings::find::<Vec<u32>>(db, "pool_targets").await.unwrap();
    assert_eq!(targets, Some(vec![]));
    let sandbox = sandboxes::unfinished(db, None, 10).await.unwrap().remove(0);
    assert_eq!(previews::list(db, tenant, sandbox.id).await.unwrap().len(), 1);
    assert_eq!(preview_tokens::live(db, epoch).await.unwrap().len(), 1);
    assert_eq!(pool_slots::free(db, 10).await.unwrap().len(), 1);
    let deployment = deployments::all(db).await.unwrap().remove(0);
    let version = versions::all(db, VersionState::Ready).await.unwrap().remove(0);
    assert_eq!(deployment.active_version, Some(version.id));
    assert_eq!(instances::list(db, tenant, deployment.id, 10).await.unwrap().len(), 1);
    assert_eq!(domains::held(db).await.unwrap()[0].deployment, deployment.id);
    assert_eq!(certificates::all(db).await.unwrap().len(), 1);
    assert_eq!(events::list_after(db, tenant, None, 10).await.unwrap().len(), 1);
    let stored = idempotency::find(db, tenant, "key", epoch).await.unwrap().unwrap();
    assert_eq!(stored.answer.unwrap().body, b"hello");
}

async fn upgrade(released: &Released, place: Place) {
    let before = released.fill(&place).await;
    let store = Store::open(&place.url).await.unwrap();
    assert_readable(&store).await;
    assert_kept(&released.version, &before, &dump(&mut connect(&place).await).await);
    // A process of the new version comes and goes more than once.
    Store::open(&place.url).await.unwrap();
}

mod sqlite {
    #[tokio::test]
    async fn every_version_can_be_upgraded() {
        for released in super::Released::all() {
            super::upgrade(&released, super::Place::sqlite()).await;
        }
    }
}

mod postgres {
    #[tokio::test]
    async fn every_version_can_be_upgraded() {
        for released in super::Released::all() {
            if let Some(place) = super::Place::postgres("upgrade").await {
                super::upgrade(&released, place).await;
            }
        }
    }
}

/// So that a released version cannot lack its file, nor differ from it.
#[test]
fn the_schema_of_this_version_is_kept() {
    let version = env!("CARGO_PKG_VERSION");
    let path = folder("schemas").join(format!("{version}.sql"));
    let newest = Released::all().pop().unwrap();
    let mut text = format!(
        "-- The schema of {version} with rows of every table, for the upgrade test.\n\
         -- Written by `MIOSA_KEEP_SCHEMA=1 cargo nextest run -p miosa-store kept`, except the rows.\n"
    );
    for (name, migration) in files(&folder("migrations")) {
        text.extend([MARK, &name, "\n", &migration]);
    }
    text.extend([MARK, ROWS, "\n", &newest.rows]);
    if std::env::var_os("MIOSA_KEEP_SCHEMA").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|kept| kept == text),
        "schemas/{version}.sql is not what the migrations say. If {version} is released, \
         add a migration and raise the version; else run this test with MIOSA_KEEP_SCHEMA=1 \
         and add rows of new tables to the end of the file"
    );
}
