//! Operators: now and then one looks at the human cases of a region and decides one.

use cell_core::cell::Resolve;
use cell_core::id::EntityId;
use cell_core::order::Remedy;

use super::world::World;

impl World {
    /// Somebody may look at what is open in this region.
    pub(crate) fn operator_looks(&mut self, i: usize) {
        if self.calm || !self.readers_rng.chance(120) {
            return;
        }
        let with = *self.readers_rng.pick(Remedy::ALL);
        let Some((entity, subject)) = self.open_case(i) else { return };
        let (identity, reason) = ("operator".to_owned(), "looked at".to_owned());
        let resolve = Resolve { entity, subject, with, identity, reason };
        let now_ms = self.nodes[i].local(self.now_ms);
        let node = &mut self.nodes[i];
        let Ok((step, outcome)) = node.cell.resolve(&node.shelf, &resolve, now_ms) else { return };
        self.note(|| format!("{i} an operator resolves {resolve:?}: {outcome:?}"));
        if outcome.is_ok() {
            self.coverage.fault("case-resolved");
        }
        self.commit(i, step, None);
    }

    fn open_case(&self, i: usize) -> Option<(EntityId, String)> {
        let node = &self.nodes[i];
        let owned = node.shelf.entities.keys().filter(|id| node.cell.owned(id.slot()).is_some());
        owned.copied().find_map(|id| {
            let cases = match (id.order(), id.payment()) {
                (Some(order), _) => node.order(order, |reading| Some(reading.state.as_ref()?.cases.clone())),
                (_, Some(payment)) => {
                    node.payment(payment, |reading| Some(reading.state.as_ref()?.cases.clone()))
                }
                _ => None,
            };
            let open = cases.flatten()?.into_iter().find(|case| case.resolved.is_none())?;
            Some((id, open.subject))
        })
    }
}
