//! `cellctl store migrate` on a folder that a node made.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use cell_core::cell::Ability;
use cell_core::placement::Placement;
use cell_core::rules::Rules;
use region_node::{EngineName, Identity, LogSettings, Node, OpenError, Running};
use service_kit::Shutdown;

fn open(dir: &Path, engine: EngineName) -> Result<(Node, Running), OpenError> {
    let region = "north".parse().unwrap();
    let placement = Placement::initial(vec![region], |_| region);
    let recovery_wait = Duration::ZERO;
    let (rules, log, ability) = (Rules::default(), LogSettings::default(), Ability::default());
    let identity = Identity { region, index: 0, placement, rules, ability, recovery_wait, log };
    Node::open(identity, dir, engine, &Shutdown::new())
}

async fn close((node, running): (Node, Running)) {
    let store = node.store().clone();
    drop(node);
    tokio::task::spawn_blocking(move || running.join(&store)).await.unwrap();
}

fn migrate(dir: &Path, rest: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cellctl"));
    command.args(["-o", "json", "store", "migrate", "--data"]).arg(dir).args(rest);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_nodes_view_moves_and_the_node_starts_on_the_engine_that_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("node");
    let (code, _, said) = migrate(&dir, &["--to", "fjall"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("is no node's folder") && !dir.exists(), "{said}");

    let node = open(&dir, EngineName::Sled).unwrap();
    let first = node.0.actor();
    let (code, _, said) = migrate(&dir, &["--to", "fjall"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("stop the node first"), "{said}");
    close(node).await;

    let (code, plan, said) = migrate(&dir, &["--to", "fjall", "--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!((plan["from"].as_str(), plan["to"].as_str()), (Some("sled"), Some("fjall")));
    assert!(matches!(open(&dir, EngineName::Fjall), Err(OpenError::Engine(_))), "nothing was done yet");

    // What is refused is refused there, too.
    let (code, _, said) = migrate(&dir, &["--to", "sled", "--dry-run"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("is sled's already"), "{said}");

    let (code, moved, said) = migrate(&dir, &["--to", "fjall"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("engine = \"fjall\""), "{said}");
    let moved: serde_json::Value = serde_json::from_str(&moved).unwrap();
    assert!(moved["keys"].as_u64().unwrap() > 0);

    let Err(OpenError::Engine(said)) = open(&dir, EngineName::Sled) else { panic!("the folder is fjall's") };
    let command = format!("cellctl store migrate --data {} --to sled", dir.display());
    assert!(said.contains(&command) && said.lines().count() == 1, "{said}");
    let node = open(&dir, EngineName::Fjall).unwrap();
    assert_eq!(node.0.actor().start, first.start + 1, "it remembers who it was");
    close(node).await;

    let (code, _, said) = migrate(&dir, &["--to", "fjall"]);
    assert_eq!((code, said.contains("is fjall's already")), (Some(2), true), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_lost_its_end_or_is_elsewhere_is_not_moved() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("node");
    close(open(&dir, EngineName::Sled).unwrap()).await;
    let mark = dir.join("view.closed-at");
    let said = std::fs::read_to_string(&mark).unwrap();
    std::fs::write(&mark, "1000000 1000000").unwrap();
    for rest in [&["--to", "fjall", "--dry-run"][..], &["--to", "fjall"]] {
        let (code, _, said) = migrate(&dir, rest);
        assert!(code == Some(1) && said.contains("lost its end"), "{code:?} {said}");
    }
    std::fs::write(&mark, said).unwrap();
    let (view, elsewhere) = (dir.join("view"), folder.path().join("elsewhere"));
    std::fs::rename(&view, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &view).unwrap();
    let (code, _, said) = migrate(&dir, &["--to", "fjall"]);
    assert!(code == Some(2) && said.contains("is a symbolic link"), "{code:?} {said}");
    assert!(view.is_symlink() && elsewhere.is_dir());
}
