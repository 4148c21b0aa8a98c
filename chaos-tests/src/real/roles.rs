//! This program as any of the services.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::harness::Role;

/// The hidden first argument of a process that plays a role.
const ROLE: &str = "role";

/// If the program was started to play a role, plays it to its end.
pub fn play_role(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let program = args.next()?;
    if args.next()? != ROLE {
        return None;
    }
    let role = args.next()?;
    let args = std::iter::once(program).chain(args);
    match role.to_str()? {
        "region-node" => Some(region_node::process(args)),
        "sync-agent" => Some(sync_agent::process(args)),
        "router" => Some(router::process(args)),
        "sandbox-gateway" => Some(sandbox_gateway::process(args)),
        _ => None,
    }
}

/// How this program is started in a role.
pub(super) fn program(role: Role) -> (PathBuf, Vec<String>) {
    // Without it no role can be started; the attempt names what is missing.
    let me = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("chaos-tests"));
    (me, vec![ROLE.to_owned(), role.program().to_owned()])
}
