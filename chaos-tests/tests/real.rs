//! A slice of what `chaos-tests damage`, `kills` and `backlog` do at length.

use std::process::Command;

fn run(args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_chaos-tests")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}\n{}\n{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn what_is_damaged_in_the_log_or_the_view_of_sled_is_named_and_healed() {
    for (target, kind) in [
        ("log", "flip-middle"),
        ("entities", "zero-page"),
        ("indexes", "forget-keys"),
        ("frontier", "alter-keys"),
    ] {
        run(&["damage", "--engine", "sled", "--target", target, "--kind", kind]);
    }
}

#[test]
fn what_is_damaged_in_the_log_or_the_view_of_fjall_is_named_and_healed() {
    for (target, kind) in [
        ("log", "cut-half"),
        ("entities", "forget-keys"),
        ("indexes", "alter-keys"),
        ("frontier", "flip-middle"),
    ] {
        run(&["damage", "--engine", "fjall", "--target", target, "--kind", kind]);
    }
}

#[test]
fn ten_kills_lose_nothing_on_either_engine() {
    for engine in ["sled", "fjall"] {
        run(&["kills", "--engine", engine, "--count", "10"]);
    }
}

#[test]
fn a_region_that_was_away_or_not_reached_comes_back_by_itself() {
    for (engine, case) in [("sled", "away"), ("fjall", "held")] {
        run(&["backlog", "--engine", engine, "--case", case, "--orders", "400", "--untimed"]);
    }
}

#[test]
fn a_message_overtakes_a_backlog_on_a_narrow_link() {
    run(&["backlog", "--engine", "fjall", "--case", "slow-link", "--orders", "2000", "--untimed"]);
}

#[test]
fn a_region_that_was_away_for_longer_than_logs_are_kept_takes_state_over_by_itself() {
    run(&["backlog", "--engine", "sled", "--case", "retention", "--orders", "400", "--untimed"]);
}
