use super::*;

/// A template as a finished build leaves it.
fn finished(templates: &Templates, text: &str) -> Template {
    let spec = spec::parse(text).unwrap();
    let digest = digest_of(&spec, &Sources::default()).unwrap();
    let folder = templates.folder.join(&spec.name);
    fs_err::create_dir_all(folder.join(digest.to_string()).join("rootfs")).unwrap();
    let record = serde_json::to_vec(&Record { digest, spec: spec.clone() }).unwrap();
    fs_err::write(folder.join(digest.to_string()).join("template.json"), record).unwrap();
    fs_err::write(folder.join("current"), digest.to_string()).unwrap();
    templates.resolve(&digest.to_string()).unwrap()
}

#[test]
fn the_default_template_is_what_the_sdks_ask_for() {
    let spec = spec::parse(DEFAULT_SPEC).unwrap();
    assert_eq!(spec.name, "miosa-sandbox");
    assert_eq!(spec.aliases, ["base", "debian-12-sandbox-v8"]);
    assert_eq!((spec.user.as_str(), spec.workdir.as_str()), ("user", "/workspace"));
    for wanted in ["python3", "git", "curl", "sudo", "ca-certificates"] {
        assert!(spec.packages.iter().any(|package| package == wanted), "{wanted}");
    }
}

#[test]
fn a_template_is_found_by_name_alias_and_digest() {
    let folder = tempfile::tempdir().unwrap();
    let templates = Templates::open(folder.path()).unwrap();
    let old = finished(&templates, "name = \"a\"\nsuite = \"bookworm\"\naliases = [\"base\"]");
    let new = finished(&templates, "name = \"a\"\nsuite = \"trixie\"\naliases = [\"base\"]");
    let other = finished(&templates, "name = \"b\"\nsuite = \"trixie\"\naliases = [\"a\"]");
    assert_ne!(old.digest, new.digest);
    assert_eq!(templates.resolve("base").unwrap(), new);
    assert_eq!(templates.resolve("a").unwrap(), new, "a name wins over another's alias");
    assert_eq!(templates.resolve(&old.digest.to_string()).unwrap(), old);
    assert_eq!(templates.list().unwrap(), [new, other]);
    let error = templates.resolve("nope").unwrap_err().to_string();
    assert!(error.contains("nope") && error.contains("base"), "{error}");
}

#[test]
fn sources_and_spec_name_the_build() {
    let spec = spec::parse("name = \"a\"\nsuite = \"bookworm\"").unwrap();
    let mut changed = spec.clone();
    changed.env.insert("A".into(), "1".into());
    let sources = Sources { lines: "deb x".into(), stanzas: String::new() };
    let digest = digest_of(&spec, &Sources::default()).unwrap();
    assert_eq!(digest, digest_of(&spec, &Sources::default()).unwrap());
    assert_ne!(digest, digest_of(&changed, &Sources::default()).unwrap());
    assert_ne!(digest, digest_of(&spec, &sources).unwrap());
}

#[test]
fn a_build_that_was_cut_short_is_removed_and_never_used() {
    let folder = tempfile::tempdir().unwrap();
    let templates = Templates::open(folder.path()).unwrap();
    let whole = finished(&templates, "name = \"a\"\nsuite = \"bookworm\"");
    let cut = templates.folder.join("a/.build-x");
    fs_err::create_dir_all(cut.join("rootfs")).unwrap();
    assert_eq!(templates.list().unwrap(), [whole]);
    sweep(&templates.folder.join("a")).unwrap();
    assert!(!cut.exists());
}
