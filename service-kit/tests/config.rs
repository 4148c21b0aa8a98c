//! Loading a configuration from its three sources.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use service_kit::config::load_from;
use service_kit::{ConfigError, Origins, Problems, SecretFile, Validate};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    region: String,
    http: Http,
    #[serde(default)]
    peers: Vec<Peer>,
    secret: Option<SecretFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Http {
    listen: SocketAddr,
    admin: Option<SocketAddr>,
    #[serde(default = "body_bytes_max")]
    body_bytes_max: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    name: String,
}

fn body_bytes_max() -> u32 {
    65_536
}

impl Validate for Config {
    fn locate(&mut self, folder: &Path) {
        self.secret = self.secret.as_ref().map(|secret| secret.located(folder));
    }

    fn validate(&self, problems: &mut Problems) {
        problems.check(!self.region.is_empty(), "region", "must not be empty");
        problems.section("http", &self.http);
        for (i, peer) in self.peers.iter().enumerate() {
            problems.check(!peer.name.is_empty(), &format!("peers[{i}].name"), "must not be empty");
        }
    }
}

impl Validate for Http {
    fn validate(&self, problems: &mut Problems) {
        if let Some(admin) = self.admin {
            problems.check_distinct([("listen", self.listen), ("admin", admin)]);
        }
        problems.check(self.body_bytes_max >= 1024, "body_bytes_max", "must be at least 1024");
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(path: Option<&Path>, env: &[(&str, &str)], set: &[&str]) -> Result<(Config, Origins), ConfigError> {
    let env = env.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    let set: Vec<String> = set.iter().map(|text| text.to_string()).collect();
    load_from(path, "CELL", env, &set)
}

/// The problems, with the temporary file's path shortened to `FILE`.
fn problems(text: &str, env: &[(&str, &str)], set: &[&str]) -> Vec<String> {
    let file = file(text);
    let path = file.path().display().to_string();
    let error = load(Some(file.path()), env, set).unwrap_err();
    error.problems().iter().map(|line| line.replace(&path, "FILE")).collect()
}

const GOOD: &str = "region = \"north\"\nsecret = \"token\"\n[http]\nlisten = \"127.0.0.1:80\"\n";

#[test]
fn relative_paths_are_taken_from_the_folder_of_the_file_wherever_they_were_set() {
    let file = file(GOOD);
    let folder = file.path().parent().unwrap();
    let secret = |path: Option<&Path>, set: &[&str]| {
        let env = [("CELL_REGION", "north"), ("CELL_HTTP__LISTEN", "127.0.0.1:80")];
        load(path, &env, set).unwrap().0.secret.unwrap().path().to_owned()
    };
    assert_eq!(secret(Some(file.path()), &[]), folder.join("token"));
    assert_eq!(secret(Some(file.path()), &["secret=../other"]), folder.join("../other"));
    assert_eq!(secret(Some(file.path()), &["secret=/etc/other"]), Path::new("/etc/other"));
    assert_eq!(secret(None, &["secret=other"]), Path::new("other"), "without a file: the working directory");
}

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_file() {
    let file = file(GOOD);
    let env = [("CELL_REGION", "east"), ("CELL_HTTP__LISTEN", "127.0.0.1:81"), ("CELL_EXIT_WITH_STDIN", "1")];
    let (config, origins) = load(Some(file.path()), &env, &["http.listen=127.0.0.1:82"]).unwrap();
    assert_eq!((config.region.as_str(), config.http.listen.port()), ("east", 82));
    assert_eq!(config.http.body_bytes_max, 65_536);
    assert_eq!(config.secret, Some(SecretFile::new(file.path().with_file_name("token"))));
    assert_eq!(origins.describe("http.listen").unwrap(), "--set");
    assert_eq!(origins.describe("region").unwrap(), "environment CELL_REGION");
    assert_eq!(origins.describe("http").unwrap(), format!("{}:3", file.path().display()));
}

#[test]
fn text_that_looks_like_a_number_is_a_string_where_the_key_wants_one() {
    let env =
        [("CELL_REGION", "7"), ("CELL_HTTP__LISTEN", "127.0.0.1:81"), ("CELL_HTTP__BODY_BYTES_MAX", "2048")];
    let (config, _) = load(None, &env, &["peers=[{name=\"east\"}]"]).unwrap();
    assert_eq!((config.region.as_str(), config.http.body_bytes_max), ("7", 2048));
    assert_eq!(config.peers[0].name, "east");
}

#[test]
fn every_problem_is_reported_at_once_with_its_key_and_place() {
    let found = problems(
        "regoin = \"north\"\n[http]\nlisten = 80\nbody_bytes_max = -1\n[[peers]]\nname = 3\n",
        &[("CELL_HTTP__LISTNE", "x"), ("CELL_REGION__NAME", "y")],
        &["secret", "http.listen.port=1"],
    );
    let expect = |start: &str, end: &str| {
        assert!(
            found.iter().any(|l| l.starts_with(start) && l.ends_with(end)),
            "{start} … {end} in {found:#?}"
        );
    };
    expect("--set secret: must be section.key=value", "");
    expect("http.listen.port: http.listen is not a section", "(--set)");
    expect(
        "http.listne: unknown key `listne`; known are `listen`, `admin`, `body_bytes_max`",
        "(environment CELL_HTTP__LISTNE)",
    );
    expect("regoin: unknown key `regoin`; known are `region`, `http`, `peers`, `secret`", "(FILE:1)");
    expect("http.body_bytes_max: must be a whole number from 0 to 4294967295, not -1", "(FILE:4)");
    expect("http.listen: must be an address and a port, such as 127.0.0.1:8080, not 80", "(FILE:3)");
    expect("peers[0].name: must be text, not 3", "(FILE:6)");
    expect("region: must be text, not a section", "(environment CELL_REGION__NAME)");
    assert!(found.iter().all(|line| !line.contains('\n')));
    assert_eq!(found.len(), 8, "{found:#?}");
}

#[test]
fn a_missing_key_is_named() {
    assert_eq!(
        problems("[http]\n", &[], &[]),
        ["http.listen: is required and not set (FILE:1)", "region: is required and not set (FILE)"]
    );
}

#[test]
fn without_a_file_it_is_said_how_to_name_one() {
    let error = load(None, &[("CELL_REGION", "north")], &[]).unwrap_err();
    assert_eq!(
        error.problems(),
        [
            "http: is required and not set",
            "no configuration file is named: --config FILE, or CELL_CONFIG in the environment"
        ]
    );
}

#[test]
fn an_item_of_a_list_is_named_with_its_own_line_or_with_what_set_the_list() {
    let text = format!("{GOOD}[[peers]]\nname = \"\"\n[[peers]]\n\nname = \"\"\n");
    assert_eq!(
        problems(&text, &[], &[]),
        ["peers[0].name: must not be empty (FILE:6)", "peers[1].name: must not be empty (FILE:9)"]
    );
    assert_eq!(problems(&text, &[], &["peers=[{name=\"\"}]"]), ["peers[0].name: must not be empty (--set)"]);
}

#[test]
fn what_validate_refuses_names_key_and_place() {
    let found = problems(GOOD, &[("CELL_REGION", "")], &["http.body_bytes_max=10"]);
    assert_eq!(
        found,
        [
            "region: must not be empty (environment CELL_REGION)",
            "http.body_bytes_max: must be at least 1024 (--set)",
        ]
    );
}

#[test]
fn two_ports_that_one_process_cannot_both_have_are_named() {
    let admin = |address: &str| problems(GOOD, &[("CELL_HTTP__ADMIN", address)], &[]);
    for taken in ["127.0.0.1:80", "0.0.0.0:80", "[::]:80", "[::ffff:127.0.0.1]:80"] {
        let said = format!(
            "http.admin: {taken} is http.listen's already, which listens on 127.0.0.1:80 (environment \
             CELL_HTTP__ADMIN)"
        );
        assert_eq!(admin(taken), [said]);
    }
    for free in ["127.0.0.2:80", "[::1]:80", "127.0.0.1:81"] {
        load(Some(file(GOOD).path()), &[("CELL_HTTP__ADMIN", free)], &[]).unwrap();
    }
    let both = [("CELL_HTTP__LISTEN", "0.0.0.0:80"), ("CELL_HTTP__ADMIN", "[::1]:80")];
    load(Some(file(GOOD).path()), &both, &[]).unwrap();
}

#[test]
fn a_file_that_is_not_toml_names_each_bad_line() {
    let found = problems("region = \nok = 1\nhttp = [\n", &[], &[]);
    assert!(found[0].starts_with("FILE:1: not TOML"), "{found:#?}");
    assert!(found[1].starts_with("FILE:"), "{found:#?}");
    assert!(found.iter().all(|line| !line.contains("required")), "no follow-up errors: {found:#?}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(Some(Path::new("no/such.toml")), &[], &[]).unwrap_err();
    assert!(error.to_string().starts_with("no/such.toml: cannot be read"), "{error}");
    assert_eq!(error.problems().len(), 1, "{error}");
}

#[test]
fn a_secret_is_read_from_its_file_and_never_shown() {
    let secret = file("hunter2\n");
    let loaded = SecretFile::new(secret.path()).load().unwrap();
    assert_eq!(loaded.expose(), b"hunter2");
    assert_eq!(format!("{loaded:?}"), "Secret(…)");

    let empty = file("\n");
    let error = SecretFile::new(empty.path()).load().unwrap_err();
    assert!(error.to_string().ends_with("is empty"), "{error}");
}
