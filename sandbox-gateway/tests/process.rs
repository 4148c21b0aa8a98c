//! The binary: one process per ledger, what it leaves behind when it is killed, and what it says when it cannot start.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use service_kit::{Announcement, EXIT_WITH_STDIN_ENV};

/// A started gateway; killed if the test ends before it does.
struct Process {
    child: Child,
    address: SocketAddr,
}

fn command(folder: &Path) -> Command {
    std::fs::write(folder.join("secret"), "sandbox-secret").unwrap();
    let config = "listen = \"127.0.0.1:0\"\nsecret_file = \"secret\"\nledger_path = \"books/ledger.json\"\n";
    std::fs::write(folder.join("gateway.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox-gateway"));
    command.arg("--config").arg(folder.join("gateway.toml"));
    command
}

impl Process {
    fn start(folder: &Path) -> Process {
        let mut command = command(folder);
        command.env(EXIT_WITH_STDIN_ENV, "1").stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let announced = Announcement::from_line(&line).unwrap_or_else(|| panic!("{line:?}"));
        Process { child, address: announced.listen["http"] }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_killed_gateway_takes_up_what_it_was_to_capture_later() {
    let folder = tempfile::tempdir().unwrap();
    let first = Process::start(folder.path());
    let later = json!({ "of": "*", "behaviour": "capture-later", "delay_ms": 2_000 });
    first.call("POST", "/control/behaviour", &later);
    let intent = json!({ "key": "k", "reference": "pay_1", "amount_minor": 1_000, "currency": "CNY",
        "expires_at_ms": u64::MAX });
    assert_eq!(first.call("POST", "/v1/intents", &intent)["status"], "pending");
    drop(first);
    let second = Process::start(folder.path());
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let intent = second.call("GET", "/v1/intents/by-key/k", &Value::Null);
        if intent["status"] == "captured" {
            break;
        }
        assert!(Instant::now() < deadline, "captured within ten seconds: {intent}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_ledger_of_another_process_is_one_line_that_names_the_key_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let holder = Process::start(folder.path());
    let refused = command(folder.path()).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    let ledger = folder.path().join("books/ledger.json");
    let expected = format!(
        "sandbox-gateway: ledger_path: {}: in use by another process ({}:3)\n",
        ledger.display(),
        folder.path().join("gateway.toml").display()
    );
    assert_eq!((refused.status.code(), said), (Some(2), expected));
    drop(holder);
    drop(Process::start(folder.path()));
}

#[test]
fn a_file_that_is_no_ledger_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    std::fs::create_dir(folder.path().join("books")).unwrap();
    let ledger = folder.path().join("books/ledger.json");
    std::fs::write(&ledger, "dear diary").unwrap();
    let refused = command.output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.starts_with(&format!("sandbox-gateway: ledger_path: {}: ", ledger.display())), "{said}");
    assert_eq!(std::fs::read_to_string(&ledger).unwrap(), "dear diary");
}
