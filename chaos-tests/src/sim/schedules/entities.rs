//! Entities and epochs.

use std::sync::Arc;

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::clock::Hlc;
use cell_core::entity::Blocked;
use cell_core::event::{Change, Event, EventAddress};
use cell_core::id::{ActorId, Hash, NodeId};
use cell_core::version::Dot;

use super::{A, B, Channel, D, E, LONG, N, Op, S, Stage, expect};
use crate::sim::world::region;

pub(super) fn restart_forks_chain() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.world.act_now(N, Op::Backup);
    stage.ok(N, Op::Amend { order: 0, amount: 700 })?;
    stage.pass(300);
    expect(stage.total(E)? == 700, "E has the first decision")?;
    stage.isolate(N);
    stage.world.act_now(N, Op::RestoreBackup { for_ms: 50 });
    stage.pass(500);
    stage.ok(N, Op::Amend { order: 0, amount: 300 })?;
    stage.rest()?;
    expect(stage.total(S)? == 300 && stage.strays(S)? == 1, "one history, one stray")
}

pub(super) fn history_arrives_late() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.cut(E, N, Channel::Data);
    stage.cut(S, N, Channel::Data);
    stage.place(0, B, E)?;
    stage.ok(E, Op::Amend { order: 0, amount: 700 })?;
    stage.pass(300);
    stage.world.stop(E);
    stage.decree(S, B);
    stage.ok(S, Op::Cancel { order: 0 })?;
    // S's own changes reach N before any of E's.
    let me = stage.world.nodes[S].cell.me();
    let entries = stage.world.nodes[S].durable[&me].entries.clone();
    stage.world.batch(N, S, entries);
    stage.pass(50);
    let history = stage.world.nodes[N].order(stage.order()?, |reading| reading.history.len());
    expect(history == Some(2) && stage.label(N)? == "Cancelled", "S's change brought what it builds on")?;
    stage.rest()?;
    stage.is("Cancelled")
}

pub(super) fn two_losses() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.world.lose_disk(N, LONG);
    stage.decree(E, A);
    stage.cut(E, S, Channel::Data);
    stage.ok(E, Op::Amend { order: 0, amount: 700 })?;
    stage.world.lose_disk(E, LONG);
    stage.decree(S, A);
    stage.ok(S, Op::Amend { order: 0, amount: 300 })?;
    stage.rest()?;
    expect(stage.total(N)? == 300, "S's history is valid")
}

pub(super) fn late_tail_is_history() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.isolate(N);
    stage.ok(N, Op::Amend { order: 0, amount: 700 })?;
    stage.decree(E, A);
    stage.pass(2_000);
    expect(stage.total(E)? == 900, "E has not heard of it")?;
    stage.mend();
    stage.pass(5_000);
    expect(stage.total(E)? == 700 && stage.strays(E)? == 0, "the late tail takes effect")?;
    stage.rest()
}

pub(super) fn tail_against_decision() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.place_for(0, A, N, 10_000)?;
    stage.pass(300);
    stage.isolate(N);
    stage.ok(N, Op::Pay { order: 0, card: "late" })?;
    stage.decree(E, A);
    stage.pass(12_000);
    expect(stage.label(N)? == "Paid" && stage.label(E)? == "Expired", "the tail holds a capture")?;
    stage.rest()?;
    expect(stage.captures() == 1 && stage.balance()? == 0, "captured and given back")?;
    stage.is("Expired")
}

pub(super) fn two_claimants() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.isolate(N);
    stage.isolate(E);
    stage.decree(E, A);
    stage.decree(S, A);
    stage.ok(E, Op::Amend { order: 0, amount: 700 })?;
    stage.ok(S, Op::Amend { order: 0, amount: 300 })?;
    stage.rest()?;
    expect(stage.strays(N)? == 1, "the other's tail is a stray")?;
    expect(stage.total(N)? == 300, "the higher epoch holds")
}

pub(super) fn restored_backup() -> Result<(), String> {
    for reachable in [true, false] {
        let mut stage = Stage::with_order()?;
        stage.world.act_now(N, Op::Backup);
        stage.ok(N, Op::Amend { order: 0, amount: 700 })?;
        stage.pass(300);
        let before = stage.world.nodes[N].cell.me();
        if !reachable {
            stage.isolate(N);
        }
        stage.world.act_now(N, Op::RestoreBackup { for_ms: 50 });
        stage.pass(500);
        stage.place(1, D, N)?;
        expect(stage.world.nodes[N].cell.me() != before, "a new actor")?;
        stage.rest()?;
        expect(stage.total(N)? == 700, "what had been merged elsewhere is not overwritten")?;
    }
    Ok(())
}

