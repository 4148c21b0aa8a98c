use cell_core::cell::{Ask, Cell, Command, View};
use cell_core::entity::Entity;
use cell_core::id::{ActorId, NodeId, RegionId, UserId};
use cell_core::order::OrderRecord;
use cell_core::placement::Placement;
use cell_core::rules::Rules;
use cell_store::{Engine, Position};

use super::*;
use crate::notice::tests::record;
use crate::traces::Traces;
use crate::writer::{Group, Sheet};

struct Home {
    cell: Cell,
    working: Working,
    scrub: Scrub,
}

impl Home {
    fn new() -> Home {
        let north = RegionId::new("north").unwrap();
        let me = ActorId { node: NodeId { region: north, index: 0 }, start: 1, nonce: 1 };
        let cell = Cell::new(me, Placement::initial(vec![north], |_| north), Rules::default());
        let store = cell_store::open(Engine::Memory, std::path::Path::new("")).unwrap();
        Home { cell, working: Working::new(store), scrub: Scrub::default() }
    }

    /// Places an order and writes it to the view.
    fn place(&mut self, n: u64) -> EntityId {
        let user = UserId::new(&format!("user{n}")).unwrap();
        let record = Box::new(OrderRecord { external_ref: format!("ref{n}"), ..record(&user) });
        let order = record.order_id();
        self.carry_out(n, user, "o", Ask::Place { record });
        order.into()
    }

    fn carry_out(&mut self, n: u64, user: UserId, key: &str, ask: Ask) {
        let (key, body, trace) = (key.to_owned(), Vec::new(), String::new());
        let command = Command { user, key, body, trace, ask };
        let (step, reply) = self.cell.command(&self.working, &command, 1_000).unwrap();
        reply.unwrap();
        let mut group = Group::at(Position(n));
        for entity in step.entities.keys() {
            self.working.put(0, step.entities.iter());
            let duties = self.cell.duties(&self.working, *entity).unwrap();
            group.sheets.push(Sheet { entity: *entity, duties });
        }
        group.take(&step);
        group.note_digests(self.cell.digests(), []);
        self.scrub.pass().grow(&group.grown);
        view::apply(&self.working, &Traces::default(), &group).unwrap();
        group.entities.keys().for_each(|id| self.working.forget(id));
    }

    /// What a pass over everything that follows from entities puts right, and which are not due when they should be.
    fn indexed(&self) -> (Healed, Vec<EntityId>) {
        let overseer = self.cell.overseer();
        let (mut place, mut healed, mut undue) = (Some(Place::BEGIN), Healed::default(), Vec::new());
        while let Some(at) = place {
            let stretch = self.scrub.stretch(&self.working, at, Some(&overseer)).unwrap();
            healed.add(stretch.healed);
            undue.extend(stretch.undue.into_iter().map(|(id, _)| id));
            place = stretch.next;
        }
        (healed, undue)
    }

    fn all(&self) -> Vec<(Bytes, Bytes)> {
        let all = self.working.store().scan(&Scan::prefix("", usize::MAX)).unwrap();
        // A notice that was lost is told anew, at a place of its own.
        all.into_iter().filter(|(key, _)| !matches!(key[0], b'n' | b'o')).collect()
    }

    fn passed(&self) -> (Vec<EntityId>, Vec<Off>) {
        self.scrub.begin();
        let mut damaged = Vec::new();
        loop {
            let chunk = self.scrub.chunk(&self.working).unwrap();
            damaged.extend(chunk.damaged);
            if chunk.whole {
                return (damaged, self.scrub.end(&self.working).unwrap().0);
            }
        }
    }
}

#[test]
fn a_sound_view_is_found_sound_while_it_is_written() {
    let mut home = Home::new();
    (0..1_500).for_each(|n| _ = home.place(n));
    home.scrub.begin();
    let mut n = 1_500;
    while !home.scrub.chunk(&home.working).unwrap().whole {
        // Some come in front of the place read to, some behind it.
        (n..n + 40).for_each(|n| _ = home.place(n));
        n += 40;
    }
    assert_eq!(home.scrub.end(&home.working).unwrap(), (Vec::new(), Healed::default()));
}

#[test]
fn what_comes_behind_the_last_key_after_it_was_read_is_not_missed() {
    let mut home = Home::new();
    (0..20).for_each(|n| _ = home.place(n));
    home.scrub.begin();
    assert!(home.scrub.chunk(&home.working).unwrap().whole);
    (20..80).for_each(|n| _ = home.place(n));
    assert_eq!(home.scrub.end(&home.working).unwrap(), (Vec::new(), Healed::default()));
}

