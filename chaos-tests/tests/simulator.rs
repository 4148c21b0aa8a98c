//! The simulator as part of every test run: a slice of what `chaos-tests sim` and `museum` do at length.

use std::process::Stdio;

use chaos_tests::sim::{Coverage, Exhibit, SCHEDULES, run_seed};

#[test]
fn sixty_seeds_of_disasters_end_at_rest_with_every_invariant_holding() {
    let mut coverage = Coverage::default();
    for seed in 1..=60 {
        let outcome = run_seed(seed, false);
        assert!(outcome.passed(), "{}", outcome.report());
        coverage.add(&outcome.coverage);
    }
    // A fault that did not fire proves nothing: most must have, even in this slice.
    let (fired, all) =
        (coverage.table().iter().filter(|(_, _, times)| *times > 0).count(), coverage.table().len());
    assert!(fired * 4 > all * 3, "only {fired} of {all} faults and rows fired");
}

#[test]
fn what_proves_nothing_is_a_usage_error_or_said() {
    let run = |args: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_chaos-tests")).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(run(&["sim", "--seeds", "0"]).0, Some(2));
    let (code, printed, said) = run(&["schedules", "no-such-schedule"]);
    assert_eq!((code, printed.as_str()), (Some(2), ""), "{said}");
    assert!(SCHEDULES.iter().all(|schedule| said.contains(schedule.name)), "{said}");
    let (code, printed, _) = run(&["schedules", SCHEDULES[0].name]);
    assert_eq!(code, Some(0));
    assert!(printed.contains(&format!("of {} schedules, all ok", SCHEDULES.len())), "{printed}");
    let (code, printed, _) = run(&["sim", "--seeds", "2"]);
    assert_eq!(code, Some(0));
    assert!(printed.contains(" faults never fired; judged from 3000 seeds on"), "{printed}");
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure_and_a_reader_who_went_is_none() {
    let run = |stdout: Stdio| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_chaos-tests"));
        command.args(["schedules", SCHEDULES[0].name]).stdout(stdout).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (code, said) = run(full.into());
    assert_eq!(code, Some(1));
    assert!(said.contains("chaos-tests: the result could not be written: No space left"), "{said}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(writer.into()), (Some(0), String::new()));
}

#[test]
fn a_seed_decides_everything() {
    for seed in [3, 17, 40] {
        let (first, second) = (run_seed(seed, false), run_seed(seed, false));
        assert_eq!((first.events, first.report()), (second.events, second.report()));
    }
}

#[test]
fn the_bugs_that_show_soonest_are_caught_within_a_few_seeds() {
    let caught = Exhibit::ALL.iter().filter(|exhibit| exhibit.hunt(1, 25).is_some()).count();
    assert!(caught >= 3, "only {caught} of {} planted bugs show in 25 seeds", Exhibit::ALL.len());
}
