//! Changes that somebody cannot apply.

use std::sync::Arc;

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::cell::{Ability, Problem, Reached};
use cell_core::clock::Hlc;
use cell_core::event::{Beat, Body, Change, ChangeShape, Entry, Event, EventAddress};
use cell_core::id::{ActorId, Hash, NodeId};
use cell_core::version::Dot;

use super::{A, B, Channel, D, E, N, Op, S, Stage, expect};
use crate::sim::disk::Logged;
use crate::sim::world::region;

/// Another node of S.
fn stranger() -> ActorId {
    ActorId { node: NodeId { region: region(S), index: 1 }, start: 1, nonce: 1 }
}

/// What the stranger wrote, whatever it is.
fn sealed(previous: &Hash, seq: u64, bytes: Bytes) -> Entry {
    let dot = Dot { actor: stranger(), seq };
    Entry { dot, hash: Entry::chain(previous, &dot, &bytes), bytes }
}

/// A change that nobody can read, one whose event on the order nobody can read, and an ordinary one.
fn poison(stage: &Stage) -> Result<Vec<Entry>, String> {
    let first = sealed(&Hash::ZERO, 1, Bytes::from_static(b"\xff\xff\xff"));
    let mut event = EventAddress { entities: vec![stage.order()?.into()] }.to_canon();
    // Field 2, the body, whose record ends early.
    event.extend([0x12, 2, 0x0a, 9]);
    let dot = Dot { actor: stranger(), seq: 2 };
    let shape = ChangeShape { dot, at: Hlc::default(), trace: String::new(), events: vec![event.into()] };
    let second = sealed(&first.hash, 2, shape.to_canon().into());
    let events = vec![Arc::new(Event::new(Vec::new(), Body::Beat(Beat { wall_ms: 1 })))];
    let dot = Dot { actor: stranger(), seq: 3 };
    let third = Change { dot, at: Hlc::default(), trace: String::new(), events }.seal(&second.hash);
    Ok(vec![first, second, third])
}

pub(super) fn poisonous_change() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    let entries = poison(&stage)?;
    stage.world.journal.durable_at_author.insert(stranger(), 3);
    // They reach N only; E and S have them from there.
    stage.world.batch(N, S, entries.clone());
    stage.pass(5_000);
    stage.place(1, D, N)?;
    stage.pass(1_000);
    for i in [N, E, S] {
        let node = &stage.world.nodes[i];
        expect(
            node.durable[&stranger()].entries == entries,
            "what cannot be applied travels unchanged, and what follows it",
        )?;
        let holes: Vec<u64> = node.cell.quarantined().map(|(dot, _)| dot.seq).collect();
        expect(holes == [1, 2] && node.cell.whole_to(&stranger()) == 0, "the holes are seen")?;
        let reached = node.cell.reached(&node.shelf, None, &entries[2].dot);
        expect(reached == Ok(Reached::NotYet), "nobody is told that it is all here")?;
        let withheld = node.cell.withheld_by(&node.shelf, stage.order()?.into());
        expect(withheld == Ok(Some(entries[1].dot)), "what it would have changed is withheld")?;
    }
    let refused = stage.act(N, Op::Cancel { order: 0 })?;
    expect(refused == Err(Problem::Blocked), "nothing is decided on it")?;
    let other = stage.world.handle(1).map(|handle| handle.id).ok_or("no order")?;
    expect(stage.world.nodes[E].order(other, |_| ()).is_some(), "everything else flows")?;
    // It survives a restart, and a disk that has to come from the peers.
    stage.world.crash(E, 50);
    stage.world.lose_disk(S, 50);
    stage.pass(5_000);
    for i in [E, S] {
        expect(
            stage.world.nodes[i].cell.quarantined().count() == 2,
            "the holes are seen after a start, too",
        )?;
    }
    // And one that has to come from their state, since nobody's log reaches back.
    stage.world.trim(N, 0);
    stage.world.trim(E, 0);
    stage.world.lose_disk(S, 50);
    stage.pass(5_000);
    let node = &stage.world.nodes[S];
    expect(stage.world.coverage.faults.contains_key("state-asked-for"), "it comes as state")?;
    expect(node.cell.quarantined().count() == 2, "the holes are seen in what was taken over")?;
    let withheld = node.cell.withheld_by(&node.shelf, stage.order()?.into());
    expect(withheld == Ok(Some(entries[1].dot)), "and what they would have changed is withheld there, too")?;
    // Operators do without them.
    for i in [N, E, S] {
        for kept in stage.world.nodes[i].quarantined() {
            let node = &mut stage.world.nodes[i];
            let step = node.cell.give_up(&node.shelf, &kept).map_err(|error| error.to_string())?;
            stage.world.commit(i, step, None);
        }
        stage.pass(50);
        let node = &stage.world.nodes[i];
        let reached = |at: usize| node.cell.reached(&node.shelf, None, &entries[at].dot);
        let said = (reached(0), reached(2));
        expect(said == (Ok(Reached::Never), Ok(Reached::Here)), "what was given up does not come")?;
    }
    stage.ok(N, Op::Cancel { order: 0 })?;
    stage.rest()?;
    stage.is("Cancelled")
}