pub(super) fn start_hears_its_peers() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.world.act_now(N, Op::Backup);
    stage.ok(N, Op::Amend { order: 0, amount: 700 })?;
    stage.pass(300);
    stage.world.act_now(N, Op::RestoreBackup { for_ms: 50 });
    stage.pass(51);
    let node = &stage.world.nodes[N];
    expect(node.up && node.cell.is_held_back() && stage.total(N)? == 900, "an older disk has just started")?;
    let nth = stage.world.act_now(N, Op::Amend { order: 0, amount: 300 }).ok_or("nothing to act upon")?;
    stage.pass(5_000);
    expect(matches!(stage.world.requests[nth].answer, Some(Ok(_))), "it is decided in the end")?;
    stage.rest()?;
    expect(stage.total(E)? == 300 && stage.strays(E)? == 0, "behind what its peers had")
}

pub(super) fn start_is_outranked() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.world.act_now(N, Op::Backup);
    for amount in [700, 600] {
        stage.world.crash(N, 50);
        stage.pass(1_000);
        stage.ok(N, Op::Amend { order: 0, amount })?;
        stage.pass(300);
    }
    let before = stage.world.nodes[N].cell.me();
    stage.world.act_now(N, Op::RestoreBackup { for_ms: 50 });
    stage.pass(51);
    expect(stage.world.nodes[N].cell.me() < before, "it counts on from what its disk says")?;
    stage.pass(2_000);
    expect(stage.world.nodes[N].cell.me() > before, "and from what its peers say, as soon as it hears them")?;
    stage.ok(N, Op::Amend { order: 0, amount: 300 })?;
    stage.rest()?;
    expect(stage.total(S)? == 300 && stage.strays(S)? == 0, "the last decision is the one that holds")
}

pub(super) fn predecessors_come_late() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    for amount in [700, 600] {
        stage.world.crash(N, 50);
        stage.pass(1_000);
        stage.ok(N, Op::Amend { order: 0, amount })?;
    }
    stage.pass(5_000);
    expect(stage.total(S)? == 600, "all of it is elsewhere")?;
    let before = stage.world.nodes[N].cell.me();
    stage.isolate(N);
    stage.world.lose_disk(N, 50);
    stage.pass(2_000);
    expect(stage.world.nodes[N].cell.me() < before, "an empty disk counts from the beginning")?;
    stage.place(1, D, N)?;
    stage.mend();
    stage.pass(30_000);
    let me = stage.world.nodes[N].cell.me();
    expect(me > before, "nobody started it again, and it follows those that its peers told it of")?;
    stage.ok(N, Op::Amend { order: 0, amount: 300 })?;
    for region in [N, E, S] {
        let lives = stage.world.nodes[region].cell.lives();
        let open = lives.iter().filter(|life| life.actor.node == me.node && life.last.is_none());
        let open: Vec<_> = open.map(|life| life.actor).collect();
        expect(open == [me], format!("{region} waits for a sign of life of {open:?}"))?;
    }
    stage.rest()
}

pub(super) fn cloned_machine() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.world.clone_machine(N);
    stage.pass(100);
    // Either of the two answers; both write.
    for order in 1..6 {
        stage.ok(N, Op::Place { order, buyer: D, amount: 100, window_ms: 180_000, twin_of: None }).ok();
        stage.pass(37);
    }
    let (one, two) = (stage.world.nodes[N].cell.me(), stage.world.nodes[3].cell.me());
    expect(one != two, "two actors")?;
    stage.pass(40_000);
    let still = (stage.world.nodes[N].cell.me(), stage.world.nodes[3].cell.me());
    expect(still == (one, two), "while both live, neither takes the other for ended")?;
    stage.rest()?;
    let known = stage.world.nodes[E].durable.keys().filter(|actor| **actor == one || **actor == two).count();
    expect(known == 2, "what both wrote is everywhere")
}

pub(super) fn same_key_two_regions() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.isolate(N);
    let first = stage.place(0, A, N)?;
    stage.decree(E, A);
    let again = stage.place(0, A, E)?;
    expect(first.order == again.order, "the same body is the same order")?;
    stage.rest()?;

    let mut stage = Stage::new();
    stage.isolate(N);
    stage.place(0, A, N)?;
    stage.decree(E, A);
    let other = Op::Place { order: 1, buyer: A, amount: 500, window_ms: 180_000, twin_of: Some(0) };
    let other = stage.ok(E, other)?.order;
    stage.mend();
    stage.pass(5_000);
    let later = stage.world.nodes[E]
        .order(other, |reading| reading.state.as_ref().map(|state| (state.label(), state.cases.len())));
    let later = later.flatten();
    expect(later == Some(("Cancelled", 1)), format!("the later one is flagged and cancelled: {later:?}"))?;
    expect(stage.label(E)? == "PendingPayment", "the earlier one stands")?;
    stage.rest()
}

