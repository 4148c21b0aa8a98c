//! The guided tour, as a newcomer runs it: real processes, every step asserted by the tour itself.

use std::process::Command;

#[test]
fn the_tour_verifies_every_step_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let output = Command::new(env!("CARGO_BIN_EXE_cellctl"))
        .args(["demo", "--tour", "--data"])
        .arg(&data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for chapter in 1..=8 {
        assert!(said.contains(&format!("── {chapter}  ")), "chapter {chapter} is missing:\n{said}");
    }
    assert!(said.contains("every step was verified"), "{said}");
    // One trace is found in both regions' nodes and agents: from A's call to B's notice.
    let log = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
    let logs = ["north/node.log", "north/agent.log", "east/agent.log", "east/node.log"].map(log);
    let mut traces = logs[0].lines().filter_map(|line| line.split("trace_id=").nth(1)?.get(..32));
    assert!(traces.any(|trace| logs.iter().all(|log| log.contains(trace))), "no trace is in all four");
}

#[test]
fn a_folder_that_holds_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("precious"), "not a demo").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cellctl"))
        .args(["demo", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("holds something else"), "{said}");
}

#[test]
fn what_the_demo_and_the_bench_cannot_do_anything_with_is_refused() {
    for args in [
        &["demo", "--tour", "-o", "json"][..],
        &["-o", "json", "demo"],
        &["--cluster", "cluster.toml", "demo"],
        &["--cluster", "cluster.toml", "bench", "place"],
        &["bench", "place", "--seconds", "0"],
        &["demo", "--data", "/proc/homecell"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_cellctl")).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    }
}