#[test]
fn what_is_gone_and_what_is_not_what_was_written_is_found() {
    let mut home = Home::new();
    let ids: Vec<EntityId> = (0..600).map(|n| home.place(n)).collect();
    let store = home.working.store().clone();
    let mut batch = Batch::new();
    batch.delete(keys::entity_part(&ids[7], 0));
    let altered = keys::entity_part(&ids[300], 0);
    let mut bytes = store.get(&altered).unwrap().unwrap().to_vec();
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    batch.put(altered, bytes);
    store.write(batch).unwrap();
    let (damaged, off) = home.passed();
    assert_eq!(damaged, [ids[300]]);
    let slots: BTreeSet<Slot> = off.iter().map(|off| off.slot).collect();
    assert_eq!(slots, BTreeSet::from([ids[7].slot(), ids[300].slot()]));
    for Off { slot, found, expected } in off {
        home.cell.correct_digest(slot, found, expected);
        assert_eq!(home.cell.digests().of(slot), found);
    }
    assert!(store.get(&keys::entity_part(&ids[300], 0)).unwrap().is_none(), "put aside");
}

/// Orders of which some were cancelled, so that somebody was told something.
fn with_notices() -> Home {
    let mut home = Home::new();
    for n in 0..150 {
        let order = home.place(n).order().unwrap();
        if n % 3 == 0 {
            let user = UserId::new(&format!("user{n}")).unwrap();
            home.carry_out(1_000 + n, user, "c", Ask::Cancel { order });
        }
    }
    home
}

#[test]
fn every_key_that_follows_from_an_entity_is_put_right_when_it_is_gone_or_says_something_else() {
    let home = with_notices();
    let sound = home.indexed();
    assert_eq!(sound, (Healed::default(), Vec::new()), "a sound view is left as it is");
    let (store, before) = (home.working.store().clone(), home.all());
    for (prefix, kind) in
        [(b'u', "list"), (b'r', "list"), (b'k', "command"), (b'n', "notice"), (b'o', "notice")]
    {
        let keys = store.scan(&Scan::prefix(vec![prefix], 7)).unwrap();
        assert!(keys.len() == 7, "there is a {kind}");
        for (nth, (key, value)) in keys.into_iter().enumerate() {
            let mut batch = Batch::new();
            match nth {
                0 => batch.delete(key),
                1 if !value.is_empty() => {
                    let (mut value, middle) = (value.to_vec(), value.len() / 2);
                    value[middle] ^= 4;
                    batch.put(key, value);
                }
                2 => batch.put(key, Bytes::from_static(b"nonsense")),
                3 => {
                    // A key that was altered: one is missing, and one leads nowhere.
                    let (mut other, last) = (key.to_vec(), key.len() - 2);
                    other[last] ^= 1;
                    batch.delete(key);
                    batch.put(other, value);
                }
                _ => continue,
            }
            store.write(batch).unwrap();
            let (healed, _) = home.indexed();
            assert_ne!(healed, Healed::default(), "{kind} {nth} was noticed");
            assert_eq!(home.indexed(), sound, "{kind} {nth} is whole again");
            assert!(home.all() == before, "{kind} {nth} is as it was");
        }
    }
}

#[test]
fn what_is_due_and_was_forgotten_is_named_and_a_time_without_its_key_is_written() {
    let home = with_notices();
    let store = home.working.store().clone();
    let due = store.scan(&Scan::prefix(&b"d"[..], 3)).unwrap();
    let id = |nth: usize| keys::entity_of_due(&due[nth].0).unwrap();
    let mut batch = Batch::new();
    // One has lost both its keys, one its place in time, one the place where that is found.
    batch.delete(due[0].0.clone());
    batch.delete(keys::due_of(&id(0).1));
    batch.delete(due[1].0.clone());
    batch.delete(keys::due_of(&id(2).1));
    store.write(batch).unwrap();
    let (healed, mut undue) = home.indexed();
    undue.sort();
    let mut expected = vec![id(0).1, id(2).1];
    expected.sort();
    assert_eq!(undue, expected, "the writer computes them anew");
    assert_ne!(healed, Healed::default());
    assert!(store.get(&due[1].0).unwrap().is_some());
    assert!(store.get(&due[2].0).unwrap().is_none(), "it led nowhere");
}

#[test]
fn what_is_to_be_looked_at_after_a_start_is_not_damaged() {
    let mut home = Home::new();
    let order = home.place(1);
    let mut group = Group::at(Position(2));
    group.sheets.push(Sheet::soon(order));
    view::apply(&home.working, &Traces::default(), &group).unwrap();
    assert_eq!(view::due_of(home.working.store(), &order).unwrap(), Some(1));
    assert_eq!(home.indexed(), (Healed::default(), Vec::new()));
}

#[test]
fn what_the_engine_forgets_while_the_node_runs_is_not_denied() {
    let mut home = Home::new();
    let ids: Vec<EntityId> = (0..20).map(|n| home.place(n)).collect();
    home.passed();
    home.working.set_verified();
    assert!(home.working.entity_or_lost(ids[3]).unwrap().is_some());
    damage(&home.working, ids[3], "", "forget").unwrap();
    assert!(home.working.entity_or_lost(ids[3]).is_err(), "it was there");
    let never = Home::new().place(77);
    assert!(home.working.entity_or_lost(never).unwrap().is_none(), "this one never was");
}