pub(super) fn orphan_capture() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.cut(S, N, Channel::Data);
    stage.cut(S, E, Channel::Data);
    stage.place(0, A, N)?;
    stage.ask(N, B)?;
    stage.pass(300);
    (stage.world.callbacks, stage.world.callbacks_at) = (1, Some(S));
    stage.accept(E, B, "ok")?;
    stage.pass(100);
    let kept = stage.world.nodes[S].order(stage.order()?, |reading| (reading.blocked, reading.facts.len()));
    expect(kept == Some((Some(Blocked::Orphan), 1)), "S keeps what it does not know yet")?;
    stage.rest()?;
    stage.is("Expired").or_else(|_| stage.is("Paid"))
}

pub(super) fn state_outlives_its_changes() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.world.act_now(N, Op::Backup);
    stage.isolate(N);
    let payment = stage.ask(N, B)?;
    // S fetched it in time; then N has an older disk, and nobody ever streams the changes.
    let entities = stage.world.nodes[N].shelf.entities.values().map(|entity| (**entity).clone()).collect();
    stage.world.fetched(S, entities, Vec::new());
    stage.world.act_now(N, Op::RestoreBackup { for_ms: 50 });
    stage.pass(1_000);
    expect(stage.payment(S, payment).is_ok(), "S knows of the permit")?;
    expect(stage.payment(N, payment).is_err(), "and N, which opened it, does not")?;
    // No user does anything meanwhile.
    stage.mend();
    stage.pass(70_000);
    for region in [N, E, S] {
        expect(stage.payment(region, payment).is_ok(), format!("the comparison brings it to {region}"))?;
    }
    stage.rest()
}

pub(super) fn unknown_kind() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    let order = stage.order()?;
    let mut bytes = EventAddress { entities: vec![order.into()] }.to_canon();
    // Field 2, the body: its 99th kind, empty.
    bytes.extend([0x12, 3, 0x9a, 0x06, 0]);
    let event = Event::decode(Bytes::from(bytes)).map_err(|error| error.to_string())?;
    expect(event.body.is_none(), "only a newer version reads it")?;
    let actor = ActorId { node: NodeId { region: region(S), index: 1 }, start: 1, nonce: 1 };
    let dot = Dot { actor, seq: 1 };
    let change = Change { dot, at: Hlc::default(), trace: String::new(), events: vec![Arc::new(event)] };
    let entry = change.seal(&Hash::ZERO);
    stage.world.journal.durable_at_author.insert(actor, 1);
    // It reaches N only; E and S have it from there.
    stage.world.batch(N, S, vec![entry.clone()]);
    stage.pass(5_000);
    stage.place(1, D, N)?;
    stage.pass(1_000);
    for i in [N, E, S] {
        expect(
            stage.world.nodes[i].durable[&actor].entries == vec![entry.clone()],
            "the bytes travel unchanged",
        )?;
        let blocked = stage.world.nodes[i].order(order, |reading| reading.blocked);
        expect(blocked == Some(Some(Blocked::Newer)), "the fold is frozen, and says why")?;
    }
    let refused = stage.act(N, Op::Cancel { order: 0 })?;
    expect(refused == Err(cell_core::cell::Problem::Blocked), "a command is refused by name")?;
    let other = stage.world.handle(1).map(|handle| handle.id).ok_or("no order")?;
    expect(stage.world.nodes[E].order(other, |_| ()).is_some(), "replication goes on")
}

pub(super) fn half_command() -> Result<(), String> {
    for (crash_ms, whole) in [(2, false), (6, true)] {
        let mut stage = Stage::with_order()?;
        stage.world.act_now(N, Op::Pay { order: 0, card: "hang" }).ok_or("no request")?;
        stage.pass(crash_ms);
        stage.world.crash(N, 50);
        stage.pass(500);
        let payments = stage.world.nodes[N].shelf.entities.keys().filter(|id| id.payment().is_some()).count();
        let permits = stage.state(N)?.permits.len();
        expect((permits, payments) == if whole { (1, 1) } else { (0, 0) }, "all of it or none")?;
        stage.rest()?;
    }
    Ok(())
}
