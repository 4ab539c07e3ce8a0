//! Tests of what goes before what, of what children are told, and of what is refused.

use clap::{CommandFactory, Parser};

use super::*;

#[derive(Debug, Parser)]
struct Up {
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Parser)]
struct Edge {
    #[command(flatten)]
    options: EdgeOptions,
}

#[derive(Debug, Parser)]
struct Control {
    #[command(flatten)]
    options: ControlOptions,
}

fn parse<P: Parser>(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> P {
    let first: OsString = "miosa".into();
    P::parse_from(std::iter::once(first).chain(arguments.into_iter().map(Into::into)))
}

fn up<const N: usize>(arguments: [&str; N]) -> Options {
    parse::<Up>(arguments).options
}

#[test]
fn a_child_gets_what_its_parent_has() {
    let line = ["--data-dir", "/d", "--http", "127.0.0.1:0", "--apps-domain", "A.b"];
    let line = line.into_iter().chain(["--admin", "127.0.0.1:7", "--cache-dir", "/c"]);
    let settings = Settings::load(&parse::<Up>(line).options).unwrap();
    let control = parse::<Control>(settings.control_arguments()).options;
    let control = Settings::load(&control.into()).unwrap();
    assert_eq!(control.domains(), settings.domains());
    assert_eq!(control.apps_domain, "a.b");
    assert_eq!((control.admin, &control.cache_dir), (settings.admin, &settings.cache_dir));
    let edge = Settings::load(&parse::<Edge>(settings.edge_arguments()).options.into()).unwrap();
    assert_eq!((edge.http, edge.https), (settings.http, settings.https));
    assert_eq!((&edge.data_dir, &control.data_dir), (&settings.data_dir, &settings.data_dir));
}

#[test]
fn the_command_line_goes_before_the_file_and_the_file_before_defaults() {
    let text = "https = '127.0.0.1:3'\nhttp = '127.0.0.1:2'\nephemeral = true";
    let options = up(["--http", "127.0.0.1:1", "--data-dir", "/d"]);
    let Checked { problems, effects, file } = check(&options, text);
    assert_eq!(problems, []);
    let of = |key: &str| (effects[key].value.clone(), effects[key].source);
    assert_eq!(of("http"), ("127.0.0.1:1".into(), Source::Environment));
    assert_eq!(of("data_dir"), ("/d".into(), Source::Environment));
    assert_eq!(of("https"), ("127.0.0.1:3".into(), Source::File));
    assert_eq!(of("ephemeral"), (true.into(), Source::File));
    assert_eq!(of("admin"), ("127.0.0.1:9464".into(), Source::Default));
    assert_eq!(of("edge.plain_http"), (false.into(), Source::Default));
    assert!(file.ephemeral);
    let off = up(["--ephemeral=false"]);
    assert_eq!(check(&off, text).effects["ephemeral"].value, false);
    assert_eq!(check(&up(["--ephemeral"]), "").effects["ephemeral"].value, true);
}

#[test]
fn no_password_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("miosa.toml");
    std::fs::write(&config, "database = \"postgres://u:hidden@file/d\"").unwrap();
    let config = config.to_str().unwrap();
    let file = up(["--config", config]);
    let both = up(["--config", config, "--database", "postgres://u:hidden@line/d"]);
    for (options, host) in [(file, "@file"), (both, "@line")] {
        let settings = Settings::load(&options).unwrap();
        assert!(settings.database.as_ref().unwrap().expose().contains(host), "{host}");
        let arguments = (settings.control_arguments(), settings.edge_arguments());
        let checked = check(&options, &read_text(Some(Path::new(config))).unwrap());
        let shown = format!("{options:?} {settings:?} {arguments:?} {checked:?}");
        assert!(!shown.contains("hidden"), "{shown}");
        assert!(!serde_json::to_string(&checked.effects).unwrap().contains("hidden"));
    }
}

#[test]
fn values_that_cannot_be_used_are_named() {
    for base in ["apps.localhost", "api.apps.localhost"] {
        let error = Settings::load(&up(["--base-domain", base])).unwrap_err().to_string();
        assert!(error.contains("neither below the other"), "{base}: {error}");
    }
    let line = ["--database", "mysql://u:hidden@h/d"];
    let error = Settings::load(&up(line)).unwrap_err().to_string();
    assert!(error.contains("postgres://") && !error.contains("hidden"), "{error}");
    let entry = "[[pool.targets]]\ntemplate = 't'\nsize = 'small'\ncount = ";
    for (text, at, word) in [
        (format!("{entry}3\n{entry}4"), 1, "is there twice"),
        (format!("\n{entry}1001"), 2, "at most 1000"),
        ("\n\nbase_domain = 'a b'".to_owned(), 3, "`base_domain`"),
        ("apps_domain = 'miosa.localhost'".to_owned(), 1, "neither below the other"),
        ("apps_domain = 'apps.miosa.localhost'".to_owned(), 1, "neither below the other"),
    ] {
        let problems = check(&Options::default(), &text).problems;
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert_eq!(problems[0].line, Some(at), "{text}");
        assert!(problems[0].message.contains(word), "{problems:?}");
    }
    assert_eq!(check(&Options::default(), &format!("{entry}3")).problems, []);
}

#[test]
fn each_role_lists_its_own_options_and_tells_the_defaults() {
    let options = |command: clap::Command| {
        let shown = command.get_arguments().filter(|one| !one.is_hide_set());
        let names = shown.filter_map(|one| one.get_long().map(str::to_owned));
        names.filter(|name| name != "help").collect::<Vec<_>>()
    };
    assert_eq!(options(Edge::command()), ["data-dir", "config", "http", "https"]);
    let control = options(Control::command());
    assert!(control.contains(&"database".to_owned()) && !control.contains(&"http".to_owned()));
    assert!(!control.contains(&"ephemeral".to_owned()));
    // Every option is a key of the file, its default is in the help, and the environment has it.
    let Checked { effects, .. } = check(&Options::default(), "");
    let up = Up::command();
    for argument in up.get_arguments().filter(|one| one.get_id() != "help") {
        let key = argument.get_id().as_str();
        let env = argument.get_env().unwrap().to_str().unwrap();
        assert_eq!(env, format!("MIOSA_{}", key.to_uppercase()));
        if key == "config" {
            continue;
        }
        let help = argument.get_help().unwrap().to_string();
        if let Value::String(default) = &effects[key].value {
            assert!(help.contains(&format!("[default: {default}]")), "{key}: {help}");
        }
    }
}

#[test]
fn the_committed_schema_is_the_one_of_these_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/config.schema.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == schema_text(), "stale; run `cargo xtask generate`");
    let schema: Value = serde_json::from_str(&committed).unwrap();
    assert!(!committed.contains("$ref"), "a reader needs nothing else");
    for key in check(&Options::default(), "").effects.keys() {
        let place = |part: &str| format!("/properties/{part}");
        let pointer: String = key.split('.').map(place).collect();
        let described = schema.pointer(&pointer).unwrap_or_else(|| panic!("{key}"));
        assert!(described["description"].is_string(), "{key} is not explained");
    }
}