/// A store that can be made to answer nothing.
#[derive(Debug)]
struct Mute(Arc<dyn Store>, std::sync::atomic::AtomicBool);

impl Mute {
    fn answers(&self) -> Result<(), StoreError> {
        let mute = self.1.load(std::sync::atomic::Ordering::Relaxed);
        if mute { Err(StoreError::Io("asked".to_owned())) } else { Ok(()) }
    }
}

impl Store for Mute {
    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.0.write(batch)
    }
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.answers().and_then(|()| self.0.get(key))
    }
    fn scan(&self, scan: &Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.answers().and_then(|()| self.0.scan(scan))
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }
}

#[test]
fn the_store_is_not_asked_for_what_is_new_and_always_for_what_may_be_there() {
    let mut home = Home::new();
    let mute = Arc::new(Mute(home.working.store().clone(), false.into()));
    home.working = Working::new(mute.clone());
    let before = home.place(1);
    home.passed();
    let asked = |home: &Home, id: EntityId, n: u64| {
        mute.1.store(true, std::sync::atomic::Ordering::Relaxed);
        let user = UserId::new(&format!("user{n}")).unwrap();
        let (entity, orders) = (home.working.entity(id), home.working.orders_of_key(&user, "o"));
        mute.1.store(false, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(entity.is_err(), orders.is_err(), "{n}");
        entity.is_err()
    };
    let new = Home::new().place(77);
    assert!(asked(&home, new, 77), "before the view was read through nobody knows");
    home.working.set_verified();
    assert!(!asked(&home, new, 77));
    assert!(asked(&home, before, 1), "found by the pass");
    let behind = home.place(2);
    assert!(asked(&home, behind, 2), "written since");
    home.working.doubt_slots([new.slot()]);
    assert!(asked(&home, new, 77), "something of its slot is missing");
    // As slow and as right for whoever goes on with it.
    let (healed, undue) = home.indexed();
    assert_eq!((healed, undue), (Healed::default(), Vec::new()));
}

#[test]
fn an_order_of_which_only_later_events_are_left_is_not_denied_while_its_record_may_be_lost() {
    let mut home = Home::new();
    let order = home.place(1).order().unwrap();
    home.carry_out(2, UserId::new("user1").unwrap(), "c", Ask::Cancel { order });
    let whole = home.working.stored_entity(order.into()).unwrap().unwrap();
    let mut shape = whole.to_shape();
    shape.items.remove(0);
    let beheaded = Entity::from_shape(shape).unwrap();
    home.working.set_verified();
    home.working.set_holes(1);
    assert!(home.working.recorded_or_lost(&beheaded).is_err());
    assert!(home.working.recorded_or_lost(&whole).is_ok());
    home.working.set_holes(0);
    assert!(home.working.recorded_or_lost(&beheaded).is_ok(), "an orphan, which users do not see");
}

#[test]
fn that_a_hole_was_given_up_and_the_doubt_about_it_are_kept_together() {
    let home = Home::new();
    home.working.lacks_what_was_given_up();
    let kept = |key: &'static [u8]| home.working.store().scan(&Scan::prefix(key, 1)).unwrap();
    assert_eq!(kept(keys::DOUBTS), []);
    let mut group = Group::at(Position(1));
    group.closed.insert(home.cell.me(), 7);
    view::apply(&home.working, &Traces::default(), &group).unwrap();
    let doubts = kept(keys::DOUBTS);
    assert_eq!((kept(keys::CLOSED).len(), doubts[0].1.len()), (1, 2 * Slot::all().count()));
    // It ends with the comparison.
    home.working.resolve(home.working.doubt_generation(), &BTreeSet::new());
    view::put_doubts(&home.working).unwrap();
    view::apply(&home.working, &Traces::default(), &Group::at(Position(2))).unwrap();
    assert_eq!(kept(keys::DOUBTS)[0].1.len(), 0);
}

#[test]
fn what_a_region_wrote_is_not_denied_by_a_new_disk_before_that_region_was_heard() {
    let home = Home::new();
    home.working.set_verified();
    let (never, east) = (Home::new().place(77), RegionId::new("east").unwrap());
    assert!(home.working.entity_or_lost(never).unwrap().is_none());
    home.working.distrust([(never.slot(), east)]);
    assert!(home.working.entity_or_lost(never).is_err());
    home.working.hears(east);
    assert!(home.working.entity_or_lost(never).unwrap().is_none());
}

#[test]
fn the_view_of_another_node_is_damage() {
    let home = Home::new();
    let node = |name: &str| NodeId { region: RegionId::new(name).unwrap(), index: 0 };
    let mut batch = Batch::new();
    home.working.own().put(&mut batch, keys::OWNER, node("north").to_string().into_bytes());
    view::check_owner(&home.working, node("north")).unwrap();
    assert!(matches!(view::check_owner(&home.working, node("east")), Err(StoreError::Damaged(_))));
}