pub(super) fn old_software() -> Result<(), String> {
    let mut stage = Stage::new();
    let ability = Ability { software: "old".to_owned(), change_bytes_max: 260, ..Ability::default() };
    stage.world.run_software(E, ability);
    stage.pass(1_000);
    stage.place(0, A, N)?;
    let payment = stage.ask(N, B)?;
    stage.pass(500);
    let node = &stage.world.nodes[E];
    let holes: Vec<Dot> = node.cell.quarantined().map(|(dot, _)| *dot).collect();
    expect(!holes.is_empty(), "E cannot take the order")?;
    let order = stage.order()?;
    expect(node.cell.withheld_by(&node.shelf, order.into()) != Ok(None), "nor shows a part of it")?;
    // The request waits there, as for anything that is not there; it is neither delivered nor refused.
    expect(stage.kept(E) == 1 && stage.payment(E, payment).is_err(), "the request waits")?;
    stage.cut(E, S, Channel::Data);
    stage.cut(E, N, Channel::Data);
    stage.world.run_software(E, Ability::default());
    stage.pass(1_000);
    expect(stage.world.nodes[E].cell.quarantined().next().is_none(), "applied from what was kept")?;
    expect(stage.payment(E, payment).is_ok(), "and the request with it")?;
    stage.mend();
    stage.accept(E, B, "ok")?;
    stage.rest()?;
    stage.is("Paid")
}

pub(super) fn view_lost_behind_a_trim() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    // N takes over state, of which its log has the last part alone.
    stage.world.trim(E, 0);
    stage.world.trim(S, 0);
    stage.world.lose_disk(N, 50);
    stage.pass(1_000);
    stage.ask(N, B)?;
    stage.pass(4_000);
    stage.accept(E, B, "ok")?;
    stage.pass(3_000);
    stage.is("Paid")?;
    let left = stage.world.nodes[N].disk.log.between(0, usize::MAX);
    let adopted = left.iter().rposition(|logged| matches!(logged, Logged::Adopted(_)));
    let keep = left.len() - adopted.ok_or("no state was taken over")?;
    stage.world.trim(N, keep);
    let before = stage.world.nodes[E].cell.me();
    stage.isolate(N);
    stage.world.lose_view(N, false, 50);
    stage.pass(5_000);
    let node = &stage.world.nodes[N];
    expect(node.lacking && node.cell.is_held_back(), "nothing is decided before a peer was heard")?;
    expect(node.cell.fronts().seq(&before) == 0, "the baseline is not counted on")?;
    let nth = stage.world.act_now(N, Op::Cancel { order: 0 }).ok_or("nothing to act upon")?;
    stage.pass(1_000);
    expect(stage.world.requests[nth].answer.is_none(), "what may be lacking is not denied")?;
    // Also if it starts again meanwhile.
    stage.world.crash(N, 50);
    stage.pass(5_000);
    expect(stage.world.nodes[N].lacking, "it knows that at the next start, too")?;
    stage.mend();
    stage.rest()?;
    expect(!stage.world.nodes[N].lacking, "a peer had all of it")?;
    // The user came again, and was heard.
    stage.is("Cancelled")
}

pub(super) fn tail_behind_a_hole() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.pass(2_000);
    // What was in the beginning of N's log the others have as state alone, and nobody has what N writes next.
    for i in [N, E, S] {
        stage.world.trim(i, 0);
    }
    stage.isolate(N);
    stage.place(1, D, N)?;
    let before = stage.world.nodes[N].cell.me();
    stage.world.lose_view(N, false, 50);
    stage.pass(2_000);
    let known = |stage: &Stage| stage.world.nodes[N].cell.fronts().seq(&before);
    let holes = stage.world.nodes[N].cell.holes().count();
    expect(holes > 0 && known(&stage) == 0, "what is left of the log begins behind a hole")?;
    stage.mend();
    for _ in 0..2_000 {
        if known(&stage) == 0 {
            stage.pass(1);
        }
    }
    expect(known(&stage) > 0, "what was missing came as state")?;
    // The others lose their disks before they have what is behind the hole: they need N's state, whole.
    stage.isolate(N);
    stage.world.lose_disk(E, 50);
    stage.world.lose_disk(S, 50);
    stage.pass(500);
    stage.mend();
    stage.rest()?;
    let order = stage.world.handle(1).map(|handle| handle.id).ok_or("no order")?;
    for i in [N, E, S] {
        let node = &stage.world.nodes[i];
        expect(node.order(order, |_| ()).is_some(), format!("{i} lacks what was acknowledged"))?;
        expect(node.cell.holes().next().is_none(), format!("{i} has a hole left"))?;
    }
    Ok(())
}

pub(super) fn predecessor_lost_its_end() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    let before = stage.world.nodes[N].cell.me();
    stage.world.crash(N, 50);
    stage.pass(5_000);
    // The log is left from where the next actor says how far the one before it came. Nothing behind that is missing.
    let me = stage.world.nodes[N].cell.me();
    let log = &stage.world.nodes[N].disk.log;
    let is_first = |logged: &Logged| logged.entry().is_some_and(|entry| entry.dot.actor == me);
    let kept = log.between(log.first(), log.end()).iter().position(is_first);
    let keep = log.end() - log.first() - kept.ok_or("the next actor wrote nothing")?;
    expect(me != before && keep > 0, "another actor goes on")?;
    stage.world.trim(N, keep);
    stage.isolate(N);
    stage.world.lose_view(N, false, 50);
    stage.pass(500);
    let holes: Vec<_> = stage.world.nodes[N].cell.holes().collect();
    expect(
        holes.iter().any(|(actor, known, last)| (*actor, *known) == (before, 0) && *last > 0),
        format!("what its predecessor wrote is missed: {holes:?}"),
    )?;
    stage.mend();
    stage.rest()?;
    expect(stage.world.nodes[N].cell.holes().next().is_none(), "it came from the peers")?;
    stage.is("Expired")
}
